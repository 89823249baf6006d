"""A student whose weights are stored and run in int8 (torchao): it stays frozen, adapter and head stay in float."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

FLOAT_PARTS = ("adapter", "model.adapter", "classifier", "qa_outputs")
"""Everything of an AlAd model but its student, as prefixes of names in the models with and without a head."""


def is_quantized(model: nn.Module) -> bool:
    """Whether a weight of the model is one of torchao's tensors; torchao itself need not be there to ask."""
    return any(type(parameter.data).__module__.startswith("torchao.") for parameter in model.parameters())


def plain_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """What a tensor consists of: itself, or the codes and scales of a quantized one, which poses as a float tensor."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in plain_tensors(getattr(tensor, name))]


def check_frozen(student: nn.Module, frozen: bool | None) -> None:
    """Raise if a quantized student is to be trained.

    Raises:
        ValueError: It is.
    """
    if is_quantized(student) and not frozen:
        raise ValueError(
            "The student is quantized, and int8 weights have no gradients: it cannot be trained itself. Pass "
            "freeze_student=True, so that only an adapter over it and the head learn, or train a student in float and "
            "quantize the result: from_pretrained(..., quantization_config=..., freeze_student=True)."
        )


def float_config(student: PreTrainedModel) -> PreTrainedConfig:
    """A copy of the student's configuration that builds it in float.

    How it is quantized belongs to the configuration of the whole model, where transformers reads it.

    Raises:
        ValueError: The student is quantized, but not by `from_pretrained` with torchao, so that no checkpoint of it
            could be written or read again.
    """
    config = copy.deepcopy(student.config)
    quantization = config.__dict__.pop("quantization_config", None)
    method = getattr(quantization, "quant_method", None)
    if method != ("torchao" if is_quantized(student) else None):
        raise ValueError(
            f"A {type(student).__name__} quantized by {getattr(method, 'value', method) or 'hand'} is no student. "
            "Supported are torchao's tensors, loaded by AutoModel.from_pretrained(..., quantization_config="
            "TorchAoConfig(Int8WeightOnlyConfig()))."
        )
    return config


def keep_quantization(student: PreTrainedModel, model: PreTrainedModel) -> None:
    """Let `model`, which holds the student's weights, be saved and loaded as quantized as the student is."""
    if not is_quantized(student):
        return
    quantization = copy.deepcopy(student.config.quantization_config)
    quantization.modules_to_not_convert = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and not is_quantized(module)
    ]
    model.config.quantization_config = quantization
    model.hf_quantizer = AutoHfQuantizer.from_config(quantization)


def spare_float_parts(quantization: QuantizationConfigMixin | dict) -> QuantizationConfigMixin | dict:
    """A copy of a `quantization_config` for a whole AlAd model that leaves adapter and head alone.

    Raises:
        ValueError: It is not torchao's: other methods name what they leave alone in other ways.
    """
    spared = copy.deepcopy(quantization)
    fields = spared if isinstance(spared, dict) else vars(spared)
    method = fields.get("quant_method")
    if method != "torchao":
        raise ValueError(
            f"quantization_config is for {getattr(method, 'value', method)!r}; AlAd models are quantized by torchao: "
            "TorchAoConfig(Int8WeightOnlyConfig())."
        )
    fields["modules_to_not_convert"] = [*(fields.get("modules_to_not_convert") or []), *FLOAT_PARTS]
    return spared


@contextmanager
def asking_for_torchao() -> Iterator[None]:
    """Say what to install where a quantized checkpoint meets a machine without torchao."""
    try:
        yield
    except ImportError as error:
        if "torchao" not in str(error):
            raise
        raise ImportError(
            "This checkpoint is quantized by torchao, which is not installed here: pip install torchao."
        ) from error


__all__ = [
    "asking_for_torchao",
    "check_frozen",
    "float_config",
    "is_quantized",
    "keep_quantization",
    "plain_tensors",
    "spare_float_parts",
]
