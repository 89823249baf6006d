from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from tiny import VOCABULARY, tiny_config, tiny_tokenizer
from transformers import AutoModel, BertForQuestionAnswering
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from alad_hf import question_answering
from alad_hf.evaluation import squad_scores
from alad_hf.question_answering import QuestionAnswerer, evaluate_question_answerer, window_sizes

CONTEXT = "Smith works in London. Jones visited  New York and played in Berlin."


class Pointing(torch.nn.Module):
    """Gives chosen logits to the tokens that begin and end the answer, 0 to all others."""

    def __init__(self, start: dict[str, float], end: dict[str, float]) -> None:
        super().__init__()
        self.tables = torch.nn.Parameter(torch.zeros(2, len(VOCABULARY)))
        for table, values in zip(self.tables.data, (start, end), strict=True):
            for token, value in values.items():
                table[VOCABULARY[token]] = value
        self.batches = []
        self.config = tiny_config("bert")

    @property
    def device(self):
        return self.tables.device

    def forward(self, input_ids, attention_mask, token_type_ids):
        self.batches.append(len(input_ids))
        return QuestionAnsweringModelOutput(
            start_logits=self.tables[0][input_ids], end_logits=self.tables[1][input_ids]
        )


@pytest.fixture
def new_york():
    return QuestionAnswerer(Pointing({"new": 6.0, "london": 3.0}, {"york": 5.0, "london": 4.0}), tiny_tokenizer())


@pytest.fixture
def random_model():
    return BertForQuestionAnswering(tiny_config("bert", initializer_range=0.8))


def test_answer_is_a_dictionary_with_exact_offsets_and_a_known_score(new_york):
    answer = new_york(question="in new york", context=CONTEXT, max_length=64, overlap=2)
    assert answer["answer"] == "New York" == CONTEXT[answer["start"] : answer["end"]]
    tokens = len(tiny_tokenizer().tokenize(CONTEXT))
    start_share = np.exp(6) / (np.exp(6) + np.exp(3) + tokens - 2)
    end_share = np.exp(5) / (np.exp(5) + np.exp(4) + tokens - 2)
    assert answer["score"] == pytest.approx(start_share * end_share)


def test_top_k_is_best_first_and_distinct(new_york):
    answers = new_york(question="a", context=CONTEXT, top_k=4, max_length=20, overlap=9)
    assert answers[0]["answer"] == "New York"
    assert len({(answer["start"], answer["end"]) for answer in answers}) == 4
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)
    few = new_york(question="a", context="a b", top_k=9, max_length=20, overlap=9)
    assert sorted(answer["answer"] for answer in few) == ["a", "a b", "b"]


def test_lists_give_lists(new_york):
    one = {"max_length": 40, "overlap": 2}
    answers = new_york(["a", "b"], [CONTEXT, "Jones visited London"], **one)
    assert [answer["answer"] for answer in answers] == ["New York", "London"]
    assert new_york(["a", "b"], CONTEXT, **one) == [new_york(question, CONTEXT, **one) for question in "ab"]
    assert new_york(["a"], CONTEXT, top_k=2, **one) == [new_york("a", CONTEXT, top_k=2, **one)]
    assert new_york([], CONTEXT, **one) == []


def test_max_answer_length_counts_tokens(new_york):
    options = {"max_length": 64, "overlap": 2}
    assert new_york("a", CONTEXT, max_answer_length=2, **options)["answer"] == "New York"
    assert new_york("a", CONTEXT, max_answer_length=1, **options)["answer"] == "London"


def test_impossible_answers_only_where_asked_for():
    model = Pointing({"[CLS]": 8.0, "london": 3.0}, {"[CLS]": 8.0, "london": 3.0})
    answerer = QuestionAnswerer(model, tiny_tokenizer())
    options = {"max_length": 64, "overlap": 2}
    assert answerer("a", CONTEXT, **options)["answer"] == "London"
    none, london = answerer("a", CONTEXT, handle_impossible_answer=True, top_k=2, **options)
    assert (none["answer"], none["start"], none["end"]) == ("", 0, 0)
    assert london["answer"] == "London"
    assert none["score"] > 0.9 > london["score"]


