"""From tagged words to labelled tokens."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..models.task_losses import IGNORED
from ..models.teacher import tokenizes_alike
from .alignment_coverage import check_coverage, report_coverage
from .split_words import words_as_in_text
from .token_alignment import COVERAGE_COLUMN, teacher_columns

logger = logging.getLogger(__name__)

# Position embeddings of these start behind the padding index, so that many of them hold no token.
POSITIONS_BEHIND_PADDING = {
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}

_POSITION_TABLES = {"position_embeddings", "embed_positions", "wpe"}


def longest_input(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens, special ones included, fit into one input of a model.

    Args:
        config: The model's configuration.
        tokenizer: Its tokenizer, whose `model_max_length` counts where it is set.

    Raises:
        ValueError: Neither of them states a limit.
    """
    limit = stated_length(config, tokenizer)
    if limit is None:
        raise ValueError(
            f"Neither the {config.get_text_config().model_type} configuration nor the tokenizer says how many tokens "
            "fit into one input. Pass max_length, or set tokenizer.model_max_length."
        )
    return limit


def stated_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The same, or None where no limit is stated, as for XLNet."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < 1_000_000 else []
    positions = usable_positions(config)
    if positions is not None:
        limits.append(positions)
    return min(limits, default=None)


def usable_positions(config: PreTrainedConfig) -> int | None:
    """How many tokens have a position embedding; None without a limit."""
    text_config = config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    if not positions or positions < 0:  # XLNet says -1 for no limit
        return None
    if text_config.model_type not in POSITIONS_BEHIND_PADDING:
        return positions
    # MPNet starts behind 1 whatever its configuration calls padding.
    return positions - (2 if text_config.model_type == "mpnet" else text_config.pad_token_id + 1)


def check_positions(model: PreTrainedModel, max_length: int) -> None:
    """Raise ValueError if a window has more tokens than the table in which a model looks up their positions.

    Others, such as models with rotary or relative positions, read what is longer than they were made for.
    """
    positions = usable_positions(model.config)
    if positions is None or max_length <= positions or not isinstance(model, nn.Module):
        return
    tables = (name for name, module in model.named_modules() if isinstance(module, nn.Embedding))
    if any(name.rpartition(".")[2] in _POSITION_TABLES for name in tables):
        raise ValueError(
            f"max_length={max_length} is more than the {positions} tokens that this {type(model).__name__} has "
            f"positions for: pass {positions} or less, or leave it out."
        )


