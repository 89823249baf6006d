"""The published stages: arguments, text in, alignment, and going on after an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import TAGS, VOCABULARY, tiny_config, tiny_teacher, tiny_tokenizer
from tiny_stock import stock_model
from tiny_training import make_rows, step_logs, weights_of
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    BertForTokenClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from alad_hf import AlAdForQuestionAnswering, AlAdForTokenClassification
from alad_hf.data import encode_text
from alad_hf.training.distillation import distilling
from alad_hf.training.stages import align, last_complete_checkpoint, published_arguments, train

HERE = Path(__file__).resolve().parent
TEXTS = [
    "smith works for acme in york .",
    "jones visited the unplayedable new london",
    "a zeta",
    "the berlin of smith and jones , played in new york for acme .",
    "",
    "acme works",
]


def make_model(frozen: bool = True, attached: bool = True) -> AlAdForTokenClassification:
    torch.manual_seed(0)
    model = AlAdForTokenClassification.from_student_pretrained(
        AutoModel.from_config(tiny_config()),
        teacher=tiny_teacher(),
        tokenizer=tiny_tokenizer(),
        teacher_tokenizer=tiny_tokenizer(),
        freeze_student=frozen,
    )
    if not attached:
        model.detach_teacher()
    return model


def make_reader() -> AlAdForQuestionAnswering:
    torch.manual_seed(0)
    return AlAdForQuestionAnswering.from_student_pretrained(
        AutoModel.from_config(tiny_config()),
        teacher=AutoModelForQuestionAnswering.from_config(tiny_config(hidden_size=32)),
        tokenizer=tiny_tokenizer(),
        teacher_tokenizer=tiny_tokenizer(),
    )


def run_alignment(
    model: PreTrainedModel, folder: Path, resume: bool = False, teacher: str | None = None, **arguments: object
) -> Trainer:
    """Four steps of alignment with a checkpoint after each."""
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": None,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return align(
        model,
        TEXTS,
        tokenizer=tiny_tokenizer(),
        args=published_arguments("general_alignment", folder / "run", **{**settings, **arguments}),
        teacher=teacher,
        cache_dir=folder / "states",
        resume=resume,
    )


class TestPublishedArguments:
    @pytest.mark.parametrize(
        ("stage", "learning_rate", "weight_decay", "epochs", "schedule"),
        [
            ("general_alignment", 5e-4, 0.01, 1, "constant"),
            ("continual_alignment", 1e-4, 0.01, 10, "constant"),
            ("head_only", 5e-4, 0.0, 4, "linear"),
            ("frozen", 1e-4, 0.01, 4, "linear"),
            ("joint", 5e-5, 0.01, 4, "linear"),
        ],
    )
    def test_table(
        self, stage: str, learning_rate: float, weight_decay: float, epochs: int, schedule: str, tmp_path: Path
    ) -> None:
        args = published_arguments(stage, tmp_path)
        assert (args.learning_rate, args.weight_decay, args.num_train_epochs) == (learning_rate, weight_decay, epochs)
        assert args.lr_scheduler_type == schedule
        assert (args.adam_beta1, args.adam_beta2, args.max_grad_norm) == (0.9, 0.98, 1.0)
        assert args.per_device_train_batch_size == 32
        assert args.output_dir == str(tmp_path)

    def test_overrides_win(self, tmp_path: Path) -> None:
        args = published_arguments("joint", tmp_path, learning_rate=3e-3, adam_beta2=0.999, logging_steps=7)
        assert (args.learning_rate, args.adam_beta2, args.logging_steps) == (3e-3, 0.999, 7)

    def test_unknown_names_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"one of \['continual_alignment', .*'joint'\], got 'fine_tuning'"):
            published_arguments("fine_tuning", tmp_path)
        with pytest.raises(TypeError, match="learning_rates"):
            published_arguments("joint", tmp_path, learning_rates=1)


class TestAlign:
    @pytest.mark.parametrize("frozen", [True, False])
    def test_brings_the_model_closer_to_its_teacher(self, frozen: bool, tmp_path: Path) -> None:
        model = make_model(frozen)
        before = weights_of(model)
        trainer = run_alignment(model, tmp_path, max_steps=30, per_device_train_batch_size=6, save_strategy="no")
        lines = step_logs(trainer)
        assert lines[0].keys() == {"loss", "task_loss", "alignment_mse_loss", "distillation_loss"}
        assert lines[-1]["alignment_mse_loss"] < 0.7 * lines[0]["alignment_mse_loss"]
        assert all(line["task_loss"] == 0 for line in lines)
        student = {name for name in before if name.startswith("model.encoder.")}
        changed = {name for name in before if not torch.equal(before[name], model.get_parameter(name))}
        assert bool(changed & student) == (not frozen)
        assert {"model.adapter.linear.weight", "model.adapter.up.weight"} <= changed

    def test_a_given_teacher_stands_in_for_an_attached_one(self, tmp_path: Path) -> None:
        tiny_teacher().save_pretrained(tmp_path / "teacher")
        tiny_tokenizer().save_pretrained(tmp_path / "teacher")
        attached = run_alignment(make_model(), tmp_path / "attached")
        model = make_model(attached=False)
        arguments = {"max_steps": 4, "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-2}
        given = align(
            model,
            TEXTS,
            tokenizer=tiny_tokenizer(),
            args=published_arguments("general_alignment", tmp_path / "given", disable_tqdm=True, **arguments),
            teacher=str(tmp_path / "teacher"),
            cache_dir=tmp_path / "states",
        )
        for line, other in zip(step_logs(given), step_logs(attached), strict=True):
            assert line == pytest.approx(other, abs=1e-6)

    @pytest.mark.parametrize("model_class", [AlAdForTokenClassification, AlAdForQuestionAnswering])
    def test_held_out_text_has_a_loss(self, model_class: type[PreTrainedModel], tmp_path: Path) -> None:
        torch.manual_seed(0)
        question_teacher = AutoModelForQuestionAnswering.from_config(tiny_config(hidden_size=32))
        model = model_class.from_student_pretrained(
            AutoModel.from_config(tiny_config()),
            teacher=question_teacher if model_class is AlAdForQuestionAnswering else tiny_teacher(),
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=tiny_tokenizer(),
        )
        trainer = align(
            model,
            TEXTS[:3],
            tokenizer=tiny_tokenizer(),
            args=published_arguments(
                "continual_alignment", tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1, disable_tqdm=True
            ),
            eval_texts=TEXTS[3:],
            cache_dir=tmp_path / "states",
        )
        losses = [line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line]
        assert len(losses) == 2 and min(losses) > 0

    def test_held_out_text_has_a_loss_under_an_attached_reader(self, tmp_path: Path) -> None:
        model = make_reader()
        rows = encode_text(TEXTS, tiny_tokenizer(), max_length=64)
        arguments = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "disable_tqdm": True}
        args = published_arguments("general_alignment", tmp_path, **arguments)
        trainer = train(model, rows, tokenizer=tiny_tokenizer(), args=args, eval_dataset=rows)
        assert [line["eval_loss"] > 0 for line in trainer.state.log_history if "eval_loss" in line] == [True]

    @pytest.mark.parametrize("trained_on_text", [True, False])
    def test_text_and_answers_may_stand_beside_each_other(self, trained_on_text: bool, tmp_path: Path) -> None:
        """As where states alone are learned, and answers are what decides."""
        model = make_reader()
        text = encode_text(TEXTS[:2], tiny_tokenizer(), max_length=64)
        answers = text.add_column("start_positions", [1, 2]).add_column("end_positions", [2, 2])
        rows = (text, answers) if trained_on_text else (answers, text)
        seen: list[int] = []
        arguments = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "disable_tqdm": True}
        trainer = train(
            model,
            rows[0],
            tokenizer=tiny_tokenizer(),
            args=published_arguments("general_alignment", tmp_path, **arguments),
            eval_dataset=rows[1],
            compute_metrics=lambda prediction: {"rows": seen.append(len(prediction.label_ids)) or 1.0},
        )
        (line,) = [line for line in trainer.state.log_history if "eval_loss" in line]
        assert line["eval_loss"] > 0 and line["eval_rows"] == 1.0 and len(seen) == 1

    def test_a_teacher_of_other_labels_is_refused(self, tmp_path: Path) -> None:
        """Also where it is not attached: its logits would be learned by position."""
        tiny_teacher(tags=TAGS[::-1]).save_pretrained(tmp_path / "teacher")
        tiny_tokenizer().save_pretrained(tmp_path / "teacher")
        with pytest.raises(ValueError, match="Distillation needs the same ones in the same order"):
            run_alignment(make_model(attached=False), tmp_path, teacher=str(tmp_path / "teacher"))
        model = make_model(attached=False)
        model.config.distillation_weight = 0.0
        assert run_alignment(model, tmp_path, teacher=str(tmp_path / "teacher")).state.global_step == 4

    def test_what_is_refused(self, tmp_path: Path) -> None:
        def attempt(**arguments: object) -> None:
            align(
                make_model(attached=False),
                TEXTS,
                tokenizer=tiny_tokenizer(),
                args=published_arguments("general_alignment", tmp_path / "run"),
                cache_dir=tmp_path / "states",
                **arguments,
            )

        with pytest.raises(ValueError, match=r"needs a teacher: pass teacher=\.\.\., .*call model\.attach_teacher"):
            attempt()
        with pytest.raises(ValueError, match=r"no name to load its tokenizer from. Pass teacher_tokenizer="):
            attempt(teacher=tiny_teacher())
        with pytest.raises(ValueError, match="eval_texts would never be read"):
            attempt(teacher=tiny_teacher(), teacher_tokenizer=tiny_tokenizer(), eval_texts=TEXTS)

    def test_a_teacher_with_another_tokenizer_says_the_same(self, tmp_path: Path) -> None:
        """Two ids exchanged, in the teacher's tokenizer and in its embeddings, change nothing."""
        swapped = {**VOCABULARY, "york": VOCABULARY["new"], "new": VOCABULARY["york"]}
        other = tiny_teacher()
        table = other.get_input_embeddings().weight.data
        table[[VOCABULARY["york"], VOCABULARY["new"]]] = table[[VOCABULARY["new"], VOCABULARY["york"]]]
        other.save_pretrained(tmp_path / "teacher")
        tiny_tokenizer(vocabulary=swapped).save_pretrained(tmp_path / "teacher")
        same = run_alignment(make_model(), tmp_path / "same")
        model = make_model(attached=False)
        trainer = run_alignment(model, tmp_path / "other", teacher=str(tmp_path / "teacher"))
        for line, expected in zip(step_logs(trainer), step_logs(same), strict=True):
            assert line == pytest.approx(expected, rel=1e-3)

    def test_no_row_is_longer_than_the_teacher_can_read(self, tmp_path: Path) -> None:
        """Its tokenizer states more tokens than the model has positions."""
        teacher = AutoModel.from_config(tiny_config(hidden_size=32, max_position_embeddings=6))
        teacher.save_pretrained(tmp_path / "teacher")
        tiny_tokenizer(vocabulary={token: index for index, token in enumerate(reversed(VOCABULARY))}).save_pretrained(
            tmp_path / "teacher"
        )
        with pytest.raises(ValueError, match="are too long for the teacher"):
            run_alignment(make_model(attached=False), tmp_path, teacher=str(tmp_path / "teacher"))