def test_long_contexts_are_read_to_the_end(new_york):
    context = "a b c " * 40 + CONTEXT
    answer = new_york("a", context, max_length=24, overlap=6, batch_size=3)
    assert (answer["answer"], answer["start"]) == ("New York", context.index("New"))
    batches = new_york.model.batches
    assert batches[0] == 3
    assert sum(batches) > 6


def test_batching_does_not_change_the_answers(random_model):
    answerer = QuestionAnswerer(random_model, tiny_tokenizer())
    contexts = ["Smith", CONTEXT, "a b c d e " * 9, "new york " * 5]
    options = {"max_length": 30, "overlap": 8, "top_k": 3}
    alone = [answerer("a", context, batch_size=1, **options) for context in contexts]
    together = answerer(["a"] * 4, contexts, batch_size=16, **options)
    for one, other in zip(alone, together, strict=True):
        assert [(row["start"], row["end"]) for row in one] == [(row["start"], row["end"]) for row in other]
        assert [row["score"] for row in one] == pytest.approx([row["score"] for row in other], rel=1e-4)


def test_windows_of_like_length_share_a_batch(random_model):
    widths = []
    random_model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    answerer = QuestionAnswerer(random_model, tiny_tokenizer())
    contexts = ["a b c d e f", "a"] * 4  # of 6 and 1 tokens; the question and three special tokens make it 10 and 5
    answers = answerer(["a"] * 8, contexts, batch_size=4)
    assert widths == [10, 5]
    for answer, context in zip(answers, contexts, strict=True):
        alone = answerer("a", context)
        assert answer | {"score": 0} == alone | {"score": 0}
        assert answer["score"] == pytest.approx(alone["score"], rel=1e-4)


@pytest.mark.parametrize("question", ["a", "in london", "b c"])
def test_equals_brute_force_over_a_single_window(random_model, question):
    tokenizer = tiny_tokenizer()
    batch = tokenizer(question, CONTEXT, return_tensors="pt", return_offsets_mapping=True)
    offsets = batch.pop("offset_mapping")[0].tolist()
    context = [position for position, text in enumerate(batch.sequence_ids(0)) if text == 1]
    with torch.no_grad():
        output = random_model.eval()(**batch)
    start, end = (torch.softmax(logits[0, context], 0).tolist() for logits in (output.start_logits, output.end_logits))
    score, first, last = max(
        (start[i] * end[j], i, j) for i in range(len(context)) for j in range(i, min(i + 5, len(context)))
    )
    answer = QuestionAnswerer(random_model, tokenizer)(
        question, CONTEXT, max_answer_length=5, max_length=64, overlap=2
    )
    assert (answer["start"], answer["end"]) == (offsets[context[first]][0], offsets[context[last]][1])
    assert answer["score"] == pytest.approx(score, rel=1e-4)


def test_loads_a_saved_checkpoint_and_evaluates(random_model, tmp_path):
    random_model.train().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    answerer = QuestionAnswerer.from_pretrained(str(tmp_path), device="cpu", dtype=torch.float64, revision="main")
    assert answerer.model.dtype == torch.float64
    assert not answerer.model.training
    here = QuestionAnswerer(random_model, tiny_tokenizer())
    assert not random_model.training
    options = {"max_length": 40, "overlap": 8}
    one, other = answerer("a", CONTEXT, **options), here("a", CONTEXT, **options)
    assert one["score"] == pytest.approx(other.pop("score"), rel=1e-3)
    assert one.items() >= other.items()


def test_half_precision_logits_are_taken(random_model):
    answerer = QuestionAnswerer(random_model.to(torch.bfloat16), tiny_tokenizer())
    answer = answerer("a", CONTEXT, max_length=40, overlap=8)
    assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"] != ""


