"""Export a tagger or question answerer to ONNX, checked against torch, as a folder that runs without torch's model."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..evaluation_mode import evaluation_mode
from ..hub.finished_models import load_finished
from ..hub.pinned_wheels import file_sha256
from ..models.quantized_student import is_quantized
from ..models.teacher import accepted_arguments
from ..question_answering import evaluate_question_answerer
from ..tagging import evaluate_tagger
from .agreement import TRACED_SHAPE, Agreement, compare_models, sample_batch
from .onnx_runtime import DESCRIPTION_FILE, MODEL_FILE, OUTPUTS, OnnxModel
from .optional_packages import import_extra
from .quantization import quantize_to_int8
from .shared_weights import point_at_shared_weights
from .tracing import trace_to_onnx

Task = Literal["token-classification", "question-answering"]
Quantization = Literal["int8"]

TOLERANCES: dict[str | None, float] = {None: 1e-4, "int8": 0.2}
"""Largest accepted `difference` by `quantize`. That of int8 is wide, set by hand: it finds broken files, no more."""
OPSETS = range(18, 21)
"""18 is the first with the bit operations of compressed embeddings, 20 the last that torch's exporter writes."""

_HEADS: dict[Task, str] = {
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
}
_AUTO_CLASSES: dict[Task, Any] = {
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class ExportError(RuntimeError):
    """The model could not be exported, or what came out does not give its answers."""


@dataclass(frozen=True)
class ExportReport:
    """What an export gave; `onnx_export.json` beside the model holds the same.

    Attributes:
        folder: Where it lies.
        task: What the model is for.
        model_class: The class that was exported.
        quantize: "int8", or None for float32.
        opset: The version of ONNX's operators.
        inputs: Names of the inputs, each (batch, tokens) of int64.
        outputs: Names of the outputs.
        bytes: Size of `model.onnx`.
        sha256: Of `model.onnx`.
        difference: Root mean square difference of the logits from torch's, as a share of theirs.
        tolerance: The largest `difference` that was accepted.
        same_decision: Share of tokens with the same best label or, of question answering, of the same best starts and
            ends; on random tokens, where models are less sure than on text.
        scores: Of a data set, if one was given: `{"torch": {...}, "onnx": {...}}`.
    """

    folder: Path
    task: Task
    model_class: str
    quantize: Quantization | None
    opset: int
    inputs: list[str]
    outputs: list[str]
    bytes: int
    sha256: str
    difference: float
    tolerance: float
    same_decision: float
    scores: dict[str, dict[str, float]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON takes it, without the folder."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def export_onnx(
    model: PreTrainedModel | str | os.PathLike[str],
    output_folder: str | os.PathLike[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    quantize: Quantization | None = None,
    tolerance: float | None = None,
    opset: int = OPSETS.start,
    dataset: Dataset | None = None,
    **kwargs: Any,
) -> ExportReport:
    """Write a token classifier or question answerer as an ONNX file with everything that is needed to run it.

    The folder holds `model.onnx` (any batch, any length that the model takes), the tokenizer, `config.json` and
    `onnx_export.json`, which says what the export is. Before it appears, the file is run by onnxruntime against torch
    on random batches of several lengths, with padding. Weights that layers share are in the file once. The model
    stays as it is; it is exported in float32 as it computes in eval mode.

    Args:
        model: A token classifier or question answerer of any architecture, AlAd or not, or its folder or Hub id.
        output_folder: A folder that does not exist yet or is empty.
        tokenizer: The model's tokenizer; for a folder or Hub id, the one there if omitted.
        quantize: "int8" stores weights in int8 and runs products in it, None keeps float32.
        tolerance: The largest accepted root mean square difference of the logits as a share of torch's; 1e-4 if
            omitted, or 0.2 in int8.
        opset: Version of ONNX's operators, from 18 to 20.
        dataset: Rows to score before and after, as `evaluate_tagger` or `evaluate_question_answerer` takes them.
        **kwargs: For `from_pretrained` of a folder or Hub id, such as `revision` or `token`. No code of the checkpoint
            is run without `trust_remote_code=True`, nor asked about.

    Returns:
        The report.

    Raises:
        ImportError: The extra `export` is not installed.
        FileExistsError: The output folder has files in it.
        TypeError: The model has no head for either task, or is an object of some other library.
        ValueError: An argument is out of range or missing, or the model is quantized already.
        ExportError: torch cannot export the model, or the difference is above `tolerance`; nothing is left behind.

    Example:
        >>> report = export_onnx("my-tagger", "my-tagger-onnx", quantize="int8")  # doctest: +SKIP
        >>> report.difference < 0.2  # doctest: +SKIP
        True
    """
    for name in ("onnx", "onnxruntime"):
        import_extra(name)
    tolerance = _checked_tolerance(quantize, tolerance, opset)
    output_folder = Path(output_folder).absolute()
    _check_free(output_folder)
    model, tokenizer = _load(model, tokenizer, kwargs)
    task = _task_of(model)
    if is_quantized(model) or getattr(model.config, "quantization_config", None) is not None:
        raise ValueError(
            f"This {type(model).__name__} is quantized already (its weights are another library's tensors, which "
            "ONNX cannot hold). Load it in float, without quantization_config, and pass quantize='int8' (--int8) here."
        )
    with _written_whole(output_folder) as folder, _as_exported(model) as exported:
        names = [name for name in _INPUTS if name in {*tokenizer.model_input_names} & accepted_arguments(exported)]
        sample = sample_batch(exported.config, tokenizer, names, TRACED_SHAPE, seed=0)
        try:
            trace_to_onnx(exported, sample, OUTPUTS[task], opset, folder / MODEL_FILE)
        except Exception as error:  # whatever an architecture does that cannot be traced
            reason = str(error).partition("\n")[0]  # torch goes on for pages
            raise ExportError(f"torch cannot export a {type(model).__name__} to ONNX: {reason}") from error
        point_at_shared_weights(folder / MODEL_FILE)
        if quantize:
            source = (folder / MODEL_FILE).rename(folder / "float.onnx")
            quantize_to_int8(source, folder / MODEL_FILE)
            source.unlink()
        runnable = OnnxModel(folder / MODEL_FILE, exported.config, task)
        agreement = _agreement(exported, runnable, tokenizer, names, tolerance)
        scores = None
        if dataset is not None:
            evaluate = evaluate_tagger if task == "token-classification" else evaluate_question_answerer
            pairs = (("torch", exported), ("onnx", runnable))
            scores = {name: evaluate(side, tokenizer, dataset) for name, side in pairs}  # type: ignore[arg-type]
        report = ExportReport(
            folder=output_folder,
            task=task,
            model_class=type(model).__name__,
            quantize=quantize,
            opset=opset,
            inputs=[name for name in names if name in runnable.input_names],  # those that the graph reads
            outputs=OUTPUTS[task],
            bytes=(folder / MODEL_FILE).stat().st_size,
            sha256=file_sha256(folder / MODEL_FILE),
            difference=agreement.difference,
            tolerance=tolerance,
            same_decision=agreement.same_decision,
            scores=scores,
        )
        config = copy.deepcopy(exported.config)
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / DESCRIPTION_FILE).write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    return report


def _checked_tolerance(quantize: str | None, tolerance: float | None, opset: int) -> float:
    if quantize not in TOLERANCES:
        raise ValueError(f"quantize={quantize!r} must be 'int8', or None for float32.")
    if opset not in OPSETS:
        raise ValueError(f"opset={opset} must be from {OPSETS.start} to {OPSETS.stop - 1}.")
    tolerance = TOLERANCES[quantize] if tolerance is None else tolerance
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} must be 0 or more.")
    return tolerance


