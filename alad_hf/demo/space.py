"""A folder that is a Space as it stands: the app, this package, its requirements, and local models."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from ..export import is_onnx_folder

_PACKAGE = Path(__file__).resolve().parents[1]
_APP = """\
from alad_hf.demo import build_demo

demo = build_demo({arguments})

if __name__ == "__main__":
    demo.launch()
"""
_README = """\
---
title: {title}
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
---

Written by `alad-hf demo --write-space`. `python app.py` opens the page here; pushed to a Space, it opens there.
"""


def write_space(
    folder: str | os.PathLike[str], models: list[str], *, teacher: str | None = None, trust_remote_code: bool = False
) -> Path:
    """Write a Space that shows models: `app.py`, `requirements.txt`, `README.md`, `alad_hf/` and `models/`.

    Local models are copied into it, without their checkpoints of training; a name that is no folder here is taken for
    a Hub id, and fetched by the Space. The package is copied, too, so that the Space runs what was tried here.

    Args:
        folder: A new or empty folder.
        models: See `build_demo`.
        teacher: See `build_demo`.
        trust_remote_code: See `build_demo`.

    Returns:
        The folder.

    Raises:
        ValueError: `models` is empty, or a name is neither a folder here nor a Hub id.
        FileExistsError: The folder has something in it.
        ImportError: gradio or this package is not installed by pip, whose versions the Space is to have.
    """
    target = Path(folder)
    names = [*models, *([] if teacher is None else [teacher])]
    if not models:
        raise ValueError("models is empty; name at least one folder or Hub id.")
    try:
        gradio = metadata.version("gradio")
        requirements = _requirements({"demo", *(["export"] if any(map(is_onnx_folder, names)) else [])})
    except metadata.PackageNotFoundError as error:
        raise ImportError(
            f'{error.name} is not installed, and the Space needs it: pip install "alad_hf[demo]".'
        ) from error
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is there already and not empty; name a new folder for the Space.")
    for name in names:
        if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            raise ValueError(f"{name!r} is neither a folder here nor a Hub id such as org/name.")
        if target.resolve().is_relative_to(Path(name).resolve()):
            raise ValueError(f"The Space at {target} would lie within the model at {name}; name a folder elsewhere.")
    target.mkdir(parents=True, exist_ok=True)
    placed = [_place(name, target) for name in names]
    arguments = [repr(placed[: len(models)])]
    if teacher is not None:
        arguments.append(f"teacher={placed[-1]!r}")
    if trust_remote_code:
        arguments.append("trust_remote_code=True")
    title = " and ".join(name.rpartition("/")[2] for name in placed)
    (target / "app.py").write_text(_APP.format(arguments=", ".join(arguments)), encoding="utf-8")
    (target / "README.md").write_text(_README.format(title=json.dumps(title), gradio=gradio), encoding="utf-8")
    (target / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    shutil.copytree(_PACKAGE, target / "alad_hf", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def _place(name: str, target: Path) -> str:
    """Copy a local model into the Space, under a name of its own; a Hub id stays as it is."""
    if not Path(name).is_dir():
        return name
    source = Path(name).resolve()
    place, number = Path("models") / source.name, 2
    while (target / place).exists():
        place, number = Path("models") / f"{source.name}-{number}", number + 1
    shutil.copytree(source, target / place, ignore=shutil.ignore_patterns("checkpoint*", "__pycache__"))
    return place.as_posix()


def _requirements(extras: set[str]) -> list[str]:
    """What this package needs, with some of its extras."""
    declared = [Requirement(line) for line in metadata.requires("alad_hf") or []]
    wanted = [
        one for one in declared if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    ]
    return sorted(f"{one.name}{one.specifier}" for one in wanted)


__all__ = ["write_space"]
