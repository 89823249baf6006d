"""Where the teacher's signal comes from."""

from __future__ import annotations

from .closed_form import fit_adapter
from .teacher_cache import cache_teacher_states

__all__ = ["cache_teacher_states", "fit_adapter"]
