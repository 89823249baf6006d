"""Distillation of encoders: the loss against plain formulas, and the stock Trainer around it."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import random_batch, tiny_tokenizer
from tiny_distillation import distill, tiny_arguments, tiny_mlm, tiny_texts
from tiny_training import step_logs, weights_of
from transformers import AutoModelForMaskedLM, Trainer, TrainerCallback

from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.data.collators import DataCollatorForAlignment
from alad_hf.data.masked_text import MaskedTextStream
from alad_hf.models.layer_widths import encoder_layers, set_layer_width
from alad_hf.training.distillation_model import (
    PROJECTION_FILE,
    DistillationModel,
    DistillationWeights,
    attention_divergence,
    even_layer_map,
)
from alad_hf.training.encoder_distillation import load_predicting_teacher, published_distillation_arguments
from alad_hf.training.loss_logging import LossTermsCallback

TERMS = {"mlm": 1.0, "attention": 3.0, "hidden": 3.0, "output": 5.0}


def masked_batch(batch: int = 3, tokens: int = 9, padded: bool = True) -> dict[str, torch.Tensor]:
    """Every third real token of a row is to be predicted."""
    inputs = random_batch(batch, tokens, padded=padded)
    labels = torch.full_like(inputs["input_ids"], -1)
    labels[:, 1::3] = inputs["input_ids"][:, 1::3]
    inputs["labels"] = labels.masked_fill(inputs["attention_mask"] == 0, -100)
    return inputs


def terms_of(model: DistillationModel, **batch: torch.Tensor) -> dict[str, float]:
    return {name: value.item() for name, value in model(**batch).loss_terms.items()}


class TestLoss:
    @pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "mpnet", "distilbert", "albert"])
    def test_nothing_is_to_be_learned_from_oneself(self, model_type: str) -> None:
        teacher = tiny_mlm(model_type)
        model = DistillationModel(copy.deepcopy(teacher), teacher).train()
        terms = terms_of(model, **masked_batch())
        assert terms.keys() == TERMS.keys()
        assert terms["mlm"] > 1
        for name in ("attention", "hidden", "output"):
            assert terms[name] == pytest.approx(0, abs=1e-6)
        other = DistillationModel(tiny_mlm(model_type, seed=5), teacher).train()
        assert all(value > 1e-4 for value in terms_of(other, **masked_batch()).values())

    def test_against_plain_loops(self) -> None:
        """Every term from the two models' own outputs, token by token."""
        student, teacher, batch = tiny_mlm(layers=2), tiny_mlm(layers=4, seed=1), masked_batch()
        output = DistillationModel(student, teacher).eval()(**batch)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        wants = {"output_attentions": True, "output_hidden_states": True}
        with torch.no_grad():
            own, target = student(**inputs, **wants), teacher.eval()(**inputs, **wants)
        sums = dict.fromkeys(TERMS, 0.0)
        tokens = 0
        for row in range(3):
            length = int(batch["attention_mask"][row].sum())
            tokens += length
            places = [place for place in range(length) if batch["labels"][row, place] >= 0]
            for place in places:
                own_log = own.logits[row, place].log_softmax(-1)
                target_log = target.logits[row, place].log_softmax(-1)
                sums["mlm"] -= own_log[batch["labels"][row, place]].item() * length / len(places)
                sums["output"] += (target_log.exp() * (target_log - own_log)).sum().item() * length / len(places)
            for step, layer in enumerate((1, 3)):
                for place in range(length):
                    for head in range(2):
                        p, q = (
                            torch.distributions.Categorical(probs[row, head, place, :length])
                            for probs in (target.attentions[layer], own.attentions[step])
                        )
                        sums["attention"] += torch.distributions.kl_divergence(p, q).item() / 2
                    x, y = own.hidden_states[step + 1][row, place], target.hidden_states[layer + 1][row, place]
                    sums["hidden"] += 1 - (x @ y / (x.norm() * y.norm())).item()
        for name, value in sums.items():
            assert output.loss_terms[name].item() == pytest.approx(value / tokens, rel=1e-4), name
        expected = sum(TERMS[name] * value for name, value in sums.items()) / tokens
        assert output.loss.item() == pytest.approx(expected, rel=1e-4)

    def test_one_length_makes_the_masked_terms_plain_means(self) -> None:
        student, batch = tiny_mlm(), masked_batch(padded=False)
        model = DistillationModel(student, tiny_mlm(seed=1)).eval()
        logits = student(input_ids=batch["input_ids"]).logits
        labels = batch["labels"].masked_fill(batch["labels"] < 0, -100)
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        assert terms_of(model, **batch)["mlm"] == pytest.approx(expected.item(), rel=1e-5)

    def test_padding_and_batch_mates_change_nothing(self) -> None:
        model = DistillationModel(tiny_mlm(layers=2), tiny_mlm(layers=4, seed=1)).eval()
        batch = masked_batch()
        together = terms_of(model, **batch)
        wider = {
            name: torch.nn.functional.pad(value, (0, 5), value=-100 if name == "labels" else 0)
            for name, value in batch.items()
        }
        wider["input_ids"][:, -5:] = 7
        assert terms_of(model, **wider) == pytest.approx(together, rel=1e-4)
        tokens = int(batch["attention_mask"].sum())
        apart = [
            terms_of(model, **{name: value[row : row + 1] for name, value in batch.items()}, num_items_in_batch=tokens)
            for row in range(3)
        ]
        for name, value in together.items():
            assert sum(part[name] for part in apart) == pytest.approx(value, rel=1e-4)

    def test_attention_divergence_is_the_one_of_torch(self) -> None:
        p, q = (torch.randn(2, 3, 4, 4).softmax(-1) for _ in range(2))
        real = torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 0]])
        categorical = torch.distributions.Categorical
        per_query = torch.distributions.kl_divergence(categorical(p), categorical(q)).mean(dim=1)
        assert attention_divergence(q, p, real).item() == pytest.approx((per_query * real).sum().item(), rel=1e-5)

    def test_no_row_of_hidden_tokens_is_no_error(self) -> None:
        batch = masked_batch()
        batch["labels"] = torch.where(batch["attention_mask"] == 1, -1, -100)
        terms = terms_of(DistillationModel(tiny_mlm(), tiny_mlm(seed=1)), **batch)
        assert terms["mlm"] == terms["output"] == 0 < terms["hidden"]

    def test_a_term_of_weight_0_is_left_out(self) -> None:
        weights = DistillationWeights(mlm=0, output=0, attention=0.5, hidden=2)
        model = DistillationModel(tiny_mlm().base_model, tiny_mlm(seed=1).base_model, weights=weights)
        batch = masked_batch()
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        assert output.loss_terms.keys() == {"attention", "hidden"}
        total = 0.5 * output.loss_terms["attention"] + 2 * output.loss_terms["hidden"]
        assert output.loss.item() == pytest.approx(total.item())