def test_lengths_are_read_once(tmp_path: Path) -> None:
    """Of a lazy column the Trainer would read a row for every comparison of its sort."""
    trainer = run_alignment(make_model(), tmp_path)
    lengths = [len(row) for row in encode_text(TEXTS, tiny_tokenizer(), max_length=64)["input_ids"]]
    assert trainer._get_train_sampler().lengths == lengths


def test_predictions_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    """`published_arguments` groups rows by length, in a stock Trainer those of `predict` too."""
    model = make_model(attached=False)
    trainer = train(
        model,
        make_rows(),
        tokenizer=tiny_tokenizer(),
        args=published_arguments("joint", tmp_path, max_steps=1, per_device_eval_batch_size=2, use_cpu=True),
        print_logs=False,
    )
    rows = make_rows(rows=12, seed=1)
    found = trainer.predict(rows).label_ids
    assert [labels[labels != -100].tolist() for labels in found] == [
        labels[labels != -100].tolist() for labels in rows["labels"]
    ]
    assert trainer.args.train_sampling_strategy == "group_by_length"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_training_in_float16_is_told_of(dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    args = published_arguments("joint", tmp_path, max_steps=1, use_cpu=True)
    given = {"tokenizer": tiny_tokenizer(), "args": args, "print_logs": False}
    train(tiny_teacher().to(dtype), make_rows(teacher=False), **given)
    assert ("trained in float16" in caplog.text) == (dtype == torch.float16)


def test_several_sets_are_evaluated(tmp_path: Path) -> None:
    args = published_arguments("joint", tmp_path, max_steps=1, eval_strategy="steps", eval_steps=1, use_cpu=True)
    sets = {"short": make_rows(rows=2), "long": make_rows()}
    given = {"tokenizer": tiny_tokenizer(), "args": args, "print_logs": False}
    trainer = train(make_model(attached=False), make_rows(), eval_dataset=sets, **given)
    assert {"eval_short_loss", "eval_long_loss"} <= set().union(*trainer.state.log_history)


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    given = {"tokenizer": tiny_tokenizer(), "args": published_arguments("joint", tmp_path, use_cpu=True)}
    stream = make_rows().to_iterable_dataset()
    with pytest.raises(TypeError, match="train_dataset must be a datasets.Dataset .* got IterableDataset"):
        train(make_model(), stream, **given)
    with pytest.raises(TypeError, match="eval_dataset must be a datasets.Dataset .* got list"):
        train(make_model(), make_rows(), eval_dataset={"a": [1]}, **given)


class TestInterruption:
    def test_another_runs_checkpoints_are_refused(self, tmp_path: Path) -> None:
        run_alignment(make_model(), tmp_path)
        with pytest.raises(ValueError, match=r"run already holds checkpoint-4 of an earlier run. Pass resume=True"):
            run_alignment(make_model(), tmp_path)

    def test_resuming_without_checkpoints_starts(self, tmp_path: Path) -> None:
        assert run_alignment(make_model(), tmp_path, resume=True).state.global_step == 4

    def test_resuming_a_finished_run_changes_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        finished = run_alignment(make_model(), tmp_path, max_steps=-1, num_train_epochs=2)
        again = run_alignment(make_model(), tmp_path, max_steps=-1, num_train_epochs=2, resume=True)
        assert "Resuming from" in caplog.text and "checkpoint-6" in caplog.text
        assert again.state.global_step == 6
        for name, weight in weights_of(finished.model).items():
            assert torch.equal(again.model.get_parameter(name), weight), name

    def test_a_torn_checkpoint_does_not_count(self, tmp_path: Path) -> None:
        assert last_complete_checkpoint(None) is None
        assert last_complete_checkpoint(tmp_path / "missing") is None
        assert last_complete_checkpoint(tmp_path) is None
        for step, state in ((2, "{}"), (10, '{"global_step": 10}'), (11, '{"global_st'), (9, "{}")):
            (tmp_path / f"checkpoint-{step}").mkdir()
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
        (tmp_path / "checkpoint-12").mkdir()
        (tmp_path / "checkpoint-last").mkdir()
        (tmp_path / "checkpoint-last" / "trainer_state.json").write_text("{}")
        assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"

    def test_a_killed_run_goes_on(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Killed while it writes its third checkpoint, whose weights are on disk and whose optimiser is not."""
        script = """
            import os, signal, sys
            from pathlib import Path
            import test_stages
            from transformers import Trainer

            save = Trainer._save_optimizer_and_scheduler

            def dies(self, folder):
                if self.state.global_step == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                save(self, folder)

            Trainer._save_optimizer_and_scheduler = dies
            test_stages.run_alignment(test_stages.make_model(frozen=False), Path(sys.argv[1]))
        """
        path = os.pathsep.join(map(str, [HERE, HERE.parent, HERE.parent / "models", HERE.parents[1]]))
        killed = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        torn = tmp_path / "run" / "checkpoint-3"
        assert (torn / "model.safetensors").exists() and not (torn / "trainer_state.json").exists()
        resumed = run_alignment(make_model(frozen=False), tmp_path, resume=True)
        assert "checkpoint-2" in caplog.text
        assert len(step_logs(resumed)) == resumed.state.global_step == 4
        assert (torn / "trainer_state.json").exists()
        straight = run_alignment(make_model(frozen=False), tmp_path / "straight")
        for name, weight in weights_of(straight.model).items():
            torch.testing.assert_close(resumed.model.get_parameter(name), weight, atol=1e-6, rtol=0, msg=name)


def test_plain_models_are_trained_by_the_same_code(tmp_path: Path) -> None:
    args = published_arguments("joint", tmp_path, max_steps=2, logging_steps=1, learning_rate=1e-2, disable_tqdm=True)
    model = tiny_teacher()
    trainer = train(model, make_rows(teacher=False), tokenizer=tiny_tokenizer(), args=args)
    assert [list(line) for line in step_logs(trainer)] == [["loss"], ["loss"]]
    assert not torch.equal(model.classifier.weight, tiny_teacher().classifier.weight)


def test_the_loss_of_a_plain_model_is_a_mean_over_accumulated_batches(tmp_path: Path) -> None:
    """Stock losses are means, whatever number of items the Trainer offers to divide by."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(VOCABULARY), (8, 6), generator=generator)
    rows = Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": [[1] * 6] * 8, "labels": (ids % 5).tolist()}
    )
    logs = []
    for accumulation in (1, 4):
        torch.manual_seed(0)
        config = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=5)
        args = published_arguments(
            "joint",
            tmp_path / str(accumulation),
            max_steps=1,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            logging_steps=1,
            save_strategy="no",
        )
        trainer = train(BertForTokenClassification(config), rows, tokenizer=tiny_tokenizer(), args=args)
        logs.append({name: trainer.state.log_history[0][name] for name in ("loss", "grad_norm")})
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)


