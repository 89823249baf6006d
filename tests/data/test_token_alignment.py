"""Alignment of two tokenizations against a character-by-character oracle, on hostile text and four tokenizers."""

from __future__ import annotations

import copy
import random
from functools import cache

import numpy as np
import pytest
from tiny import VOCABULARY, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerFast

from alad_hf.data.split_words import words_as_in_text
from alad_hf.data.token_alignment import align_spans, teacher_columns, trim_spans

SENTENCES = [
    "smith works for acme in unberlinable york .",
    "the quick brown fox visited new london , jones played 13 games",
    "naïve café 北京 москва 🙂 👍🏽 العربية",
]
PIECES = [
    "smith",
    "un",
    "played",
    "York",
    "a",
    ".",
    ",",
    "13",
    "ß",
    "é",
    "e\u0301",
    "İ",
    "北京",
    "Москва",
    "עברית",
    "हिन्दी",
]
PIECES += [
    "👍🏽",
    "👩\u200d👩\u200d👧",
    "🙂",
    "\u200b",
    "\u00ad",
    "\u0301",
    "ﬁ",
    "Ａ１",
    "㎏",
    "\x00",
    "\ufffd",
    "▁",
    "Ġ",
    "\u202e",
]
PIECES += [" ", " ", " ", "  ", "\r\n", "\t", "\u00a0", "\u3000", "[CLS]", "</s>", "x" * 120]


def hostile_texts(count: int, seed: int = 0, pieces: list[str] = PIECES) -> list[str]:
    rng = random.Random(seed)
    return ["", " ", "\u200b", *("".join(rng.choices(pieces, k=rng.randrange(1, 14))) for _ in range(count - 3))]


def trained(backend: Tokenizer, trainer: trainers.Trainer, **settings: object) -> PreTrainedTokenizerFast:
    backend.train_from_iterator(SENTENCES * 3, trainer)
    ends = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **settings}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512, model_input_names=["input_ids", "attention_mask"], **names
    )


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2's, no blank before the first word: it takes words only with their blanks."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    return trained(backend, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=special))


@cache
def unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<s>", "</s>", "<pad>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>")
    return trained(backend, trainer, unk_token="<unk>", cls_token="<s>", sep_token="</s>")


@cache
def wordpiece(lowercase: bool) -> PreTrainedTokenizerFast:
    """Its vocabulary has other ids, and words, in each case, so that student ids given to a teacher would show."""
    entries = list(VOCABULARY)
    if not lowercase:
        entries = [*entries[:5], "##ork", "S", "Y", "##Y", "é", "▁", "Ġ", *reversed(entries[5:])]
    tokenizer = tiny_tokenizer(lowercase, {token: index for index, token in enumerate(entries)})
    tokenizer.model_max_length = 512
    return tokenizer


FAMILIES = {
    "uncased": lambda: wordpiece(True),
    "cased": lambda: wordpiece(False),
    "byte-level": byte_level,
    "unigram": unigram,
}
PAIRS = [(student, teacher) for student in FAMILIES for teacher in FAMILIES if student != teacher]


def encode(tokenizer: PreTrainedTokenizerFast, texts: list, max_length: int = 512, **options: object) -> BatchEncoding:
    return tokenizer(
        texts, truncation=True, max_length=max_length, return_overflowing_tokens=True, verbose=False, **options
    )


def columns_of(student: str, teacher: str, texts: list, max_length: int = 512, **options: object) -> dict[str, list]:
    tokenizer = FAMILIES[student]()
    return teacher_columns(encode(tokenizer, texts, max_length, **options), texts, tokenizer, FAMILIES[teacher]())


def words_of(family: str, texts: list[str]) -> list[list[str]]:
    return words_as_in_text(FAMILIES[family](), [text.split() for text in texts])


