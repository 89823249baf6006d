"""The student inside an AlAd model: any encoder that `AutoModel` builds, without a pooler nobody reads."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel


def build_student(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the encoder that `config` describes, with random weights."""
    return AutoModel.from_config(config, **_without_pooler(config))


def load_student(name_or_path: str, **kwargs: Any) -> PreTrainedModel:
    """Load a pretrained encoder; a task head or pooler in its checkpoint is left behind.

    Args:
        name_or_path: Folder or Hub id.
        **kwargs: For `from_pretrained`, such as `revision` or `token`.

    Raises:
        ValueError: The checkpoint lacks weights of the encoder itself.
    """
    config = AutoConfig.from_pretrained(name_or_path, **kwargs)
    with _without_loading_report():
        student, info = AutoModel.from_pretrained(
            name_or_path, config=config, output_loading_info=True, **_without_pooler(config), **kwargs
        )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"{name_or_path!r} lacks {len(missing)} tensors of a {type(student).__name__}, such as {missing[:3]}; "
            "a student needs a complete encoder."
        )
    return student


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


__all__ = ["build_student", "load_student"]
