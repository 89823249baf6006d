"""`pipeline("ner")` on a saved AlAd model: every strategy, batches, long text, and silence on a clean run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tiny import tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel, pipeline

from alad_hf import AlAdForTokenClassification

STRATEGIES = ["none", "simple", "first", "average", "max"]
TEXT = "Smith visited New York, and Jones works for Acme in Berlin."


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    model = AlAdForTokenClassification.from_student_pretrained(
        AutoModel.from_config(tiny_config()),
        teacher=tiny_teacher(),
        tokenizer=tiny_tokenizer(),
        teacher_tokenizer=tiny_tokenizer(),
    )
    with torch.no_grad():  # so that several tags occur
        model.classifier.weight.mul_(30)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_without_a_word_of_warning(
    saved: Path, strategy: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers_logger = logging.getLogger("transformers")
    transformers_logger.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ner = pipeline("ner", model=str(saved), aggregation_strategy=strategy)
            entities = ner(TEXT)
    finally:
        transformers_logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert "ERROR" not in capfd.readouterr().err
    assert entities
    for entity in entities:
        assert TEXT[entity["start"] : entity["end"]].lower().replace(" ", "") in entity["word"].replace(
            "##", ""
        ).replace(" ", "")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_change_nothing(saved: Path, strategy: str) -> None:
    ner = pipeline("ner", model=str(saved), aggregation_strategy=strategy)
    texts = [TEXT, "Jones .", "the un able of Berlin and London visited Smith", "Acme"]
    one_by_one = [ner(text) for text in texts]
    for together, alone in zip(ner(texts, batch_size=4), one_by_one, strict=True):
        assert len(together) == len(alone)
        for entity, expected in zip(together, alone, strict=True):
            assert entity["score"] == pytest.approx(expected["score"], abs=1e-5)
            assert {**entity, "score": 0} == {**expected, "score": 0}


def test_stride_reaches_the_end_of_a_long_text(saved: Path) -> None:
    ner = pipeline("ner", model=str(saved), aggregation_strategy="first", stride=16)
    text = " ".join(["Smith visited New York , and Jones works for Acme in Berlin ."] * 20)
    entities = ner(text)
    starts = [entity["start"] for entity in entities]
    assert starts == sorted(starts)
    assert starts[-1] > len(text) - 80
    assert all(entity["start"] < entity["end"] <= len(text) for entity in entities)


def test_without_the_package(saved: Path, tmp_path: Path) -> None:
    expected = pipeline("ner", model=str(saved), aggregation_strategy="first")(TEXT)
    script = (
        "import sys; sys.modules['alad_hf'] = None\n"
        "from transformers import pipeline\n"
        "ner = pipeline('ner', model=sys.argv[1], aggregation_strategy='first', trust_remote_code=True)\n"
        "print([(entity['entity_group'], entity['start'], entity['end']) for entity in ner(sys.argv[2])])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved), TEXT],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    spans = [(entity["entity_group"], entity["start"], entity["end"]) for entity in expected]
    assert done.stdout.strip() == str(spans)
