"""Students in int8 (torchao): stored, run and aligned as they are, with adapter and head in float."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from safetensors import safe_open
from tiny import STUDENT_CONFIGS, random_batch, tiny_config, tiny_teacher, tiny_tokenizer
from tiny_training import make_rows, make_trainer, step_logs
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForTokenClassification,
    PreTrainedModel,
    TorchAoConfig,
    pipeline,
)

from alad_hf import AlAdForTokenClassification, AlAdModel
from alad_hf.compression import compress_embeddings
from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.evaluation.efficiency import count_parameters, stored_bytes
from alad_hf.recipes import train_tagger
from alad_hf.training.stages import align, published_arguments

quantization = pytest.importorskip(
    "torchao.quantization", reason="torchao is not installed: pip install 'alad_hf[quantization]'"
)


def int8(**changes: object) -> TorchAoConfig:
    return TorchAoConfig(quantization.Int8WeightOnlyConfig(), **changes)


@pytest.fixture(params=["bert"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A float student on disk."""
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config(request.param)).save_pretrained(tmp_path / "float")
    tiny_tokenizer().save_pretrained(tmp_path / "float")
    return tmp_path / "float"


every_student = pytest.mark.parametrize("folder", STUDENT_CONFIGS, indirect=True)


def alad(student: str | PreTrainedModel, **changes: object) -> AlAdForTokenClassification:
    tokenizers = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
    arguments = {"teacher": tiny_teacher(), "freeze_student": True, **tokenizers, **changes}
    return AlAdForTokenClassification.from_student_pretrained(student, **arguments)


def quantized(folder: Path) -> PreTrainedModel:
    return AutoModel.from_pretrained(folder, quantization_config=int8())


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The int8 weights by name."""
    return {name: value.qdata for name, value in model.state_dict().items() if hasattr(value, "qdata")}


def inputs() -> dict[str, torch.Tensor]:
    return {name: value for name, value in random_batch().items() if name != "labels"}


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(**inputs()).logits


def assert_int8_student(model: nn.Module, float_student: Path) -> None:
    """Every linear layer of the student is rounded to 255 steps of its rows' largest weights, nothing else is."""
    student = AutoModel.from_pretrained(float_student)
    base = model.base_model
    linear = {name for name, module in base.encoder.named_modules() if isinstance(module, nn.Linear)}
    found = weights(base)
    assert set(found) == {f"encoder.{name}.weight" for name in linear} and linear
    for name in linear:
        kept, weight = base.encoder.get_submodule(name).weight, student.get_submodule(name).weight
        assert kept.qdata.dtype == torch.int8
        step = weight.abs().amax(dim=1, keepdim=True) / 127
        assert ((kept.dequantize() - weight).abs() <= 0.51 * step).all()
    for name, parameter in model.named_parameters():
        if "encoder." not in name:
            assert type(parameter.data) is torch.Tensor and parameter.requires_grad, name


