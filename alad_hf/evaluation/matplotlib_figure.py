"""Where pictures are drawn on, if the extra for them is there."""

from __future__ import annotations

from pathlib import Path
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


def check_picture(path: Path, coming: Path | None = None) -> None:
    """Raise unless a picture can be drawn there, so that this is known before the work whose result it shows.

    Args:
        path: Where the picture goes.
        coming: A folder that will be there by then.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: It writes no files with this ending.
        FileNotFoundError: There is no such folder.
        IsADirectoryError: `path` is a folder.
    """
    figure_class()
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"{str(path)!r} ends in {path.suffix!r}, and pictures end in one of {kinds}: name it so.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file for the picture.")
    if not path.parent.is_dir() and (coming is None or path.parent.resolve() != coming.resolve()):
        raise FileNotFoundError(f"There is no folder {path.parent} for the picture {path.name}: make it first.")


__all__ = ["check_picture", "figure_class"]
