"""The stock Trainer on AlAd models: what it optimises, logs, evaluates, saves and resumes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from seqeval.metrics import f1_score
from tiny import TAGS, tiny_config, tiny_teacher, tiny_tokenizer
from tiny_training import TASKS, WEIGHTS, make_model, make_rows, make_trainer, step_logs, weights_of
from transformers import AutoModel, PreTrainedModel, TrainerCallback

from alad_hf import AlAdForTokenClassification
from alad_hf.data.collators import DataCollatorForAlignment
from alad_hf.evaluation.compute_metrics import entity_metrics
from alad_hf.training.distillation import distilling


def assert_same(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float = 1e-6) -> None:
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=atol, rtol=0, msg=name)


class TestGradientAccumulation:
    @pytest.mark.parametrize("task", TASKS)
    def test_four_micro_batches_are_one_batch(self, task: str, tmp_path: Path) -> None:
        trainers = []
        for batch_size, accumulation in ((4, 1), (1, 4), (2, 2)):
            trainer = make_trainer(
                make_model(task),
                make_rows(task),
                tmp_path,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
            )
            trainer.train()
            trainers.append(trainer)
        expected = weights_of(trainers[0].model)
        start = weights_of(make_model(task))
        assert all(not torch.equal(weight, start[name]) for name, weight in expected.items() if "adapter" in name)
        for trainer in trainers[1:]:
            assert_same(weights_of(trainer.model), expected)
            for line, other in zip(step_logs(trainer), step_logs(trainers[0]), strict=True):
                assert line == pytest.approx(other, abs=1e-6)

    @pytest.mark.parametrize("task", TASKS)
    def test_the_loss_is_a_mean_over_items(self, task: str, tmp_path: Path) -> None:
        """One SGD step by the Trainer is one SGD step by hand on the loss of the collated batch."""
        trainer = make_trainer(make_model(task), make_rows(task), tmp_path, max_steps=1, max_grad_norm=1e9)
        trainer.train()
        model = make_model(task).train()
        rows = make_rows(task).remove_columns("example")
        loss = model(**DataCollatorForAlignment(tiny_tokenizer())([rows[row] for row in range(4)])).loss
        loss.backward()
        by_hand = {
            name: parameter.detach() - 0.1 * (parameter.grad if parameter.grad is not None else 0)
            for name, parameter in model.named_parameters()
        }
        assert step_logs(trainer)[0]["loss"] == pytest.approx(loss.item(), abs=1e-6)
        assert_same(weights_of(trainer.model), by_hand)


class TestLoggedTerms:
    @pytest.mark.parametrize(("logging_steps", "accumulation"), [(1, 3), (2, 1)])
    @pytest.mark.parametrize("task", TASKS)
    def test_their_weighted_sum_is_the_loss(
        self, task: str, logging_steps: int, accumulation: int, tmp_path: Path
    ) -> None:
        """Over two epochs of 7 rows, whose last steps have fewer rows and fewer micro-batches."""
        trainer = make_trainer(
            make_model(task),
            make_rows(task, rows=7),
            tmp_path,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            logging_steps=logging_steps,
            max_steps=-1,
            num_train_epochs=2,
        )
        trainer.train()
        lines = step_logs(trainer)
        assert len(lines) == trainer.state.max_steps // logging_steps
        weights = dict(WEIGHTS)
        if task.startswith("text for") or task == "text without a head":
            del weights["task"]
        if task == "text without a head":
            del weights["distillation"]
        for line in lines:
            assert line.keys() == {"loss", *(f"{name}_loss" for name in weights)}
            total = sum(weight * line[f"{name}_loss"] for name, weight in weights.items())
            assert total == pytest.approx(line["loss"], rel=1e-5)
        assert all((line["task_loss"] == 0) == (task == "text") for line in lines if "task_loss" in line)

    def test_other_callbacks_and_the_saved_state_see_them(self, tmp_path: Path) -> None:
        seen = []

        class Recorder(TrainerCallback):
            def on_log(self, args, state, control, logs=None, **kwargs):
                seen.append(dict(logs))

        trainer = make_trainer(make_model(), make_rows(), tmp_path, [Recorder()], save_strategy="steps", save_steps=2)
        trainer.train()
        for given, kept in zip(seen, trainer.state.log_history, strict=True):
            assert given.items() <= kept.items()
        assert "alignment_mse_loss" in seen[0]
        state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
        assert state["log_history"] == trainer.state.log_history[:2]

    def test_training_twice_and_after_an_exception_counts_once(self, tmp_path: Path) -> None:
        class Stop(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == 1:
                    raise KeyboardInterrupt

        stop = Stop()
        trainer = make_trainer(make_model(), make_rows(), tmp_path, [stop])
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        trainer.remove_callback(stop)
        trainer.train()
        again = make_trainer(trainer.model, make_rows(), tmp_path)
        again.train()
        for line in [*step_logs(trainer)[-2:], *step_logs(again)]:
            total = sum(weight * line[f"{name}_loss"] for name, weight in WEIGHTS.items())
            assert total == pytest.approx(line["loss"], rel=1e-5)
        assert not trainer.model._forward_hooks

    def test_models_without_terms_are_left_alone(self, tmp_path: Path) -> None:
        trainer = make_trainer(tiny_teacher(), make_rows(teacher=False), tmp_path)
        trainer.train()
        assert [list(line) for line in step_logs(trainer)] == [["loss"], ["loss"]]

    def test_a_loss_function_of_the_users_own_may_add_the_alignment(self, tmp_path: Path) -> None:
        """The Trainer then keeps the labels from the model, in evaluation too."""
        model = make_model()
        model.attach_teacher(tiny_teacher(), tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer())
        seen = []

        def weighted(outputs, labels, num_items_in_batch=None) -> torch.Tensor:  # noqa: ANN001
            seen.append(outputs.loss.item())
            return outputs.loss

        rows = make_rows(teacher=False)
        trainer = make_trainer(model, rows, tmp_path, eval_rows=rows, max_steps=1)
        trainer.compute_loss_func = weighted
        trainer.train()
        assert trainer.evaluate()["eval_loss"] > 0 and len(seen) > 1

    def test_label_smoothing_is_refused(self, tmp_path: Path) -> None:
        trainer = make_trainer(make_model(), make_rows(), tmp_path, label_smoothing_factor=0.1)
        with pytest.raises(ValueError, match=r"label_smoothing_factor=0.1 makes the Trainer.*Set it to 0"):
            trainer.train()
        with distilling(tiny_teacher()) as model, pytest.raises(ValueError, match="without the terms of a teacher"):
            make_trainer(model, make_rows(), tmp_path, label_smoothing_factor=0.1).train()

    def test_labels_of_a_stock_model_may_be_smoothed(self, tmp_path: Path) -> None:
        logs = []
        for factor in (0.0, 0.5):
            model = tiny_teacher()
            trainer = make_trainer(model, make_rows(teacher=False), tmp_path, label_smoothing_factor=factor)
            trainer.train()
            logs.append(step_logs(trainer))
        assert [list(line) for line in logs[1]] == [["loss"], ["loss"]] and logs[0] != logs[1]


class TestFrozenAndJoint:
    @pytest.mark.parametrize("frozen", [True, False])
    def test_what_training_changes(self, frozen: bool, tmp_path: Path) -> None:
        modes = []

        class Modes(TrainerCallback):
            def on_substep_end(self, args, state, control, model=None, **kwargs):
                modes.append((model.training, any(module.training for module in model.model.encoder.modules())))

        model = make_model(dropout=0.1, freeze_student=frozen)
        before = weights_of(model)
        trainer = make_trainer(
            model,
            make_rows(),
            tmp_path,
            [Modes()],
            eval_rows=make_rows(seed=1),
            eval_strategy="steps",
            eval_steps=1,
            max_steps=3,
            gradient_accumulation_steps=2,
            optim="adamw_torch",
            weight_decay=0.1,
        )
        trainer.train()
        assert modes == [(True, not frozen)] * 3
        changed = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
        student = {name for name in before if name.startswith("model.encoder.")}
        assert set(before) - student <= changed
        assert bool(changed & student) == (not frozen)

    def test_an_attached_teacher_is_not_trained(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = AlAdForTokenClassification.from_student_pretrained(
            AutoModel.from_config(tiny_config()),
            teacher=tiny_teacher(),
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=tiny_tokenizer(),
            copy_teacher_head=False,
        )
        before = weights_of(model)
        trainer = make_trainer(model, make_rows(teacher=False), tmp_path, optim="adamw_torch")
        trainer.train()
        assert step_logs(trainer)[0].keys() == {"loss", "task_loss", "alignment_mse_loss", "distillation_loss"}
        assert not torch.equal(before["model.adapter.linear.weight"], model.model.adapter.linear.weight)
        assert_same(weights_of(model.teacher), weights_of(tiny_teacher()), atol=0)
        assert not model.teacher.training


class TestEvaluation:
    def collated(self, model: PreTrainedModel, task: str) -> object:
        rows = make_rows(task).remove_columns("example")
        with torch.no_grad():
            return model.eval()(**DataCollatorForAlignment(tiny_tokenizer())(list(rows)))

    def test_labelled_rows_have_a_loss_and_metrics(self, tmp_path: Path) -> None:
        model = make_model()
        trainer = make_trainer(
            model, None, tmp_path, eval_rows=make_rows(), compute_metrics=entity_metrics(TAGS), max_steps=-1
        )
        metrics = trainer.evaluate()
        expected = self.collated(model, "tagging")
        assert metrics["eval_loss"] == pytest.approx(expected.loss.item(), abs=1e-6)
        labels = DataCollatorForAlignment(tiny_tokenizer())([{**row, "example": 0} for row in make_rows()])["labels"]
        real = labels >= 0
        accuracy = (expected.logits.argmax(-1)[real] == labels[real]).float().mean().item()
        assert metrics["eval_accuracy"] == pytest.approx(accuracy, abs=1e-6)
        found, wanted = (
            [[TAGS[tag] for tag in row[keep]] for row, keep in zip(ids, real, strict=True)]
            for ids in (expected.logits.argmax(-1), labels)
        )
        assert metrics["eval_f1"] == pytest.approx(f1_score(wanted, found), abs=1e-6)

    @pytest.mark.parametrize("task", ["text", "answers", "text without a head"])
    def test_the_loss_without_token_labels(self, task: str, tmp_path: Path) -> None:
        model = make_model(task)
        metrics = make_trainer(model, None, tmp_path, eval_rows=make_rows(task), max_steps=-1).evaluate()
        assert metrics["eval_loss"] == pytest.approx(self.collated(model, task).loss.item(), abs=1e-6)

    def test_unlabelled_rows_go_through_the_metrics_of_labelled_ones(self, tmp_path: Path) -> None:
        trainer = make_trainer(
            make_model(),
            None,
            tmp_path,
            eval_rows={"tagged": make_rows(), "text": make_rows("text")},
            compute_metrics=entity_metrics(TAGS),
            max_steps=-1,
        )
        metrics = trainer.evaluate()
        assert metrics["eval_text_f1"] == 0
        assert metrics["eval_tagged_loss"] > metrics["eval_text_loss"] > 0

    def test_predict(self, tmp_path: Path) -> None:
        model = make_model()
        trainer = make_trainer(model, None, tmp_path, max_steps=-1, per_device_eval_batch_size=3)
        result = trainer.predict(make_rows())
        expected = self.collated(model, "tagging").logits
        assert result.predictions.shape == expected.shape
        for row, length in enumerate(make_rows()["attention_mask"][:]):
            real = slice(0, len(length))
            torch.testing.assert_close(
                torch.tensor(result.predictions[row, real]), expected[row, real], atol=1e-5, rtol=0
            )
            assert result.label_ids[row, real].tolist() == make_rows()[row]["labels"].tolist()

    def test_predict_answers(self, tmp_path: Path) -> None:
        trainer = make_trainer(make_model("answers"), None, tmp_path, max_steps=-1)
        start, end = trainer.predict(make_rows("answers")).predictions
        expected = self.collated(trainer.model, "answers")
        torch.testing.assert_close(torch.tensor(start), expected.start_logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.tensor(end), expected.end_logits, atol=1e-5, rtol=0)


def test_unused_columns_go_and_the_teachers_stay(tmp_path: Path) -> None:
    trainer = make_trainer(make_model(), make_rows(), tmp_path)
    assert trainer.args.remove_unused_columns
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader(make_rows())):
        batch = next(iter(loader))
        assert batch.keys() == set(make_rows().column_names) - {"example"}


class StopAfter(TrainerCallback):
    """An interruption in the middle of a run."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class TestCheckpoints:
    @pytest.mark.parametrize("frozen", [True, False])
    def test_resuming_gives_the_same_weights_and_logs(self, frozen: bool, tmp_path: Path) -> None:
        settings = {
            "max_steps": 6,
            "save_strategy": "steps",
            "save_steps": 3,
            "optim": "adamw_torch",
            "learning_rate": 1e-2,
            "lr_scheduler_type": "linear",
            "train_sampling_strategy": "random",
        }

        def trainer(name: str, *callbacks: TrainerCallback) -> object:
            model = make_model(dropout=0.1, freeze_student=frozen)
            return make_trainer(model, make_rows(rows=10), tmp_path / name, list(callbacks), **settings)

        straight = trainer("straight")
        straight.train()
        interrupted = trainer("interrupted", StopAfter(4))
        with pytest.raises(KeyboardInterrupt):
            interrupted.train()
        resumed = trainer("interrupted")
        resumed.train(resume_from_checkpoint=True)
        assert_same(weights_of(resumed.model), weights_of(straight.model), atol=0)
        assert not torch.equal(interrupted.model.classifier.weight, resumed.model.classifier.weight)
        assert len(step_logs(resumed)) == 6
        for line, other in zip(step_logs(resumed), step_logs(straight), strict=True):
            assert line == pytest.approx(other, abs=1e-7)

    def test_hold_the_model_and_nothing_of_the_teacher(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = AlAdForTokenClassification.from_student_pretrained(
            AutoModel.from_config(tiny_config()),
            teacher=tiny_teacher(),
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=tiny_tokenizer(),
        )
        trainer = make_trainer(
            model, make_rows(teacher=False), tmp_path, optim="adamw_torch", save_strategy="steps", save_steps=2
        )
        trainer.train()
        folder = tmp_path / "checkpoint-2"
        plain = AlAdForTokenClassification(copy.deepcopy(model.config))
        weights = load_file(folder / "model.safetensors")
        assert weights.keys() == plain.state_dict().keys()
        states = torch.load(folder / "optimizer.pt")["state"]
        assert len(states) == sum(parameter.requires_grad for parameter in plain.parameters())
        assert sum(tensor.numel() for tensor in weights.values()) == sum(p.numel() for p in plain.parameters())
        loaded = AlAdForTokenClassification.from_pretrained(folder)
        assert loaded.teacher is None
        assert_same(weights_of(loaded), weights_of(model), atol=0)

    def test_the_best_model_is_loaded_at_the_end(self, tmp_path: Path) -> None:
        scores = iter([0.1, 0.9, 0.5])
        model = make_model(freeze_student=True)
        trainer = make_trainer(
            model,
            make_rows(),
            tmp_path,
            eval_rows=make_rows(seed=1),
            compute_metrics=lambda _: {"score": next(scores)},
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            max_steps=3,
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
        )
        trainer.train()
        weights = [load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3)]
        assert_same(weights_of(model), weights[1], atol=0)
        assert not torch.equal(weights[1]["classifier.weight"], weights[2]["classifier.weight"])
        assert not any(parameter.requires_grad for parameter in model.model.encoder.parameters())
