"""One prediction a word from a token classifier, for sentences of any length and streams of any size."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .data.split_words import words_as_in_text
from .data.text_lines import check_characters
from .data.token_labels import check_fast, check_positions, longest_input
from .evaluation_mode import evaluation_mode
from .long_documents import cut_chunks, words_of_chunks
from .models.teacher import accepted_arguments
from .read_ahead import read_ahead

logger = logging.getLogger(__name__)

# Sentences are sorted by length within so many batches: enough for little padding, and a stream stays a stream.
BUFFERED_BATCHES = 64
# Documents are longer than sentences: a buffer is full, too, with so many words for each sentence that it could hold.
BUFFERED_WORDS = 64


class WordTag(NamedTuple):
    """The tag of one word and its probability; 0.0 for a word without a token, whose tag is no prediction."""

    tag: str
    score: float


class _Window(NamedTuple):
    """One input of the model.

    Attributes:
        sentence: Index of its sentence in the buffer.
        columns: What the model takes, by name: one value a token.
        first_tokens: Where the first tokens of the words stand that are tagged from this window, by index of the word.
    """

    sentence: int
    columns: dict[str, list[int]]
    first_tokens: dict[int, int]


def predict_words(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Iterable[Sequence[str]],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    overlap: int | None = None,
    show_progress: bool = False,
) -> Iterator[list[WordTag]]:
    """Tag every word of every sentence; see `alad_hf.tagging.tag_words`, which has the same arguments.

    Args:
        model: A token classifier.
        tokenizer: Its fast tokenizer.
        sentences: Lists of words.
        batch_size: Windows of one forward pass.
        max_length: Tokens of one window, special ones included.
        overlap: Tokens that consecutive windows share.
        show_progress: Whether to show a bar with the words per second.

    Returns:
        An iterator over the tags of each sentence, in the order of the sentences.

    Raises:
        ValueError: At once if a size is out of range or the tokenizer is a slow one; while iterating if the model's
            output is not a number.
        TypeError: While iterating, behind the tags of the sentences before, if a sentence is not a list of strings.
    """
    check_fast(tokenizer)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more.")
    room, overlap = _window_sizes(model, tokenizer, max_length, overlap)

    def predict() -> Iterator[list[WordTag]]:
        fallback = WordTag(fallback_tag(label_names(model)), 0.0)
        stream = _checked(sentences)
        missing, example = 0, ""
        try:
            with tqdm(desc="Tagging", unit=" words", disable=not show_progress) as progress:
                buffers = read_ahead(stream, BUFFERED_BATCHES * batch_size, size_of=len, usual_size=BUFFERED_WORDS)
                for buffer in buffers:
                    windows = _cut_windows(tokenizer, buffer, room, overlap)
                    found = _run(model, tokenizer, windows, batch_size, progress)
                    for index, words in enumerate(buffer):
                        tags = found[index]
                        if len(tags) < len(words):
                            if not missing:
                                example = next(word for position, word in enumerate(words) if position not in tags)
                            missing += len(words) - len(tags)
                        yield [tags.get(position, fallback) for position in range(len(words))]
        finally:
            if missing:
                logger.warning(
                    "%d words have no token in this vocabulary, such as %s, and were tagged %r unseen.",
                    missing,
                    ascii(example),
                    fallback.tag,
                )

    return predict()


def label_names(model: PreTrainedModel) -> list[str]:
    """The names of a model's tags in the order of their ids."""
    names = model.config.id2label or {}
    return [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]


def fallback_tag(labels: Sequence[str]) -> str:
    """The tag of a word that a model cannot see: "O", or else "X" (Universal Dependencies' "other"), or the first."""
    return next((tag for tag in ("O", "X") if tag in labels), labels[0])


