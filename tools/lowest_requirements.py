"""Prints the lowest versions that pyproject.toml declares, as `name==version` lines for pip.

Usage: python tools/lowest_requirements.py [--only NAME | --without NAME]
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import tomllib

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def lowest_requirements(dependencies: list[str]) -> dict[str, str]:
    """Map the name of every dependency to its lower bound.

    Args:
        dependencies: Requirements such as `name>=1.2,<3`.

    Raises:
        ValueError: If a requirement has no lower bound, for then nobody can test it.
    """
    bounds = {}
    for dependency in dependencies:
        match = re.match(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9][^\s,;]*)", dependency)
        if match is None:
            raise ValueError(f"{PYPROJECT}: {dependency!r} must begin with a lower bound, as in 'name>=1.2,<3'")
        bounds[match[1]] = match[2]
    return bounds


def main() -> None:
    """Print one line for every dependency asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--only", metavar="NAME", help="print this dependency alone")
    choice.add_argument("--without", metavar="NAME", help="leave this dependency out")
    arguments = parser.parse_args()
    bounds = lowest_requirements(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"])
    for name in (arguments.only, arguments.without):
        if name is not None and name not in bounds:
            parser.error(f"no dependency is called {name!r}; declared are {', '.join(bounds)}")
    for name, version in bounds.items():
        if arguments.only in (None, name) and name != arguments.without:
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
