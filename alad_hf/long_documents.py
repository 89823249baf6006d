"""How a text longer than a model's input is cut into chunks, and which chunk speaks for which of its words.

Everything here is arithmetic on token positions: `alad_hf.word_prediction` runs the model on the chunks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .data.token_labels import stated_length


class Chunk(NamedTuple):
    """A stretch of a text's tokens that fits into one input of the model, special tokens not counted."""

    start: int
    end: int
    """Exclusive."""


def cut_chunks(word_ids: Sequence[int], room: int, overlap: int) -> list[Chunk]:
    """Cut a text into chunks that overlap and split no word.

    A chunk holds as many whole words as it has room for. The next one starts at least `overlap` tokens before the end
    of it, at the start of a word; the last one reaches back as far as it has room, for it costs no more. A word that
    alone has more tokens than `room` cannot stay whole, and is cut anywhere. The overlap is smaller only where the
    next word would not fit behind it.

    Args:
        word_ids: For each token the index of its word, ascending; no special tokens.
        room: Tokens of one chunk, at least 1.
        overlap: Tokens that consecutive chunks share, less than `room`.

    Returns:
        Chunks from the first token to the last, each starting and ending behind the one before.

    Example:
        >>> cut_chunks([0, 1, 1, 2, 3], room=3, overlap=1)
        [Chunk(start=0, end=3), Chunk(start=1, end=4), Chunk(start=3, end=5)]
    """
    total = len(word_ids)
    if total <= room:
        return [Chunk(0, total)] if total else []
    may_cut = _cutting_points(word_ids, room)
    chunks = [Chunk(0, _last(may_cut, room))]
    while chunks[-1].end < total:
        end = chunks[-1].end
        next_end = _first(may_cut, end + 1)
        # The chunk before was full, so that both of these lie behind its start.
        start = max(_last(may_cut, max(end - overlap, 0)), _first(may_cut, next_end - room))
        if total - start <= room:
            start = _first(may_cut, total - room)
        chunks.append(Chunk(start, _last(may_cut, min(start + room, total))))
    return chunks


def words_of_chunks(word_ids: Sequence[int], chunks: Sequence[Chunk]) -> list[dict[int, int]]:
    """Give every word to the chunk in which it sees the most context.

    That is the chunk in which the word's first token, which carries its tag, is farthest from the nearer border; the
    first of them, if several are. Where a text begins or ends there is nothing more to see, but a word near it is as
    near to it in every chunk that holds it, so that this needs no case of its own.

    Args:
        word_ids: For each token the index of its word, ascending.
        chunks: See `cut_chunks`.

    Returns:
        For each chunk, where the first tokens of its words stand in the text, by word.
    """
    first_tokens: dict[int, int] = {}
    for position, word in enumerate(word_ids):
        first_tokens.setdefault(word, position)
    chosen: list[dict[int, int]] = [{} for _ in chunks]
    begin = 0
    for word, position in first_tokens.items():
        while chunks[begin].end <= position:
            begin += 1
        best, context = begin, -1
        for index in range(begin, len(chunks)):
            chunk = chunks[index]
            if chunk.start > position:
                break
            seen = min(position - chunk.start, chunk.end - 1 - position)
            if seen > context:
                best, context = index, seen
        chosen[best][word] = position
    return chosen


def state_length(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Let a tokenizer say how long an input of its model may be, where it says nothing or more than fits.

    `pipeline("ner", model=..., stride=...)` cuts long texts by `tokenizer.model_max_length`. With a number that is too
    large it fails on them; one that is too small is left alone, for it may be what the model was trained for.

    Args:
        tokenizer: Changed in place.
        config: The configuration of its model; nothing is done for one without a limit, such as XLNet's.
    """
    limit = stated_length(config, tokenizer)
    if limit is not None:
        tokenizer.model_max_length = limit


def _cutting_points(word_ids: Sequence[int], room: int) -> list[int]:
    """Positions between words, and inside words that are longer than `room`, both ends of the text included."""
    borders = [position for position in range(1, len(word_ids)) if word_ids[position] != word_ids[position - 1]]
    points = [0]
    for border in [*borders, len(word_ids)]:
        points += range(points[-1] + 1, border) if border - points[-1] > room else []
        points.append(border)
    return points


def _last(points: Sequence[int], limit: int) -> int:
    """The last of some ascending points that is not above a limit."""
    return points[bisect_right(points, limit) - 1]


def _first(points: Sequence[int], limit: int) -> int:
    """The first of some ascending points that is not below a limit."""
    return points[bisect_left(points, limit)]
