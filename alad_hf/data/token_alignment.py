"""Which teacher tokens each student token stands for, where the two tokenize the same text differently.

Both tokenizers say which characters a token covers. A student token's target is the mean of the teacher tokens that
cover its characters, weighted by the number of characters they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerBase

from .alignment_coverage import RowCoverage
from .split_words import blanks_before, join_words

TEACHER_COLUMNS = ("teacher_input_ids", "teacher_token_type_ids", "teacher_alignment")
COVERAGE_COLUMN = "teacher_coverage"
"""For `report_coverage` and `check_coverage`, not for the model."""

# A row that a cut begins or ends within a word is read with the whole word, unless that takes more characters: some
# scripts put no blanks between words.
_LONGEST_WORD = 50
# What SentencePiece and byte-level tokenizers write for a blank, also for the one that they put before a text.
_BLANK_MARKS = ("▁", "Ġ")


class _Row(NamedTuple):
    """The tokens of one row of a tokenizer.

    Attributes:
        segments: (tokens,) which text of the row a token comes from, 0 or 1; -1 for special tokens.
        spans: (tokens, 2) the characters of that text which it covers, without blanks around them.
        opening: Where the CLS or BOS token stands, or None.
        closings: For each segment the SEP or EOS token that closes it, or None.
    """

    segments: np.ndarray
    spans: np.ndarray
    opening: int | None
    closings: list[int | None]


def teacher_columns(
    encoding: BatchEncoding,
    texts: Sequence[str] | Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    text_pairs: Sequence[str] | None = None,
    teacher_swaps_pairs: bool = False,
) -> dict[str, list[Any]]:
    """Tokenize what each row of a student's encoding covers with the teacher's tokenizer, and align the tokens.

    A row may be a window of its text. The teacher then reads the stretch of characters that the window covers, made
    up to whole words; of a text in one row it reads all.

    Args:
        encoding: The rows, as `tokenizer` returned them, with or without `return_overflowing_tokens`.
        texts: What was tokenized: strings, or lists of words if `is_split_into_words` was set. The teacher reads
            words joined by single blanks, which a word may bring along.
        tokenizer: The student's fast tokenizer.
        teacher_tokenizer: The teacher's fast tokenizer.
        max_length: Most tokens of a teacher's row. What is longer is cut, and the student's tokens there have no
            counterpart. By default what the tokenizer states, if it states anything.
        text_pairs: The second text of each pair, if pairs were tokenized.
        teacher_swaps_pairs: Whether the teacher reads the second text first.

    Returns:
        One entry a row: `teacher_input_ids`, `teacher_token_type_ids` if the teacher's tokenizer gives them,
        `teacher_alignment` and, for `report_coverage`, `teacher_coverage`. An alignment is a float32 array (n, 3) of
        (student token, teacher token, weight) in that order. The weights of a student token sum to 1; a token without
        a counterpart has none. CLS belongs to CLS (BOS where there is none), and the SEP or EOS that closes a text to
        the one that closes the same text; other special tokens have no counterpart.

    Raises:
        ValueError: The teacher's tokenizer is a slow one.
    """
    if not teacher_tokenizer.is_fast:
        raise ValueError(
            f"The teacher's tokenizer {type(teacher_tokenizer).__name__} is a slow one, which does not tell which "
            "characters a token covers. Load it with AutoTokenizer.from_pretrained(..., use_fast=True)."
        )
    if max_length is None and teacher_tokenizer.model_max_length < 1_000_000:
        max_length = teacher_tokenizer.model_max_length
    samples = encoding.get("overflow_to_sample_mapping", range(len(encoding["input_ids"])))
    joined = [text if isinstance(text, str) else join_words(text) for text in texts]
    sources = [joined] if text_pairs is None else [joined, list(text_pairs)]
    order = list(range(len(sources)))
    segments = [_segments(encoding, row, order) for row in range(len(samples))]
    offsets = _offsets(encoding, texts, samples)
    stretches = [
        _stretches(source, samples, [spans[of == text] for spans, of in zip(offsets, segments, strict=True)])
        for text, source in enumerate(sources)
    ]
    if teacher_swaps_pairs:
        order.reverse()
    teacher = teacher_tokenizer(
        *(
            [sources[text][sample][slice(*stretches[text][row])] for row, sample in enumerate(samples)]
            for text in order
        ),
        truncation=max_length is not None,
        max_length=max_length,
        verbose=False,  # or a tokenizer warns of lengths that its model may well take
    )
    read, read_by_teacher = _Reader(tokenizer), _Reader(teacher_tokenizer)
    alignments: list[np.ndarray] = []
    coverages: list[RowCoverage] = []
    for row, (sample, encoded) in enumerate(zip(samples, teacher.encodings or [], strict=True)):
        own_texts = [source[sample] for source in sources]
        student_row = read(encoding["input_ids"][row], segments[row], offsets[row], own_texts, first=0)
        teacher_segments = _segments(teacher, row, order)
        begins = np.array([stretch[row][0] for stretch in stretches])
        teacher_offsets = np.array(encoded.offsets, dtype=int).reshape(-1, 2) + begins[teacher_segments][:, None]
        teacher_row = read_by_teacher(encoded.ids, teacher_segments, teacher_offsets, own_texts, first=order[0])
        alignments.append(_align_rows(student_row, teacher_row))
        coverages.append(_coverage(student_row, alignments[-1], own_texts, cut=bool(encoded.overflowing)))
    columns = {f"teacher_{name}": teacher[name] for name in ("input_ids", "token_type_ids") if name in teacher}
    return {**columns, "teacher_alignment": alignments, COVERAGE_COLUMN: coverages}


def align_spans(spans: np.ndarray, teacher_spans: np.ndarray) -> np.ndarray:
    """Match two tokenizations of one text by the characters they share.

    Args:
        spans: (n, 2) integers, where the student's tokens begin and end; empty spans match nothing.
        teacher_spans: (m, 2), the teacher's.

    Returns:
        (k, 3) float32: student token, teacher token and the share of this one in all characters that the student
        token shares with teacher tokens. Ordered by student token, then by teacher token.
    """
    order = np.argsort(teacher_spans[:, 0], kind="stable")
    begins, ends = teacher_spans[order, 0], teacher_spans[order, 1]
    # Of the teacher's tokens by their begin, those from `low` on may reach into a student token, and those from `high`
    # on begin behind it. All that overlap lie between, in the order of texts hardly others.
    low = np.searchsorted(np.maximum.accumulate(ends), spans[:, 0], side="right")
    high = np.searchsorted(begins, spans[:, 1], side="left")
    counts = np.maximum(high - low, 0)
    student = np.repeat(np.arange(len(spans)), counts)
    place = np.arange(len(student)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    shared = np.minimum(spans[student, 1], ends[place]) - np.maximum(spans[student, 0], begins[place])
    student, teacher, shared = student[shared > 0], order[place[shared > 0]], shared[shared > 0]
    weights = shared / np.bincount(student, weights=shared, minlength=len(spans))[student]
    triples = np.stack([student, teacher, weights], axis=1).astype(np.float32)
    return triples[np.lexsort((teacher, student))]


def trim_spans(spans: np.ndarray, text: str) -> np.ndarray:
    """Leave out the blanks at both ends of spans (n, 2) of a text; a span of blanks only becomes an empty one."""
    blank = np.array([character.isspace() for character in text], dtype=bool)
    places = np.arange(len(text))
    # For each place the next character that is no blank, and the end of the last one before it.
    following = np.minimum.accumulate(np.where(blank, len(text), places)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(blank, 0, places + 1))
    begin = np.append(following, len(text))[spans[:, 0]]
    end = np.insert(preceding, 0, 0)[spans[:, 1]]
    return np.stack([begin, np.maximum(begin, end)], axis=1)


def _segments(encoding: BatchEncoding, row: int, order: list[int]) -> np.ndarray:
    """For each token of a row the text it comes from, -1 for special tokens; `order` is how they were read."""
    return np.array([-1 if place is None else order[place] for place in encoding.sequence_ids(row)], dtype=int)


def _offsets(
    encoding: BatchEncoding, texts: Sequence[str] | Sequence[Sequence[str]], samples: Sequence[int]
) -> list[np.ndarray]:
    """The spans (tokens, 2) of each row in its text, those in single words moved to where the joined text has them."""
    offsets = []
    for sample, row in zip(samples, encoding.encodings or [], strict=True):
        spans, text = np.array(row.offsets, dtype=int).reshape(-1, 2), texts[sample]
        if not isinstance(text, str):
            begins, end = [], 0
            for place, word in enumerate(text):
                begins.append(end + blanks_before(text, place))
                end = begins[-1] + len(word)
            words = np.array([word or 0 for word in row.word_ids], dtype=int)
            spans = spans + np.array(begins or [0], dtype=int)[words][:, None]
        offsets.append(spans)
    return offsets


def _stretches(texts: list[str], samples: Sequence[int], rows: list[np.ndarray]) -> list[tuple[int, int]]:
    """Where the part of its text begins and ends that each row covers with the spans (tokens, 2) in it."""
    covered = []
    for spans in rows:
        spans = spans[spans[:, 1] > spans[:, 0]]
        covered.append((int(spans[:, 0].min()), int(spans[:, 1].max())) if len(spans) else None)
    outer: dict[int, tuple[int, int]] = {}
    for sample, stretch in zip(samples, covered, strict=True):
        if stretch is not None:
            begin, end = outer.get(sample, stretch)
            outer[sample] = min(begin, stretch[0]), max(end, stretch[1])
    stretches = []
    for sample, stretch in zip(samples, covered, strict=True):
        text = texts[sample]
        if stretch is None:  # blanks between other rows, or a text without any character that has a token
            stretches.append((0, 0) if sample in outer else (0, len(text)))
            continue
        # The rows at the ends read what no token covers there, as the teacher does with the text in one row.
        begin = 0 if stretch[0] == outer[sample][0] else _begin_of_word(text, stretch[0])
        end = len(text) if stretch[1] == outer[sample][1] else _end_of_word(text, stretch[1])
        stretches.append((begin, end))
    return stretches


def _begin_of_word(text: str, place: int) -> int:
    """Where the word around a place begins, with the blank before it, which is part of a token for some tokenizers."""
    if text[place].isspace():
        return place
    nearest = max(place - _LONGEST_WORD, 0)
    blanks = [index for index in range(nearest, place) if text[index].isspace()]
    if blanks:
        return blanks[-1]
    return place if nearest else 0


def _end_of_word(text: str, place: int) -> int:
    """Where the word ends that the character before a place belongs to."""
    if text[place - 1].isspace():
        return place
    farthest = min(place + _LONGEST_WORD, len(text))
    unknown = place if farthest < len(text) else farthest
    return next((index for index in range(place, farthest) if text[index].isspace()), unknown)


class _Reader:
    """Reads the rows of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        vocabulary = tokenizer.get_vocab()
        self.marks = {vocabulary[mark]: mark for mark in _BLANK_MARKS if mark in vocabulary}
        self.openings = [index for index in (tokenizer.cls_token_id, tokenizer.bos_token_id) if index is not None]
        self.closings = [index for index in (tokenizer.sep_token_id, tokenizer.eos_token_id) if index is not None]

    def __call__(
        self, ids: list[int], segments: np.ndarray, offsets: np.ndarray, texts: list[str], first: int
    ) -> _Row:
        """Find out what each token of a row stands for.

        Args:
            ids: The row.
            segments: As in `_Row`.
            offsets: (tokens, 2) the spans, with blanks, in the token's text.
            texts: The row's texts.
            first: Which of them the tokenizer was given first.
        """
        tokens, special = np.array(ids, dtype=int), segments < 0
        spans = offsets.copy()
        for index, mark in self.marks.items():
            for token in np.flatnonzero((tokens == index) & ~special):
                # A blank that the tokenizer put before the text claims the text's first character for itself.
                begin = offsets[token, 0]
                if texts[segments[token]][begin : begin + 1] != mark:
                    spans[token] = 0
        for segment, text in enumerate(texts):
            own = (segments == segment) & (spans[:, 1] > spans[:, 0])
            if own.any():
                begin, end = spans[own].min(), spans[own].max()
                spans[own] = begin + trim_spans(spans[own] - begin, text[begin:end])
        openings = [np.flatnonzero(special & (tokens == index)) for index in self.openings]
        opening = next((int(places[0]) for places in openings if len(places)), None)
        closings = np.flatnonzero(special & np.isin(tokens, self.closings) & (np.arange(len(tokens)) != opening))
        ends = [_closing(segments, text, text == first, closings) for text in range(len(texts))]
        return _Row(segments, spans, opening, ends)