def test_rows_without_anything_to_learn_are_refused(tmp_path: Path) -> None:
    rows = encode_text(["smith visited berlin"], tiny_tokenizer(), max_length=16)
    with pytest.raises(ValueError, match=r"nothing to learn: .*'input_ids'.*cache_teacher_states"):
        train(
            make_model(attached=False),
            rows,
            tokenizer=tiny_tokenizer(),
            args=published_arguments("frozen", tmp_path),
        )


@pytest.mark.parametrize("model_type", ["bert", "minialbert"])
def test_targets_that_the_model_does_not_read_are_no_targets(
    model_type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(model: PreTrainedModel, rows: Dataset, name: str) -> list[float]:
        args = published_arguments("joint", tmp_path / name, max_steps=1, logging_steps=1, use_cpu=True)
        trainer = train(model, rows, tokenizer=tiny_tokenizer(), args=args, print_logs=False)
        return [line["loss"] for line in step_logs(trainer)]

    rows = make_rows().remove_columns("teacher_states")
    signal_alone = rows.remove_columns("labels")
    model = stock_model(model_type)
    message = rf"nothing to learn: a {type(model).__name__} does not read teacher_logits.*adapter=False.*distilling\("
    with pytest.raises(ValueError, match=message):
        run(model, signal_alone, "refused")
    with pytest.raises(ValueError, match=r"does not read start_positions.*Add labels of its task"):
        run(model, signal_alone.remove_columns("teacher_logits").add_column("start_positions", [1] * 8), "answers")
    assert "passed by" not in caplog.text
    with distilling(model):
        assert run(model, signal_alone, "signal")[0] > 0
        assert run(model, rows, "distilled")[0] > 0
    assert "passed by" not in caplog.text
    run(model, rows, "labels")
    assert caplog.text.count("['teacher_logits'] of the rows are passed by") == 1


@pytest.mark.parametrize("named", [False, True])
def test_rows_given_to_evaluate_may_have_other_columns(named: bool, tmp_path: Path) -> None:
    """As those of `predict` may: windows of questions have ids."""
    args = published_arguments("joint", tmp_path, max_steps=1, use_cpu=True)
    sets = {"seen": make_rows(), "held_out": make_rows(seed=1)} if named else make_rows()
    given = {"tokenizer": tiny_tokenizer(), "args": args, "print_logs": False}
    trainer = train(make_model(attached=False), make_rows(), eval_dataset=sets, **given)
    others = make_rows(rows=5, seed=2)
    assert "example" in others.column_names
    found = trainer.evaluate({"other": others} if named else others)["eval_other_loss" if named else "eval_loss"]
    assert found == pytest.approx(trainer.predict(others).metrics["test_loss"], rel=1e-5)
    assert trainer.evaluate().keys() >= ({"eval_seen_loss", "eval_held_out_loss"} if named else {"eval_loss"})
    assert trainer.get_eval_dataloader("seen" if named else None).dataset.column_names[-1] == "length"


def test_several_gpus_in_one_process_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match=r"sees 2 GPUs.*DataParallel.*accelerate launch"):
        train(tiny_teacher(), make_rows(), tokenizer=tiny_tokenizer(), args=published_arguments("joint", tmp_path))
