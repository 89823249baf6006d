"""`python -m alad_hf.cli` is `alad-hf`."""

from __future__ import annotations

from . import main

main()