def test_wrong_arguments_are_named(new_york):
    with pytest.raises(ValueError, match="2 questions but 1 contexts"):
        new_york(["a", "b"], [CONTEXT])
    with pytest.raises(ValueError, match="The context number 1 is empty"):
        new_york(["a", "b"], [CONTEXT, " \n"])
    with pytest.raises(ValueError, match="The question number 0 is empty"):
        new_york("", CONTEXT)
    with pytest.raises(ValueError, match="top_k=0 must be 1 or more"):
        new_york("a", CONTEXT, top_k=0)
    with pytest.raises(ValueError, match="context of example 'a' holds no character that the tokenizer keeps"):
        new_york("a", "\u200b", max_length=20, overlap=2)
    with pytest.raises(ValueError, match="context of example 1 holds no character"):
        new_york(["a", "a"], [CONTEXT, "\u200b"], max_length=20, overlap=2)
    with pytest.raises(ValueError, match="question of example 'a a a.* takes 20 tokens"):
        new_york("a " * 20, CONTEXT, max_length=20, overlap=2)
    with pytest.raises(ValueError, match="max_length=384 exceeds the tokenizer's model_max_length=64"):
        new_york("a", CONTEXT, max_length=384)


def test_windows_are_as_long_as_the_model_allows(new_york):
    assert new_york("a", "a b c " * 200 + CONTEXT)["answer"] == "New York"  # a tokenizer for 64 tokens
    assert window_sizes(new_york.model, tiny_tokenizer()) == (64, 21)
    assert window_sizes(new_york.model, tiny_tokenizer(), 30) == (30, 10)
    assert window_sizes(new_york.model, tiny_tokenizer(), 30, 4) == (30, 4)
    unlimited = tiny_tokenizer()
    unlimited.model_max_length = 10**30
    assert window_sizes(new_york.model, unlimited) == (64, 21)  # the model's positions
    new_york.model.config.max_position_embeddings = 1000
    assert window_sizes(new_york.model, unlimited) == (384, 128)
    new_york.model.config.max_position_embeddings = -1
    assert window_sizes(new_york.model, unlimited) == (384, 128)


LONG = "a " * 45
"""A question that leaves 16 of 64 tokens, fewer than windows share by default."""


def test_a_long_question_has_windows_that_share_less(new_york):
    context = "a b c " * 20 + CONTEXT
    assert new_york(LONG, context)["answer"] == "New York"
    assert new_york(LONG, context, top_k=3) == new_york(LONG, context, top_k=3, overlap=8)
    with pytest.raises(ValueError, match=r"leaves 16 for the context, but the windows shall share overlap=21"):
        new_york(LONG, context, overlap=21)


def test_a_long_question_changes_nothing_for_the_others(random_model):
    answerer = QuestionAnswerer(random_model, tiny_tokenizer())
    contexts = [f"{CONTEXT} " * 8 + letter for letter in "abcdefgh"]
    alone = [answerer("who visited", context) for context in contexts]
    together = answerer([LONG, *["who visited"] * 8], ["smith", *contexts])
    assert [answer["answer"] for answer in together[1:]] == [answer["answer"] for answer in alone]
    rows = {
        "id": list("abcdefgh"),
        "question": ["who visited"] * 8,
        "context": contexts,
        "answers": [{"text": [answer["answer"]], "answer_start": [answer["start"]]} for answer in alone],
    }
    rows = {name: [*values, values[0]] for name, values in rows.items()}
    rows["id"][8], rows["question"][8] = "i", LONG
    scores = evaluate_question_answerer(random_model, tiny_tokenizer(), Dataset.from_dict(rows))
    assert scores["exact_match"] >= 100 * 8 / 9


def test_more_tokens_than_positions_are_refused_at_once(random_model):
    unlimited = tiny_tokenizer()
    unlimited.model_max_length = 10**30
    with pytest.raises(ValueError, match=r"max_length=80 is more than the 64 tokens that this \w+ has positions for"):
        QuestionAnswerer(random_model, unlimited)("a", "a", max_length=80)