def covered_characters(tokenizer: PreTrainedTokenizerFast, text: str) -> list[set[int]]:
    """For each token of a text the places of the characters it covers, blanks left out; none for special tokens."""
    encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    result = []
    for token, (begin, end), segment in zip(
        encoded.tokens(), encoded["offset_mapping"], encoded.sequence_ids(), strict=True
    ):
        places = list(range(begin, end))
        while places and text[places[0]].isspace():
            del places[0]
        while places and text[places[-1]].isspace():
            del places[-1]
        inserted_blank = token in ("▁", "Ġ") and text[begin : begin + 1] != token
        result.append(set() if segment is None or inserted_blank else set(places))
    return result


def dense(columns: dict[str, list], row: int, tokens: int) -> np.ndarray:
    weights = np.zeros((tokens, len(columns["teacher_input_ids"][row])))
    for student, teacher, weight in columns["teacher_alignment"][row]:
        assert weights[int(student), int(teacher)] == 0, "the same pair twice"
        weights[int(student), int(teacher)] = weight
    return weights


def oracle(student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast, text: str) -> np.ndarray:
    own, other = covered_characters(student, text), covered_characters(teacher, text)
    weights = np.array([[float(len(mine & its)) for its in other] for mine in own])
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)
    weights[0, 0] = weights[-1, -1] = 1  # both rows begin with CLS or BOS and end with SEP or EOS
    return weights


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_equals_counting_characters(student: str, teacher: str) -> None:
    texts = hostile_texts(80)
    tokenizer, teacher_tokenizer = FAMILIES[student](), FAMILIES[teacher]()
    columns = columns_of(student, teacher, texts)
    assert columns["teacher_input_ids"] == teacher_tokenizer(texts)["input_ids"]
    partial = 0
    for row, text in enumerate(texts):
        weights = dense(columns, row, len(tokenizer(text)["input_ids"]))
        expected = oracle(tokenizer, teacher_tokenizer, text)
        np.testing.assert_allclose(weights, expected, atol=1e-6, err_msg=ascii(text))
        sums = weights.sum(axis=1)
        assert np.all((sums == 0) | (abs(sums - 1) < 1e-6))
        partial += int(((weights > 0) & (weights < 1)).sum())
        own, other = covered_characters(tokenizer, text), set().union(*covered_characters(teacher_tokenizer, text))
        coverage = columns["teacher_coverage"][row]
        assert coverage["tokens"] == sum(map(bool, own))
        assert coverage["covered"] == sum(bool(mine & other) for mine in own)
        assert not coverage["cut"]
        assert bool(coverage["uncovered"]) == (coverage["covered"] < coverage["tokens"])
    assert partial > 5
    assert ("teacher_token_type_ids" in columns) == (teacher in ("cased", "uncased"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_tokenizer_is_aligned_to_itself(family: str) -> None:
    texts = hostile_texts(80)
    tokenizer = FAMILIES[family]()
    columns = columns_of(family, family, texts)
    assert columns["teacher_input_ids"] == tokenizer(texts)["input_ids"]
    for row, text in enumerate(texts):
        own = covered_characters(tokenizer, text)
        weights = dense(columns, row, len(own))
        for token in range(len(own)):
            sharing = [other for other, places in enumerate(own) if places & own[token]]
            if token in (0, len(own) - 1) or sharing == [token]:
                sharing = [token]
            elif family in ("cased", "uncased"):
                assert not own[token]
            assert np.flatnonzero(weights[token]).tolist() == sharing


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_neighbours_in_the_batch_do_not_matter(student: str, teacher: str) -> None:
    texts = hostile_texts(12, seed=1)
    for max_length in (512, 7):
        together = columns_of(student, teacher, texts, max_length)
        alone = [columns_of(student, teacher, [text], max_length) for text in texts]
        for name, rows in together.items():
            expected = [row for columns in alone for row in columns[name]]
            assert [np.asarray(row).tolist() for row in rows] == [np.asarray(row).tolist() for row in expected]


class TestCutRows:
    TEXT = "smith , jones visited the unberlinable brown fox in new london and played in acme , york . " * 3

    @pytest.mark.parametrize(
        ("student", "teacher", "as_words"),
        [(*pair, words) for pair in PAIRS for words in (False, True)],
    )
    def test_give_what_the_whole_text_gives(self, student: str, teacher: str, as_words: bool) -> None:
        """Also where a word is cut: its tokens see the same teacher tokens as in the whole."""
        text = words_of(student, [self.TEXT])[0] if as_words else self.TEXT
        words = {"is_split_into_words": as_words}
        tokenizer, teacher_tokenizer = FAMILIES[student](), FAMILIES[teacher]()
        (whole,) = self.neighbours(columns_of(student, teacher, [text], **words), teacher_tokenizer)
        middle_cuts = 0
        for max_length in range(5, 14, 2):
            rows = encode(tokenizer, [text], max_length, **words)
            columns = columns_of(student, teacher, [text], max_length, **words)
            cut = self.neighbours(columns, teacher_tokenizer)
            assert len(cut) > 4
            assert [targets for row in cut for targets in row[1:-1]] == whole[1:-1]
            assert all((row[0], row[-1]) == (whole[0], whole[-1]) for row in cut)
            middle_cuts += any(tokenizer.decode(ids[1]).startswith("##") for ids in rows["input_ids"][1:])
            for ids, row in zip(columns["teacher_input_ids"], columns["teacher_coverage"], strict=True):
                assert len(ids) <= 8 * max_length and row["covered"] == row["tokens"]
        assert middle_cuts or student not in ("cased", "uncased")

    @staticmethod
    def neighbours(columns: dict[str, list], teacher: PreTrainedTokenizerFast) -> list[list]:
        """Per row and student token, the teacher tokens as strings with their weights."""
        rows = []
        for ids, alignment in zip(columns["teacher_input_ids"], columns["teacher_alignment"], strict=True):
            tokens: dict[int, list] = {}
            for student, other, weight in alignment:
                name = teacher.convert_ids_to_tokens(ids[int(other)])
                tokens.setdefault(int(student), []).append((name, round(float(weight), 5)))
            rows.append([tokens[student] for student in sorted(tokens)])
        return rows

    @pytest.mark.parametrize("teacher", FAMILIES)
    def test_the_teacher_reads_the_row_and_no_more_than_whole_words(self, teacher: str) -> None:
        words = [first + second for first in "smithack" for second in ("er", "on", "a", "played")]
        tokenizer, text = wordpiece(True), " ".join(words)
        if teacher == "uncased":
            tokenizer = wordpiece(False)
        encoded = encode(tokenizer, [text], 9)
        columns = teacher_columns(encoded, [text], tokenizer, FAMILIES[teacher]())
        read = [
            "".join(FAMILIES[teacher]().decode(ids, skip_special_tokens=True).split())
            for ids in columns["teacher_input_ids"]
        ]
        for row, letters in enumerate(read):
            offsets = [span for span in encoded.encodings[row].offsets if span != (0, 0)]
            begin, end = offsets[0][0], offsets[-1][1]
            first, last = text[:begin].count(" "), text[:end].count(" ")
            expected = "".join(words[first : last + 1]).replace("##", "")
            assert letters.replace("##", "") == expected

    @pytest.mark.parametrize("teacher", ["cased", "byte-level", "unigram"])
    def test_a_script_without_blanks_is_not_read_whole_for_every_row(self, teacher: str) -> None:
        text = "北京大学" * 200
        tokenizer = wordpiece(True)
        columns = teacher_columns(encode(tokenizer, [text], 22), [text], tokenizer, FAMILIES[teacher]())
        assert len(columns["teacher_input_ids"]) == 40
        assert all(row["covered"] == 20 for row in columns["teacher_coverage"])
        assert max(map(len, columns["teacher_input_ids"])) <= (20 + 2 * 50) * 3 + 3

    def test_rows_between_which_a_character_is_cut_both_read_it(self) -> None:
        tokenizer, text = byte_level(), "👍🏽👍🏽👍🏽"
        encoded = encode(tokenizer, [text], 5)
        columns = teacher_columns(encoded, [text], tokenizer, wordpiece(True))
        assert len(encoded["input_ids"]) > 3
        assert all(row["covered"] == row["tokens"] > 0 for row in columns["teacher_coverage"])


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_words_and_text_agree(student: str, teacher: str) -> None:
    texts = [" ".join(text.split()) for text in hostile_texts(100, seed=2)]
    sentences = words_of(student, texts)
    tokenizer = FAMILIES[student]()
    by_words = columns_of(student, teacher, sentences, is_split_into_words=True)
    by_text = columns_of(student, teacher, texts)
    assert by_words["teacher_input_ids"] == by_text["teacher_input_ids"]
    compared = 0
    for row, words in enumerate(sentences):
        # A piece such as [CLS] or x\u200by may be tokenized in another way beside a blank.
        ids = tokenizer(words, is_split_into_words=True)["input_ids"]
        if ids == tokenizer(texts[row])["input_ids"]:
            np.testing.assert_allclose(by_words["teacher_alignment"][row], by_text["teacher_alignment"][row])
            compared += 1
    assert compared > 50


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_a_signal_that_is_linear_in_the_text_arrives(student: str, teacher: str) -> None:
    """Where a student token is made of whole teacher tokens, its mean over characters is their weighted mean."""
    rng = np.random.default_rng(0)
    compared = 0
    for text in hostile_texts(40, seed=3):
        signal = rng.normal(size=len(text) + 1)
        own, other = (covered_characters(FAMILIES[name](), text) for name in (student, teacher))
        weights = dense(columns_of(student, teacher, [text]), 0, len(own))
        means = np.array([signal[sorted(places)].mean() if places else 0.0 for places in other])
        for token, places in list(enumerate(own))[1:-1]:
            parts = [its for its in other if its & places]
            # All within the token, none twice, nothing left over.
            if places and set().union(*parts) == places and sum(map(len, parts)) == len(places):
                assert weights[token] @ means == pytest.approx(signal[sorted(places)].mean(), abs=1e-5)
                compared += 1
    assert compared > 25


class TestPairs:
    TEXTS = ["who played", "smith", "", "a 👍🏽"]
    OTHERS = ["unberlinable smith played in york", "", "acme", "naïve café " * 6]

    def columns(self, student: str, teacher: str, swap: bool = False) -> tuple[BatchEncoding, dict[str, list]]:
        tokenizer = FAMILIES[student]()
        encoded = tokenizer(self.TEXTS, self.OTHERS)
        return encoded, teacher_columns(
            encoded,
            self.TEXTS,
            tokenizer,
            FAMILIES[teacher](),
            text_pairs=self.OTHERS,
            teacher_swaps_pairs=swap,
        )

    @pytest.mark.parametrize("swap", [False, True])
    @pytest.mark.parametrize(("student", "teacher"), PAIRS)
    def test_each_text_is_aligned_to_itself(self, student: str, teacher: str, swap: bool) -> None:
        encoded, columns = self.columns(student, teacher, swap)
        texts = (self.OTHERS, self.TEXTS) if swap else (self.TEXTS, self.OTHERS)
        expected = FAMILIES[teacher]()(*texts)
        assert columns["teacher_input_ids"] == expected["input_ids"]
        for row in range(len(self.TEXTS)):
            own, other = encoded.sequence_ids(row), expected.sequence_ids(row)
            if swap:
                other = [None if segment is None else 1 - segment for segment in other]
            weights = dense(columns, row, len(own))
            for segment, text in enumerate((self.TEXTS[row], self.OTHERS[row])):
                mine = [token for token, place in enumerate(own) if place == segment]
                its = [token for token, place in enumerate(other) if place == segment]
                alone = oracle(FAMILIES[student](), FAMILIES[teacher](), text)[1:-1, 1:-1]
                np.testing.assert_allclose(weights[np.ix_(mine, its)], alone.reshape(len(mine), len(its)), atol=1e-6)
                assert not weights[np.ix_(mine, [token for token in range(len(other)) if token not in its])].any()

    @pytest.mark.parametrize(
        ("teacher", "swap", "closings"),
        # <s> who played </s> </s> ... </s> has two tokens between its texts: the first closes.
        [("cased", False, (1, 2)), ("cased", True, (2, 1)), ("byte-level", False, (1, 3)), ("unigram", True, (3, 1))],
    )
    def test_closing_tokens(self, teacher: str, swap: bool, closings: tuple[int, int]) -> None:
        encoded, columns = self.columns("uncased", teacher, swap)
        for row in range(len(self.TEXTS)):
            special = [token for token, segment in enumerate(encoded.sequence_ids(row)) if segment is None]
            ids = columns["teacher_input_ids"][row]
            tokenizer = FAMILIES[teacher]()
            ends = {tokenizer.cls_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.eos_token_id}
            others = [token for token, index in enumerate(ids) if index in ends]
            weights = dense(columns, row, len(encoded["input_ids"][row]))
            targets = [np.flatnonzero(weights[token]).tolist() for token in special]
            assert targets == [[others[0]], [others[closings[0]]], [others[closings[1]]]]
            assert weights[special].sum() == 3


class TestSpecialTokens:
    def test_a_teacher_without_them_gives_no_counterpart(self) -> None:
        bare = byte_level().__class__(tokenizer_object=Tokenizer.from_str(byte_level().backend_tokenizer.to_str()))
        bare.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        encoded = wordpiece(True)(["smith", ""])
        columns = teacher_columns(encoded, ["smith", ""], wordpiece(True), bare)
        assert sorted({int(token) for token in columns["teacher_alignment"][0][:, 0]}) == [1]
        assert columns["teacher_alignment"][1].shape == (0, 3)

    def test_padding_and_special_tokens_written_in_the_text_are_no_ends(self) -> None:
        tokenizer = wordpiece(True)
        texts = ["[CLS] a [SEP] b", "a"]
        encoded = tokenizer(texts, padding="max_length", max_length=9)
        columns = teacher_columns(encoded, texts, tokenizer, byte_level())
        first, second = (dense(columns, row, 9) for row in (0, 1))
        assert np.flatnonzero(first[0]).tolist() == [0] and np.flatnonzero(first[5]).tolist() == [first.shape[1] - 1]
        # The written [CLS] is aligned to its five characters, wherever they are.
        assert first[1, 0] == 0 and first[1].sum() == pytest.approx(1)
        assert second.sum(axis=1).tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]

    def test_one_token_that_opens_and_closes(self) -> None:
        student, teacher = (
            self.changed(processors.TemplateProcessing(single=f"{end} $A {end}", special_tokens=[(end, tokenizer_id)]))
            for end, tokenizer_id in (("<s>", 0), ("</s>", 1))
        )
        student.eos_token, teacher.bos_token = "<s>", "</s>"
        columns = teacher_columns(student(["", "a"]), ["", "a"], student, teacher)
        assert [rows.tolist() for rows in columns["teacher_alignment"]] == [
            [[0, 0, 1], [1, 1, 1]],
            [[0, 0, 1], [1, 1, 1], [2, 2, 1]],
        ]

    def test_opening_token_at_the_end_of_a_text_that_has_it_written_out(self) -> None:
        ends = [("<s>", 0), ("</s>", 1)]
        student = self.changed(processors.TemplateProcessing(single="$A </s> <s>", special_tokens=ends))
        columns = teacher_columns(student(["<s>"]), ["<s>"], student, wordpiece(True))
        weights = dense(columns, 0, 3)
        last = weights.shape[1] - 1
        assert [np.flatnonzero(row).tolist() for row in weights] == [list(range(1, last)), [last], [0]]

    @staticmethod
    def changed(post_processor: processors.PostProcessor) -> PreTrainedTokenizerFast:
        tokenizer = copy.deepcopy(byte_level())
        tokenizer.backend_tokenizer.post_processor = post_processor
        return tokenizer

    def test_a_row_of_blanks_between_others_reads_nothing(self) -> None:
        student = self.changed(processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True))
        text = "smith" + " " * 12 + "jones"
        encoded = encode(student, [text], 5)
        columns = teacher_columns(encoded, [text], student, wordpiece(True))
        read = [wordpiece(True).decode(ids, skip_special_tokens=True) for ids in columns["teacher_input_ids"]]
        assert "" in read and not any("smith" in part and "jones" in part for part in read)


