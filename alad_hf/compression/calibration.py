"""Text that a compression is fitted to: encoded once, and run through some layers of a model at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from datasets import ClassLabel, Dataset, DatasetDict
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.collators import DataCollatorForAlignment
from ..data.question_answering import encode_questions
from ..data.tag_names import with_tags_of
from ..data.token_labels import encode_tagged_words, longest_input
from ..data.unlabelled_text import encode_text
from ..evaluation_mode import evaluation_mode
from ..models.teacher import accepted_arguments
from ..question_answering import window_sizes
from .layer_lists import find_layers

logger = logging.get_logger(__name__)

CALIBRATION_TOKENS = 20_000
"""Enough for maps with some thousand inputs; more text takes longer and changes little."""
LABEL_COLUMNS = ("labels", "start_positions", "end_positions")


class CalibrationText:
    """Batches of a text for one model, rows of like length together.

    Args:
        model: The model that will read it.
        texts: Strings, or a dataset with a column `text`, `tokens` or `input_ids`. Rows with `input_ids` may be
            labelled, with `labels` or `start_positions` and `end_positions`, some of which are 0 or more. Or labelled
            data of the model's task as they were loaded: `tokens` and named `tags` for a tagger, or `question`,
            `context` and `answers`.
        tokenizer: The model's tokenizer.
        batch_size: Rows of a batch; results do not depend on it.
        max_tokens: Rows are taken, evenly over the text, until they have so many tokens; None takes all.

    Raises:
        ValueError: There is no text, or the model does not know the tags.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        texts: Iterable[str] | Dataset,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        max_tokens: int | None = None,
    ) -> None:
        labels: list[str] = []
        if isinstance(texts, Dataset):
            texts = _encode_labelled(texts, model, tokenizer)
        if isinstance(texts, Dataset) and "input_ids" in texts.column_names:
            labels = [name for name in LABEL_COLUMNS if name in texts.column_names]
            names = [*(name for name in tokenizer.model_input_names if name in texts.column_names), *labels]
            rows = texts.select_columns(names)
        else:
            if type(model).__name__.endswith("ForQuestionAnswering"):
                logger.warning(
                    "%s reads questions, and this text has none. Fitted to questions it keeps more of its score: pass "
                    "a dataset with question, context and answers as texts (--data).",
                    type(model).__name__,
                )
            rows = encode_text(texts, tokenizer, max_length=longest_input(model.config, tokenizer))
        rows = rows.with_format(None)
        lengths = [len(ids) for ids in rows["input_ids"]] if len(rows) else []
        chosen = list(range(len(lengths)))
        if max_tokens is not None and sum(lengths) > max_tokens:
            count = max(1, round(len(lengths) * max_tokens / sum(lengths)))
            chosen = [index * len(lengths) // count for index in range(count)]
        if not chosen:
            raise ValueError("There is no text to calibrate on: pass texts=[...] (--text) with at least one sentence.")
        chosen.sort(key=lambda index: lengths[index])
        collate = DataCollatorForAlignment(tokenizer)
        accepted = accepted_arguments(model) | set(labels)
        self.batches: list[dict[str, torch.Tensor]] = []
        for first in range(0, len(chosen), batch_size):
            batch = collate([rows[index] for index in chosen[first : first + batch_size]])
            self.batches.append({name: value for name, value in batch.items() if name in accepted})
        # Labels of -100 alone say nothing, nor do answers that were not found.
        self.labelled = any(bool((batch[name] >= 0).any()) for batch in self.batches for name in labels)

    @property
    def num_tokens(self) -> int:
        """Real tokens, special ones included."""
        return sum(int(batch["attention_mask"].sum()) for batch in self.batches)


def _encode_labelled(data: Dataset, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Rows with labels, where the data are labelled for what the model does; other data as they are."""
    columns = set(data.column_names)
    if {"question", "context", "answers"} <= columns:
        max_length, overlap = window_sizes(model, tokenizer)
        return encode_questions(data, tokenizer, max_length=max_length, overlap=overlap, for_training=True)
    named = isinstance(getattr(data.features.get("tags"), "feature", None), ClassLabel)
    if "tokens" in columns and named and type(model).__name__.endswith("ForTokenClassification"):
        rows = with_tags_of(model, DatasetDict(train=data), called="model")["train"]
        rows = encode_tagged_words(rows, tokenizer, max_length=longest_input(model.config, tokenizer))
        return rows.remove_columns("sentence")
    return data


def model_inputs(batch: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A batch on the model's device, without labels."""
    accepted = accepted_arguments(model)
    return {
        name: value.to(model.device) for name, value in batch.items() if name not in LABEL_COLUMNS and name in accepted
    }


@torch.no_grad()
def run_layers(
    model: PreTrainedModel,
    layers: Sequence[nn.Module],
    batch: dict[str, torch.Tensor],
    states: torch.Tensor | None = None,
) -> torch.Tensor:
    """States after some layers, run in eval mode in the place of the model's own.

    The model makes the masks and position biases that its layers take; what enters the first one is exchanged.

    Args:
        model: Any encoder with a list of layers.
        layers: Layers to run instead, in this order.
        batch: The inputs.
        states: (batch, tokens, width) to start from; by default the embeddings.
    """
    encoder = cast(PreTrainedModel, model.base_model)
    ended: list[torch.Tensor] = []

    def exchange(module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if states is None:
            return arguments, keywords
        if arguments:
            return (states, *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": states}

    def keep(module: nn.Module, arguments: tuple, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        ended.append(output[0] if isinstance(output, tuple) else output)

    with _layers_exchanged(encoder, layers), evaluation_mode(encoder):
        handles = [
            layers[0].register_forward_pre_hook(exchange, with_kwargs=True),
            layers[-1].register_forward_hook(keep),
        ]
        try:
            encoder(**model_inputs(batch, encoder))
        finally:
            for handle in handles:
                handle.remove()
    return ended[0]


@contextmanager
def _layers_exchanged(encoder: PreTrainedModel, layers: Sequence[nn.Module]) -> Iterator[None]:
    owner, name = find_layers(encoder)
    config: Any = encoder.config.get_text_config()  # of a compressed encoder, the one of the encoder in it
    own, depth = getattr(owner, name), config.num_hidden_layers
    setattr(owner, name, nn.ModuleList(layers))
    config.num_hidden_layers = len(layers)
    try:
        yield
    finally:
        setattr(owner, name, own)
        config.num_hidden_layers = depth


@contextmanager
def reading(*modules: nn.Module) -> Iterator[Callable[[], list[tuple[torch.Tensor, torch.Tensor]]]]:
    """Keep what enters and leaves modules.

    Yields:
        A function that returns for each module, in the order given, a pair (input, output) of its last call.
    """
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def hook(module: nn.Module, arguments: tuple, output: torch.Tensor) -> None:
        seen[id(module)] = (arguments[0], output)

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield lambda: [seen[id(module)] for module in modules]
    finally:
        for handle in handles:
            handle.remove()
