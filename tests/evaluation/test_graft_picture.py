"""The picture of a graft shows every head once, under the name it had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny import tiny_config

from alad_hf.evaluation.graft_picture import draw_graft

RECORD = {
    "method": "grafting",
    "layer_map": [[0, 1], [2]],
    "heads": [[[1, 0], [0, 3], [1, 2]], [[2, 0], [2, 1]]],
    "neurons": [[5, 7], [9]],
}


def test_every_head_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").rcParams["svg.fonttype"] = "none"  # text stays text
    config = tiny_config()
    config.compression = RECORD
    picture = draw_graft(config, tmp_path / "graft.svg").read_text(encoding="utf-8")
    for name in ("1.0", "0.3", "1.2", "2.0", "2.1"):
        assert picture.count(f">{name}<") == 1
    assert ">0.0<" not in picture


def test_a_model_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="graft_layers and prune_width record that"):
        draw_graft(tiny_config(), tmp_path / "graft.svg")


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    config = tiny_config()
    config.compression = RECORD
    with pytest.raises(ImportError, match=r"pip install 'alad_hf\[plots\]'"):
        draw_graft(config, tmp_path / "graft.svg")