class TestTeachersLimit:
    def test_tokens_beyond_have_no_counterpart(self) -> None:
        tokenizer, text = wordpiece(True), "smith jones " * 5
        columns = teacher_columns(tokenizer([text]), [text], tokenizer, byte_level(), max_length=8)
        assert len(columns["teacher_input_ids"][0]) == 8
        weights = dense(columns, 0, 12)
        covered = weights.sum(axis=1) > 0
        assert covered[0] and covered[1] and covered[-1] and not covered[6:-1].any()
        coverage = columns["teacher_coverage"][0]
        assert coverage["cut"] and 0 < coverage["covered"] < coverage["tokens"] == 10
        assert coverage["uncovered"] in ("smith", "jones")

    @pytest.mark.parametrize(("stated", "expected"), [(8, 8), (int(1e30), 10 * 5 + 2)])
    def test_is_what_its_tokenizer_states(self, stated: int, expected: int) -> None:
        teacher, text = tiny_tokenizer(False), "zzzzz" * 10
        teacher.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split("z", "isolated")
        teacher.model_max_length = stated
        columns = teacher_columns(unigram()([text]), [text], unigram(), teacher)
        assert len(columns["teacher_input_ids"][0]) == expected


def test_spans_in_any_order_and_overlapping() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        spans, others = (np.sort(rng.integers(0, 12, size=(rng.integers(0, 9), 2)), axis=1) for _ in range(2))
        weights = np.zeros((len(spans), len(others)))
        for token, other, weight in align_spans(spans, others):
            weights[int(token), int(other)] = weight
        shared = [[len(set(range(*mine)) & set(range(*its))) for its in others] for mine in spans]
        expected = np.array(shared, dtype=float).reshape(weights.shape)
        expected /= np.maximum(expected.sum(axis=1, keepdims=True), 1)
        np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_spans_are_trimmed_like_strings() -> None:
    text = " a\u3000\tbc \r\n"
    spans = np.array([(begin, end) for begin in range(len(text) + 1) for end in range(begin, len(text) + 1)])
    for (begin, end), (first, last) in zip(spans, trim_spans(spans, text), strict=True):
        assert text[first:last] == text[begin:end].strip()
        assert first == last or begin <= first < last <= end
    assert trim_spans(np.zeros((1, 2), dtype=int), "").tolist() == [[0, 0]]