def _window_sizes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None, overlap: int | None
) -> tuple[int, int]:
    """The tokens of words that a window has room for, and how many of them consecutive windows share."""
    if max_length is None:
        max_length = longest_input(model.config, tokenizer)
    check_positions(model, max_length)
    if overlap is None:
        overlap = max_length // 4
    special = tokenizer.num_special_tokens_to_add()
    room = max_length - special
    if not 0 <= overlap < room:
        raise ValueError(
            f"overlap={overlap} must be at least 0 and less than {room}, the room that max_length={max_length} leaves "
            f"beside {special} special tokens. Lower overlap or raise max_length."
        )
    return room, overlap


def _checked(sentences: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    for number, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            raise TypeError(
                f"Sentence {number} is the text {sentence[:40]!r}, expected a list of words. Pass [sentence] to tag "
                "one list of words, and use tag_text for running text."
            )
        words = list(sentence)
        for word in words:
            if not isinstance(word, str):
                raise TypeError(f"Sentence {number} holds {word!r}, expected only strings.")
        try:
            check_characters("".join(words))
        except ValueError as error:
            raise ValueError(f"Sentence {number}: {error}.") from error
        yield words


def _cut_windows(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[list[str]], room: int, overlap: int
) -> list[_Window]:
    """Tokenize sentences and cut what is longer than `room` tokens; windows no word is tagged from are left out."""
    filled = [index for index, words in enumerate(sentences) if words]
    if not filled:
        return []
    encoded = tokenizer(
        words_as_in_text(tokenizer, [sentences[index] for index in filled]),
        is_split_into_words=True,
        truncation=False,
        padding=False,
        verbose=False,  # or it warns of the length that the cut below is for
    )
    names = [name for name in tokenizer.model_input_names if name in encoded]
    windows = []
    for row, index in enumerate(filled):
        word_ids = encoded.word_ids(row)
        content = [position for position, word in enumerate(word_ids) if word is not None]
        if not content:
            continue
        head, tail = content[0], content[-1] + 1
        columns = {name: encoded[name][row] for name in names}
        chunks = cut_chunks(word_ids[head:tail], room, overlap)
        for (start, end), first_tokens in zip(chunks, words_of_chunks(word_ids[head:tail], chunks), strict=True):
            if not first_tokens:
                continue
            cut = {name: col[:head] + col[head + start : head + end] + col[tail:] for name, col in columns.items()}
            positions = {word: head + position - start for word, position in first_tokens.items()}
            windows.append(_Window(index, cut, positions))
    return windows


def _run(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, windows: list[_Window], batch_size: int, progress: tqdm
) -> defaultdict[int, dict[int, WordTag]]:
    """Run the model on windows; returns the tags by word, by sentence of the buffer."""
    found: defaultdict[int, dict[int, WordTag]] = defaultdict(dict)
    # The longest first, so that a batch too large for the device fails at once.
    ordered = sorted(windows, key=lambda window: -len(window.columns["input_ids"]))
    accepted = accepted_arguments(model)
    labels = label_names(model)
    with evaluation_mode(model):
        for begin in range(0, len(ordered), batch_size):
            batch = ordered[begin : begin + batch_size]
            # On the right, whatever the tokenizer says: many models count positions from the first column.
            inputs = tokenizer.pad(
                [dict(window.columns) for window in batch], padding_side="right", return_tensors="pt"
            )
            with torch.inference_mode():
                output = model(**{name: value.to(model.device) for name, value in inputs.items() if name in accepted})
                rows: list[int] = []
                positions: list[int] = []
                for row, window in enumerate(batch):
                    rows += [row] * len(window.first_tokens)
                    positions += window.first_tokens.values()
                scores, label_ids = output.logits[rows, positions].float().softmax(dim=-1).max(dim=-1)
            if scores.isnan().any():
                raise ValueError(
                    "The logits contain NaN: the model has diverged, or its weights overflow in half precision."
                )
            words = [(window.sentence, word) for window in batch for word in window.first_tokens]
            for (sentence, word), label_id, score in zip(words, label_ids.tolist(), scores.tolist(), strict=True):
                found[sentence][word] = WordTag(labels[label_id], score)
            progress.update(len(words))
    return found
