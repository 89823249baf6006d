"""From tagged words to labelled tokens: three tokenizer families against a loop over single words."""

from __future__ import annotations

import logging

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from tiny import TAGS, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
from transformers.tokenization_python import PythonBackend

from alad_hf import AlAdConfig
from alad_hf.data import encode_text
from alad_hf.data.split_words import join_words, words_as_in_text
from alad_hf.data.token_labels import encode_tagged_words, longest_input
from alad_hf.word_prediction import _cut_windows

SENTENCES = [
    ("smith works for acme in unberlinable york .", "B-PER O O B-LOC O B-LOC I-LOC O"),
    ("jones", "B-PER"),
    ("", ""),
    ("the a unplayedable zzzz visited newyorkers and berlinsable , jones", "O O B-LOC I-LOC O B-PER O I-PER O B-PER"),
]
# What a word that starts an entity gives to its further tokens.
INSIDE = {"B-PER": "I-PER", "B-LOC": "I-LOC"}


def tagged(rows: list[tuple[str, str]] = SENTENCES, names: list[str] = TAGS) -> Dataset:
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    ids = [[names.index(tag) for tag in tags.split()] for _, tags in rows]
    return Dataset.from_dict({"tokens": [words.split() for words, _ in rows], "tags": ids}, features=features)


def trained(backend: Tokenizer, trainer: trainers.Trainer, **settings: object) -> PreTrainedTokenizerFast:
    backend.train_from_iterator([words for words, _ in SENTENCES] * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
        **settings,
    )


def byte_level_bpe(add_prefix_space: bool = True) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special)
    return trained(backend, trainer, add_prefix_space=add_prefix_space)


def unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Replace("\u200b", "")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    return trained(backend, trainers.UnigramTrainer(vocab_size=40, special_tokens=special, unk_token="<unk>"))


TOKENIZERS = {"wordpiece": tiny_tokenizer, "byte-level-bpe": byte_level_bpe, "unigram": unigram}


def word_by_word(
    dataset: Dataset, tokenizer: PreTrainedTokenizerFast, max_length: int, label_subwords: str
) -> list[tuple[int, list[int], list[int]]]:
    """Rows (sentence, ids, labels), each word tokenized alone, without `word_ids` and without truncation."""
    names = dataset.features["tags"].feature.names
    start, end = tokenizer("")["input_ids"]
    room, rows = max_length - 2, []
    for sentence, row in enumerate(dataset):
        ids, labels = [], []
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            pieces = tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"]
            inside = names.index(INSIDE.get(names[tag], names[tag])) if label_subwords == "all" else -100
            ids += pieces
            labels += [tag, *[inside] * (len(pieces) - 1)][: len(pieces)]
        for cut in range(0, max(len(ids), 1), room):
            rows.append((sentence, [start, *ids[cut : cut + room], end], [-100, *labels[cut : cut + room], -100]))
    return rows


@pytest.mark.parametrize("max_length", [64, 9, 4, 3])
@pytest.mark.parametrize("label_subwords", ["first", "all"])
@pytest.mark.parametrize("family", TOKENIZERS)
def test_equals_a_loop_over_words(family: str, label_subwords: str, max_length: int) -> None:
    dataset, tokenizer = tagged(), TOKENIZERS[family]()
    encoded = encode_tagged_words(dataset, tokenizer, max_length=max_length, label_subwords=label_subwords)
    rows = list(zip(encoded["sentence"], encoded["input_ids"], encoded["labels"], strict=True))
    assert rows == word_by_word(dataset, tokenizer, max_length, label_subwords)
    assert encoded["attention_mask"] == [[1] * len(ids) for ids in encoded["input_ids"]]
    assert (len(rows) > len(dataset)) == (max_length < 64)


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_words_of_byte_level_tokenizers_keep_the_blanks_between_them(add_prefix_space: bool) -> None:
    """Without the option transformers runs split words together (RoBERTa's and ModernBERT's default)."""
    dataset, tokenizer = tagged(), byte_level_bpe(add_prefix_space)
    encoded = encode_tagged_words(dataset, tokenizer, max_length=64)
    texts = [" ".join(words) for words in dataset["tokens"]]
    assert (
        encoded["input_ids"]
        == tokenizer(texts)["input_ids"]
        == encode_text(texts, tokenizer, max_length=64)["input_ids"]
    )
    run_together = tokenizer(list(dataset["tokens"]), is_split_into_words=True)["input_ids"]
    assert (run_together == encoded["input_ids"]) == add_prefix_space
    assert [[label for label in labels if label >= 0] for labels in encoded["labels"]] == dataset["tags"][:]
    sentences = [words for words in dataset["tokens"] if words]
    windows = _cut_windows(tokenizer, sentences, 62, 0)
    assert [window.columns["input_ids"] for window in windows] == [ids for ids in encoded["input_ids"] if len(ids) > 2]
    assert [sorted(window.first_tokens) for window in windows] == [list(range(len(words))) for words in sentences]