def _closing(segments: np.ndarray, segment: int, is_first: bool, closings: np.ndarray) -> int | None:
    """The first of the closing tokens behind a segment; where it has no token itself, that of its end of the row."""
    own = np.flatnonzero(segments == segment)
    behind = closings[closings > own[-1]] if len(own) else closings if is_first else closings[::-1]
    return int(behind[0]) if len(behind) else None


def _align_rows(student: _Row, teacher: _Row) -> np.ndarray:
    """The triples (student token, teacher token, weight) of one row, ordered."""
    parts = [np.empty((0, 3), dtype=np.float32)]
    pairs = [(student.opening, teacher.opening), *zip(student.closings, teacher.closings, strict=True)]
    parts += [np.array([[*pair, 1]], dtype=np.float32) for pair in pairs if None not in pair]
    for text in range(len(student.closings)):
        own, other = np.flatnonzero(student.segments == text), np.flatnonzero(teacher.segments == text)
        triples = align_spans(student.spans[own], teacher.spans[other])
        triples[:, 0], triples[:, 1] = own[triples[:, 0].astype(int)], other[triples[:, 1].astype(int)]
        parts.append(triples)
    alignment = np.concatenate(parts)
    return alignment[np.lexsort((alignment[:, 1], alignment[:, 0]))]


def _coverage(student: _Row, alignment: np.ndarray, texts: list[str], cut: bool) -> RowCoverage:
    content = np.flatnonzero((student.segments >= 0) & (student.spans[:, 1] > student.spans[:, 0]))
    uncovered = np.setdiff1d(content, alignment[:, 0].astype(int))
    example = ""
    if len(uncovered):
        begin, end = student.spans[uncovered[0]]
        example = texts[student.segments[uncovered[0]]][begin : min(end, begin + 40)]
    return {"tokens": len(content), "covered": len(content) - len(uncovered), "cut": cut, "uncovered": example}
