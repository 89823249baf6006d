"""Models, data and a runner for the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny import tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner, Result

from alad_hf import AlAdForTokenClassification
from alad_hf.cli import app
from alad_hf.cli.application import console

CORPUS = "Smith\tB-PER\nvisited\tO\nNew\tB-LOC\nYork\tI-LOC\n\nJones\tB-PER\nworks\tO\nin\tO\nBerlin\tB-LOC\n\n"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, a teacher, an AlAd model, a tagged corpus and text."""
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
    (folder / "text.txt").write_text("Smith visited New York.\nJones works for Acme in Berlin.\n\n" * 40)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Type a command; its exit code, standard output and standard error come back."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers_logging, "_tqdm_active", transformers_logging._tqdm_active)
    verbosity = transformers_logging.get_verbosity()

    def invoke(*arguments: object, stdin: str | bytes = "", code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    yield invoke
    transformers_logging.set_verbosity(verbosity)
    console.quiet = False