def test_a_word_brings_one_blank_at_most() -> None:
    words = ["", "a", " b", "", "c"]
    assert words_as_in_text(byte_level_bpe(False), [words]) == [["", " a", " b", "", " c"]]
    assert words_as_in_text(tiny_tokenizer(), [words]) == [words]
    assert join_words(words) == join_words(["", " a", " b", "", " c"]) == " a b c"


@pytest.mark.parametrize("family", TOKENIZERS)
def test_every_word_is_labelled_exactly_once_wherever_the_cut_falls(family: str) -> None:
    dataset, tokenizer = tagged(), TOKENIZERS[family]()
    pieces = tokenizer(dataset["tokens"][0], is_split_into_words=True)
    assert len(set(pieces.word_ids())) < len(pieces.word_ids()), "no word of several tokens that a cut could hit"
    for max_length in range(3, 16):
        encoded = encode_tagged_words(dataset, tokenizer, max_length=max_length)
        for sentence, tags in enumerate(dataset["tags"]):
            rows = [row for row in encoded if row["sentence"] == sentence]
            assert [label for row in rows for label in row["labels"] if label != -100] == tags
            assert all(len(row["input_ids"]) == len(row["labels"]) <= max_length for row in rows)


def test_cut_sentences_are_counted_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    encode_tagged_words(tagged(), tiny_tokenizer(), max_length=4)
    assert [record.message for record in caplog.records] == [
        "2 of 4 sentences are longer than 4 tokens and were cut into several rows; every word keeps its label.",
        "1 sentences are empty; they have no word to learn.",
    ]


@pytest.mark.parametrize("family", ["wordpiece", "unigram"])
def test_words_without_a_token_are_reported(family: str, caplog: pytest.LogCaptureFixture) -> None:
    invisible = "\u200b"
    rows = [(f"smith {invisible} jones {invisible}", "B-PER O B-PER B-LOC")]
    encoded = encode_tagged_words(tagged(rows), TOKENIZERS[family](), max_length=64)
    assert [label for label in encoded["labels"][0] if label != -100] == [TAGS.index("B-PER")] * 2
    assert [record.message for record in caplog.records] == [
        "2 words have no token in this vocabulary, such as ['\\\\u200b']: they are neither trained on nor tagged."
    ]


def test_byte_level_tokenizers_have_a_token_for_every_word(caplog: pytest.LogCaptureFixture) -> None:
    encoded = encode_tagged_words(tagged([("smith \u200b jones", "B-PER O B-PER")]), byte_level_bpe(), max_length=64)
    assert [label for label in encoded["labels"][0] if label != -100] == [1, 0, 1]
    assert caplog.records == []


def test_nothing_is_reported_where_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    encode_tagged_words(tagged(SENTENCES[:2]), tiny_tokenizer(), max_length=64)
    assert caplog.records == []


def test_empty_sentences_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    encoded = encode_tagged_words(tagged([("", ""), ("jones", "B-PER"), ("", "")]), tiny_tokenizer(), max_length=8)
    assert encoded["sentence"] == [0, 1, 2]
    assert encoded["labels"] == [[-100, -100], [-100, 1, -100], [-100, -100]]
    assert "2 sentences are empty; they have no word to learn" in caplog.text


def test_without_tags_there_are_no_labels() -> None:
    encoded = encode_tagged_words(tagged().remove_columns("tags"), tiny_tokenizer(), max_length=9)
    assert encoded.column_names == ["input_ids", "token_type_ids", "attention_mask", "sentence"]
    assert encoded["input_ids"] == encode_tagged_words(tagged(), tiny_tokenizer(), max_length=9)["input_ids"]


