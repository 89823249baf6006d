"""What the documents say of the tests is so."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMBINATIONS = (ROOT / "docs" / "combinations.md").read_text(encoding="utf-8")


def names_in(source: str) -> set[str]:
    """`test` and `Class::test` for every test of a file."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("test", sorted(set(re.findall(r"`(tests/[^`]*)`", COMBINATIONS))))
def test_every_test_that_is_named_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert name in names_in((ROOT / path).read_text(encoding="utf-8"))


def test_the_table_of_combinations_is_what_is_tested() -> None:
    path = ROOT / "tests" / "models" / "test_combinations.py"
    spec = importlib.util.spec_from_file_location("combinations", path)
    tested = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tested)
    lines = [line.strip("|").split("|") for line in COMBINATIONS.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line] for line in lines if len(line) > 2]
    assert rows[0] == ["student", "mode", *tested.TEACHERS]
    expected = {
        (student, mode): ["refused" if (student, mode) == ("int8", "joint") else "tested"] * len(tested.TEACHERS)
        for student in tested.STUDENTS
        for mode in ("plug-and-play", "joint")
    }
    assert {(student, mode): cells for student, mode, *cells in rows[1:]} == expected