class TestOverAQuantizedStudent:
    @every_student
    def test_keeps_it_and_reloads(self, folder: Path, tmp_path: Path) -> None:
        student = quantized(folder)
        model = alad(student)
        assert_int8_student(model, folder)
        with torch.no_grad():
            states = model(**inputs(), output_hidden_states=True).hidden_states[-2]
            assert torch.equal(states, student(**inputs()).last_hidden_state)
        assert any(parameter.requires_grad for parameter in student.parameters())  # it was copied

        model.save_pretrained(tmp_path / "out")
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
        assert_int8_student(loaded, folder)
        assert torch.equal(logits(loaded), logits(model))
        loaded.save_pretrained(tmp_path / "again")
        assert torch.equal(logits(AutoModelForTokenClassification.from_pretrained(tmp_path / "again")), logits(model))

    def test_stores_a_byte_for_a_weight(self, folder: Path, tmp_path: Path) -> None:
        model = alad(quantized(folder))
        model.save_pretrained(tmp_path / "int8")
        alad(str(folder)).save_pretrained(tmp_path / "float-alad")

        def tensor_bytes(folder: Path) -> int:
            with safe_open(folder / "model.safetensors", "pt") as file:
                return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118 - no dictionary

        saved = 0
        for name in weights(model):
            rows, columns = model.get_parameter(name).shape
            saved += 3 * rows * columns - 5 * rows  # one byte for four; a step in float and a zero point for each row
        assert tensor_bytes(tmp_path / "float-alad") - tensor_bytes(tmp_path / "int8") == saved > 0

    def test_its_bytes_are_counted_as_stored(self, folder: Path, tmp_path: Path) -> None:
        model = alad(quantized(folder))
        model.save_pretrained(tmp_path / "out")
        header = 8 + int.from_bytes((tmp_path / "out" / "model.safetensors").read_bytes()[:8], "little")
        assert stored_bytes(model) == (tmp_path / "out" / "model.safetensors").stat().st_size - header
        assert count_parameters(model) == count_parameters(alad(str(folder)))

    def test_says_so_at_the_top_of_its_configuration(self, folder: Path, tmp_path: Path) -> None:
        alad(quantized(folder)).save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert saved["quantization_config"]["quant_method"] == "torchao"
        floats = ["model.adapter.linear", "model.adapter.down", "model.adapter.up", "classifier"]
        assert saved["quantization_config"]["modules_to_not_convert"] == floats
        assert "quantization_config" not in saved["text_config"]

    def test_from_its_folder_and_in_a_pipeline(self, folder: Path, tmp_path: Path) -> None:
        quantized(folder).save_pretrained(tmp_path / "int8")
        tiny_tokenizer().save_pretrained(tmp_path / "int8")
        model = alad(str(tmp_path / "int8"))
        assert torch.equal(logits(model), logits(alad(quantized(folder))))
        model.save_pretrained(tmp_path / "out")
        tiny_tokenizer().save_pretrained(tmp_path / "out")
        words = pipeline("ner", model=str(tmp_path / "out"), ignore_labels=[])("smith works for acme .")
        encoded = tiny_tokenizer()("smith works for acme .", return_tensors="pt")
        with torch.no_grad():
            expected = model(**encoded).logits[0, 1:-1].softmax(-1).amax(-1)
        torch.testing.assert_close(torch.tensor([float(word["score"]) for word in words]), expected)

    def test_under_a_task_head(self, tmp_path: Path) -> None:
        tiny_teacher(hidden_size=16).save_pretrained(tmp_path / "float")
        tagger = AutoModelForTokenClassification.from_pretrained(tmp_path / "float", quantization_config=int8())
        model = alad(tagger)
        assert_int8_student(model, tmp_path / "float")
        model.save_pretrained(tmp_path / "out")
        assert torch.equal(logits(AutoModelForTokenClassification.from_pretrained(tmp_path / "out")), logits(model))
        assert tagger.config.quantization_config.modules_to_not_convert is None

    def test_only_adapter_and_head_get_gradients(self, folder: Path) -> None:
        model = alad(quantized(folder)).train()
        model(**random_batch()).loss.backward()
        with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert with_gradient == {name for name, _ in model.named_parameters() if "encoder." not in name}

    @pytest.mark.parametrize("reloaded", [False, True])
    def test_training_leaves_int8_bits_alone(self, reloaded: bool, folder: Path, tmp_path: Path) -> None:
        model = alad(quantized(folder))
        if reloaded:
            model.save_pretrained(tmp_path / "start")
            model = AutoModelForTokenClassification.from_pretrained(tmp_path / "start")
        before = {name: value.clone() for name, value in weights(model).items()}
        settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "optim": "adamw_torch"}
        settings |= {"learning_rate": 1e-2}
        trainer = make_trainer(model, make_rows(), tmp_path / "run", **settings)
        trainer.train()
        logs = step_logs(trainer)
        assert logs[-1]["loss"] < logs[1]["loss"]
        after = weights(model)
        assert before.keys() == after.keys() and before
        assert all(torch.equal(after[name], value) for name, value in before.items())
        # a checkpoint of the Trainer is a checkpoint of the model, and training goes on from it
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "run" / "checkpoint-6")
        assert torch.equal(logits(loaded), logits(model.eval()))
        (tmp_path / "run" / "checkpoint-6").rename(tmp_path / "last")
        resumed = make_trainer(alad(quantized(folder)), make_rows(), tmp_path / "run", **settings)
        resumed.train(resume_from_checkpoint=True)
        assert torch.equal(logits(resumed.model.eval()), logits(model))

    def test_the_adapter_learns_to_make_up_for_the_quantization(self, tmp_path: Path) -> None:
        # The student is the teacher's own encoder: all that alignment can learn is what rounding took away.
        torch.manual_seed(0)
        teacher = AutoModel.from_config(tiny_config(), add_pooling_layer=False).eval()
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        teacher.save_pretrained(tmp_path / "teacher")
        tokenizers = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
        model = AlAdModel.from_student_pretrained(
            quantized(tmp_path / "teacher"), teacher=teacher, freeze_student=True, **tokenizers
        )
        texts = ["smith works for acme in york .", "jones visited the new london", "a zeta", "berlin of smith"] * 4

        def error() -> float:
            batch = tiny_tokenizer()(texts[:4], return_tensors="pt", padding=True)
            with torch.no_grad():
                difference = model.eval()(**batch).last_hidden_state - teacher(**batch).last_hidden_state
            return (difference * batch["attention_mask"].unsqueeze(-1)).square().sum().item()

        start = error()
        settings = {"per_device_train_batch_size": 8, "max_steps": 60, "learning_rate": 1e-3, "use_cpu": True}
        settings |= {"disable_tqdm": True, "save_strategy": "no"}
        args = published_arguments("general_alignment", tmp_path / "run", **settings)
        align(model, texts, tokenizer=tiny_tokenizer(), args=args, cache_dir=tmp_path / "states", print_logs=False)
        assert 0 < error() < 0.7 * start


