"""Where the teacher's signal comes from."""

from __future__ import annotations

from .teacher_cache import cache_teacher_states

__all__ = ["cache_teacher_states"]