def _agreement(
    model: PreTrainedModel,
    runnable: OnnxModel,
    tokenizer: PreTrainedTokenizerBase,
    names: list[str],
    tolerance: float,
) -> Agreement:
    """Compare the model with its export.

    Raises:
        ExportError: They differ by more than `tolerance`, or the export cannot take some length.
    """
    kind = type(model).__name__
    try:
        agreement = compare_models(model, runnable, model.config, tokenizer, names)
    except (ValueError, RuntimeError, IndexError) as error:
        raise ExportError(f"The exported {kind} does not run as torch's does: {error}") from error
    if not agreement.difference <= tolerance:
        raise ExportError(
            f"The exported {kind} does not give torch's logits: their root mean square difference is "
            f"{agreement.difference:.3g} of the logits', above tolerance={tolerance:g} "
            f"({agreement.same_decision:.1%} of the decisions agree). In int8 a model may need a larger tolerance, to "
            "be judged by the scores on a dataset, or bear float32 alone; in float32 it uses something that the "
            "export does not follow, such as a Python number computed from the input."
        )
    return agreement


def _load(
    model: PreTrainedModel | str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase | None,
    kwargs: dict[str, Any],
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        kwargs = {"trust_remote_code": False, **kwargs}
        architectures = AutoConfig.from_pretrained(name, **kwargs).architectures or []
        task = _task_by_name(architectures)
        if task is None:
            raise TypeError(_no_head(f"{name!r}, of {architectures},"))
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(name, **kwargs)
        return load_finished(_AUTO_CLASSES[task], name, **kwargs), tokenizer
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"A {type(model).__name__} is no model of transformers. Merge adapters of peft first "
            "(merge_and_unload()); for anything else use torch.onnx.export."
        )
    if kwargs:
        raise ValueError(f"{sorted(kwargs)} are for loading, but the model is loaded already: leave them out.")
    if tokenizer is None:
        raise ValueError("tokenizer is missing: the folder must be complete, so pass tokenizer=... with a model.")
    return model, tokenizer


def _task_of(model: PreTrainedModel) -> Task:
    task = _task_by_name([type(model).__name__])
    if task is None:
        raise TypeError(_no_head(f"A {type(model).__name__}"))
    return task


def _task_by_name(classes: list[str]) -> Task | None:
    return next((task for task, head in _HEADS.items() if any(head in name for name in classes)), None)


def _no_head(what: str) -> str:
    return (
        f"{what} has no head for token classification or question answering, the tasks that are exported. Load it "
        "with AutoModelForTokenClassification or AutoModelForQuestionAnswering."
    )


@contextmanager
def _as_exported(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model on the CPU, in float32 and in eval mode; a copy where it is not, or itself put back afterwards."""
    if any(parameter.device.type != "cpu" or parameter.dtype != torch.float32 for parameter in model.parameters()):
        yield copy.deepcopy(model).cpu().float().eval()
        return
    with evaluation_mode(model):
        yield model


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(
            f"{str(folder)!r} exists and is not an empty folder. Nothing is overwritten: name a new one, or remove it."
        )


@contextmanager
def _written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder` at the end, or goes away where an error comes up."""
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        _check_free(folder)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


__all__ = ["ExportError", "ExportReport", "export_onnx"]
