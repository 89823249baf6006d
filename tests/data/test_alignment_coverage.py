"""What is said about tokens that the teacher has no counterpart for, and when it is too little."""

from __future__ import annotations

import logging

import pytest

from alad_hf.data.alignment_coverage import RowCoverage, check_coverage, report_coverage


def row(tokens: int, covered: int, cut: bool = False, uncovered: str = "") -> RowCoverage:
    return {"tokens": tokens, "covered": covered, "cut": cut, "uncovered": uncovered}


@pytest.mark.parametrize(
    ("rows", "level", "message"),
    [
        ([row(10, 10), row(0, 0)], "INFO", "cover 100.0% of the student's 10 tokens. Tokens"),
        ([], "INFO", "cover 100.0% of the student's 0 tokens."),
        ([row(1_000_000, 999_999, uncovered="é")], "INFO", "cover 99.99% of the student's 1000000 tokens; nothing"),
        ([row(99, 99), row(1, 0, uncovered="\u200b")], "INFO", "cover 99.00% of the student's 100 tokens; nothing"),
        ([row(98, 98), row(2, 0, uncovered="\u200b")], "WARNING", "nothing stands for '\\u200b', for one."),
        ([row(9, 9), row(9, 3, True, "b"), row(2, 2)], "WARNING", "; 1 of 3 rows are too long for the teacher and"),
    ],
)
def test_one_line(rows: list[RowCoverage], level: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        report_coverage(rows)
    (record,) = caplog.records
    assert record.levelname == level
    assert message in record.message


def test_less_than_the_minimum_is_an_error() -> None:
    rows = [row(8, 8), row(2, 1, uncovered="\u200b")]
    check_coverage(rows, 0.9)
    check_coverage([], 1.0)
    with pytest.raises(
        ValueError, match=r"cover 90\.00%.*stands for '\\u200b'.*minimum_coverage=0\.91\. Clean the text"
    ):
        check_coverage(rows, 0.91)
    with pytest.raises(ValueError, match=r"1 of 3 rows are too long.*a smaller max_length.*teacher_max_length"):
        check_coverage([*rows, row(9, 1, True, "b")], 0.9)
