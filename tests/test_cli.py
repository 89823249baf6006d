"""The command line, as a person types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import TAGS, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel

from alad_hf import AlAdForTokenClassification

CORPUS = "Smith\tB-PER\nvisited\tO\nNew\tB-LOC\nYork\tI-LOC\n\nJones\tB-PER\nworks\tO\nin\tO\nBerlin\tB-LOC\n\n"
TASK = ["--data", "{corpus}", "--output", "{out}"]


def alad_hf(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alad_hf.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


TORCHAO_IMPORT = re.compile(
    r"Failed to load \S+/torchao/\S+\.so: "
    r"|Skipping import of cpp extensions due to incompatible torch version"
    r"|W\d+ .*\btorch/utils/_pytree\.py:\d+\] <enum '\w+'> is an Enum subclass "
)


def own_lines(stderr: str) -> list[str]:
    """What a process wrote, without what torchao, where it is installed, says when transformers imports it."""
    return [line for line in stderr.splitlines() if not TORCHAO_IMPORT.match(line)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a teacher, an AlAd model and a corpus."""
    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    encoder = AutoModel.from_config(tiny_config())
    teacher = tiny_teacher()
    model = AlAdForTokenClassification.from_student_pretrained(
        encoder, teacher=teacher, tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer()
    )
    for name, saved in (("student", encoder), ("teacher", teacher), ("tagger", model)):
        saved.save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    (folder / "corpus").mkdir()
    for name, copies in (("train", 8), ("dev", 1), ("test", 1)):
        (folder / "corpus" / f"{name}.conll").write_text(CORPUS * copies)
    return folder


def test_train_then_evaluate_then_predict(folder: Path, tmp_path: Path) -> None:
    done = alad_hf(
        *("train", str(folder / "student"), "--teacher", str(folder / "teacher"), "--data", str(folder / "corpus")),
        *("--output", str(tmp_path / "out"), "--epochs", "2", "--batch-size", "8", "--window-size", "3"),
        HF_DATASETS_CACHE=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert "f1" in done.stdout
    assert json.loads((tmp_path / "out" / "config.json").read_text())["window_size"] == 3
    assert "alignment-adapter" in (tmp_path / "out" / "README.md").read_text()

    scores = alad_hf("evaluate", str(tmp_path / "out"), "--data", str(folder / "corpus"), "--json")
    assert scores.returncode == 0, scores.stderr
    assert 0 <= json.loads(scores.stdout)["f1"] <= 1

    text = "Smith visited New York.\r\n\nJones works in Berlin 🙂\n"
    done = alad_hf("predict", str(tmp_path / "out"), stdin=text)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["Smith visited New York.", "", "Jones works in Berlin 🙂"]
    for row in rows:
        for entity in row["entities"]:
            assert row["text"][entity["start"] : entity["end"]] == entity["text"]
            assert entity["label"] in {tag[2:] for tag in TAGS if tag != "O"}
    assert own_lines(done.stderr) == []


def test_question_answering_from_training_to_answers(folder: Path, tmp_path: Path) -> None:
    context = "Smith visited New York and works in Berlin"
    questions = [
        {"id": str(n), "question": "visited", "answers": [{"text": "New York", "answer_start": 14}]} for n in (1, 2)
    ]
    squad = {"data": [{"paragraphs": [{"context": context, "qas": questions}]}]}
    for split in ("train", "dev"):
        (tmp_path / f"{split}.json").write_text(json.dumps(squad))
    common = ("--task", "qa", "--data", str(tmp_path), "--epochs", "1")
    teacher, out = str(tmp_path / "teacher"), str(tmp_path / "out")
    done = alad_hf("train", str(folder / "student"), *common, "--output", teacher)
    assert done.returncode == 0, done.stderr
    done = alad_hf(
        *("train", str(folder / "student"), *common, "--output", out, "--teacher", teacher, "--frozen"),
        HF_DATASETS_CACHE=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert "exact_match" in done.stdout and "Saved in" in done.stderr

    scores = alad_hf("evaluate", out, "--data", str(tmp_path), "--split", "validation", "--json")
    assert json.loads(scores.stdout)["total"] == 2
    asked = {"question": "visited", "context": context}
    done = alad_hf("predict", out, stdin=json.dumps(asked) + "\n")
    row = json.loads(done.stdout)
    answer = row["answer"]
    assert asked.items() <= row.items() and context[answer["start"] : answer["end"]] == answer["answer"]
    done = alad_hf("predict", out, stdin="Who?\n")
    assert done.returncode == 1 and "Line 1 is 'Who?', expected JSON" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{tagger}", "--data", "{corpus}", "--split", "dev"], "no split 'dev'; it has"),
        (["evaluate", "{nowhere}", "--data", "{corpus}"], "nowhere"),
        (["evaluate", "{tagger}", "--data", "{corpus}/absent.conll"], "absent.conll"),
        (["predict", "{tagger}", "{corpus}/absent.txt"], "is not a file"),
        (["train", "{student}", "--keep-layers", "0,7", *TASK], "layers from 0 to 1"),
        (["train", "{student}", "--frozen", *TASK], "nothing that freeze_student could do"),
        (["train", "{student}", "--task", "qa", "--text", "x.txt", *TASK], "--text is for tagging"),
        (["train", "{student}", "--teacher", "{teacher}", "--window-size", "4", *TASK], "window_size must be an odd"),
        (["train", "{student}", "--teacher", "{student}", *TASK], "does not know the tags ['B-LOC', 'B-PER'"),
    ],
)
def test_mistakes_get_an_answer_and_no_traceback(
    folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {name: folder / name for name in ("student", "teacher", "tagger", "corpus", "nowhere")}
    done = alad_hf(*(argument.format(**places, out=tmp_path / "out") for argument in arguments))
    assert done.returncode == 1
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