def test_the_score_of_a_data_set_is_that_of_its_answers(random_model):
    contexts = ["Smith", CONTEXT, "a b c d e " * 9, "new york " * 5]
    data = Dataset.from_dict(
        {
            "id": list("abcd"),
            "question": ["a", "in london", "b", "c"],
            "context": contexts,
            "answers": [{"text": [text], "answer_start": [0]} for text in ("Smith", "Smith works", "a b", "york")],
        }
    )
    answers = QuestionAnswerer(random_model, tiny_tokenizer())(data["question"][:], contexts, max_length=30)
    expected = squad_scores(
        [{"id": row["id"], "prediction_text": found["answer"]} for row, found in zip(data, answers, strict=True)], data
    )
    random_model.train()
    assert evaluate_question_answerer(random_model, tiny_tokenizer(), data, max_length=30, batch_size=2) == expected
    assert expected["total"] == 4 and expected["f1"] > 0
    with pytest.raises(ValueError, match="no rows to score"):
        evaluate_question_answerer(random_model, tiny_tokenizer(), data.select([]))
    with pytest.raises(TypeError, match=r"rows of one split, got the splits \['test'\]: pass one"):
        evaluate_question_answerer(random_model, tiny_tokenizer(), DatasetDict(test=data))


def test_no_answer_takes_part_where_the_data_have_questions_without_one():
    model = Pointing({"[CLS]": 8.0, "london": 3.0}, {"[CLS]": 8.0, "london": 3.0})
    row = {"question": "a", "context": CONTEXT}
    london = {**row, "id": "1", "answers": {"text": ["London"], "answer_start": [CONTEXT.index("London")]}}
    none = {**row, "id": "2", "answers": {"text": [], "answer_start": []}}
    alone = evaluate_question_answerer(model, tiny_tokenizer(), Dataset.from_list([london]))
    assert alone["exact_match"] == 100
    both = evaluate_question_answerer(model, tiny_tokenizer(), Dataset.from_list([london, none]))
    assert (both["HasAns_exact"], both["NoAns_exact"]) == (0, 100)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(value):
    model = Pointing({"york": value}, {"york": 1.0})
    message = "logits contain NaN or infinity: the model has diverged"
    with pytest.raises(ValueError, match=message):
        QuestionAnswerer(model, tiny_tokenizer())(["a", "a"], ["a b c", CONTEXT])
    answers = {"text": ["London"], "answer_start": [CONTEXT.index("London")]}
    data = Dataset.from_list([{"id": "1", "question": "a", "context": CONTEXT, "answers": answers}])
    with pytest.raises(ValueError, match=message):
        evaluate_question_answerer(model, tiny_tokenizer(), data)


def test_what_a_model_says_of_padding_and_what_it_rules_out_does_not_matter():
    model = Pointing({"[PAD]": float("nan"), "new": 6.0}, {"[PAD]": float("nan"), "york": 5.0})
    for name in ("[CLS]", "[SEP]", "visited"):
        model.tables.data[:, VOCABULARY[name]] = -float("inf")
    answers = QuestionAnswerer(model, tiny_tokenizer())(["a", "a"], ["a b c", CONTEXT])
    assert answers[1]["answer"] == "New York" and 0 < answers[0]["score"] < 1


def test_a_model_without_spans_is_refused():
    answerer = QuestionAnswerer(AutoModel.from_config(tiny_config("bert")), tiny_tokenizer())
    with pytest.raises(TypeError, match="BertModel returns no start_logits and end_logits"):
        answerer("a", CONTEXT, max_length=40, overlap=8)


def test_threads_tokenize_one_after_the_other(random_model, monkeypatch):
    """A fast tokenizer keeps the length it cuts to, which other threads would change in between."""
    inside, most = [], []
    features = question_answering.question_answering_features

    def watched(*arguments, **options):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return features(*arguments, **options)

    monkeypatch.setattr(question_answering, "question_answering_features", watched)
    answerer = QuestionAnswerer(random_model, tiny_tokenizer())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: answerer("smith visited ?", CONTEXT * 12, max_length=64), range(12)))
    assert max(most) == 1 and found == [found[0]] * 12
