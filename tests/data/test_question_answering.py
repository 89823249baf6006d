from __future__ import annotations

import copy
import json
import logging
import random

import pytest
from datasets import Dataset
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from alad_hf.data.question_answering import encode_questions, question_answering_features

WORDS = "smith jones london berlin a to works visited played x5 un, b. unplayed".split()


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def byte_level_tokenizer():
    """Offsets of its tokens include the space before a word, and a letter such as é may be two tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", cls_token="<s>", sep_token="</s>", eos_token="</s>"
    )


def random_examples(count, seed=0, words=WORDS, longest=80):
    """Examples whose answer is a random run of words; every fourth has none."""
    rng = random.Random(seed)
    examples = {"id": [], "question": [], "context": [], "answers": []}
    for number in range(count):
        chosen = [rng.choice(words) for _ in range(rng.randrange(3, longest))]
        gaps = [rng.choice([" ", "  ", "\n"]) for _ in chosen]
        first = rng.randrange(len(chosen))
        last = rng.randrange(first, min(first + 3, len(chosen)))
        pieces = [word + gap for word, gap in zip(chosen, gaps, strict=True)]
        context = "".join(pieces)
        start = len("".join(pieces[:first]))
        end = start + len("".join(pieces[first : last + 1]).rstrip())
        answers = {"text": [context[start:end]], "answer_start": [start]}
        examples["id"].append(f"q{number}")
        examples["question"].append(" ".join(rng.choice(words) for _ in range(rng.randrange(1, 4))))
        examples["context"].append(context)
        examples["answers"].append(answers if number % 4 else {"text": [], "answer_start": []})
    return examples


def both(examples, tokenizer, **options):
    training = question_answering_features(examples, tokenizer, for_training=True, **options)
    return training, question_answering_features(examples, tokenizer, for_training=False, **options)


def in_context(window):
    return [position for position, (start, end) in enumerate(window) if end > start]


def test_every_character_lies_in_a_window_and_windows_overlap_as_stated(tokenizer):
    examples = random_examples(20)
    features = question_answering_features(examples, tokenizer, max_length=40, overlap=7, for_training=False)
    assert len(features["input_ids"]) > 40
    for name, question, context in zip(examples["id"], examples["question"], examples["context"], strict=True):
        windows = [
            (ids, offsets)
            for ids, owner, offsets in zip(
                features["input_ids"], features["example_id"], features["offset_mapping"], strict=True
            )
            if owner == name
        ]
        seen = set()
        question_ids = tokenizer(question)["input_ids"]
        for ids, offsets in windows:
            assert len(ids) == len(offsets) <= 40
            assert ids[: len(question_ids)] == question_ids
            seen |= {char for start, end in offsets if end > start for char in range(start, end)}
        assert seen == {char for char, letter in enumerate(context) if not letter.isspace()}
        contexts = [[offset for offset in offsets if offset[0] >= 0] for _, offsets in windows]
        for one, other in zip(contexts, contexts[1:], strict=False):
            assert one[-7:] == other[:7]
            assert one[-8:] != other[:8]


@pytest.mark.parametrize("overlap", [0, 5, 12])
def test_positions_equal_those_counted_in_the_whole_context(tokenizer, overlap):
    examples = random_examples(40, seed=overlap)
    features = question_answering_features(examples, tokenizer, max_length=36, overlap=overlap, for_training=True)
    window = 0
    for question, context, answers in zip(examples["question"], examples["context"], examples["answers"], strict=True):
        whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        prefix = len(tokenizer(question)["input_ids"])
        room = 36 - prefix - 1
        touched = []
        if answers["text"]:
            begin, end = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
            touched = [token for token, span in enumerate(whole) if span[0] < end and span[1] > begin]
        first_token = 0
        while True:
            expected = (0, 0)
            if touched and touched[0] >= first_token and touched[-1] < first_token + room:
                expected = (prefix + touched[0] - first_token, prefix + touched[-1] - first_token)
            assert (features["start_positions"][window], features["end_positions"][window]) == expected
            window += 1
            if first_token + room >= len(whole):
                break
            first_token += room - overlap
    assert window == len(features["start_positions"])
    assert any(features["start_positions"])


@pytest.mark.parametrize("kind", ["tokenizer", "byte_level_tokenizer"])
def test_positions_lead_back_to_the_answer(kind, request):
    examples = random_examples(40, words=[*WORDS, "éclair", "naïveté"])
    training, evaluation = both(examples, request.getfixturevalue(kind), max_length=60, overlap=35)
    answers = dict(zip(examples["id"], examples["answers"], strict=True))
    contexts = dict(zip(examples["id"], examples["context"], strict=True))
    found = set()
    for window, name in enumerate(evaluation["example_id"]):
        first, last = training["start_positions"][window], training["end_positions"][window]
        if first == evaluation["cls_index"][window]:
            assert last == first
            continue
        offsets = evaluation["offset_mapping"][window]
        assert contexts[name][offsets[first][0] : offsets[last][1]] == answers[name]["text"][0]
        found.add(name)
    assert found == {name for name, answer in answers.items() if answer["text"]}


def test_an_answer_ends_before_the_punctuation_that_touches_it(tokenizer):
    answers = [{"text": ["smith"], "answer_start": [4]}]
    examples = {"id": ["q"], "question": ["a"], "context": ["to, smith, a"], "answers": answers}
    features = question_answering_features(examples, tokenizer, max_length=20, overlap=2, for_training=True)
    tokens = tokenizer.convert_ids_to_tokens(features["input_ids"][0])
    assert tokens[features["start_positions"][0] : features["end_positions"][0] + 1] == ["smith"]


def test_offsets_never_hold_white_space(byte_level_tokenizer):
    raw = byte_level_tokenizer(" a smith", return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    assert any(" a smith"[start] == " " for start, _ in raw)  # else this tokenizer would prove nothing
    examples = random_examples(5)
    features = question_answering_features(
        examples, byte_level_tokenizer, max_length=60, overlap=9, for_training=False
    )
    contexts = dict(zip(examples["id"], examples["context"], strict=True))
    for name, window in zip(features["example_id"], features["offset_mapping"], strict=True):
        pieces = [contexts[name][start:end] for start, end in window if (start, end) != (-1, -1)]
        assert pieces
        assert all(piece and piece == piece.strip() for piece in pieces)


def test_a_tokenizer_that_pads_left_has_the_question_last_and_positions_that_stay():
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    examples = random_examples(8)
    training, evaluation = both(examples, tokenizer, max_length=50, overlap=9)
    assert {len(ids) for ids in evaluation["input_ids"]} == {50}
    contexts = dict(zip(examples["id"], examples["context"], strict=True))
    questions = dict(zip(examples["id"], examples["question"], strict=True))
    held = 0
    for window, name in enumerate(evaluation["example_id"]):
        ids, offsets = evaluation["input_ids"][window], evaluation["offset_mapping"][window]
        assert ids[evaluation["cls_index"][window]] == tokenizer.cls_token_id
        assert ids[-len(tokenizer.tokenize(questions[name])) - 1 : -1] == tokenizer.encode(
            questions[name], add_special_tokens=False
        )
        for position in in_context(offsets):
            start, end = offsets[position]
            assert tokenizer.decode([ids[position]]).removeprefix("##") == contexts[name][start:end]
        held += training["start_positions"][window] != evaluation["cls_index"][window]
    assert held


def test_a_dataset_gets_the_columns_of_its_windows(tokenizer):
    examples = random_examples(9)
    dataset = Dataset.from_dict(examples)
    inputs = {"input_ids", "token_type_ids", "attention_mask"}
    for for_training, extra in (
        (True, {"start_positions", "end_positions"}),
        (False, {"example_id", "offset_mapping", "cls_index"}),
    ):
        options = {"max_length": 40, "overlap": 9, "for_training": for_training}
        rows = encode_questions(dataset, tokenizer, **options)
        assert set(rows.column_names) == inputs | extra
        direct = question_answering_features(examples, tokenizer, **options)
        assert len(rows) > len(dataset)
        compared = ["input_ids", "attention_mask", "start_positions" if for_training else "example_id"]
        assert all(rows[name][:] == direct[name] for name in compared)


def test_the_literal_cls_token_in_a_text_is_not_taken_for_the_real_one():
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    examples = {"id": ["q"], "question": ["a"], "context": ["[CLS] a b"]}
    # As in XLNet, the real one stands last, behind the text.
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]",
        pair="$A [SEP] $B [SEP] [CLS]",
        special_tokens=[("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)],
    )
    features = question_answering_features(examples, tokenizer, max_length=12, overlap=1, for_training=False)
    assert features["cls_index"] == [11]


def test_answers_in_no_window_are_reported(tokenizer, caplog):
    examples = {
        "id": ["long", "short"],
        "question": ["a", "a"],
        "context": ["to a " * 10, "to a"],
        "answers": [{"text": [("to a " * 8).strip()], "answer_start": [0]}, {"text": ["a"], "answer_start": [3]}],
    }
    with caplog.at_level(logging.WARNING):
        features = question_answering_features(examples, tokenizer, max_length=16, overlap=2, for_training=True)
    assert "1 of 2 answers lie whole in no window" in caplog.text
    assert not any(features["start_positions"][:-1])
    assert features["start_positions"][-1] == 4


def test_room_is_checked_and_the_remedy_works(tokenizer):
    examples = {"id": ["q7"], "question": ["a b c d"], "context": ["smith " * 20]}

    def features(**options):
        return question_answering_features(examples, tokenizer, for_training=False, **options)

    with pytest.raises(
        ValueError,
        match="question of example 'q7' takes 4 tokens and the special tokens 3 of max_length=7, which leaves none.*"
        "max_length=10 or more",
    ):
        features(max_length=7, overlap=2)
    with pytest.raises(
        ValueError, match="leaves 5 for the context.*overlap=5: pass overlap=4 or less, or max_length=13"
    ):
        features(max_length=12, overlap=5)
    with pytest.raises(ValueError, match="overlap=-1 must be 0 or more"):
        features(max_length=12, overlap=-1)
    for remedy in (
        {"max_length": 10, "overlap": 2},
        {"max_length": 12, "overlap": 4},
        {"max_length": 13, "overlap": 5},
    ):
        assert len(features(**remedy)["input_ids"]) > 1


def test_unusable_tokenizers_are_refused(tokenizer):
    examples = random_examples(1)
    with pytest.raises(ValueError, match="max_length=384 exceeds the tokenizer's model_max_length=64"):
        question_answering_features(examples, tokenizer, for_training=False)

    class Slow:
        is_fast = False

    with pytest.raises(TypeError, match="Slow is a slow tokenizer"):
        question_answering_features(examples, Slow(), for_training=False)
    no_cls = tiny_tokenizer()
    no_cls.cls_token = None
    with pytest.raises(ValueError, match="has no cls_token"):
        question_answering_features(examples, no_cls, max_length=40, overlap=2, for_training=False)
    unused_cls = tiny_tokenizer()
    unused_cls.cls_token = "[MASK]"
    with pytest.raises(ValueError, match=r"puts no cls_token \('\[MASK\]'\)"):
        question_answering_features(examples, unused_cls, max_length=40, overlap=2, for_training=False)


def test_misplaced_answers_are_refused(tokenizer):
    answers = [{"text": ["smith"], "answer_start": [1]}]
    examples = {"id": ["q"], "question": ["a"], "context": ["to smith"], "answers": answers}
    with pytest.raises(
        ValueError, match="Example 'q': the answer 'smith' should start at character 1.*'o smi' stands"
    ):
        question_answering_features(examples, tokenizer, max_length=40, overlap=2, for_training=True)


def test_examples_without_an_id_are_called_by_their_question(tokenizer):
    examples = {
        "question": ["a b c d"],
        "context": ["to smith"],
        "answers": [{"text": ["smith"], "answer_start": [1]}],
    }
    with pytest.raises(ValueError, match="question of example 'a b c d' takes 4 tokens"):
        question_answering_features(examples, tokenizer, max_length=7, overlap=2, for_training=True)
    with pytest.raises(ValueError, match="Example 'a b c d': the answer 'smith' should start"):
        question_answering_features(examples, tokenizer, max_length=40, overlap=2, for_training=True)


def test_real_questions(shared_data):
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 512
    data = json.loads((shared_data / "xquad_en" / "xquad.en.json").read_text())["data"]
    paragraphs = [paragraph for article in data for paragraph in article["paragraphs"]]
    rows = [(row, paragraph["context"]) for paragraph in paragraphs for row in paragraph["qas"]][:300]
    examples = {
        "id": [row["id"] for row, _ in rows],
        "question": [row["question"] for row, _ in rows],
        "context": [context for _, context in rows],
        "answers": [{key: [answer[key] for answer in row["answers"]] for key in row["answers"][0]} for row, _ in rows],
    }
    training, evaluation = both(examples, tokenizer, max_length=384, overlap=150)
    texts = {row["id"]: (row["answers"][0]["text"], context) for row, context in rows}
    found = set()
    for window, name in enumerate(evaluation["example_id"]):
        first, last = training["start_positions"][window], training["end_positions"][window]
        if first:
            offsets = evaluation["offset_mapping"][window]
            text, context = texts[name]
            # A word is one unknown token here if it holds an unknown character, so the span may be wider.
            assert text in context[offsets[first][0] : offsets[last][1]]
            found.add(name)
    assert len(evaluation["example_id"]) > len(rows)
    assert found == set(texts)


class TestTeacherWithAnotherTokenizer:
    @pytest.mark.parametrize("teacher_side", ["right", "left"])
    @pytest.mark.parametrize("student_side", ["right", "left"])
    @pytest.mark.parametrize("for_training", [True, False])
    def test_windows_are_read_question_by_question(
        self, byte_level_tokenizer, student_side, teacher_side, for_training
    ):
        student, teacher = tiny_tokenizer(), copy.deepcopy(byte_level_tokenizer)
        student.padding_side, teacher.padding_side = student_side, teacher_side
        examples = random_examples(12)
        options = {"max_length": 40, "overlap": 7, "for_training": for_training}
        plain = question_answering_features(examples, student, **options)
        features = question_answering_features(examples, student, teacher_tokenizer=teacher, **options)
        assert set(features) == {*plain, "teacher_input_ids", "teacher_alignment"}
        assert {name: features[name] for name in plain} == plain
        if for_training:
            return
        questions = dict(zip(examples["id"], examples["question"], strict=True))
        contexts = dict(zip(examples["id"], examples["context"], strict=True))
        starts = set()
        for window, name in enumerate(features["example_id"]):
            ids = features["teacher_input_ids"][window]
            question = teacher(questions[name], add_special_tokens=False)["input_ids"]
            # Each reads the question where its own padding side says.
            begin = 1 if teacher_side == "right" else len(ids) - 1 - len(question)
            assert ids[begin : begin + len(question)] == question
            context = ids[len(question) + 2 : -1] if teacher_side == "right" else ids[1 : begin - 1]
            read = teacher.decode(context)
            assert read in contexts[name]
            starts.add(contexts[name].startswith(read))
            offsets = features["offset_mapping"][window]
            pieces = teacher.convert_ids_to_tokens(ids)
            letters = {}
            for token, other, weight in features["teacher_alignment"][window]:
                letters.setdefault(int(token), []).append((int(other), weight))
            covered = [token for token, span in enumerate(offsets) if span != (-1, -1)]
            assert set(covered) <= set(letters)
            own = student.convert_ids_to_tokens(features["input_ids"][window])
            for token, targets in letters.items():
                assert sum(weight for _, weight in targets) == pytest.approx(1)
                inside = {begin <= other < begin + len(question) for other, _ in targets}
                if token in covered:
                    assert inside == {False}
                    joined = "".join(pieces[other] for other, _ in targets).replace("Ġ", "")
                    assert own[token].removeprefix("##") in joined or joined in own[token]
                elif own[token] not in ("[CLS]", "[SEP]"):
                    assert inside == {True}
        assert starts == {True, False}

    def test_the_same_tokenizer_adds_nothing(self, tokenizer):
        options = {"max_length": 40, "overlap": 7, "for_training": True}
        examples = random_examples(3)
        assert question_answering_features(
            examples, tokenizer, teacher_tokenizer=tiny_tokenizer(), **options
        ) == question_answering_features(examples, tokenizer, **options)

    def test_use_in_dataset_map(self, tokenizer, byte_level_tokenizer):
        dataset = Dataset.from_dict(random_examples(9))
        options = {"tokenizer": tokenizer, "max_length": 40, "overlap": 9, "for_training": True}
        options["teacher_tokenizer"] = byte_level_tokenizer
        mapped = dataset.map(
            question_answering_features,
            batched=True,
            batch_size=1,
            remove_columns=dataset.column_names,
            fn_kwargs=options,
        )
        direct = question_answering_features(dataset[:], **options)
        assert mapped["teacher_input_ids"][:] == direct["teacher_input_ids"]
        assert mapped["teacher_alignment"][:] == [rows.tolist() for rows in direct["teacher_alignment"]]

    def test_one_odd_text_does_not_end_a_run_but_many_do(self, byte_level_tokenizer, caplog):
        odd, usual = "\u200b " * 20, "smith works " * 3
        options = {"max_length": 60, "overlap": 5, "for_training": False, "teacher_tokenizer": tiny_tokenizer()}

        def encode(*contexts):
            names = [f"q{number}" for number in range(len(contexts))]
            examples = {"id": names, "question": ["a"] * len(contexts), "context": contexts}
            return question_answering_features(examples, byte_level_tokenizer, **options)

        for contexts in ([odd], [odd, usual], [usual, odd, usual]):
            caplog.clear()
            assert set(encode(*contexts)["example_id"]) == {f"q{number}" for number in range(len(contexts))}
            assert [record.levelname for record in caplog.records] == ["WARNING"]
        with pytest.raises(ValueError, match=r"nothing stands for '\\u200b'.*less than minimum_coverage=0\.9\."):
            encode(odd, odd, usual)
        options["minimum_coverage"] = 0.0
        assert encode(odd, odd)


def test_an_answer_keeps_the_marks_that_its_tokenizer_drops(tokenizer):
    """Of letters with combining marks the normaliser keeps the letter, whose offsets then end before its mark."""
    context = "smith e\u0301 , a"
    assert tokenizer(context, return_offsets_mapping=True).tokens()[2] == "e"
    answers = [{"text": ["e\u0301"], "answer_start": [6]}]
    examples = {"id": ["q"], "question": ["a"], "context": [context], "answers": answers}
    features = question_answering_features(examples, tokenizer, max_length=20, overlap=2, for_training=False)
    pieces = [context[start:end] for start, end in features["offset_mapping"][0] if start >= 0]
    assert pieces == ["smith", "e\u0301", ",", "a"]
    learned = question_answering_features(examples, tokenizer, max_length=20, overlap=2, for_training=True)
    tokens = tokenizer.convert_ids_to_tokens(learned["input_ids"][0])
    assert tokens[learned["start_positions"][0]] == tokens[learned["end_positions"][0]] == "e"
