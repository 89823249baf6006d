"""Running exported models: taggers, question answerers and scores take them for models; what is damaged is refused."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from tiny import TAGS, tiny_config, tiny_tokenizer
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification, PreTrainedModel

from alad_hf.export import export_onnx, load_onnx
from alad_hf.export.agreement import compare_models
from alad_hf.question_answering import QuestionAnswerer
from alad_hf.tagging import evaluate_tagger, tag_text, tag_words

pytest.importorskip("onnxruntime", reason='the extra "export" is not installed')
pytest.importorskip("onnx", reason='the extra "export" is not installed')

TEXTS = ["Smith visited New York, and Jones works for Acme in Berlin.", "London", "the un able of " * 60]


def lively(model: PreTrainedModel) -> PreTrainedModel:
    """Weights so large that several labels occur."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def tagger() -> PreTrainedModel:
    torch.manual_seed(0)
    return lively(AutoModelForTokenClassification.from_config(tiny_config(id2label=dict(enumerate(TAGS)))))


@pytest.fixture(scope="module")
def data() -> Dataset:
    sentences = [text.split() for text in TEXTS]
    tags = [([0, 1, 3] + [0] * len(words))[: len(words)] for words in sentences]
    features = Features({"tokens": Sequence(Value("string")), "tags": Sequence(ClassLabel(names=TAGS))})
    return Dataset.from_dict({"tokens": sentences, "tags": tags}, features=features)


@pytest.fixture(scope="module")
def exported(tagger: PreTrainedModel, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "onnx"
    report = export_onnx(tagger, folder, tokenizer=tiny_tokenizer(), dataset=data)
    assert report.scores is not None
    assert report.scores["onnx"] == pytest.approx(report.scores["torch"])
    assert 0 < report.scores["torch"]["accuracy"] < 1
    return folder


def test_text_of_any_length(tagger: PreTrainedModel, exported: Path) -> None:
    expected = list(tag_text(tagger, tiny_tokenizer(), TEXTS, batch_size=2))
    given = list(tag_text(*load_onnx(exported), TEXTS, batch_size=2))
    assert len(expected[2]) > 10
    for entities, same in zip(given, expected, strict=True):
        assert [{**entity, "score": 0} for entity in entities] == [{**entity, "score": 0} for entity in same]
        assert [entity["score"] for entity in entities] == pytest.approx(
            [entity["score"] for entity in same], abs=1e-4
        )


def test_scores_of_a_data_set(tagger: PreTrainedModel, exported: Path, data: Dataset) -> None:
    written = json.loads((exported / "onnx_export.json").read_text())["scores"]
    model, tokenizer = load_onnx(exported, threads=2)
    assert evaluate_tagger(model, tokenizer, data) == pytest.approx(written["onnx"])
    assert evaluate_tagger(tagger, tokenizer, data) == pytest.approx(written["torch"])


def test_questions(tmp_path: Path) -> None:
    model = lively(AutoModelForQuestionAnswering.from_config(tiny_config("distilbert")))
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    export_onnx(model, tmp_path / "onnx", tokenizer=tokenizer)
    runnable, loaded = load_onnx(tmp_path / "onnx")
    contexts = [TEXTS[0], "Acme works in Berlin and London . " * 20]
    answers = [
        QuestionAnswerer(side, tokens)(["who visited", "the city"], contexts, top_k=3)
        for side, tokens in ((model, tokenizer), (runnable, loaded))
    ]
    for expected, given in zip(*answers, strict=True):
        assert [(item["start"], item["end"]) for item in given] == [(item["start"], item["end"]) for item in expected]
        assert [item["score"] for item in given] == pytest.approx([item["score"] for item in expected], rel=1e-3)


def test_threads_are_set(exported: Path) -> None:
    model, _ = load_onnx(exported, threads=2)
    assert model._session.get_session_options().intra_op_num_threads == 2
    assert model._session.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(ValueError, match="threads=0 must be 1 or more"):
        load_onnx(exported, threads=0)


def test_inputs_that_the_model_cannot_read(exported: Path) -> None:
    model, _ = load_onnx(exported)
    with pytest.raises(ValueError, match=r"\(1, 65\).*'max_position_embeddings': 64") as error:
        model(torch.full((1, 65), 7))
    assert "Cut long inputs into windows" in str(error.value)
    with pytest.raises(ValueError, match="ids up to 9999; .*'vocab_size': "):
        model(torch.full((1, 3), 9999))
    assert model(torch.full((1, 64), 7)).logits.shape == (1, 64, len(TAGS))


def test_left_padding(tagger: PreTrainedModel, exported: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    sentences = [text.split() for text in TEXTS]
    model, _ = load_onnx(exported)
    assert list(tag_words(model, tokenizer, sentences)) == list(tag_words(tagger, tokenizer, sentences))


@pytest.mark.parametrize("damage", ["flipped bit", "cut off", "replaced", "no description", "odd description"])
def test_damaged_folders(exported: Path, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    shutil.copytree(exported, folder)
    file, description = folder / "model.onnx", folder / "onnx_export.json"
    content = bytearray(file.read_bytes())
    expected = "is not the file that was exported"
    if damage == "flipped bit":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif damage == "cut off":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "replaced":
        file.write_bytes(b"no protobuf at all")
        written = json.loads(description.read_text())
        description.write_text(json.dumps(written | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}))
        expected = "onnxruntime .* cannot load"
    elif damage == "no description":
        description.unlink()
        expected = "holds no model.onnx with its onnx_export.json"
    else:
        description.write_text('{"task": "translation", "sha256": "0"}')
        expected = "onnx_export.json' is damaged"
    with pytest.raises(OSError, match=expected):
        load_onnx(folder)


def test_the_difference_is_a_share_of_the_logits() -> None:
    """Against the formula: logits that are larger by a tenth differ by a tenth of their own root mean square."""
    config, tokenizer = tiny_config(id2label=dict(enumerate(TAGS))), tiny_tokenizer()
    first = lively(AutoModelForTokenClassification.from_config(config))
    second = AutoModelForTokenClassification.from_config(config).eval()
    second.load_state_dict(first.state_dict())
    names = ["input_ids", "attention_mask"]
    assert compare_models(first, second, config, tokenizer, names) == (0.0, 1.0)
    with torch.no_grad():
        second.classifier.weight.mul_(1.1)
        second.classifier.bias.mul_(1.1)
    larger = compare_models(first, second, config, tokenizer, names)
    assert larger.difference == pytest.approx(0.1, rel=1e-4)
    assert larger.same_decision == 1
    with torch.no_grad():
        second.classifier.weight.neg_()
        second.classifier.bias.neg_()
    turned = compare_models(first, second, config, tokenizer, names)
    assert turned.difference == pytest.approx(2.1, rel=1e-4)
    assert turned.same_decision < 0.1
    with torch.no_grad():
        second.classifier.bias[0] = math.nan
    assert math.isnan(compare_models(first, second, config, tokenizer, names).difference)
