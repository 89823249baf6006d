"""A folder that is a Space as it stands: the app, this package, its requirements, and local models."""

from __future__ import annotations

import logging
import os
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, metadata_save
from packaging.requirements import Requirement

from ..export import is_onnx_folder
from ..export.onnx_runtime import DESCRIPTION_FILE, MODEL_FILE
from ..hub.push import files_of_model

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
_APP = """\
from alad_hf.demo import build_demo

demo = build_demo({arguments})

if __name__ == "__main__":
    demo.launch()
"""
_README = """
Written by `alad-hf demo --write-space`. `python app.py` opens the page here; on a Space of the Hub, it opens there.
"""
_OF_A_NEW_SPACE = {".git", ".gitattributes", "README.md"}
"""What a clone of a Space holds that was just made on the Hub."""
# From git, the Hub takes binary files and those above 10 MB through LFS alone.
_LARGE_FILES = [
    f"{form} filter=lfs diff=lfs merge=lfs -text"
    for form in ("*.safetensors", "*.onnx", "*.model", "*.png", "tokenizer.json")
]


def write_space(
    folder: str | os.PathLike[str], models: list[str], *, teacher: str | None = None, trust_remote_code: bool = False
) -> Path:
    """Write a Space that shows models: `app.py`, `requirements.txt`, `README.md`, `alad_hf/` and `models/`.

    Local models are copied into it: of their folders what `push_checkpoint` would publish, and one message names what
    stays behind. A name that is no folder here is taken for a Hub id, and fetched by the Space. The package is copied,
    too, so that the Space runs what was tried here.

    Args:
        folder: A new or empty folder, or the clone of a Space that was just made on the Hub. Of its `README.md` only
            what the page needs is set in the front matter, and its `.gitattributes` is added to.
        models: See `build_demo`.
        teacher: See `build_demo`.
        trust_remote_code: See `build_demo`.

    Returns:
        The folder.

    Raises:
        ValueError: `models` is empty, a name is neither a folder here nor a Hub id, or a folder lacks a part of a
            model; the message names the part.
        FileExistsError: The folder has something else in it.
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
    _check_free(target)
    for name in names:
        if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            raise ValueError(f"{name!r} is neither a folder here nor a Hub id such as org/name.")
        if target.resolve().is_relative_to(Path(name).resolve()):
            raise ValueError(f"The Space at {target} would lie within the model at {name}; name a folder elsewhere.")
    files = {name: _files(Path(name)) for name in names if Path(name).is_dir()}
    target.mkdir(parents=True, exist_ok=True)
    placed = [_place(Path(name), files[name], target) if name in files else name for name in names]
    arguments = [repr(placed[: len(models)])]
    if teacher is not None:
        arguments.append(f"teacher={placed[-1]!r}")
    if trust_remote_code:
        arguments.append("trust_remote_code=True")
    title = " and ".join(name.rpartition("/")[2] for name in placed)
    (target / "app.py").write_text(_APP.format(arguments=", ".join(arguments)), encoding="utf-8")
    (target / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    _write_readme(target / "README.md", title, gradio)
    _write_attributes(target / ".gitattributes")
    shutil.copytree(_PACKAGE, target / "alad_hf", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def _check_free(target: Path) -> None:
    if not target.exists():
        return
    held = sorted(path.name for path in target.iterdir()) if target.is_dir() else ["a file"]
    if not _OF_A_NEW_SPACE.issuperset(held):
        raise FileExistsError(
            f"{target} is there already and not empty ({', '.join(held[:5])}); name a new folder, or the clone of a "
            f"new Space, which holds {', '.join(sorted(_OF_A_NEW_SPACE))} alone."
        )


def _files(folder: Path) -> list[str]:
    return files_of_model(folder, (MODEL_FILE, DESCRIPTION_FILE) if is_onnx_folder(folder) else ())


def _place(source: Path, files: list[str], target: Path) -> str:
    """Copy a local model into the Space, under a name of its own."""
    source = source.resolve()
    place, number = Path("models") / source.name, 2
    while (target / place).exists():
        place, number = Path("models") / f"{source.name}-{number}", number + 1
    (target / place).mkdir(parents=True)
    for name in files:
        shutil.copyfile(source / name, target / place / name)
    left_out = sorted(path.name for path in source.iterdir() if path.name not in files)
    if left_out:
        logger.warning("Not copied from %s: %s.", source, ", ".join(left_out))
    return place.as_posix()


def _write_readme(path: Path, title: str, gradio: str) -> None:
    """Set what the page needs in the front matter of the README; its text and other settings stay as they are."""
    if not path.exists():
        path.write_text(_README, encoding="utf-8")
    needed = {"sdk": "gradio", "sdk_version": gradio, "python_version": "3.11", "app_file": "app.py"}
    settings: dict[str, Any] = {"title": title, **(metadata_load(path) or {}), **needed}
    metadata_save(path, settings)


def _write_attributes(path: Path) -> None:
    """Have git send large files through LFS; lines that are there stay."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines += [line for line in _LARGE_FILES if line not in lines]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _requirements(extras: set[str]) -> list[str]:
    """What this package needs, with some of its extras."""
    declared = [Requirement(line) for line in metadata.requires("alad_hf") or []]
    wanted = [
        one for one in declared if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
    ]
    return sorted(f"{one.name}{one.specifier}" for one in wanted)


__all__ = ["write_space"]