def test_tags_without_an_inside_continue_as_themselves() -> None:
    names = ["NOUN", "VERB", "B-X"]
    encoded = encode_tagged_words(
        tagged([("unplayedable unplayedable", "VERB B-X")], names),
        tiny_tokenizer(),
        max_length=64,
        label_subwords="all",
    )
    assert set(encoded["labels"][0][1:4]) == {1} and set(encoded["labels"][0][-4:-1]) == {2}


def test_a_word_with_a_tag_below_zero_has_no_label() -> None:
    data = tagged([("unplayedable unplayedable", "O B-PER")], ["O", "B-PER", "I-PER"])
    data = data.map(lambda row: {"tags": [-1, row["tags"][1]]})
    (labels,) = encode_tagged_words(data, tiny_tokenizer(), max_length=64, label_subwords="all")["labels"]
    pieces = (len(labels) - 2) // 2
    assert pieces > 1 and labels == [-100, *[-100] * pieces, 1, *[2] * (pieces - 1), -100]


def test_a_sentence_without_any_token_becomes_no_row() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    rows = encode_tagged_words(tagged([("a b", "O O"), ("", ""), ("c", "O")], ["O"]), tokenizer, max_length=8)
    assert rows["sentence"] == [0, 2] and [len(ids) for ids in rows["input_ids"]] == [2, 1]
    with pytest.raises(ValueError, match="There are no sentences"):
        encode_tagged_words(tagged().select([]), tokenizer, max_length=8)


def test_what_is_refused() -> None:
    class SlowTokenizer(PythonBackend):
        vocab_size = 0

        def get_vocab(self) -> dict[str, int]:
            return {}

    with pytest.raises(ValueError, match=r"SlowTokenizer is a slow tokenizer.*use_fast=True"):
        encode_tagged_words(tagged(), SlowTokenizer(), max_length=8)
    with pytest.raises(ValueError, match=r"label_subwords must be \"first\" or \"all\", got 'last'"):
        encode_tagged_words(tagged(), tiny_tokenizer(), max_length=8, label_subwords="last")
    unnamed = tagged().cast_column("tags", List(Value("int64")))
    with pytest.raises(ValueError, match=r"expected lists of ClassLabel.*cast_column\('tags'"):
        encode_tagged_words(unnamed, tiny_tokenizer(), max_length=8)


SIZES = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 20,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXTRA = {
    "distilbert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8},
    "longformer": {"attention_window": 4},
    "luke": {"entity_vocab_size": 5, "entity_emb_size": 8},
    "esm": {"mask_token_id": 4},
}
ABSOLUTE = ["bert", "distilbert", "electra", "albert", "mobilebert", "deberta"]
BEHIND_PADDING = ["roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "mpnet"]
BEHIND_PADDING += ["longformer", "data2vec-text", "ibert", "luke", "esm", "markuplm"]


class TestLongestInput:
    @pytest.mark.parametrize("pad_token_id", [1, 3])
    @pytest.mark.parametrize("model_type", [*ABSOLUTE, *BEHIND_PADDING])
    def test_is_the_longest_that_runs(self, model_type: str, pad_token_id: int) -> None:
        settings = {**SIZES, **EXTRA.get(model_type, {}), "pad_token_id": pad_token_id}
        if model_type == "distilbert":
            del settings["hidden_size"], settings["num_hidden_layers"], settings["num_attention_heads"]
        config = AutoConfig.for_model(model_type, **settings)
        model = AutoModel.from_config(config).eval()
        longest = longest_input(config, tiny_tokenizer())
        with torch.no_grad():
            model(input_ids=torch.full((1, longest), 7))
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, longest + 1), 7))

    @pytest.mark.parametrize(
        ("model_max_length", "positions", "expected"),
        [(12, 20, 12), (512, 20, 20), (int(1e30), 20, 20), (10**9, 20, 20), (12, 12, 12)],
    )
    def test_the_smaller_limit_counts_and_an_absurd_one_does_not(
        self, model_max_length: int, positions: int, expected: int
    ) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.model_max_length = model_max_length
        config = AutoConfig.for_model("bert", **{**SIZES, "max_position_embeddings": positions})
        assert longest_input(config, tokenizer) == expected
        assert longest_input(AlAdConfig(text_config=config), tokenizer) == expected

    @pytest.mark.parametrize("model_type", ["t5", "xlnet"])  # the one has no such field, the other says -1
    def test_models_with_relative_positions_have_the_tokenizer_s_limit_or_none(self, model_type: str) -> None:
        tokenizer, config = tiny_tokenizer(), AutoConfig.for_model(model_type)
        assert longest_input(config, tokenizer) == 64
        tokenizer.model_max_length = int(1e30)
        with pytest.raises(ValueError, match=rf"Neither the {model_type} configuration nor the tokenizer.*max_length"):
            longest_input(config, tokenizer)


