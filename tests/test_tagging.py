from __future__ import annotations

import logging
import random
from itertools import islice, repeat

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from seqeval.metrics.sequence_labeling import get_entities
from tiny import TAGS, VOCABULARY, WORDS, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel, AutoModelForTokenClassification, BertConfig, PreTrainedModel, pipeline
from transformers.modeling_outputs import TokenClassifierOutput

from alad_hf import AlAdForTokenClassification, word_prediction
from alad_hf.data import load_token_classification
from alad_hf.tagging import evaluate_tagger, group_words, marks_spans, tag_text, tag_words
from alad_hf.word_prediction import WordTag, predict_words

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Split into one to four tokens each by the tiny tokenizer.
CANDIDATES = [*(word for word in WORDS.split() if not word.startswith("##")), "playing", "xyz", "unacme", "q7"]
SENTENCE_LENGTHS = [3, 0, 40, 1, 7, 90, 0, 12]


class Lookup(PreTrainedModel):
    """Tags every token by a table: letter number i of the alphabet gets tag i, whatever its context."""

    config_class = BertConfig

    def __init__(self, tags: list[str]) -> None:
        super().__init__(BertConfig(id2label=dict(enumerate(tags)), max_position_embeddings=64))
        self.table = torch.nn.Parameter(torch.zeros(len(VOCABULARY), len(tags)))
        for index in range(len(tags)):
            self.table.data[VOCABULARY[LETTERS[index]], index] = 5.0
        self.widths: list[tuple[int, int]] = []

    def forward(self, input_ids, attention_mask):
        self.widths.append(tuple(input_ids.shape))
        return TokenClassifierOutput(logits=self.table[input_ids])


def random_sentences(lengths: list[int], seed: int = 0) -> list[list[str]]:
    generator = random.Random(seed)
    return [generator.choices(CANDIDATES, k=length) for length in lengths]


def random_tagger(model_type: str = "bert") -> PreTrainedModel:
    """A tagger that gives several tags, and other ones in other contexts."""
    config = tiny_config(model_type, initializer_range=0.6)
    config.id2label = dict(enumerate(TAGS))
    return AutoModelForTokenClassification.from_config(config).eval()


def random_alad() -> PreTrainedModel:
    model = AlAdForTokenClassification.from_student_pretrained(
        AutoModel.from_config(tiny_config("bert", initializer_range=0.6)),
        teacher=tiny_teacher(),
        tokenizer=tiny_tokenizer(),
        teacher_tokenizer=tiny_tokenizer(),
    )
    with torch.no_grad():
        model.classifier.weight.normal_()
    return model.eval()


def tagged(rows: list[str], tags: list[list[str]], names: list[str]) -> Dataset:
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    columns = {"tokens": [row.split() for row in rows], "tags": [[names.index(tag) for tag in row] for row in tags]}
    return Dataset.from_dict(columns, features=features)


def word_windows(lengths, room, overlap):
    """First and exclusive last word of each window, counted off word by word."""
    windows, first = [], 0
    while True:
        last = first + 1
        while last < len(lengths) and sum(lengths[first : last + 1]) <= room:
            last += 1
        windows.append((first, last))
        if last == len(lengths):
            return windows
        first = last
        while sum(lengths[first:last]) < overlap and sum(lengths[first - 1 : last + 1]) <= room:
            first -= 1
        while sum(lengths[first - 1 :]) <= room:
            first -= 1


def brute_force(model, tokenizer, words, room, overlap):
    """All windows, one by one; for each word (distance, window, logits) of each."""
    pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    found = [[] for _ in words]
    for window, (first, last) in enumerate(word_windows([len(ids) for ids in pieces], room, overlap)):
        ids = [token for word in pieces[first:last] for token in word]
        inputs = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([inputs])).logits[0, 1:-1].numpy()
        for word in range(first, last):
            position = sum(map(len, pieces[first:word]))
            found[word].append((min(position, len(ids) - 1 - position), window, logits[position]))
    return found


