"""The packages of the extra `export`, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(name: str) -> Any:  # noqa: ANN401 - a module without types
    """Import a module of the extra `export`.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'{name} cannot be imported ({error}): pip install "alad_hf[export]".') from error


__all__ = ["import_extra"]
