"""LoRA of peft under AlAd (a student with LoRA weights) and over it (an AlAd model trained through LoRA)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import STUDENT_CONFIGS, TAGS, random_batch, tiny_config, tiny_teacher, tiny_tokenizer
from tiny_training import make_rows, make_trainer, step_logs, weights_of
from torch import nn
from transformers import AutoModel, AutoModelForTokenClassification, PreTrainedModel, Trainer

from alad_hf import AlAdForTokenClassification
from alad_hf.training.stages import align, published_arguments, train

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'alad_hf[lora]'")

# peft 0.21 itself still asks transformers under a name that 5.23 deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ATTENTION = {
    "distilbert": ["q_lin", "v_lin"],
    "mpnet": ["q", "v"],
    "deberta-v2": ["query_proj", "value_proj"],
    "modernbert": ["Wqkv"],
}


def lora(student: str = "bert", **changes: object) -> object:
    return peft.LoraConfig(r=2, lora_alpha=8, target_modules=ATTENTION.get(student, ["query", "value"]), **changes)


def with_random_lora(model: PreTrainedModel, student: str = "bert", **changes: object) -> nn.Module:
    """The model under LoRA weights that change its outputs; peft starts with ones that do not."""
    wrapped = peft.get_peft_model(model, lora(student, **changes)).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return wrapped


def inputs() -> dict[str, torch.Tensor]:
    return {name: value for name, value in random_batch().items() if name != "labels"}


def alad(encoder: nn.Module, **changes: object) -> AlAdForTokenClassification:
    tokenizers = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
    return AlAdForTokenClassification.from_student_pretrained(encoder, teacher=tiny_teacher(), **tokenizers, **changes)


@torch.no_grad()
def student_states(model: AlAdForTokenClassification) -> torch.Tensor:
    return model(**inputs(), output_hidden_states=True).hidden_states[-2]


class TestLoraUnderAlAd:
    @pytest.mark.parametrize("student", STUDENT_CONFIGS)
    def test_the_merged_student_says_what_the_peft_model_says(self, student: str, tmp_path: Path) -> None:
        encoder = AutoModel.from_config(tiny_config(student)).eval()
        with torch.no_grad():
            plain = encoder(**inputs()).last_hidden_state
        wrapped = with_random_lora(encoder, student)
        before = copy.deepcopy(wrapped.state_dict())
        with torch.no_grad():
            expected = wrapped(**inputs()).last_hidden_state
        assert not torch.allclose(expected, plain, atol=1e-3)

        model = alad(wrapped)
        torch.testing.assert_close(student_states(model), expected, atol=1e-5, rtol=1e-5)
        assert not any("lora" in name or "base_layer" in name for name in model.state_dict())
        assert wrapped.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in wrapped.state_dict().items())
        assert isinstance(wrapped, peft.PeftModel)

        model.save_pretrained(tmp_path)
        assert not list(tmp_path.glob("adapter*"))
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        with torch.no_grad():
            assert torch.equal(loaded(**inputs()).logits, model(**inputs()).logits)

    @pytest.mark.parametrize("frozen", [True, False])
    def test_around_a_token_classifier(self, frozen: bool, tmp_path: Path) -> None:
        tiny_teacher(hidden_size=16).save_pretrained(tmp_path)
        tagger = AutoModelForTokenClassification.from_pretrained(tmp_path)
        wrapped = with_random_lora(tagger, task_type="TOKEN_CLS")
        with torch.no_grad():
            expected = wrapped(**inputs(), output_hidden_states=True).hidden_states[-1]
        model = alad(wrapped, freeze_student=frozen)
        torch.testing.assert_close(student_states(model), expected, atol=1e-5, rtol=1e-5)
        assert model.config.student_name_or_path == str(tmp_path)
        model.train()
        model(**random_batch()).loss.backward()
        fixed = model.get_input_embeddings().weight
        assert all((p.grad is None) == (frozen or p is fixed) for p in model.model.encoder.parameters())
        assert all(parameter.grad is not None for parameter in model.model.adapter.parameters())

    def test_methods_that_cannot_be_merged_are_refused(self) -> None:
        config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
        wrapped = peft.get_peft_model(AutoModel.from_config(tiny_config()), config)
        with pytest.raises(ValueError, match=r"PeftModelForFeatureExtraction \['PROMPT_TUNING'\] is no student.*LoRA"):
            alad(wrapped)

    @pytest.mark.parametrize(
        "add", [peft.inject_adapter_in_model, lambda config, model: peft.get_peft_model(model, config)]
    )
    def test_adapters_among_the_models_own_layers_are_refused(self, add: Callable) -> None:
        encoder = AutoModel.from_config(tiny_config())
        add(lora(), encoder)
        with pytest.raises(ValueError, match=r"This BertModel carries peft adapters.*PeftModel.from_pretrained"):
            alad(encoder)


SAVED = ["adapter", "classifier"]


class TestLoraOverAlAd:
    def wrapped(self, **changes: object) -> nn.Module:
        torch.manual_seed(0)
        return peft.get_peft_model(alad(AutoModel.from_config(tiny_config()), **changes), lora(modules_to_save=SAVED))

    def run(self, model: nn.Module, rows: Dataset, folder: Path, **arguments: object) -> Trainer:
        args = {"optim": "adamw_torch", "learning_rate": 1e-2, "lr_scheduler_type": "constant", "max_steps": 6}
        args |= {"logging_steps": 1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", **arguments}
        return train(model, rows, tokenizer=tiny_tokenizer(), args=published_arguments("joint", folder, **args))

    def test_what_is_trained_is_lora_adapter_and_head(self) -> None:
        model = self.wrapped()
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert {name.split(".lora_")[0] for name in trained if "lora_" in name} == {
            f"base_model.model.model.encoder.encoder.layer.{layer}.attention.self.{part}"
            for layer in (0, 1)
            for part in ("query", "value")
        }
        own = alad(AutoModel.from_config(tiny_config()))
        parts = {f"base_model.model.model.adapter.modules_to_save.default.{n}" for n in own.model.adapter.state_dict()}
        parts |= {f"base_model.model.classifier.modules_to_save.default.{name}" for name in ("weight", "bias")}
        assert {name for name in trained if "lora_" not in name} == parts

    def test_a_peft_adapter_called_adapter_is_refused_by_peft(self) -> None:
        # modules_to_save matches the ends of module names, and peft names its own modules after the adapter.
        model = alad(AutoModel.from_config(tiny_config()))
        with pytest.raises(ValueError, match="adapter name, 'adapter'"):
            peft.get_peft_model(model, lora(modules_to_save=SAVED), adapter_name="adapter")

    @pytest.mark.parametrize(("frozen", "task_type"), [(True, None), (False, "TOKEN_CLS")], ids=["frozen", "joint"])
    def test_the_stock_trainer_minimises_our_loss(self, frozen: bool, task_type: str | None, tmp_path: Path) -> None:
        torch.manual_seed(0)
        plain = alad(AutoModel.from_config(tiny_config()), freeze_student=frozen)
        expected = plain.eval()(**random_batch()).loss
        model = peft.get_peft_model(plain, lora(modules_to_save=SAVED, task_type=task_type))
        torch.testing.assert_close(model.eval()(**random_batch()).loss, expected)

        start = weights_of(model)
        rows = make_rows(teacher=False)
        trainer = make_trainer(model, rows, tmp_path, max_steps=8, optim="adamw_torch", learning_rate=1e-2)
        assert trainer.args.remove_unused_columns
        trainer.train()
        logs = step_logs(trainer)
        assert logs[0].keys() == {"loss", "task_loss", "alignment_mse_loss", "distillation_loss"}
        assert logs[-2]["loss"] < logs[0]["loss"] and logs[-1]["loss"] < logs[1]["loss"]
        for name, value in weights_of(model).items():
            changed = not torch.equal(value, start[name])
            assert changed == ("lora_" in name or "modules_to_save" in name), name

    def test_columns_of_the_teacher_reach_the_model_through_peft(self, tmp_path: Path) -> None:
        model = self.wrapped()
        model.detach_teacher()
        batch = next(iter(make_trainer(model, make_rows(), tmp_path).get_train_dataloader()))
        assert batch.keys() == set(make_rows().column_names) - {"example"}
        trainer = self.run(model, make_rows(), tmp_path)
        logs = step_logs(trainer)
        assert logs[0].keys() == {"loss", "task_loss", "alignment_mse_loss", "distillation_loss"}
        assert logs[-1]["loss"] < logs[0]["loss"]

    def test_alignment_on_text(self, tmp_path: Path) -> None:
        model = self.wrapped()
        args = published_arguments(
            "general_alignment",
            tmp_path / "run",
            max_steps=12,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = align(model, ["smith works for acme ."] * 4, tokenizer=tiny_tokenizer(), args=args)
        logs = step_logs(trainer)
        assert logs[-1]["alignment_mse_loss"] < 0.8 * logs[0]["alignment_mse_loss"]

    def test_merged_it_is_an_ordinary_alad_model(self, tmp_path: Path) -> None:
        model = self.wrapped()
        self.run(model, make_rows(teacher=False), tmp_path / "run")
        model.eval()
        with torch.no_grad():
            expected = model(**inputs()).logits
        model.save_pretrained(tmp_path / "lora")
        merged = model.merge_and_unload()
        assert type(merged) is AlAdForTokenClassification
        plain = AlAdForTokenClassification(copy.deepcopy(merged.config))
        assert merged.state_dict().keys() == plain.state_dict().keys()
        merged.save_pretrained(tmp_path / "merged")
        assert not list((tmp_path / "merged").glob("adapter*"))
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")
        with torch.no_grad():
            torch.testing.assert_close(merged(**inputs()).logits, expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(loaded(**inputs()).logits, merged(**inputs()).logits)

        # peft's own small checkpoint holds LoRA weights, adapter and head; the model it was trained on completes it
        torch.manual_seed(0)
        start = alad(AutoModel.from_config(tiny_config()))
        restored = peft.PeftModel.from_pretrained(start, tmp_path / "lora").eval()
        with torch.no_grad():
            assert torch.equal(restored(**inputs()).logits, expected)

    def test_a_plain_tagger_is_trained_by_the_same_code(self, tmp_path: Path) -> None:
        tagger = AutoModelForTokenClassification.from_config(
            tiny_config(id2label=dict(enumerate(TAGS)), label2id={tag: index for index, tag in enumerate(TAGS)})
        )
        model = peft.get_peft_model(tagger, lora(task_type="TOKEN_CLS"))
        start = weights_of(model)
        trainer = self.run(model, make_rows(), tmp_path, max_steps=12)
        losses = [line["loss"] for line in step_logs(trainer)]
        assert losses[-1] < losses[0]
        for name, value in weights_of(model).items():
            changed = not torch.equal(value, start[name])
            assert changed == ("lora_" in name or "modules_to_save" in name), name