@pytest.mark.parametrize("overlap", [0, 3, 6, 9])
def test_long_sentence_takes_each_word_from_its_best_window(overlap):
    model, tokenizer = random_tagger(), tiny_tokenizer()
    (words,) = random_sentences([45], seed=overlap)
    windows_of_words = brute_force(model, tokenizer, words, 10, overlap)
    best = [min(found, key=lambda one: (-one[0], one[1]))[2] for found in windows_of_words]
    (result,) = predict_words(model, tokenizer, [words], max_length=12, overlap=overlap)
    assert [word.tag for word in result] == [TAGS[logits.argmax()] for logits in best]
    shares = [np.exp(logits.max()) / np.exp(logits).sum() for logits in best]
    np.testing.assert_allclose([word.score for word in result], shares, rtol=1e-4)
    if overlap:  # else there is no choice
        for other in (min, max):
            wrong = [other(found, key=lambda one: one[1])[2] for found in windows_of_words]
            assert not all(np.allclose(one, two, rtol=1e-3) for one, two in zip(best, wrong, strict=True))


def test_default_windows_fill_the_model_and_overlap_by_a_quarter():
    model = Lookup(["O", "B-X"])
    list(tag_words(model, tiny_tokenizer(), [["a"] * 150], batch_size=1))
    # 64 positions, 62 of them for words; the starts are 0, 46 and 88, from where on the rest fits.
    assert sorted(model.widths) == [(1, 64), (1, 64), (1, 64)]
    model.widths.clear()
    list(tag_words(model, tiny_tokenizer(), [["a"] * 125], batch_size=1))
    assert len(model.widths) == 3  # two of 62 overlap by 16 and reach to 108


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("make", [random_tagger, random_alad, lambda: random_tagger("distilbert")])
def test_neither_batches_nor_buffers_nor_padding_change_the_result(make, padding_side, monkeypatch):
    monkeypatch.setattr(word_prediction, "BUFFERED_BATCHES", 2)
    model, tokenizer = make(), tiny_tokenizer()
    sentences = random_sentences(SENTENCE_LENGTHS)
    options = {"max_length": 30, "overlap": 5}
    alone = [list(predict_words(model, tokenizer, [words], **options))[0] for words in sentences]
    assert len({word.tag for words in alone for word in words}) > 1
    tokenizer.padding_side = padding_side
    for batch_size in (1, 3, 32):
        together = list(predict_words(model, tokenizer, sentences, batch_size=batch_size, **options))
        assert [[word.tag for word in words] for words in together] == [
            [word.tag for word in words] for words in alone
        ]
        for one, two in zip(together, alone, strict=True):
            assert [word.score for word in one] == pytest.approx([word.score for word in two], rel=1e-4)


def test_stream_is_read_no_further_than_the_buffer():
    taken = []
    stream = (taken.append(0) or ["a", "b"] for _ in repeat(None))
    results = tag_words(Lookup(["B-X", "O"]), tiny_tokenizer(), stream, batch_size=2)
    assert taken == []
    assert list(islice(results, 130)) == [["B-X", "O"]] * 130
    assert len(taken) == 2 * 64 * 2


def test_batches_hold_sentences_of_like_length():
    model = Lookup(["O"])
    list(tag_words(model, tiny_tokenizer(), [["a"] * length for length in (1, 9, 2, 8)], batch_size=2))
    assert model.widths == [(2, 11), (2, 4)]


def test_every_module_gets_its_mode_back_before_each_result():
    model, tokenizer = random_tagger(), tiny_tokenizer()
    model.train()
    model.bert.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]
    sentences = random_sentences([9] * 3)
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append((module.training, torch.is_grad_enabled())))
    results = tag_words(model, tokenizer, sentences)
    first = next(results)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert seen == [(False, False)]
    # Dropout would make two calls differ.
    assert [first, *results] == list(tag_words(model.eval(), tokenizer, sentences))
    model.train()
    model.classifier.forward = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(tag_words(model, tokenizer, sentences))
    assert model.training


