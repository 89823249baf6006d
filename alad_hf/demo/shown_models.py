"""The models of the page: loaded by name, run on a text, and timed on it."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..cli.models import Kind, load_task_model
from ..data.tag_schemes import split_tag
from ..evaluation.efficiency import count_parameters, stored_bytes
from ..export import OnnxModel
from ..export.onnx_runtime import MODEL_FILE
from ..question_answering import QuestionAnswerer
from ..tagging import marks_spans, tag_text
from ..word_prediction import label_names
from .comparison import Span

logger = logging.getLogger(__name__)

TIMED_RUNS = 5
TIME_LIMIT = 1.0
"""Seconds after which a run on the same text is not repeated."""
ANSWER = "answer"


@dataclass(frozen=True)
class ShownModel:
    """A model with what the page says of it."""

    name: str
    """What the page calls it."""
    kind: Kind
    model: Any
    tokenizer: PreTrainedTokenizerBase
    stored_megabytes: float
    """Millions of bytes of the weights on disk."""
    parameters: int | None
    """None for an ONNX model, whose weights are in its file."""
    is_teacher: bool = False

    @property
    def labels(self) -> list[str]:
        """The kinds of span that it can find."""
        if self.kind == "answerer":
            return [ANSWER]
        tags = [tag for tag in label_names(self.model) if tag != "O"]
        if marks_spans(label_names(self.model)):
            tags = [split_tag(tag)[1] for tag in tags]
        return list(dict.fromkeys(tags))

    def read(self, text: str, question: str = "") -> list[Span]:
        """Find the spans of a text of any length, or the answer to a question in it."""
        if self.kind == "answerer":
            answer: Any = QuestionAnswerer(self.model, self.tokenizer)(question, text)
            return [Span(answer["start"], answer["end"], ANSWER, answer["score"])]
        items = next(tag_text(self.model, self.tokenizer, [text]))
        return [Span(item["start"], item["end"], item["label"], item["score"]) for item in items]


@dataclass(frozen=True)
class Reading:
    """What a model made of a text, and in what time."""

    model: ShownModel
    spans: list[Span]
    milliseconds: float
    """Median of the runs, from the string to the spans."""
    runs: int
    problem: str = ""
    """Why there are no spans, where the model failed."""


def load_shown_models(
    models: list[str], teacher: str | None = None, *, trust_remote_code: bool = False, device: str = "cpu"
) -> list[ShownModel]:
    """Load the models of a page.

    Args:
        models: Folders or Hub ids.
        teacher: Another one, which the others are compared with; it comes last.
        trust_remote_code: Whether code that lies beside the models may be run.
        device: Where they run.

    Raises:
        ValueError: There is no model, one neither tags nor answers, or some tag and some answer.
        OSError: There is no such model.
    """
    names = [*models, *([] if teacher is None else [teacher])]
    if not models:
        raise ValueError("models is empty; name at least one folder or Hub id of a tagger or a question answerer.")
    shown = []
    for position, (name, short) in enumerate(zip(names, _short_names(names), strict=True)):
        kind, model, tokenizer = load_task_model(name, device, trust_remote_code=trust_remote_code)
        is_onnx = isinstance(model, OnnxModel)
        size = (Path(name) / MODEL_FILE).stat().st_size if is_onnx else stored_bytes(model)
        parameters = None if is_onnx else count_parameters(model)
        shown.append(ShownModel(short, kind, model, tokenizer, size / 1e6, parameters, position >= len(models)))
    if len({one.kind for one in shown}) > 1:
        kinds = ", ".join(f"{one.name}: {one.kind}" for one in shown)
        raise ValueError(f"A page compares models of one kind, and these are of two: {kinds}. Open a page for each.")
    return shown


def read_and_time(model: ShownModel, text: str, question: str = "") -> Reading:
    """Run a model on a text, and again while that is quick, for the time of a warm model.

    The first run warms the model up and counts only if it takes longer than `TIME_LIMIT`.
    """
    times: list[float] = []
    spans: list[Span] = []
    try:
        begin = time.perf_counter()
        while len(times) < 1 + TIMED_RUNS and (not times or time.perf_counter() - begin < TIME_LIMIT):
            start = time.perf_counter()
            spans = model.read(text, question)
            times.append(time.perf_counter() - start)
    except (ValueError, RuntimeError) as error:
        logger.warning("%s could not read the text: %s", model.name, error)
        return Reading(model, [], 0.0, 0, problem=str(error))
    warm = times[1:] or times
    return Reading(model, spans, 1000 * statistics.median(warm), len(warm))


def _short_names(names: list[str]) -> list[str]:
    """The last parts of the names, as few as tell them apart."""
    parts = [Path(name).resolve().parts if Path(name).exists() else tuple(name.split("/")) for name in names]
    length = 1
    while len({part[-length:] for part in parts}) < len(set(parts)):
        length += 1
    return ["/".join(part[-length:]) for part in parts]


__all__ = ["ANSWER", "Reading", "ShownModel", "load_shown_models", "read_and_time"]
