"""Where pictures are drawn on, if the extra for them is there."""

from __future__ import annotations

from typing import Any


def figure_class() -> Any:  # noqa: ANN401
    """The `Figure` of matplotlib.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need matplotlib: pip install 'alad_hf[plots]'.") from error
    return Figure


__all__ = ["figure_class"]