@pytest.mark.parametrize(
    ("tags", "fallback"), [(["B-X", "O"], "O"), (["NOUN", "X"], "X"), (["NOUN", "VERB"], "NOUN"), (["X", "O"], "O")]
)
def test_words_without_a_token(tags, fallback, caplog):
    model = Lookup(tags)
    sentences = [["a", "\ufe0f", "b"], [], ["\ufe0f"], ["", "\u200d", "b"]]
    with caplog.at_level(logging.WARNING):
        result = list(tag_words(model, tiny_tokenizer(), sentences))
    first, second = tags
    assert result == [[first, fallback, second], [], [fallback], [fallback, fallback, second]]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        f"4 words have no token in this vocabulary, such as '\\ufe0f', and were tagged {fallback!r} unseen."
    )


def test_no_warning_without_a_reason(caplog):
    with caplog.at_level(logging.WARNING):
        list(tag_words(random_tagger(), tiny_tokenizer(), random_sentences(SENTENCE_LENGTHS)))
    assert caplog.records == []


def test_nothing_to_tag():
    assert list(tag_words(Lookup(["O"]), tiny_tokenizer(), [])) == []
    assert list(tag_words(Lookup(["O"]), tiny_tokenizer(), [[], []])) == [[], []]
    assert list(tag_text(Lookup(["O"]), tiny_tokenizer(), ["", " \r\n"])) == [[], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 62}, r"overlap=62 must be at least 0 and less than 62, the room that max_length=64 leaves"),
        ({"overlap": -1}, r"overlap=-1 must be at least 0"),
        ({"max_length": 2}, r"overlap=0 must be at least 0 and less than 0"),
        ({"batch_size": 0}, r"batch_size=0 must be 1 or more"),
    ],
)
def test_bad_sizes_are_refused_at_once(options, message):
    for function, inputs in ((tag_words, [["a"]]), (tag_text, ["a"])):
        with pytest.raises(ValueError, match=message):
            function(Lookup(["O"]), tiny_tokenizer(), inputs, **options)


@pytest.mark.parametrize(("architecture", "positions"), [("bert", 64), ("mpnet", 64), ("modernbert", None)])
def test_a_window_longer_than_a_table_of_positions_is_refused_at_once(architecture, positions):
    model = AutoModelForTokenClassification.from_config(tiny_config(architecture)).eval()
    tokenizer, words = tiny_tokenizer(), ["a"] * 100
    if positions is None:  # rotary positions have no end
        assert len(next(tag_words(model, tokenizer, [words], max_length=102))) == 100
        return
    with pytest.raises(ValueError, match=f"max_length={positions + 1} is more than the {positions} tokens that this"):
        tag_words(model, tokenizer, [words], max_length=positions + 1)
    assert len(next(tag_words(model, tokenizer, [words], max_length=positions))) == 100


def test_a_model_of_unknown_length_needs_max_length():
    model, tokenizer = Lookup(["B-X", "O"]), tiny_tokenizer()
    model.config.max_position_embeddings = -1
    tokenizer.model_max_length = 10**30
    with pytest.raises(ValueError, match="Pass max_length"):
        tag_words(model, tokenizer, [["a"]])
    data = tagged(["b " * 99], [["O"] * 99], ["O", "B-X"])
    with pytest.raises(ValueError, match=r"Pass max_length, or set tokenizer.model_max_length"):
        evaluate_tagger(model, tokenizer, data)
    assert evaluate_tagger(model, tokenizer, data, max_length=8)["accuracy"] == 1.0
    assert list(tag_words(model, tokenizer, [["b"] * 99], max_length=8)) == [["O"] * 99]
    assert max(width for _, width in model.widths) == 8