def encode_tagged_words(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    label_subwords: Literal["first", "all"] = "first",
    tag_column: str = "tags",
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_max_length: int | None = None,
    minimum_coverage: float = 0.9,
) -> Dataset:
    """Tokenize sentences of words and give every word's tag to its tokens.

    A sentence longer than `max_length` is cut into several rows, so that every word keeps its label; how many were,
    and how many words have no token at all, is reported in one warning each. A sentence without any token becomes no
    row.

    Args:
        dataset: Columns `tokens` (list of words) and, optionally, `tags` (list of class labels).
        tokenizer: A fast tokenizer.
        max_length: Tokens of one row, special ones included; see `longest_input`.
        label_subwords: "first": only a word's first token is labelled. "all": the others too, with I- for a word that
            starts an entity.
        tag_column: The column with the tags.
        teacher_tokenizer: The fast tokenizer of a teacher. If it tokenizes otherwise than `tokenizer`, the rows get
            what `alad_hf.data.teacher_columns` gives; else nothing is added.
        teacher_max_length: Most tokens of the teacher's rows; by default what its tokenizer states.
        minimum_coverage: The share of tokens that must have a counterpart in the teacher's.

    Returns:
        A dataset of `input_ids`, `attention_mask` and whatever else the tokenizer gives, `sentence` (the index of the
        row in `dataset`), if there are tags, `labels`, -100 on tokens without a label, and, for a teacher that
        tokenizes otherwise, `teacher_input_ids`, `teacher_alignment` and perhaps `teacher_token_type_ids`.

    Raises:
        ValueError: There are no sentences, a tokenizer is a slow one, the tags have no names, `label_subwords` is
            unknown, or fewer tokens than `minimum_coverage` have a counterpart.
    """
    if not len(dataset):
        raise ValueError("There are no sentences: the dataset has no rows.")
    check_fast(tokenizer)
    if teacher_tokenizer is not None and tokenizes_alike(tokenizer, teacher_tokenizer):
        teacher_tokenizer = None
    if label_subwords not in ("first", "all"):
        raise ValueError(f'label_subwords must be "first" or "all", got {label_subwords!r}.')
    has_tags = tag_column in dataset.column_names
    continuation = _continuation_labels(dataset, tag_column) if has_tags else []

    def encode(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        sentences = words_as_in_text(tokenizer, batch["tokens"])
        encoded = tokenizer(
            sentences,
            is_split_into_words=True,
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=True,
        )
        rows = encoded["overflow_to_sample_mapping"]
        columns = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
        if teacher_tokenizer is not None:
            columns |= teacher_columns(encoded, sentences, tokenizer, teacher_tokenizer, max_length=teacher_max_length)
        columns["sentence"] = [indices[row] for row in rows]
        if has_tags:
            columns["labels"] = []
            begun: tuple[int, int | None] = (-1, None)
            for position, row in enumerate(rows):
                words = encoded.word_ids(position)
                # A word that a cut splits between two rows begins in the first of them only.
                last = begun[1] if begun[0] == row else None
                columns["labels"].append(
                    _labels(words, batch[tag_column][row], last, continuation if label_subwords == "all" else None)
                )
                begun = (row, next((word for word in reversed(words) if word is not None), last))
        return columns

    encoded = dataset.map(
        encode, batched=True, with_indices=True, remove_columns=dataset.column_names, desc="Tokenizing"
    )
    encoded = rows_with_tokens(encoded)
    _report(dataset, encoded, tokenizer, max_length)
    return covered_enough(encoded, minimum_coverage) if teacher_tokenizer is not None else encoded


def rows_with_tokens(encoded: Dataset) -> Dataset:
    """Rows without those that no model can read: of an empty text, where a tokenizer adds no special tokens."""
    lengths = pc.list_value_length(encoded.with_format("arrow")[:]["input_ids"]).to_numpy()
    return encoded if lengths.all() else encoded.select(np.flatnonzero(lengths))


def covered_enough(encoded: Dataset, minimum: float) -> Dataset:
    """Report how much of the rows' text the teacher has tokens for, and return them without what was counted for it.

    Raises:
        ValueError: It is a smaller share of the tokens than `minimum`.
    """
    coverage = encoded[COVERAGE_COLUMN][:]
    report_coverage(coverage)
    check_coverage(coverage, minimum)
    return encoded.remove_columns(COVERAGE_COLUMN)


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError for a slow tokenizer, which neither tells tokens' words nor returns what a cut leaves over."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which does not tell which word a token came from and "
            "drops what it cuts off. Load one with AutoTokenizer.from_pretrained(..., use_fast=True)."
        )


def _labels(words: list[int | None], tags: list[int], begun: int | None, continuation: list[int] | None) -> list[int]:
    """One label a token.

    Args:
        words: The word of each token; None for a special one.
        tags: The tag of each word; below 0, it has none.
        begun: The word whose first token is in the row before.
        continuation: Labels of the other tokens of words with a tag; without, they have none.
    """
    labels = []
    for word in words:
        if word is None or tags[word] < 0 or (word == begun and continuation is None):
            labels.append(IGNORED)
        else:
            labels.append(tags[word] if word != begun or continuation is None else continuation[tags[word]])
        begun = begun if word is None else word
    return labels


def _continuation_labels(dataset: Dataset, tag_column: str) -> list[int]:
    names = getattr(getattr(dataset.features[tag_column], "feature", None), "names", None)
    if names is None:
        raise ValueError(
            f"The column {tag_column!r} is {dataset.features[tag_column]}, expected lists of ClassLabel. Load the "
            f"data with load_token_classification, or cast_column({tag_column!r}, List(ClassLabel(names=[...])))."
        )
    ids = {name: index for index, name in enumerate(names)}
    return [ids.get("I-" + name[2:], index) if name.startswith("B-") else index for index, name in enumerate(names)]


def _report(dataset: Dataset, encoded: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    cut = sum(rows > 1 for rows in Counter(encoded["sentence"]).values())
    if cut:
        logger.warning(
            "%d of %d sentences are longer than %d tokens and were cut into several rows; every word keeps its label.",
            cut,
            len(dataset),
            max_length,
        )
    words = sorted({word for row in dataset["tokens"] for word in row})
    ids = tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
    empty = [word for word, pieces in zip(words, ids, strict=True) if not pieces]
    if empty:
        lost = set(empty)
        count = sum(word in lost for row in dataset["tokens"] for word in row)
        logger.warning(
            "%d words have no token in this vocabulary, such as %s: they are neither trained on nor tagged.",
            count,
            [word.encode("unicode_escape").decode() for word in empty[:3]],
        )
    without = sum(not row for row in dataset["tokens"])
    if without:
        logger.warning("%d sentences are empty; they have no word to learn.", without)
