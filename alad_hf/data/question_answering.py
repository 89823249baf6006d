"""Features for extractive question answering: long contexts are read in overlapping windows."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ..models.teacher import tokenizes_alike
from .alignment_coverage import RowCoverage, check_coverage, report_coverage
from .token_alignment import COVERAGE_COLUMN, teacher_columns

logger = logging.getLogger(__name__)

Span = tuple[int, int]
_NO_CONTEXT: Span = (-1, -1)


def encode_questions(
    data: Dataset, tokenizer: PreTrainedTokenizerBase, *, for_training: bool, **arguments: Any
) -> Dataset:
    """Tokenise a dataset of questions with their contexts: `question_answering_features` of all its rows.

    Args:
        data: Columns `question`, `context` and, for training, `answers`, as of SQuAD; else `id`.
        tokenizer: A fast tokenizer.
        for_training: With the positions of the answers, or else with what it takes to find answers.
        **arguments: More of `question_answering_features`, such as `max_length`.

    Returns:
        One row a window, of which an example has one or more; the old columns are gone.

    Raises:
        TypeError: As `question_answering_features`.
        ValueError: As `question_answering_features`.

    Example:
        >>> rows = encode_questions(data["train"], tokenizer, for_training=True)  # doctest: +SKIP
    """
    return data.map(
        question_answering_features,
        batched=True,
        remove_columns=data.column_names,
        fn_kwargs={"tokenizer": tokenizer, "for_training": for_training, **arguments},
        desc="Tokenizing",
    )


def question_answering_features(
    examples: Mapping[str, Sequence[Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 384,
    overlap: int = 128,
    for_training: bool,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_max_length: int | None = None,
    minimum_coverage: float = 0.9,
) -> dict[str, list[Any]]:
    """Tokenise questions with their contexts, a long context in several windows.

    Each window holds the whole question and as many context tokens as fit; consecutive windows of an example share
    `overlap` context tokens, so that an answer cut by one window's edge lies whole in the next. An example gives one
    or more windows, so `Dataset.map` must remove the old columns, as `encode_questions` does.

    Args:
        examples: Columns `id`, `question`, `context` and, for training, `answers`
            (`{"text": [...], "answer_start": [...]}`, starts in characters; empty lists for no answer; of several
            answers the first is learned).
        tokenizer: A fast tokenizer.
        max_length: Most tokens of a window: question, context and special tokens.
        overlap: Context tokens that consecutive windows share.
        for_training: True adds `start_positions` and `end_positions`: the first and last token of the answer, or the
            position of the CLS token in windows that do not hold the whole answer. False adds `example_id`,
            `offset_mapping` (a window's token offsets into the context, in characters; (-1, -1) for every other
            token) and `cls_index`, which `best_answers` reads.
        teacher_tokenizer: The fast tokenizer of a teacher. If it tokenizes otherwise than `tokenizer`, or has token
            types which that one lacks, the windows get what `alad_hf.data.teacher_columns` gives; else nothing is
            added.
        teacher_max_length: Most tokens of the teacher's windows; by default what its tokenizer states.
        minimum_coverage: The share of tokens that must have a counterpart in the teacher's. The example of the batch
            that lacks the most is left out of account, so that one odd text does not end a long run.

    Returns:
        Columns with one row a window: the tokenizer's model inputs, of unequal lengths (padded to `max_length` only
        for a tokenizer that pads on the left, where later padding would shift the positions), and those named above.

    Raises:
        TypeError: If the tokenizer is not a fast one.
        ValueError: If a question leaves no room for its context or not more than `overlap` tokens, if `max_length`
            exceeds what the tokenizer states for its model, if an answer is not found where it is said to start, if
            the teacher's tokenizer is a slow one, or if fewer tokens than `minimum_coverage` have a counterpart.
    """
    _check_tokenizer(tokenizer, max_length)
    _check_room(examples, tokenizer, max_length, overlap)
    # A tokenizer that pads on the left (XLNet) expects the question last.
    question_first = tokenizer.padding_side == "right"
    texts = (
        (examples["question"], examples["context"]) if question_first else (examples["context"], examples["question"])
    )
    windows = tokenizer(
        *map(list, texts),
        truncation="only_second" if question_first else "only_first",
        max_length=max_length,
        stride=overlap,
        padding=False if question_first else "max_length",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    example_of_window = windows["overflow_to_sample_mapping"]
    features = {name: windows[name] for name in tokenizer.model_input_names if name in windows}
    if teacher_tokenizer is not None and not tokenizes_alike(tokenizer, teacher_tokenizer, pairs=True):
        features |= teacher_columns(
            windows,
            texts[0],
            tokenizer,
            teacher_tokenizer,
            max_length=teacher_max_length,
            text_pairs=texts[1],
            teacher_swaps_pairs=question_first != (teacher_tokenizer.padding_side == "right"),
        )
        _check_coverage(features.pop(COVERAGE_COLUMN), example_of_window, minimum_coverage)
    cls_indices = [_cls_index(windows, window, tokenizer) for window in range(len(example_of_window))]
    offsets = [
        _context_offsets(windows, window, int(question_first), examples["context"][example])
        for window, example in enumerate(example_of_window)
    ]
    if for_training:
        answers = [_answer_span(examples, example) for example in range(len(examples["question"]))]
        spans = _token_spans(offsets, example_of_window, answers)
        features["start_positions"] = [span[0] if span else cls for span, cls in zip(spans, cls_indices, strict=True)]
        features["end_positions"] = [span[1] if span else cls for span, cls in zip(spans, cls_indices, strict=True)]
    else:
        features["example_id"] = [examples["id"][example] for example in example_of_window]
        features["offset_mapping"] = offsets
        features["cls_index"] = cls_indices
    return features


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    if not tokenizer.is_fast:
        raise TypeError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which knows no character offsets: load a fast one with "
            "`AutoTokenizer.from_pretrained(...)` (it needs a tokenizer.json)."
        )
    if tokenizer.cls_token_id is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no cls_token, the place of 'no answer in this window': set "
            "`tokenizer.cls_token` to the token that its sequences begin with."
        )
    if max_length > tokenizer.model_max_length:
        raise ValueError(
            f"max_length={max_length} exceeds the tokenizer's model_max_length={tokenizer.model_max_length}: pass "
            f"max_length={tokenizer.model_max_length} or less, or set `tokenizer.model_max_length` if the model has "
            "more positions."
        )


def _check_room(
    examples: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, overlap: int
) -> None:
    if overlap < 0:
        raise ValueError(f"overlap={overlap} must be 0 or more tokens.")
    special = tokenizer.num_special_tokens_to_add(pair=True)
    questions = tokenizer(list(examples["question"]), add_special_tokens=False, verbose=False)["input_ids"]
    for example, question in enumerate(questions):
        room = max_length - special - len(question)
        if room > overlap:
            continue
        takes = (
            f"The question of example {_name(examples, example)} takes {len(question)} tokens and the special tokens "
            f"{special} of max_length={max_length}"
        )
        if room <= 0:
            raise ValueError(
                f"{takes}, which leaves none for the context: pass max_length={max_length - room + overlap + 1} or "
                "more, or shorten the question (it is never truncated)."
            )
        raise ValueError(
            f"{takes}, which leaves {room} for the context, but the windows shall share overlap={overlap}: pass "
            f"overlap={room - 1} or less, or max_length={max_length - room + overlap + 1} or more."
        )


def _name(examples: Mapping[str, Sequence[Any]], example: int) -> str:
    """What an error calls an example: its id, or else its question."""
    return repr(examples["id" if "id" in examples else "question"][example])


def _check_coverage(windows: list[RowCoverage], example_of_window: list[int], minimum: float) -> None:
    report_coverage(windows)
    lacking = Counter[int]()
    for example, window in zip(example_of_window, windows, strict=True):
        lacking[example] += window["tokens"] - window["covered"]
    worst = max(lacking, key=lacking.__getitem__, default=None)
    others = [window for example, window in zip(example_of_window, windows, strict=True) if example != worst]
    check_coverage(others, minimum)


def _cls_index(windows: BatchEncoding, window: int, tokenizer: PreTrainedTokenizerBase) -> int:
    # A text may contain the CLS token literally; only the one that belongs to no text is meant.
    ids_and_texts = zip(windows["input_ids"][window], windows.sequence_ids(window), strict=True)
    for position, (token_id, text) in enumerate(ids_and_texts):
        if token_id == tokenizer.cls_token_id and text is None:
            return position
    raise ValueError(
        f"{type(tokenizer).__name__} puts no cls_token ({tokenizer.cls_token!r}) into its sequences: set "
        "`tokenizer.cls_token` to the token that its sequences begin with."
    )


def _context_offsets(windows: BatchEncoding, window: int, context_text: int, context: str) -> list[Span]:
    offsets = [
        _trimmed(offset, context) if text == context_text else _NO_CONTEXT
        for offset, text in zip(windows["offset_mapping"][window], windows.sequence_ids(window), strict=True)
    ]
    starts = {start for start, _ in offsets}
    return [
        offset if offset == _NO_CONTEXT else (offset[0], _with_marks(offset[1], context, starts)) for offset in offsets
    ]


def _with_marks(end: int, context: str, starts: set[int]) -> int:
    """The end of a token with its combining marks, where the tokenizer drops them and no token is theirs."""
    while end < len(context) and end not in starts and unicodedata.category(context[end]) in ("Mn", "Me"):
        end += 1
    return end


def _trimmed(offset: Span, context: str) -> Span:
    """Drop surrounding white space, which some byte-level tokenizers count as part of the token."""
    start, end = offset
    piece = context[start:end]
    if not piece.strip():
        return _NO_CONTEXT
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def _answer_span(examples: Mapping[str, Sequence[Any]], example: int) -> Span | None:
    answers = examples["answers"][example]
    if not answers["text"]:
        return None
    text, start = answers["text"][0], answers["answer_start"][0]
    found = examples["context"][example][start : start + len(text)]
    if found != text:
        raise ValueError(
            f"Example {_name(examples, example)}: the answer {text!r} should start at character {start} of the "
            f"context, where {found!r} stands. Correct answer_start (it counts characters, not bytes) or drop the "
            "example."
        )
    return start, start + len(text)


def _token_spans(
    offsets: list[list[Span]], example_of_window: list[int], answers: list[Span | None]
) -> list[Span | None]:
    """First and last answer token in each window, or None where the window does not hold all of the answer."""
    touching = [
        [] if answer is None else [i for i, (start, end) in enumerate(window) if start < answer[1] and end > answer[0]]
        for window, answer in zip(offsets, (answers[example] for example in example_of_window), strict=True)
    ]
    # The characters that the answer's tokens cover over all windows: a window holds it all if its own do so too.
    extents: dict[int, Span] = {}
    for window, example, positions in zip(offsets, example_of_window, touching, strict=True):
        if positions:
            start, end = window[positions[0]][0], window[positions[-1]][1]
            known = extents.get(example, (start, end))
            extents[example] = min(start, known[0]), max(end, known[1])
    spans: list[Span | None] = [
        (positions[0], positions[-1])
        if positions and (window[positions[0]][0], window[positions[-1]][1]) == extents[example]
        else None
        for window, example, positions in zip(offsets, example_of_window, touching, strict=True)
    ]
    held = {example for example, span in zip(example_of_window, spans, strict=True) if span}
    lost = [example for example, answer in enumerate(answers) if answer is not None and example not in held]
    if lost:
        logger.warning(
            "%d of %d answers lie whole in no window and train as 'no answer': increase overlap or max_length.",
            len(lost),
            len(answers),
        )
    return spans