def test_wrong_inputs_say_what_is_expected():
    model, tokenizer = Lookup(["O"]), tiny_tokenizer()
    with pytest.raises(TypeError, match="Sentence 1 is the text 'a b', expected a list of words"):
        list(tag_words(model, tokenizer, [["a"], "a b"]))
    with pytest.raises(TypeError, match="Sentence 0 holds None, expected only strings"):
        list(tag_words(model, tokenizer, [["a", None]]))
    with pytest.raises(TypeError, match=r"single string, expected several: pass \[text\]"):
        tag_text(model, tokenizer, "a b")
    with pytest.raises(TypeError, match=r"Text 1 is \['a'\], expected a string"):
        list(tag_text(model, tokenizer, ["a", ["a"]]))


def test_logits_that_are_no_numbers_are_refused():
    model = Lookup(["O", "B-X"])
    model.table.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits contain NaN"):
        list(tag_words(model, tiny_tokenizer(), [["a"]]))


@pytest.mark.parametrize("seed", range(5))
def test_entities_equal_those_of_the_pipeline(seed):
    torch.manual_seed(seed)
    model, tokenizer = random_tagger(), tiny_tokenizer()
    texts = [" ".join(words).replace(" ,", ",") + "." for words in random_sentences([6, 12, 20, 1], seed=seed)]
    ner = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")
    expected = [ner(text) for text in texts]
    assert any(expected)
    for found, entities in zip(tag_text(model, tokenizer, texts), expected, strict=True):
        assert [(item["label"], item["start"], item["end"]) for item in found] == [
            (entity["entity_group"], entity["start"], entity["end"]) for entity in entities
        ]
        assert [item["score"] for item in found] == pytest.approx(
            [float(entity["score"]) for entity in entities], rel=1e-4
        )


def test_entities_are_read_as_seqeval_reads_them():
    tags = ["O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC") for prefix in "BIES")]
    model, generator = Lookup(tags), random.Random(0)
    sequences = [generator.choices(range(len(tags)), k=length) for length in [*range(12)] * 20]
    texts = [" ".join(LETTERS[tag] for tag in sequence) for sequence in sequences]
    strays = 0
    for sequence, items in zip(sequences, tag_text(model, tiny_tokenizer(), texts), strict=True):
        names = [tags[tag] for tag in sequence]
        strays += any(one == "O" and two == "I-PER" for one, two in zip(names, names[1:], strict=False))
        # Words and the blanks between them are one character each.
        expected = [(kind, 2 * first, 2 * last + 1) for kind, first, last in get_entities(names)]
        assert [(item["label"], item["start"], item["end"]) for item in items] == expected
    assert strays > 10


def test_tags_that_mark_no_spans_give_one_item_a_word():
    items = next(tag_text(Lookup(["NOUN", "VERB", "O"]), tiny_tokenizer(), ["a  a\tb,c a"]))
    # The comma has the same logit for all tags, so that the first wins.
    assert [(item["label"], item["start"], item["end"], item["text"]) for item in items] == [
        ("NOUN", 0, 1, "a"),
        ("NOUN", 3, 4, "a"),
        ("VERB", 5, 6, "b"),
        ("NOUN", 6, 7, ","),
        ("NOUN", 9, 10, "a"),
    ]
    assert items[0]["score"] == pytest.approx(np.exp(5) / (np.exp(5) + 2))
    assert items[3]["score"] == pytest.approx(1 / 3)


def test_score_of_an_entity_is_the_mean_over_its_words():
    (item,) = next(tag_text(Lookup(["B-PER", "I-PER"]), tiny_tokenizer(), ["a b b"]))
    assert (item["text"], item["label"]) == ("a b b", "PER")
    assert item["score"] == pytest.approx(np.exp(5) / (np.exp(5) + 1))


