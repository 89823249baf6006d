"""What trainings on the command line go on with, and what they do not write over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import tiny_tokenizer
from transformers import AutoModelForTokenClassification

LINES = {
    "train": ("train", "{student}", "--data", "{corpus}", "--batch-size", 8, "--epochs", 1),
    "align": ("align", "{student}", "--teacher", "{teacher}", "--text", "{text}", "--batch-size", 8),
    "distill": ("distill", "{recursive}", "--teacher", "{encoder}", "--text", "{text}", "--batch-size", 4,
                "--max-tokens", 16, "--steps", 2),
}  # fmt: skip


@pytest.fixture
def places(folder: Path, tmp_path: Path) -> dict[str, Path]:
    places = {name: folder / name for name in ("student", "teacher", "corpus")}
    return places | {"text": folder / "text.txt", "encoder": folder / "student", "recursive": tmp_path / "recursive"}


@pytest.fixture
def line(places: dict[str, Path], run):
    """A command that trains, with the models that it needs."""

    def words(verb: str, **others: Path) -> list[str]:
        if verb == "distill" and not places["recursive"].exists():
            run("compress", places["encoder"], "--method", "recursive", "--num-layers", 2, "--embedding-size", 4,
                "--output", places["recursive"])  # fmt: skip
        return [str(word).format(**{**places, **others}) for word in LINES[verb]]

    return words


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("verb", LINES)
def test_no_model_is_written_over_another(verb: str, places: dict[str, Path], line, tmp_path: Path, run) -> None:
    shutil.copytree(places["teacher"], tmp_path / "model")
    before = contents(tmp_path / "model")
    for flags in ([], ["--resume"]):  # there is no run to go on with
        message = run(*line(verb), "--output", tmp_path / "model", *flags, code=1).stderr
        assert "holds a model already: name another folder" in message
    assert contents(tmp_path / "model") == before


@pytest.mark.parametrize(("verb", "teacher"), [("align", "teacher"), ("distill", "encoder")])
def test_no_other_run_is_gone_on_with(
    verb: str, teacher: str, places: dict[str, Path], line, tmp_path: Path, run
) -> None:
    command = [*line(verb), "--output", str(tmp_path / "out")]
    steps = json.loads(run(*command, "--json").stdout)["steps"]
    made = contents(tmp_path / "out")
    assert "Pass resume=True (--resume)" in run(*command, code=1).stderr

    (tmp_path / "other.txt").write_text("Jones works in York.\n", encoding="utf-8")
    other_teacher = AutoModelForTokenClassification.from_pretrained(places["teacher"])
    other_teacher.get_input_embeddings().weight.data[5] += 1
    other_teacher.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    changes = [
        ({"text": tmp_path / "other.txt"}, [], "other text or labels"),
        ({teacher: tmp_path / "other"}, [], "another teacher"),
        ({}, ["--seed", 3], "seed=0 and not 3"),
        ({}, ["--learning-rate", 0.1], "learning_rate=None and not 0.1"),
    ]
    for others, options, message in changes:
        changed = [*line(verb, **others), "--output", tmp_path / "out", "--resume", *options]
        assert message in run(*changed, code=1).stderr
    assert contents(tmp_path / "out") == made
    assert json.loads(run(*command, "--resume", "--json").stdout)["steps"] >= steps
