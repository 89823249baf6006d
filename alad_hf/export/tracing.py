"""From a transformers model to an ONNX graph, by running it once."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ..models.embedding_table import CompressedEmbedding


def trace_to_onnx(
    model: PreTrainedModel, sample: dict[str, torch.Tensor], output_names: list[str], opset: int, file: Path
) -> None:
    """Write a model as ONNX for any number of rows and tokens, by torch's exporter that traces.

    torch's newer exporter, which goes through torch.export, takes longer and needs onnxscript besides.

    Args:
        model: In eval mode, on the CPU and in float32.
        sample: Inputs by name, each (rows, tokens).
        output_names: The outputs that are wanted, each with rows and tokens as its first axes.
        opset: Version of ONNX's operators.
        file: Where to write.

    Raises:
        Exception: Whatever an architecture raises that cannot be traced.
    """
    # It prints the whole graph where it fails. It warns of every Python branch on a size, and of itself as the older
    # one; the caller checks the result.
    with (
        redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        torch.no_grad(),
        _lengths_as_tensors(),
        _factors_in_float(model),
    ):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _OnlyLogits(model, list(sample), output_names).eval(),
            tuple(sample.values()),
            str(file),
            dynamo=False,
            opset_version=opset,
            input_names=list(sample),
            output_names=output_names,
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in (*sample, *output_names)},
        )


class _OnlyLogits(nn.Module):
    """A model as a function of tensors, which is what can be traced: its inputs by position, its logits as a tuple."""

    def __init__(self, model: PreTrainedModel, input_names: list[str], output_names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.input_names = input_names
        self.output_names = output_names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(**dict(zip(self.input_names, inputs, strict=True)), return_dict=True)
        return tuple(outputs[name] for name in self.output_names)


@contextmanager
def _lengths_as_tensors() -> Iterator[None]:
    """Let attention masks be made of a length that is a tensor, as every size is while a model is traced.

    The first transformers 5 takes such a length for a list of positions, which it may also be given.
    """
    original = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    AttentionMaskInterface.register("sdpa", _with_positions_for_length(original))
    try:
        yield
    finally:
        AttentionMaskInterface.register("sdpa", original)


@contextmanager
def _factors_in_float(model: PreTrainedModel) -> Iterator[None]:
    """Let compressed embeddings show their own parameters in `state_dict`, by which the exporter knows them.

    Factors that are stored in float16 appear there as rounded copies.
    """
    stored = [(module, module.factor_dtype) for module in model.modules() if isinstance(module, CompressedEmbedding)]
    try:
        for module, _ in stored:
            module.factor_dtype = "float32"
        yield
    finally:
        for module, factor_dtype in stored:
            module.factor_dtype = factor_dtype


def _with_positions_for_length(make_mask: Callable[..., Any]) -> Callable[..., Any]:
    def traceable(*args: Any, q_length: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - passed through
        try:
            return make_mask(*args, q_length=q_length, **kwargs)
        except IndexError:
            if not isinstance(q_length, torch.Tensor) or q_length.dim():
                raise
            return make_mask(*args, q_length=torch.arange(q_length), **kwargs)  # type: ignore[call-overload]

    return traceable


__all__ = ["trace_to_onnx"]