def test_offsets_fit_any_text():
    # Every letter a or b is an entity of its own word; all else is O.
    model = Lookup(["B-X", "I-X", "O"])
    model.table.data[:, 2] += 1.0
    texts = {
        "a\r\nb c\r\n": ["a\r\nb"],
        "\ufeffc a": ["a"],
        "🙂 a 👍🏽b": ["a", "b"],
        "❤\ufe0f a b": ["a b"],
        "cafe\u0301 a\u0301 c": ["a\u0301"],
        "👨\u200d👩\u200d👧 b!": ["b"],
        "a\u2028b\u00a0b\u3000": ["a\u2028b\u00a0b"],
        "(a-b) 𝒳 a": ["a", "b", "a"],
    }
    results = list(tag_text(model, tiny_tokenizer(), texts, batch_size=2))
    for (text, expected), items in zip(texts.items(), results, strict=True):
        assert [item["text"] for item in items] == expected
        for item in items:
            assert text[item["start"] : item["end"]] == item["text"]
            assert type(item["start"]) is type(item["end"]) is int
            assert type(item["score"]) is float


def test_offsets_of_a_long_text():
    model = Lookup(["B-X", "I-X", "O"])
    text = "c " * 200 + "a b" + " c" * 300 + "\na"
    items = next(tag_text(model, tiny_tokenizer(), [text]))
    assert [(item["start"], item["end"]) for item in items] == [(400, 403), (len(text) - 1, len(text))]


def test_evaluation_scores_every_word_of_the_data():
    # a: B-PER, b: I-PER, c: O. One sentence is three windows long, one word has no token.
    model = Lookup(["B-PER", "I-PER", "O"])
    rows = ["a b c", "c " * 149 + "a", "c \ufe0f a b"]
    references = [
        ["B-PER", "I-PER", "O"],
        ["O"] * 149 + ["B-PER"],
        ["O", "B-PER", "B-PER", "O"],
    ]
    # The ids differ from the model's: names count.
    scores = evaluate_tagger(model, tiny_tokenizer(), tagged(rows, references, ["O", "B-PER", "I-PER"]), batch_size=2)
    # Found: three entities, two of them right; in the data: four.
    assert scores == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 4),
        "f1": pytest.approx(4 / 7),
        "macro_f1": pytest.approx(4 / 7),
        "accuracy": pytest.approx(155 / 157),
        "f1_PER": pytest.approx(4 / 7),
    }


def test_evaluation_of_tags_that_mark_no_spans(caplog):
    model = Lookup(["NOUN", "VERB", "SYM"])
    data = tagged(["a b", "b a c"], [["NOUN", "VERB"], ["NOUN", "X", "VERB"]], ["VERB", "X", "NOUN"])
    with caplog.at_level(logging.WARNING):
        scores = evaluate_tagger(model, tiny_tokenizer(), data)
    assert scores["accuracy"] == pytest.approx(2 / 5)
    assert {name for name in scores if name.startswith("f1_")} == {"f1_NOUN", "f1_VERB", "f1_X", "f1_SYM"}
    assert (scores["f1_NOUN"], scores["f1_X"], scores["f1_SYM"]) == (0.5, 0.0, 0.0)
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 5 words have tags that the model does not have and count as missed: ['X'].",
        "1 words were given tags that the data do not have and count as wrong: ['SYM'].",
    ]


