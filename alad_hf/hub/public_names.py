"""Names that may be published: Hub ids as they are, and of a path on somebody's machine only its last part."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .pinned_wheels import PINNED_WHEELS

_HUB_CACHE_FOLDER = re.compile(r"(?:^|[/\\])(?:models|datasets)--([^/\\]+)")
_ABSOLUTE_PATH = re.compile(r"(?:/|~|\\\\|[A-Za-z]:[\\/])")
# Not the slashes of `and/or`, `3/4` or a URL. A word behind a blank belongs to a path if it has a slash, too: folders
# may have blanks in their names.
_PATH_IN_TEXT = re.compile(
    r"(?:file:/*(?=/)|(?<![\w/:.]))(?:~?/|[A-Za-z]:[\\/])[^\s\"'`(),;]+(?: [^\s\"'`(),;/\\]+[/\\][^\s\"'`(),;]+)*"
)


def hub_id(name: str | None) -> str | None:
    """The Hub id that a name stands for, or None where it stands for none.

    `organisation/model` is one unless there is a local folder of that name. A path is one if it leads into a cache
    whose layout tells the id: that of huggingface_hub, or a model folder that `resolve_pretrained` built.

    Args:
        name: What was given to `from_pretrained` or `load_dataset`.

    Example:
        >>> hub_id("/home/ada/.cache/huggingface/hub/models--prajjwal1--bert-tiny/snapshots/6f7")
        'prajjwal1/bert-tiny'
        >>> hub_id("./my-student") is None
        True
    """
    if not name:
        return None
    cached = _HUB_CACHE_FOLDER.search(name)
    if cached:
        return cached.group(1).replace("--", "/")
    last_two = "/".join(_parts(name)[-2:])
    if last_two in PINNED_WHEELS:
        return last_two
    if name.count("/") != 1 or _looks_local(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def public_name(name: str) -> str:
    """A name without anything of the machine: the Hub id, the last part of a path, else the name itself.

    Args:
        name: A Hub id, a path, or a name in words.

    Example:
        >>> public_name("/home/ada/runs/teacher")
        'teacher'
    """
    known = hub_id(name)
    if known is not None:
        return known
    parts = _parts(name)
    return parts[-1] if parts and _looks_local(name) else name


def without_paths(text: str) -> str:
    """Replace the absolute paths in a text by their public names.

    Args:
        text: Any value in words, such as a hyper-parameter.
    """
    if _ABSOLUTE_PATH.match(text):
        return public_name(text)
    return _PATH_IN_TEXT.sub(lambda path: public_name(path.group()), text)


def _looks_local(name: str) -> bool:
    is_path = bool(_ABSOLUTE_PATH.match(name)) or name.startswith(".") or "\\" in name or name.count("/") > 1
    return is_path or Path(name).exists()


def _parts(name: str) -> list[str]:
    flavour = PureWindowsPath if "\\" in name or re.match(r"[A-Za-z]:", name) else PurePosixPath
    path = flavour(name)
    return [part for part in path.parts if part != path.anchor and part not in ("..", "~")]


__all__ = ["hub_id", "public_name", "without_paths"]