class TestTeacher:
    def test_it_is_quiet_and_stays_out(self) -> None:
        teacher = tiny_mlm(layers=4, seed=1, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).train()
        before = weights_of(teacher)
        student = tiny_mlm()
        model = DistillationModel(student, teacher).train()
        first, second = (model(**masked_batch()) for _ in range(2))
        assert first.loss.item() == second.loss.item()
        first.loss.backward()
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert not teacher.training
        for name, weight in weights_of(teacher).items():
            assert torch.equal(weight, before[name])
        assert model.state_dict().keys() == student.state_dict().keys()
        own = {id(parameter) for parameter in student.parameters()}
        assert {id(parameter) for parameter in model.parameters()} == own

    def test_layers_by_the_map(self) -> None:
        assert even_layer_map(6, 12) == [1, 3, 5, 7, 9, 11]
        assert even_layer_map(6, 6) == [0, 1, 2, 3, 4, 5]
        assert even_layer_map(4, 6) == [0, 2, 3, 5]
        teacher = tiny_mlm(layers=4, seed=1)
        batch = masked_batch()
        # A student that is the teacher's lowest two layers learns nothing from these, but from the default ones.
        student = tiny_mlm(layers=4, seed=1)
        student.bert.encoder.layer = student.bert.encoder.layer[:2]
        student.config.num_hidden_layers = 2
        lowest = terms_of(DistillationModel(student, teacher, layer_map=[0, 1]).eval(), **batch)
        assert lowest["attention"] == pytest.approx(0, abs=1e-6) and lowest["hidden"] == pytest.approx(0, abs=1e-6)
        default = DistillationModel(student, teacher).eval()
        assert default.layer_map == [1, 3]
        assert terms_of(default, **batch)["hidden"] > 1e-3

    def test_without_predictions_of_the_teacher(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            model = DistillationModel(tiny_mlm(), tiny_mlm(seed=1).base_model)
        assert "no trained masked-language-modelling head" in caplog.text and "weight 5) is off" in caplog.text
        assert model.weights == DistillationWeights(output=0.0)
        assert terms_of(model, **masked_batch()).keys() == {"mlm", "attention", "hidden"}

    def test_other_widths_meet_in_a_projection(self) -> None:
        student, teacher = tiny_mlm(), tiny_mlm(seed=1, hidden_size=32)
        model = DistillationModel(student, teacher)
        batch = masked_batch()
        model(**batch).loss.backward()
        assert model.projection.weight.shape == (32, 16) and model.projection.weight.grad.abs().sum() > 0
        assert not any("projection" in name for name in model.state_dict())

    def test_a_projection_of_a_student_in_half_precision_stays_in_float32(self) -> None:
        """As transformers loads a checkpoint that was stored so."""
        teacher = tiny_mlm(seed=1, hidden_size=32)
        expected, model = (
            DistillationModel(tiny_mlm().to(dtype), teacher) for dtype in (torch.float32, torch.bfloat16)
        )
        model.projection.load_state_dict(expected.projection.state_dict())
        assert model.projection.weight.dtype == torch.float32
        batch = masked_batch()
        assert terms_of(model, **batch)["hidden"] == pytest.approx(terms_of(expected, **batch)["hidden"], rel=0.02)

    def test_attention_kernels_come_back(self) -> None:
        student, teacher = tiny_mlm(), tiny_mlm(seed=1)
        student.set_attn_implementation("sdpa")
        model = DistillationModel(student, teacher)
        for _ in range(2):
            model(**masked_batch())
            assert student.config._attn_implementation == teacher.config._attn_implementation == "eager"
            model.release()
        assert student.config._attn_implementation == "sdpa"

    def test_loading_one_that_lost_its_head(self, tmp_path: Path) -> None:
        """As checkpoints of sentence-transformers do: named after a head whose weights are not there."""
        whole = tiny_mlm()
        whole.save_pretrained(tmp_path / "whole")
        whole.base_model.save_pretrained(tmp_path / "bare")
        config = whole.config
        config.architectures = ["BertForMaskedLM"]
        config.save_pretrained(tmp_path / "bare")
        assert load_predicting_teacher(str(tmp_path / "whole")).get_output_embeddings() is not None
        assert load_predicting_teacher(str(tmp_path / "bare")).get_output_embeddings() is None


class TestErrors:
    @pytest.mark.parametrize(
        ("student", "teacher", "settings", "message"),
        [
            (
                {"layers": 4},
                {"layers": 2},
                {},
                "teacher has 2 layers, fewer than the student's 4.*num_hidden_layers=2",
            ),
            ({}, {}, {"layer_map": [0]}, r"must name 2 teacher layers.*from 0 to 1, got \[0\]"),
            ({}, {}, {"layer_map": [0, 2]}, r"from 0 to 1, got \[0, 2\]"),
            ({"num_attention_heads": 4}, {}, {}, r"layers have \[4, 4\] attention heads, the teacher's \[2, 2\]"),
            ({"vocab_size": 90}, {}, {}, r"predicts 90 tokens, the teacher \d+"),
            ({"attention_probs_dropout_prob": 0.1}, {}, {}, r"after dropout.*attention_probs_dropout_prob=0\)"),
        ],
    )
    def test_models_that_do_not_fit(self, student: dict, teacher: dict, settings: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DistillationModel(tiny_mlm(**student), tiny_mlm(seed=1, **teacher), **settings)

    def test_layers_of_their_own_width(self) -> None:
        """One head would be compared with each of two, by broadcasting."""
        weights = DistillationWeights(mlm=0, output=0)
        for heads in ([1, 1], [2, 1]):
            student = tiny_mlm().base_model
            for layer, count in zip(encoder_layers(student), heads, strict=True):
                set_layer_width(layer, heads=count, intermediate=24)
            with pytest.raises(ValueError, match=rf"layers have \[{heads[0]}, 1\] attention heads, the teacher's \[2"):
                DistillationModel(wrap_encoder(student), tiny_mlm(seed=1), weights=weights)
        same = wrap_encoder(tiny_mlm().base_model)
        assert DistillationModel(same, tiny_mlm(seed=1), weights=weights)(**masked_batch()).loss > 0

    def test_a_shard_outside_the_folder(self, tmp_path: Path) -> None:
        tiny_mlm().save_pretrained(tmp_path / "teacher")
        (tmp_path / "teacher" / "model.safetensors").rename(tmp_path / "outside.safetensors")
        index = {"metadata": {}, "weight_map": {"bert.embeddings.word_embeddings.weight": "../outside.safetensors"}}
        (tmp_path / "teacher" / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="outside"):
            load_predicting_teacher(str(tmp_path / "teacher"))

    def test_a_student_without_a_head(self) -> None:
        with pytest.raises(ValueError, match=r"BertModel predicts no tokens.*mlm=0, output=0"):
            DistillationModel(tiny_mlm().base_model, tiny_mlm(seed=1))

    def test_weights(self) -> None:
        with pytest.raises(ValueError, match="must not be negative"):
            DistillationWeights(mlm=-1)
        with pytest.raises(ValueError, match="nor all of them 0"):
            DistillationWeights(0, 0, 0, 0)

    def test_labels(self) -> None:
        model, batch = DistillationModel(tiny_mlm(), tiny_mlm(seed=1)), masked_batch()
        with pytest.raises(ValueError, match="labels must be -100 for padding and nothing else"):
            model(**{**batch, "labels": batch["labels"].masked_fill(batch["labels"] < 0, -100)})
        with pytest.raises(ValueError, match="terms mlm and output need labels"):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    @pytest.mark.parametrize(
        ("student", "changes", "message"),
        [
            ({}, {"max_steps": -1}, "set max_steps"),
            ({}, {"teacher_tokenizer": tiny_tokenizer(lowercase=False)}, "tokenize differently"),
            ({"vocab_size": 20}, {}, r"ids up to \d+, but the student's vocab_size is 20"),
            ({}, {"max_tokens": 65}, "max_tokens=65 do not fit into the student, which takes 64"),
            ({}, {"teacher_tokenizer": None}, "no name to load its tokenizer from"),
        ],
    )
    def test_settings(self, student: dict, changes: dict, message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            distill(tiny_mlm(**student), tmp_path, **changes)


class TestTrainer:
    def test_four_micro_batches_are_one_batch(self, tmp_path: Path) -> None:
        trainers = []
        for batch_size, accumulation in ((4, 1), (1, 4), (2, 2)):
            rows = MaskedTextStream(tiny_texts(), tiny_tokenizer(), rows_per_batch=3, max_tokens=32)
            trainer = Trainer(
                model=DistillationModel(tiny_mlm(), tiny_mlm(layers=4, seed=1)),
                args=tiny_arguments(
                    tmp_path, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation
                ),
                train_dataset=rows,
                data_collator=DataCollatorForAlignment(tiny_tokenizer()),
            )
            LossTermsCallback.add_to(trainer)
            trainer.train()
            trainers.append(trainer)
        expected = weights_of(trainers[0].model.student)
        start = weights_of(tiny_mlm())
        assert not torch.equal(
            expected["bert.encoder.layer.0.output.dense.weight"], start["bert.encoder.layer.0.output.dense.weight"]
        )
        for trainer in trainers[1:]:
            for name, weight in weights_of(trainer.model.student).items():
                torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0, msg=name)
            for line, other in zip(step_logs(trainer), step_logs(trainers[0]), strict=True):
                assert line == pytest.approx(other, rel=1e-5)

    def test_every_term_is_logged_and_the_loss_falls(self, tmp_path: Path) -> None:
        trainer = distill(
            tiny_mlm(),
            tmp_path,
            max_steps=30,
            optim="adamw_torch",
            learning_rate=5e-3,
            eval_texts=tiny_texts(9, seed=3),
        )
        lines = step_logs(trainer)
        assert len(lines) == 30
        for line in lines:
            assert line.keys() == {"loss", *(f"{name}_loss" for name in TERMS)}
            assert sum(TERMS[name] * line[f"{name}_loss"] for name in TERMS) == pytest.approx(line["loss"], rel=1e-4)
        for name in ("loss", *(f"{name}_loss" for name in TERMS)):
            assert sum(line[name] for line in lines[-5:]) < 0.95 * sum(line[name] for line in lines[:5]), name
        assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"] < lines[0]["loss"]

    def test_noise_on_the_students_embeddings(self, tmp_path: Path) -> None:
        losses = []
        for alpha in (None, 50.0):
            trainer = distill(tiny_mlm(), tmp_path / str(alpha), max_steps=1, neftune_noise_alpha=alpha)
            losses.append(step_logs(trainer)[0]["loss"])
        assert losses[0] != losses[1]
        assert trainer.model.get_input_embeddings() is trainer.model.student.get_input_embeddings()
        assert not trainer.model.get_input_embeddings()._forward_hooks

    @pytest.mark.parametrize("width", [16, 32])
    def test_resuming_is_as_if_nothing_had_happened(self, width: int, tmp_path: Path) -> None:
        """Past the end of the text, with dropout, and with a map between widths, which belongs to no student."""

        class Stop(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_training_stop = state.global_step == 7

        settings = {
            "max_steps": 14,  # of 4 rows: 40 texts are read once and a half
            "optim": "adamw_torch",
            "learning_rate": 1e-3,
            "lr_scheduler_type": "linear",
            "save_strategy": "steps",
            "save_steps": 6,
        }
        students, trainers = [], []
        for folder, halves in ((tmp_path / "whole", 1), (tmp_path / "halves", 2)):
            for half in range(halves):
                student = tiny_mlm(hidden_dropout_prob=0.1)
                trainer = distill(
                    student,
                    folder,
                    tiny_mlm(layers=4, seed=1, hidden_size=width),
                    resume=half == 1,
                    callbacks=[Stop()] if halves == 2 and half == 0 else None,
                    **settings,
                )
            students.append(student)
            trainers.append(trainer)
        for name, weight in weights_of(students[1]).items():
            assert torch.equal(weight, weights_of(students[0])[name]), name
        assert step_logs(trainers[1])[-4:] == step_logs(trainers[0])[-4:]

        checkpoint = tmp_path / "halves" / "checkpoint-12"
        assert (checkpoint / PROJECTION_FILE).exists() == (width == 32)
        reloaded, info = AutoModelForMaskedLM.from_pretrained(checkpoint, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert load_file(checkpoint / "model.safetensors").keys() <= students[0].state_dict().keys()
        assert type(reloaded).__name__ == "BertForMaskedLM" and (checkpoint / "tokenizer.json").exists()

    def test_the_map_between_widths_follows_the_seed(self, tmp_path: Path) -> None:
        losses = []
        for number in range(2):
            student, teacher = tiny_mlm(), tiny_mlm(layers=4, seed=1, hidden_size=32)
            torch.manual_seed(number)  # of the caller, which is not what decides
            losses.append(step_logs(distill(student, tmp_path / str(number), teacher, seed=5))[0]["loss"])
        assert losses[0] == losses[1]

    def test_the_best_student_comes_with_its_map(self, tmp_path: Path) -> None:
        """Steps that lead astray after the first one: what is loaded at the end is from one step, all of it."""
        settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
        settings |= {"load_best_model_at_end": True, "max_steps": 3, "learning_rate": 60.0}
        teacher = tiny_mlm(layers=4, seed=1, hidden_size=32)
        trainer = distill(tiny_mlm(), tmp_path, teacher, eval_texts=tiny_texts(8, seed=9), **settings)
        assert trainer.state.best_global_step < 3
        assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-6)

    def test_an_earlier_run_is_not_overwritten(self, tmp_path: Path) -> None:
        distill(tiny_mlm(), tmp_path, save_strategy="steps", save_steps=2)
        with pytest.raises(ValueError, match=r"already holds checkpoint-2.*resume=True"):
            distill(tiny_mlm(), tmp_path)

    def test_published_arguments(self, tmp_path: Path) -> None:
        args = published_distillation_arguments(tmp_path, max_steps=100, use_cpu=True)
        assert (args.learning_rate, args.weight_decay, args.max_steps) == (5e-4, 1e-4, 100)
        assert args.train_batch_size * args.gradient_accumulation_steps == 192
        assert args.get_warmup_steps(100) == 5