def test_entities_of_unknown_types_count_as_missed(caplog):
    names = ["O", "B-PER", "I-PER", "B-GPE", "I-GPE"]
    model = Lookup(["B-PER", "I-PER", "O"])
    with caplog.at_level(logging.WARNING):
        scores = evaluate_tagger(model, tiny_tokenizer(), tagged(["a c c"], [["B-PER", "B-GPE", "I-GPE"]], names))
    assert (scores["precision"], scores["recall"], scores["f1_GPE"]) == (1.0, 0.5, 0.0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert (
        message.startswith("2 of 3 words have tags that the model does not have") and "['B-GPE', 'I-GPE']" in message
    )


def test_entities_need_no_tag_that_begins_them(caplog):
    model = Lookup(["I-PER", "I-LOC", "O"])  # as taggers of CoNLL-2003 have them
    data = tagged(["a b c", "b c a"], [["B-PER", "B-LOC", "O"], ["B-LOC", "O", "B-PER"]], ["O", "B-PER", "B-LOC"])
    scores = evaluate_tagger(model, tiny_tokenizer(), data)
    assert (scores["f1"], scores["accuracy"]) == (1.0, 1 / 3)
    assert not caplog.records
    with pytest.raises(ValueError, match="share no tag"):
        evaluate_tagger(model, tiny_tokenizer(), tagged(["a"], [["B-GPE"]], ["O", "B-GPE"]))


def test_data_without_any_entity_can_be_scored():
    data = tagged(["c c"], [["O", "O"]], ["O", "B-PER"])
    assert evaluate_tagger(Lookup(["B-PER", "I-PER", "O"]), tiny_tokenizer(), data)["accuracy"] == 1.0


@pytest.mark.parametrize("labels", [["LABEL_0", "LABEL_1"], ["O", "B-LOC"]])
def test_a_model_for_other_tags_is_refused(labels):
    data = tagged(["c c"], [["O", "B-PER"]], ["O", "B-PER"])
    with pytest.raises(
        ValueError, match=rf"model has \['{labels[0]}', '{labels[1]}'\], the data have \['B-PER', 'O'\]"
    ):
        evaluate_tagger(Lookup(labels), tiny_tokenizer(), data)


def test_a_model_of_another_scheme_is_refused_before_it_runs():
    model = Lookup(["O", "B-PER", "S-PER"])
    with pytest.raises(ValueError, match=r"id2label\[2\] is 'S-PER', which is not an IOB2 tag"):
        evaluate_tagger(model, tiny_tokenizer(), tagged(["c"], [["B-PER"]], ["O", "B-PER"]))
    assert model.widths == []


def test_other_columns():
    data = tagged(["a b"], [["B-PER", "O"]], ["O", "B-PER"]).rename_columns({"tokens": "words", "tags": "other"})
    model = Lookup(["B-PER", "O"])
    with pytest.raises(ValueError, match="tag_column="):
        evaluate_tagger(model, tiny_tokenizer(), data)
    assert evaluate_tagger(model, tiny_tokenizer(), data, tag_column="other")["f1"] == 1.0
    with pytest.raises(TypeError, match=r"rows of one split, got the splits \['test'\]: pass one"):
        evaluate_tagger(model, tiny_tokenizer(), DatasetDict(test=data), tag_column="other")


def test_real_sentences_get_one_tag_a_word(shared_data):
    words = load_token_classification(shared_data / "wnut17")["test"].select(range(300))["tokens"]
    result = list(tag_words(random_tagger(), tiny_tokenizer(), words, max_length=24))
    assert list(map(len, result)) == list(map(len, words))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["O", "B-PER", "I-PER"], True),
        (["B-PER", "I-PER"], True),
        (["O", "B-PER", "[PAD]"], True),
        (["NOUN", "VERB"], False),
        (["S----3MS2-", "U---------", "N------S1R", "VIIA-3MS--"], False),  # of the Arabic treebank
    ],
)
def test_spans_are_told_from_classes(tags, expected):
    assert marks_spans(tags) is expected


@pytest.mark.parametrize("tag", ["S----3MS2-", "VIIA-3MS--", "I-x", "NOUN"])
def test_classes_are_shown_whole_whatever_they_look_like(tag):
    tags = ["S----3MS2-", "VIIA-3MS--", "B-x", "I-x", "NOUN"]  # no spans: they lack "O", and some have no prefix
    (item,) = group_words("word", [(0, 4)], [WordTag(tag, 1.0)], marks_spans(tags))
    assert item["label"] == tag


def test_a_compiled_model_tags():
    model, tokenizer = random_tagger(), tiny_tokenizer()
    sentences = random_sentences([3, 5])
    expected = list(tag_words(model, tokenizer, sentences))
    with torch.compiler.set_stance("force_eager"):  # transformers 5.6 fails where it is compiled
        assert list(tag_words(torch.compile(model), tokenizer, sentences)) == expected
