"""The closed-form fit of an adapter against the error and the gradients of the running model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from closed_form_script import LINES, fit, make_model, measured_error
from tiny import VOCABULARY, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel, AutoModelForTokenClassification

from alad_hf import AlAdForTokenClassification
from alad_hf.alignment import fit_adapter
from alad_hf.alignment.teacher_cache import cache_teacher_states
from alad_hf.data import encode_text

HERE = Path(__file__).resolve().parent

FORMS = [
    {"adapter_type": "linear", "window_size": 1},
    {"adapter_type": "linear", "window_size": 3},
    {"adapter_type": "linear", "window_size": 3, "adapter_size": 5},
    {"adapter_type": "light", "window_size": 1, "adapter_size": 4},
    {"adapter_type": "light", "window_size": 3, "adapter_size": 6},
    {"adapter_type": "light", "window_size": 3, "adapter_size": 37},
    {"adapter_type": "mlp", "window_size": 3, "adapter_size": 20},
    {"adapter_type": "linear", "window_size": 3, "mix_student_layers": True},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(str(value) for value in form.values()))
class TestFitAdapter:
    def test_reports_what_the_running_model_shows(self, form: dict, tmp_path: Path) -> None:
        model = make_model(**form)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        expected = measured_error(model)
        report = fit(model)
        assert report.tokens == expected["tokens"]
        assert report.mse_before == pytest.approx(expected["mse"], rel=1e-5)
        after = measured_error(model)
        assert report.mse_after == pytest.approx(after["mse"], rel=1e-4)
        assert report.r_squared == pytest.approx(1 - after["mse"] / after["variance"], abs=1e-5)
        assert report.mse_after < 0.7 * report.mse_before
        assert report.passes == (2 if form["adapter_type"] == "light" else 1)
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed and all(name.startswith("model.adapter.") for name in changed)

        model.save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        assert measured_error(loaded)["mse"] == pytest.approx(after["mse"], rel=1e-6)

    def test_no_gradient_step_improves_the_solved_layers(self, form: dict) -> None:
        """With hardly a penalty, the error's gradient in whatever was solved for is zero."""
        model = make_model(**form)
        fit(model, regularisation=1e-9)
        model.double()
        solved = [
            parameter
            for name, parameter in model.model.adapter.named_parameters()
            if not name.startswith("hidden") and (name != "down.weight" or form["adapter_type"] == "linear")
        ]
        error = measured_error(model, gradient=True)["mse"]
        gradients = torch.autograd.grad(error, solved)
        torch.manual_seed(0)
        for parameter in solved:
            parameter.data += 0.1 * torch.randn_like(parameter) * parameter.abs().mean()
        worse = measured_error(model, gradient=True)["mse"]
        assert worse > error
        for gradient, other in zip(gradients, torch.autograd.grad(worse, solved), strict=True):
            assert gradient.abs().max() < 2e-2 * other.abs().max()


