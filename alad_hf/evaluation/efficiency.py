"""Size and speed: stored bytes, parameters, throughput and latency of a model."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.split_words import words_as_in_text
from ..data.token_labels import stated_length
from ..evaluation_mode import evaluation_mode
from ..models.quantized_student import plain_tensors
from ..models.teacher import accepted_arguments

logger = logging.getLogger(__name__)

WARM_UP_CALLS = 3


@dataclass(frozen=True)
class EfficiencyReport:
    """What a model costs; see `efficiency_report`."""

    parameters: int
    stored_megabytes: float
    """Millions of bytes (not 2^20) of the weights on disk."""
    sentences_per_second: float


def efficiency_report(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str] | Sequence[Sequence[str]]
) -> EfficiencyReport:
    """Measure size and throughput at once.

    Args:
        model: Any encoder or token model, on the device to measure.
        tokenizer: Its tokenizer.
        sentences: See `sentences_per_second`.

    Example:
        >>> efficiency_report(model, tokenizer, ["Ada lives in London."] * 64)  # doctest: +SKIP
        EfficiencyReport(parameters=..., stored_megabytes=..., sentences_per_second=...)
    """
    return EfficiencyReport(
        parameters=count_parameters(model),
        stored_megabytes=stored_bytes(model) / 1e6,
        sentences_per_second=sentences_per_second(model, tokenizer, sentences),
    )


def stored_bytes(model: nn.Module) -> int:
    """Count the bytes of weights that `save_pretrained` writes: `model.safetensors` without its header.

    A tensor under several names (tied weights) is stored once, and counts once.

    Args:
        model: The model, on any device, the meta device included.

    Raises:
        TypeError: The state dict holds something else than tensors, as after dynamic quantisation by torch.
    """
    left_out = set(getattr(model, "_keys_to_ignore_on_save", None) or [])
    # keep_vars: only the parameters themselves tell which names are tied on the meta device.
    state = {name: value for name, value in model.state_dict(keep_vars=True).items() if name not in left_out}
    other = sorted(name for name, value in state.items() if not isinstance(value, torch.Tensor))
    if other:
        raise TypeError(
            f"{other[0]} in the state dict of {type(model).__name__} is no tensor, so safetensors cannot store it. "
            "Measure the model before it is quantised, or the exported file itself."
        )
    return sum(part.nbytes for tensor in _unique(state.values()) for part in plain_tensors(tensor))


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Count the model's parameters, those of a tensor under several names once.

    Args:
        model: The model.
        trainable_only: Leave out parameters without a gradient, such as those of a frozen student.
    """
    chosen = (parameter for parameter in model.parameters() if parameter.requires_grad or not trainable_only)
    return sum(parameter.numel() for parameter in _unique(chosen))


def sentences_per_second(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str] | Sequence[Sequence[str]],
    *,
    batch_size: int = 32,
    repeats: int = 3,
) -> float:
    """Measure the throughput on text, from strings to outputs on the model's device.

    Tokenization, padding and the transfer to the device are part of the time, as they are when a model is used;
    turning logits into tags is not. Sentences of like length share a batch, longest first. One pass over all of them
    is a warm-up; the result is the median of the others.

    Args:
        model: Any encoder or token model; measured where it is, in eval mode and without gradients.
        tokenizer: Its tokenizer.
        sentences: Texts, or lists of words. Beyond the model's longest input they are cut, with one warning.
        batch_size: Sentences of one batch.
        repeats: Number of timed passes.

    Returns:
        Sentences a second.

    Raises:
        ValueError: There is no sentence, or a number is below 1.
    """
    sentences = list(sentences)
    _check_positive(sentences=len(sentences), batch_size=batch_size, repeats=repeats)
    in_words = not isinstance(sentences[0], str)
    if in_words:
        sentences = words_as_in_text(tokenizer, sentences)
    max_length = stated_length(model.config, tokenizer)
    encoded = tokenizer(sentences, is_split_into_words=in_words, return_attention_mask=False, verbose=False)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    cut = sum(length > max_length for length in lengths) if max_length else 0
    if cut:
        logger.warning(
            "%d of %d sentences are cut to %d tokens to measure the throughput.", cut, len(sentences), max_length
        )
    order = sorted(range(len(sentences)), key=lambda index: -lengths[index])
    batches = [
        [sentences[index] for index in order[first : first + batch_size]] for first in range(0, len(order), batch_size)
    ]
    names = [name for name in tokenizer.model_input_names if name in accepted_arguments(model)]

    def run_all() -> None:
        for batch in batches:
            inputs = tokenizer(
                batch,
                is_split_into_words=in_words,
                padding=True,
                truncation=max_length is not None,
                max_length=max_length,
                return_tensors="pt",
            )
            model(**{name: inputs[name].to(model.device) for name in names})

    times = _measure(model, run_all, repeats=repeats, warm_up=1)
    return len(sentences) / statistics.median(times)


def latency(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int, tokens: int, repeats: int = 20
) -> dict[str, float]:
    """Measure the time of one forward pass on random token ids, without tokenization.

    Args:
        model: Any encoder or token model; measured where it is, in eval mode and without gradients.
        tokenizer: Its tokenizer; the ids come from its ordinary tokens, the same ones in every call.
        batch_size: Rows of the batch.
        tokens: Tokens of every row; there is no padding.
        repeats: Number of timed passes, after some of warm-up.

    Returns:
        `median_ms` and `p90_ms`, the 90th percentile, in milliseconds.

    Raises:
        ValueError: A number is below 1, or so many tokens do not fit into one input.
    """
    _check_positive(batch_size=batch_size, tokens=tokens, repeats=repeats)
    longest = stated_length(model.config, tokenizer)
    if longest is not None and tokens > longest:
        raise ValueError(f"tokens={tokens} do not fit into one input of this model; it takes {longest} at most.")
    ordinary = ordinary_tokens(tokenizer)
    choice = torch.randint(len(ordinary), (batch_size, tokens), generator=torch.Generator().manual_seed(0))
    ids = ordinary[choice].to(model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    times = _measure(model, lambda: model(**inputs), repeats=repeats, warm_up=WARM_UP_CALLS)
    return {"median_ms": 1000 * statistics.median(times), "p90_ms": 1000 * float(np.percentile(times, 90))}


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """The ids of all but the special tokens, int64 and ascending."""
    return torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))


def _unique(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Each tensor once; views of one storage are one tensor if they show the same elements in the same order."""

    def identity(tensor: torch.Tensor) -> tuple:
        if tensor.is_meta:  # has no address
            return (id(tensor),)
        parts = plain_tensors(tensor)
        return tuple((part.device, part.data_ptr(), part.dtype, part.shape, part.stride()) for part in parts)

    return list({identity(tensor): tensor for tensor in tensors if tensor.numel()}.values())


def _measure(model: nn.Module, function: Callable[[], object], *, repeats: int, warm_up: int) -> list[float]:
    """Seconds of each timed call in eval mode; kernels on a GPU are waited for."""
    # An ONNX model has no parameters of torch.
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def timed() -> float:
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    with evaluation_mode(model), torch.no_grad():
        for _ in range(warm_up):
            timed()
        return [timed() for _ in range(repeats)]


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be 1 or more, got {number}.")


__all__ = [
    "EfficiencyReport",
    "count_parameters",
    "efficiency_report",
    "latency",
    "ordinary_tokens",
    "sentences_per_second",
    "stored_bytes",
]
