"""A page that shows models at work, side by side: for this machine, or for a Space."""

from __future__ import annotations

from .launch import build_demo, launch_demo
from .space import write_space

__all__ = ["build_demo", "launch_demo", "write_space"]