class TestFitAdapterOnText:
    def test_a_student_that_is_its_teacher_is_passed_on(self) -> None:
        teacher = tiny_teacher(16)
        model = make_model(student=teacher, teacher=teacher, adapter_type="linear", window_size=1)
        with torch.no_grad():
            model.model.adapter.linear.weight.normal_()
        report = fit(model, regularisation=1e-10)
        assert report.mse_before > 0.1
        assert report.mse_after < 1e-10
        assert report.r_squared > 1 - 1e-9

    def test_the_light_form_uses_its_window(self) -> None:
        """Its linear path alone, and the same projection chosen at random, both leave more."""
        light = fit(make_model(adapter_type="light", window_size=3, adapter_size=8)).mse_after
        alone = fit(make_model(adapter_type="linear", window_size=1)).mse_after
        window = fit(make_model(adapter_type="linear", window_size=3)).mse_after
        assert window < 0.95 * alone
        assert light < alone - 0.3 * (alone - window)

    def test_the_light_form_holds_a_linear_correction_of_its_rank(self) -> None:
        """Pairs (d, -d): with as many as the student is wide, it cannot be worse than the whole linear window."""
        model = make_model(adapter_type="light", window_size=3, adapter_size=32)
        light = fit(model, regularisation=1e-9).mse_after
        linear = fit(make_model(adapter_type="linear", window_size=3), regularisation=1e-9).mse_after
        assert light < linear
        down = model.model.adapter.down.weight
        assert torch.equal(down[:16], -down[16:])

    def test_cached_columns_give_the_same_as_a_teacher_on_the_fly(self, tmp_path: Path) -> None:
        model, cached, stored = (make_model(adapter_type="linear", window_size=3) for _ in range(3))
        fit(model)
        rows = encode_text(LINES, tiny_tokenizer(), max_length=64)
        tokenizers = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
        rows = cache_teacher_states(rows, cached.teacher, dtype="float32", cache_dir=tmp_path, **tokenizers)
        cached.detach_teacher()
        fit_adapter(cached, rows, tokenizer=tiny_tokenizer())
        fit_adapter(stored, LINES, tokenizer=tiny_tokenizer(), cache_dir=tmp_path / "float16")
        assert list((tmp_path / "float16").glob("*.arrow"))
        expected = model.model.adapter.linear.weight
        torch.testing.assert_close(cached.model.adapter.linear.weight, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(stored.model.adapter.linear.weight, expected, atol=1e-2, rtol=0)
        assert not torch.equal(stored.model.adapter.linear.weight, expected)

    def test_a_teacher_with_another_tokenizer_is_read_through_the_alignment(self, tmp_path: Path) -> None:
        words = [word for word in VOCABULARY if word not in ("berlin", "acme", "played")]
        other = tiny_tokenizer(vocabulary={word: index for index, word in enumerate(words)})
        teacher = tiny_teacher()
        models = [make_model(adapter_type="linear", window_size=3) for _ in range(2)]
        arguments = {"tokenizer": tiny_tokenizer(), "teacher": teacher, "teacher_tokenizer": other}
        fit_adapter(models[0], LINES, **arguments)
        rows = encode_text(LINES, tiny_tokenizer(), max_length=64, teacher_tokenizer=other)
        tokenizers = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": other}
        rows = cache_teacher_states(rows, teacher, dtype="float32", cache_dir=tmp_path, **tokenizers)
        fit_adapter(models[1], rows, tokenizer=tiny_tokenizer())
        one, two = (model.model.adapter.linear.weight for model in models)
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
        alike = make_model(adapter_type="linear", window_size=3)
        fit_adapter(alike, LINES, **{**arguments, "teacher_tokenizer": tiny_tokenizer()})
        assert (alike.model.adapter.linear.weight - one).abs().max() > 1e-2

    def test_tokens_without_a_counterpart_do_not_count(self, tmp_path: Path) -> None:
        rows = encode_text(LINES, tiny_tokenizer(), max_length=64)
        model = make_model(adapter_type="linear", window_size=1)
        tokenizers = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
        rows = cache_teacher_states(rows, model.teacher, dtype="float32", cache_dir=tmp_path, **tokenizers)
        expected = fit_adapter(model, rows, tokenizer=tiny_tokenizer())

        def spoil(row: dict) -> dict:
            states = row["teacher_states"].clone()
            mask = torch.ones(len(states), dtype=torch.int8)
            states[1], mask[1] = 1e6, 0
            return {"teacher_states": states, "teacher_mask": mask}

        other = make_model(adapter_type="linear", window_size=1)
        report = fit_adapter(other, rows.map(spoil), tokenizer=tiny_tokenizer())
        assert report.tokens == expected.tokens - len(rows)
        assert report.mse_after < 1.5 * expected.mse_after

    def test_the_batch_size_does_not_matter(self) -> None:
        models = [make_model(adapter_type="linear", window_size=3) for _ in range(2)]
        for model, batch_size in zip(models, (1, 50), strict=True):
            fit(model, batch_size=batch_size)
        one, other = (model.model.adapter.linear.weight for model in models)
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)

    def test_a_metric_spends_the_rank_where_it_matters(self) -> None:
        form = {"adapter_type": "linear", "window_size": 3, "adapter_size": 2}
        plain, aimed = make_model(**form), make_model(**form)
        head = plain.classifier.weight.detach()
        fit(plain)
        fit(aimed, metric=head.T @ head + 1e-6 * torch.eye(head.shape[1]))
        errors = [measured_error(model, head)["mse"] for model in (plain, aimed)]
        assert errors[1] < 0.95 * errors[0]
        assert measured_error(aimed)["mse"] > measured_error(plain)["mse"]

    def test_bfloat16_and_modes(self) -> None:
        model = make_model(adapter_type="light", window_size=3, adapter_size=6).to(torch.bfloat16).train()
        report = fit(model)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert report.mse_after < 0.9 * report.mse_before
        assert measured_error(model.eval())["mse"] == pytest.approx(report.mse_after, rel=0.05)
        model.train()
        fit(model)
        fixed = model.get_input_embeddings().weight
        assert model.training and all(p.requires_grad for p in model.parameters() if p is not fixed)

    def test_what_it_cannot_take(self) -> None:
        model = make_model(adapter_type="light", window_size=3)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=r"metric.*adapter_type='linear'.*got 'light'"):
            fit(model, metric=torch.eye(32))
        with pytest.raises(ValueError, match="linearly dependent"):
            fit(model.train(), regularisation=0)
        assert model.training
        with pytest.raises(ValueError, match="There is no text"):
            fit_adapter(model, [], tokenizer=tiny_tokenizer())
        rows = encode_text(LINES[:1], tiny_tokenizer(), max_length=64)
        rows = rows.add_column("teacher_states", [[[0.0] * 32] * len(rows[0]["input_ids"])])
        with pytest.raises(ValueError, match="teacher_states already: leave out teacher"):
            fit_adapter(model, rows, tokenizer=tiny_tokenizer(), teacher=model.teacher)
        assert model.training
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        with pytest.raises(ValueError, match="32 wide, the aligned states 16"):
            fit_adapter(
                AlAdForTokenClassification.from_student_pretrained(AutoModel.from_config(tiny_config())),
                LINES,
                tokenizer=tiny_tokenizer(),
                teacher=tiny_teacher(),
                teacher_tokenizer=tiny_tokenizer(),
            )
        model.detach_teacher()
        with pytest.raises(ValueError, match="Alignment needs a teacher"):
            fit(model)
        with pytest.raises(TypeError, match="got a BertForTokenClassification"):
            fit_adapter(tiny_teacher(), LINES, tokenizer=tiny_tokenizer())


def free_port() -> int:
    """A port that was free a moment ago; accelerate 1.3 waits for ever on port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_share_the_rows_and_agree(tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    settings = ["--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={free_port()}"]
    done = subprocess.run(
        [sys.executable, *launcher, *settings, str(HERE / "closed_form_script.py"), str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1])]),
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [torch.load(tmp_path / f"process-{rank}.pt") for rank in (0, 1)]
    model = make_model(adapter_type="light", window_size=3, adapter_size=6)
    report = fit(model)
    assert results[0]["tokens_read"] + results[1]["tokens_read"] == 2 * report.tokens
    assert min(result["tokens_read"] for result in results) > 0
    for result in results:
        assert result["report"]["tokens"] == report.tokens
        assert result["report"]["mse_before"] == pytest.approx(report.mse_before, rel=1e-6)
        for name, value in model.model.adapter.state_dict().items():
            torch.testing.assert_close(result["adapter"][name], value, atol=1e-5, rtol=0, msg=name)
    for name, value in results[0]["adapter"].items():
        assert torch.equal(results[1]["adapter"][name], value)
