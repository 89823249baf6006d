"""The picture of scores against latency shows each model with its score."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from alad_hf.evaluation.score_picture import draw_scores

MODELS = {"teacher": (9.4, 42.81), "plain student": (3.0, 34.26), "this model": (3.4, 42.19)}


def test_every_model_is_named_with_its_score(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").rcParams["svg.fonttype"] = "none"  # text stays text
    picture = draw_scores(MODELS, tmp_path / "scores.svg", score="F1 on wnut17").read_text(encoding="utf-8")
    for text in ("teacher: 42.8", "plain student: 34.3", "this model: 42.2", "F1 on wnut17", "milliseconds"):
        assert f">{text}<" in picture


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model to draw"):
        draw_scores({}, tmp_path / "scores.png")


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'alad_hf\[plots\]'"):
        draw_scores(MODELS, tmp_path / "scores.png")