def test_a_slow_teacher_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"The teacher's tokenizer Slow is a slow one.*use_fast=True"):
        teacher_columns(wordpiece(True)(["a"]), ["a"], wordpiece(True), Slow())


@pytest.mark.pretrained
def test_minilm_and_mpnet_are_one_to_one(minilm: str) -> None:
    """MPNet's vocabulary is BERT's, moved by four."""
    from alad_hf.hub.pretrained_weights import _cache_folder

    folder = _cache_folder(None) / "sentence-transformers" / "all-mpnet-base-v2"
    if not (folder / "tokenizer.json").exists():
        pytest.skip(f"no mpnet in {folder}")
    student, teacher = AutoTokenizer.from_pretrained(minilm), AutoTokenizer.from_pretrained(folder)
    texts = [*SENTENCES, *hostile_texts(100, pieces=[piece for piece in PIECES if piece not in ("[CLS]", "</s>")])]
    encoded = encode(student, texts, 11)
    columns = teacher_columns(encoded, texts, student, teacher)
    ends = {student.cls_token_id: teacher.cls_token_id, student.sep_token_id: teacher.sep_token_id}
    ends[student.unk_token_id] = teacher.unk_token_id
    assert len(encoded["input_ids"]) > len(texts)
    for row, ids in enumerate(encoded["input_ids"]):
        own = columns["teacher_alignment"][row]
        if "".join(texts[encoded["overflow_to_sample_mapping"][row]].split()).startswith("x" * 101):
            continue
        assert (own[:, 2] == 1).all()
        others = [columns["teacher_input_ids"][row][int(token)] for token in own[:, 1]]
        assert others == [ends.get(token, token + 4) for token in ids]
        assert own[:, 0].tolist() == list(range(len(ids)))
