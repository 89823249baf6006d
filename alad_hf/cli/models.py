"""Models that are named on the command line."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from ..hub.finished_models import load_finished
from ..hub.pretrained_weights import resolve_pretrained
from ..models.alad_construction import is_empty
from ..models.student import load_student

Kind = Literal["tagger", "answerer", "encoder"]
Backend = Literal["torch", "onnx"]
Loaded: TypeAlias = tuple[Kind, Any, PreTrainedTokenizerBase]

_AUTO_CLASSES: dict[str, Any] = {"tagger": AutoModelForTokenClassification, "answerer": AutoModelForQuestionAnswering}


def kind_of(name: str, trust_remote_code: bool = False) -> Kind:
    """What a checkpoint is for, by the architecture that its config names."""
    architectures = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code).architectures or []
    for part, kind in (("ForTokenClassification", "tagger"), ("ForQuestionAnswering", "answerer")):
        if any(part in architecture for architecture in architectures):
            return kind  # type: ignore[return-value]
    return "encoder"


def load_model(
    name: str,
    device: str = "cpu",
    backend: Backend | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """Load a model with the head that it was saved with, and its tokenizer.

    Args:
        name: Folder or Hub id.
        device: Where the model goes.
        backend: What runs it; by default ONNX for a folder that `alad-hf export` wrote.
        threads: Of the CPU; by default what the backend takes.
        trust_remote_code: Whether code that lies beside a tagger or question answerer, in torch or ONNX, may be run.

    Returns:
        What it is for, the model in eval mode, and the tokenizer.

    Raises:
        ValueError: An ONNX model on another device than the CPU, a device that is not there, or no tokenizer.
    """
    from ..export import is_onnx_folder, load_onnx

    if backend == "onnx" or (backend is None and is_onnx_folder(name)):
        if device != "cpu":
            raise ValueError(f"ONNX models run on the CPU: leave out --device {device}, or take the torch model.")
        onnx_model, tokenizer = load_onnx(name, threads=threads, trust_remote_code=trust_remote_code)
        kinds: dict[str, Kind] = {"token-classification": "tagger", "question-answering": "answerer"}
        return kinds[onnx_model.task], onnx_model, tokenizer
    if threads is not None:
        torch.set_num_threads(threads)
    source = resolve_pretrained(name)
    trust = {"trust_remote_code": trust_remote_code}
    kind = kind_of(source, **trust)
    model: Any = load_student(source) if kind == "encoder" else load_finished(_AUTO_CLASSES[kind], source, **trust)
    remedy = "Save the model's own there, by tokenizer.save_pretrained(...)."
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **trust)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"The tokenizer of {name!r} cannot be loaded: {reason} {remedy}") from error
    if is_empty(tokenizer):
        raise ValueError(f"{name!r} holds no tokenizer. {remedy}")
    try:
        model = model.to(device)
    except (AssertionError, RuntimeError) as error:  # torch has its own ways to say that there is none
        reason = str(error).partition("\n")[0]
        raise ValueError(f"There is no device {device!r} here ({reason}): leave out --device.") from error
    return kind, model.eval(), tokenizer


def load_task_model(
    name: str,
    device: str = "cpu",
    backend: Backend | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """Load a tagger or a question answerer; see `load_model`.

    Raises:
        ValueError: It is neither.
    """
    kind, model, tokenizer = load_model(name, device, backend, threads, trust_remote_code)
    if kind == "encoder":
        raise ValueError(
            f"{name} is a {type(model).__name__} without a head: it neither tags nor answers. Train it with "
            "`alad-hf train`, or name a trained model."
        )
    return kind, model, tokenizer
