"""The quickstart on tiny models: its table, its card, its model in a fresh process."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import DatasetDict
from test_recipes import dataset, student

from alad_hf.quickstart import Row, _with_gap, quickstart, tag_in_fresh_process


def test_compares_saves_and_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    lines: list[str] = []
    arguments = {
        "data": DatasetDict(train=dataset(8), validation=dataset(), test=dataset()),
        "encoder": student(tmp_path / "student"),
        "epochs": 2,
        "report": lines.append,
    }
    others = tmp_path / "out" / "mine" / "checkpoints"
    others.mkdir(parents=True)
    result = quickstart(tmp_path / "out", **arguments)
    assert others.exists()
    names = ["teacher", "plain student", "AlAd plug-and-play", "AlAd joint"]
    assert [row.name for row in result.rows] == names
    assert (result.metric, result.split) == ("f1", "test")
    assert lines == [f"Training: {name}" for name in names]
    teacher, plain, frozen, joint = result.rows
    assert plain.parameters < teacher.parameters
    assert plain.parameters < joint.parameters == frozen.parameters
    assert frozen.trained_parameters < joint.trained_parameters < joint.parameters  # all but the token embeddings
    assert joint.stored_megabytes == pytest.approx(joint.parameters * 4 / 1e6, rel=0.05)
    assert all(row.sentences_per_second > 0 for row in result.rows)

    card = (result.model_dir / "README.md").read_text(encoding="utf-8")
    assert all(name in card for name in names)
    assert str(tmp_path) not in card
    assert "| teacher | teacher |" in card.replace("`", "")
    assert {path.name for path in result.model_dir.iterdir() if path.is_dir()} == set()
    assert isinstance(tag_in_fresh_process(result.model_dir, "Smith visited New York ."), str)
    for resume in (False, True):  # a second call works, whether it starts anew or finds everything done
        again = quickstart(tmp_path / "out", **arguments, resume=resume)
        assert [row.score for row in again.rows] == [row.score for row in result.rows]
    with pytest.raises(RuntimeError, match="could not be used in a fresh process"):
        tag_in_fresh_process(tmp_path / "nowhere", "Smith")


def test_without_a_test_split_validation_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = dataset(8)
    words = [[*tokens, str(number)] for number, tokens in enumerate(rows["tokens"])]  # all of them different
    tags = rows.features["tags"].feature.str2int("O")
    rows = rows.map(lambda row, number: {"tokens": words[number], "tags": [*row["tags"], tags]}, with_indices=True)
    encoder = student(tmp_path / "student")
    result = quickstart(tmp_path / "out", data=DatasetDict(train=rows), encoder=encoder, epochs=1)
    assert result.split == "validation"
    assert "On the split `validation`" in (result.model_dir / "README.md").read_text(encoding="utf-8")


def test_the_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "teacher" / "checkpoints" / "model.safetensors"
    mine.parent.mkdir(parents=True)
    mine.touch()
    with pytest.raises(FileExistsError, match="holds teacher, which no quickstart made"):
        quickstart(tmp_path, data="builtin")
    assert mine.exists() and [path.name for path in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, r"epochs=0 \(--epochs\) must be 1 or more"),
        ({"layers": 0}, r"layers=0 \(--layers\) must be 1 or more"),
        ({"layers": 4}, r"layers=4 \(--layers\) must be from 1 to 3, which .*student has"),
    ],
)
def test_what_cannot_be_is_known_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict, message: str
) -> None:
    monkeypatch.setattr("alad_hf.quickstart.train_tagger", lambda *args, **options: pytest.fail("trained"))
    encoder = student(tmp_path / "student")
    data = DatasetDict(train=dataset(8), validation=dataset(), test=dataset())
    with pytest.raises(ValueError, match=message):
        quickstart(tmp_path / "out", data=data, encoder=encoder, **{"epochs": 1, **given})


def test_gap_recovered() -> None:
    def row(score: float) -> Row:
        return Row("", score, 1, 1, 1.0, 1.0)

    assert _with_gap(row(0.5), plain=row(0.4), teacher=row(0.6)).gap_recovered == pytest.approx(0.5)
    assert _with_gap(row(0.3), plain=row(0.4), teacher=row(0.6)).gap_recovered == pytest.approx(-0.5)
    assert _with_gap(row(0.5), plain=row(0.6), teacher=row(0.6)).gap_recovered is None