class TestQuantizingAFinishedModel:
    def test_quantizes_the_student_alone(self, folder: Path, tmp_path: Path) -> None:
        alad(str(folder)).save_pretrained(tmp_path / "out")
        model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out", quantization_config=int8())
        assert_int8_student(model, folder)
        assert torch.equal(logits(model), logits(alad(quantized(folder))))
        model.save_pretrained(tmp_path / "int8")
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "int8")
        assert_int8_student(loaded, folder)
        assert torch.equal(logits(loaded), logits(model))

    def test_leaves_out_what_the_caller_names(self, folder: Path, tmp_path: Path) -> None:
        alad(str(folder)).save_pretrained(tmp_path)
        spared = int8(modules_to_not_convert=["model.encoder.encoder.layer.0"])
        model = AutoModelForTokenClassification.from_pretrained(tmp_path, quantization_config=spared)
        assert {name.split(".layer.")[1][0] for name in weights(model)} == {"1"}
        assert not any("adapter" in name or "classifier" in name for name in weights(model))
        assert spared.modules_to_not_convert == ["model.encoder.encoder.layer.0"]

    def test_a_jointly_trained_one_is_frozen_first(self, folder: Path, tmp_path: Path) -> None:
        alad(str(folder), freeze_student=False).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"cannot be trained itself.*freeze_student=True"):
            AutoModelForTokenClassification.from_pretrained(tmp_path, quantization_config=int8())
        model = AutoModelForTokenClassification.from_pretrained(
            tmp_path, quantization_config=int8(), freeze_student=True
        )
        assert_int8_student(model, folder)


class TestRefusals:
    def test_joint_training(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"int8 weights have no gradients.*freeze_student=True"):
            alad(quantized(folder), freeze_student=False)
        model = alad(quantized(folder))
        with pytest.raises(ValueError, match="int8 weights have no gradients"):
            model.freeze_student(False)
        assert model.config.freeze_student
        model.save_pretrained(tmp_path / "out")
        with pytest.raises(ValueError, match="int8 weights have no gradients"):
            AutoModelForTokenClassification.from_pretrained(tmp_path / "out", freeze_student=False)

    @pytest.mark.parametrize("distilled", [None, "with an adapter", "without"])
    def test_recipes_that_would_train_it(self, distilled: str | None, folder: Path, tmp_path: Path) -> None:
        quantized(folder).save_pretrained(tmp_path / "int8")
        arguments = {"tokenizer": tiny_tokenizer()}
        if distilled:
            arguments |= {"teacher": tiny_teacher(), "teacher_tokenizer": tiny_tokenizer()}
            arguments["adapter"] = distilled == "with an adapter"
        with pytest.raises(ValueError, match=r"cannot be trained itself.*freeze_student=True"):
            train_tagger(str(tmp_path / "int8"), DatasetDict(), tmp_path / "out", **arguments)

    def test_weights_quantized_by_hand(self, folder: Path) -> None:
        student = AutoModel.from_pretrained(folder)
        quantization.quantize_(student, quantization.Int8WeightOnlyConfig())
        with pytest.raises(ValueError, match=r"BertModel quantized by hand is no student.*TorchAoConfig"):
            alad(student)

    @pytest.mark.parametrize("given", [{"quant_method": "bitsandbytes", "load_in_8bit": True}, {}])
    def test_another_method(self, given: dict, folder: Path, tmp_path: Path) -> None:
        alad(str(folder)).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"quantization_config is for .*are quantized by torchao"):
            AutoModelForTokenClassification.from_pretrained(tmp_path, quantization_config=given)

    def test_without_torchao(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        alad(quantized(folder)).save_pretrained(tmp_path / "out")
        quantized(folder).save_pretrained(tmp_path / "int8")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchao"]:
            monkeypatch.setitem(sys.modules, name, None)
        for load in (
            lambda: AutoModelForTokenClassification.from_pretrained(tmp_path / "out"),
            lambda: alad(str(tmp_path / "int8")),
        ):
            with pytest.raises(ImportError, match=r"by torchao, which is not installed.*pip install torchao"):
                load()


def test_is_compressed_before_it_is_quantized(folder: Path, tmp_path: Path) -> None:
    for compress in (wrap_encoder, lambda model: compress_embeddings(model, "svd", rank=4)):
        with pytest.raises(ValueError, match="this BertModel are quantized. Compress the model in float"):
            compress(quantized(folder))
    compress_embeddings(AutoModel.from_pretrained(folder), "svd", rank=4).save_pretrained(tmp_path / "small")
    small = quantized(tmp_path / "small")
    assert weights(small)
    logits(alad(small))
