"""The student inside an AlAd model: any encoder that `AutoModel` builds, without a pooler nobody reads."""

from __future__ import annotations

import copy
import inspect
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .own_encoders import own_encoders
from .quantized_student import asking_for_torchao
from .shard_names import check_shard_names
from .teacher import accepted_arguments


def build_student(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the encoder that `config` describes, with random weights.

    Raises:
        ValueError: It is an encoder-decoder.
    """
    own = own_encoders().get(config.model_type)
    if own:
        return own(config)
    student = AutoModel.from_config(config, trust_remote_code=False, **_without_pooler(config))
    _check_no_encoder_decoder(student)
    return student


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Give parameters a dtype, and leave buffers that no checkpoint stores alone, as `from_pretrained` does.

    `model.to(dtype)` rounds the frequencies of rotary positions, too, and far positions then get wrong angles.
    """
    for parameter in model.parameters():
        if parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


def load_student(name_or_path: str, **kwargs: Any) -> PreTrainedModel:
    """Load a pretrained encoder; a task head or pooler in its checkpoint is left behind.

    Args:
        name_or_path: Folder or Hub id.
        **kwargs: For `from_pretrained`, such as `revision` or `token`. No code of the checkpoint is run without
            `trust_remote_code=True`, nor asked about.

    Raises:
        ValueError: The checkpoint lacks weights of the encoder itself, or is an encoder-decoder.
        ImportError: It is quantized by torchao, which is not installed.
    """
    kwargs.setdefault("trust_remote_code", False)
    check_shard_names(name_or_path, kwargs.get("subfolder", ""))
    config = AutoConfig.from_pretrained(name_or_path, **kwargs)
    with _without_loading_report(), asking_for_torchao():
        student, info = AutoModel.from_pretrained(
            name_or_path, config=config, output_loading_info=True, **_without_pooler(config), **kwargs
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"{name_or_path!r} lacks {len(missing)} tensors of a {type(student).__name__}, such as {missing[:3]}; "
            "a student needs a complete encoder."
        )
    _check_no_encoder_decoder(student)
    return student


def bare_encoder(student: nn.Module) -> PreTrainedModel:
    """The encoder under a model's task head; adapters of peft are merged into a copy of it.

    Raises:
        ValueError: Adapters that peft cannot merge into the weights, or a model that holds some itself in place of the
            `PeftModel` around it; or an encoder-decoder.
    """
    encoder = merged(student).base_model
    _check_no_encoder_decoder(encoder)
    return encoder


def merged(student: nn.Module) -> PreTrainedModel:
    """A model of transformers as it is, task head included; of a `PeftModel`, a copy with its adapters merged.

    Raises:
        ValueError: Adapters that peft cannot merge into the weights, or a model that holds some itself in place of the
            `PeftModel` around it.
    """
    if isinstance(student, PreTrainedModel):
        if holds_peft_layers(student):
            raise ValueError(
                f"This {type(student).__name__} carries peft adapters among its own layers (add_adapter, load_adapter "
                "or inject_adapter_in_model, or it was given to get_peft_model). Give the PeftModel around it, as "
                "get_peft_model or peft.PeftModel.from_pretrained(...) return it: that is merged into an ordinary "
                "student."
            )
        return student
    if not hasattr(student, "merge_and_unload"):
        kinds = sorted({config.peft_type.value for config in getattr(student, "peft_config", {}).values()})
        raise ValueError(
            f"A {type(student).__name__} {kinds} is no student: it is no transformers model, nor adapters that can be "
            "merged into one. Take a method that changes weights, such as LoRA."
        )
    return copy.deepcopy(student).merge_and_unload()


def holds_peft_layers(student: nn.Module) -> bool:
    """Whether peft replaced layers of the model; where peft is not loaded, nothing did."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    return tuners is not None and any(isinstance(module, tuners.BaseTunerLayer) for module in student.modules())


def _check_no_encoder_decoder(student: nn.Module) -> None:
    if "decoder_input_ids" in accepted_arguments(student):
        raise ValueError(
            f"A {type(student).__name__} is an encoder-decoder, whose last states belong to the decoder, which does "
            "not see the tokens that follow. Take an encoder or a decoder alone as the student, such as a BertModel."
        )


def _without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    model_class = MODEL_MAPPING.get(type(config), None)
    if inspect.isclass(model_class) and "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
        return {"add_pooling_layer": False}
    return {}


@contextmanager
def _without_loading_report() -> Iterator[None]:
    """Silence the table of unexpected keys that a dropped pooler or head would print; missing keys raise above.

    A filter and not a level: at level ERROR transformers 5.23 prints a warning about tensor parallelism instead.
    """
    loading = logging.getLogger("transformers.modeling_utils")

    def is_no_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loading.addFilter(is_no_report)
    try:
        yield
    finally:
        loading.removeFilter(is_no_report)


__all__ = ["bare_encoder", "build_student", "cast_parameters", "load_student", "merged"]
