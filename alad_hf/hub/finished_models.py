"""Load a trained model, complete or not at all, and without running code that lies beside it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def load_finished(auto_class: Any, name_or_path: str, **kwargs: Any) -> PreTrainedModel:  # noqa: ANN401 - an Auto class
    """Load a model to be used as it is; `from_pretrained` alone would fill what is missing with random weights.

    Args:
        auto_class: Such as `AutoModelForTokenClassification`.
        name_or_path: Folder or Hub id.
        **kwargs: For `from_pretrained`, such as `revision` or `token`. No code of the checkpoint is run without
            `trust_remote_code=True`, nor asked about.

    Returns:
        The model in eval mode.

    Raises:
        ValueError: The checkpoint lacks weights of the model, or cannot be loaded without its own code.
        OSError: There is no such checkpoint.
    """
    kwargs.setdefault("trust_remote_code", False)
    kwargs.pop("output_loading_info", None)
    model, info = auto_class.from_pretrained(name_or_path, output_loading_info=True, **kwargs)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"{str(name_or_path)!r} lacks {len(missing)} tensors of a {type(model).__name__}, such as {missing[:3]}: "
            "it was not trained for this task, or is damaged, and would answer at random. Train it first, or name a "
            "finished model."
        )
    return model.eval()


__all__ = ["load_finished"]