class TestTeacherWithAnotherTokenizer:
    @pytest.mark.parametrize("max_length", [64, 9, 4])
    def test_rows_are_the_same_and_read_by_the_teacher(
        self, max_length: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        teacher = byte_level_bpe()
        with caplog.at_level(logging.INFO):
            encoded = encode_tagged_words(tagged(), tiny_tokenizer(), max_length=max_length, teacher_tokenizer=teacher)
        plain = encode_tagged_words(tagged(), tiny_tokenizer(), max_length=max_length)
        assert encoded.column_names == [
            *["input_ids", "token_type_ids", "attention_mask", "teacher_input_ids", "teacher_alignment"],
            *["sentence", "labels"],
        ]
        assert {name: encoded[name][:] for name in plain.column_names} == plain[:]
        (line,) = [record for record in caplog.records if "counterpart" in record.message]
        tokens = sum(len(ids) - 2 for ids in encoded["input_ids"])
        assert line.levelname == "INFO"
        assert line.message.startswith(f"The teacher's tokens cover 100.0% of the student's {tokens} tokens.")
        for row in encoded:
            assert {int(student) for student, _, _ in row["teacher_alignment"]} == set(range(len(row["input_ids"])))
            assert max(int(other) for _, other, _ in row["teacher_alignment"]) == len(row["teacher_input_ids"]) - 1
            read = teacher.decode(row["teacher_input_ids"], skip_special_tokens=True)
            sentence = SENTENCES[row["sentence"]][0]
            assert " ".join(read.split()) in sentence
            assert max_length < 64 or read.strip() == sentence

    def test_the_same_tokenizer_adds_nothing(self) -> None:
        encoded = encode_tagged_words(tagged(), tiny_tokenizer(), max_length=9, teacher_tokenizer=tiny_tokenizer())
        assert encoded[:] == encode_tagged_words(tagged(), tiny_tokenizer(), max_length=9)[:]

    def test_what_the_teacher_drops_is_reported(self, caplog: pytest.LogCaptureFixture) -> None:
        dropped = tagged([("smith \u200b jones", "B-PER O B-PER"), ("york " * 30, "O " * 30)])
        arguments = {"max_length": 64, "teacher_tokenizer": tiny_tokenizer()}
        student = byte_level_bpe()
        ids = student(["\u200b"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
        with caplog.at_level(logging.INFO):
            rows = encode_tagged_words(dropped, student, **arguments)
        (line,) = [record for record in caplog.records if "counterpart" in record.message]
        assert line.levelname == "WARNING"
        assert "nothing stands for '\\u200b', for one" in line.message
        lacking = len(rows["input_ids"][0]) - len({int(student) for student, _, _ in rows["teacher_alignment"][0]})
        assert lacking >= 3 and len(ids) >= 3
        with pytest.raises(ValueError, match=r"minimum_coverage=0\.99\. Clean the text.*or pass a lower minimum"):
            encode_tagged_words(dropped, student, **arguments, minimum_coverage=0.99)

    def test_a_teacher_that_cuts_the_rows_is_refused(self) -> None:
        arguments = {"max_length": 64, "teacher_tokenizer": byte_level_bpe(), "teacher_max_length": 9}
        with pytest.raises(ValueError, match=r"cover \d\d\.\d\d% .*; 2 of 4 rows are too long.*a smaller max_length"):
            encode_tagged_words(tagged(), tiny_tokenizer(), **arguments)
        encoded = encode_tagged_words(tagged(), tiny_tokenizer(), **arguments, minimum_coverage=0.2)
        assert max(map(len, encoded["teacher_input_ids"])) == 9
