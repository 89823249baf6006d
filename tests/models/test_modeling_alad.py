"""The AlAd model classes: contract, student architectures, the loss, the frozen student, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_contract import ModelContract
from tiny import (
    STUDENT_CONFIGS,
    TAGS,
    VOCABULARY,
    random_batch,
    tiny_alad_config,
    tiny_config,
    tiny_teacher,
    tiny_tokenizer,
)
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    BartConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from alad_hf import AlAdConfig, AlAdForQuestionAnswering, AlAdForTokenClassification, AlAdModel
from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.models.student import load_student


class AlAdContract(ModelContract):
    def config(self) -> PreTrainedConfig:
        return tiny_alad_config()

    def inputs(self) -> dict[str, torch.Tensor]:
        batch = random_batch()
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def targets(self) -> dict[str, torch.Tensor]:
        states = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(5))
        return {"labels": random_batch()["labels"], "teacher_states": states}


class TestAlAdForTokenClassification(AlAdContract):
    model_class = AlAdForTokenClassification
    auto_class = AutoModelForTokenClassification


class TestPublishedAdapter(AlAdContract):
    model_class = AlAdForTokenClassification
    auto_class = AutoModelForTokenClassification

    def config(self) -> PreTrainedConfig:
        return tiny_alad_config(adapter_type="mlp", window_size=3, freeze_student=True)


class TestAlAdModel(AlAdContract):
    model_class = AlAdModel
    auto_class = AutoModel

    def result(self, outputs: object) -> torch.Tensor:
        return outputs["last_hidden_state"]


class TestAlAdForQuestionAnswering(AlAdContract):
    model_class = AlAdForQuestionAnswering
    auto_class = AutoModelForQuestionAnswering

    def targets(self) -> dict[str, torch.Tensor]:
        states = super().targets()["teacher_states"]
        return {
            "start_positions": torch.tensor([1, 2, 0]),
            "end_positions": torch.tensor([3, 2, 4]),
            "teacher_states": states,
        }

    def result(self, outputs: object) -> torch.Tensor:
        return torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)


@pytest.mark.parametrize("hidden_size", [16, 32], ids=["same-width", "wider-teacher"])
@pytest.mark.parametrize("student", STUDENT_CONFIGS)
class TestEveryStudent:
    def test_trains_saves_and_ignores_padding(self, student: str, hidden_size: int, tmp_path: Path) -> None:
        torch.manual_seed(0)
        encoder = AutoModel.from_config(tiny_config(student)).eval()
        teacher = tiny_teacher(hidden_size)
        model = AlAdForTokenClassification.from_student_pretrained(
            encoder, teacher=teacher, tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer()
        )
        batch = random_batch()
        types = torch.zeros_like(batch["input_ids"])

        with torch.no_grad():
            expected = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            states = model(**batch, token_type_ids=types, output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[-2], expected)
        assert states[-1].shape[-1] == hidden_size
        assert not any("pooler" in name for name in model.state_dict())

        model.train()
        loss = model(**batch).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.model.adapter.parameters())
        assert model.get_input_embeddings().weight.grad is None
        student = [parameter for parameter in model.model.encoder.parameters() if parameter.requires_grad]
        assert student and sum(parameter.grad.abs().sum() for parameter in student if parameter.grad is not None) > 0

        model.eval()
        with torch.no_grad():
            for parameter in model.model.adapter.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            together = loaded(**inputs).logits
            assert torch.equal(together, model(**inputs).logits)
            for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
                alone = loaded(**{name: value[row : row + 1, :length] for name, value in inputs.items()}).logits
                torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=0)


class TestAlignmentLoss:
    def model(self, **changes: object) -> AlAdForTokenClassification:
        torch.manual_seed(0)
        model = AlAdForTokenClassification(tiny_alad_config(**changes)).eval()
        with torch.no_grad():
            model.model.adapter.up.weight.normal_()
        return model

    def columns(self, seed: int = 3) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "teacher_states": torch.randn(3, 9, 32, generator=generator),
            "teacher_logits": torch.randn(3, 9, len(TAGS), generator=generator),
        }

    def test_equals_a_loop_over_tokens(self) -> None:
        model = self.model(
            alignment_mse_weight=0.3,
            alignment_cosine_weight=0.7,
            distillation_weight=0.5,
            distillation_temperature=2.0,
        )
        batch, columns = random_batch(), self.columns()
        with torch.no_grad():
            outputs = model(**batch, **columns, output_hidden_states=True)
        aligned, logits = outputs.hidden_states[-1], outputs.logits
        task = mse = cosine = distillation = 0.0
        labelled = 0
        for row in range(3):
            for token in range(9):
                label = batch["labels"][row, token].item()
                if label >= 0:
                    labelled += 1
                    task -= logits[row, token].log_softmax(-1)[label].item()
                if batch["attention_mask"][row, token]:
                    a, t = aligned[row, token], columns["teacher_states"][row, token]
                    mse += ((a - t) ** 2).sum().item() / 32
                    cosine += 1 - (a @ t / (a.norm() * t.norm())).item()
                    p = (columns["teacher_logits"][row, token] / 2).softmax(-1)
                    q = (logits[row, token] / 2).softmax(-1)
                    distillation += 4 * (p * (p / q).log()).sum().item()
        expected = {"task": task, "alignment_mse": mse, "alignment_cosine": cosine, "distillation": distillation}
        assert outputs.loss_terms.keys() == expected.keys()
        for name, value in expected.items():
            assert outputs.loss_terms[name].item() == pytest.approx(value / labelled, rel=1e-5), name
        total = (task + 0.3 * mse + 0.7 * cosine + 0.5 * distillation) / labelled
        assert outputs.loss.item() == pytest.approx(total, rel=1e-5)

    def test_without_a_teacher_is_the_stock_cross_entropy(self) -> None:
        model, batch = self.model(), random_batch()
        outputs = model(**batch)
        expected = functional.cross_entropy(outputs.logits.flatten(0, 1), batch["labels"].flatten())
        torch.testing.assert_close(outputs.loss, expected)
        assert list(outputs.loss_terms) == ["task"]

    def test_zero_where_student_and_teacher_are_one(self) -> None:
        teacher = tiny_teacher(hidden_size=16)
        model = AlAdForTokenClassification.from_student_pretrained(
            teacher,
            teacher=teacher,
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=tiny_tokenizer(),
            alignment_cosine_weight=1.0,
        )
        batch = random_batch()
        terms = model(**batch).loss_terms
        for name in ("alignment_mse", "alignment_cosine", "distillation"):
            assert abs(terms[name].item()) < 1e-5, name
        with torch.no_grad():
            real = batch["attention_mask"].bool()
            torch.testing.assert_close(model(**batch).logits[real], teacher(**batch).logits[real])

    def test_padding_and_its_content_carry_no_loss(self) -> None:
        model, batch, columns = self.model(alignment_cosine_weight=1.0), random_batch(), self.columns()
        before = model(**batch, **columns).loss
        padding = batch["attention_mask"] == 0
        for column in columns.values():
            column[padding] = 1e3
        wide = {
            name: functional.pad(value, (0, 4), value=-100 if name == "labels" else 0) for name, value in batch.items()
        }
        wide |= {name: functional.pad(value, (0, 0, 0, 4)) for name, value in columns.items()}
        torch.testing.assert_close(model(**batch, **columns).loss, before)
        torch.testing.assert_close(model(**wide).loss, before)

    def test_micro_batches_add_up_to_the_batch(self) -> None:
        model, batch, columns = self.model(), random_batch(), self.columns()
        items = (batch["labels"] != -100).sum()
        model(**batch, **columns).loss.backward()
        whole = {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
        }
        model.zero_grad()
        for row in range(3):
            part = {name: value[row : row + 1] for name, value in {**batch, **columns}.items()}
            model(**part, num_items_in_batch=items).loss.backward()
        for name, gradient in whole.items():
            torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-6, rtol=1e-4)

    def test_a_step_without_labels_has_no_loss_and_harms_nothing(self) -> None:
        model, batch = self.model(), random_batch()
        model(**{**batch, "labels": torch.full_like(batch["labels"], -100)}, num_items_in_batch=0).loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert gradients and all(not gradient.any() for gradient in gradients)

    @pytest.mark.parametrize("items", [None, 0, torch.tensor(0)])
    def test_without_any_label_that_counts_a_teacher_s_signal_is_a_mean_over_real_tokens(
        self, items: int | torch.Tensor | None
    ) -> None:
        model, batch, columns = self.model(), random_batch(), self.columns()
        ignored = {**batch, "labels": torch.full_like(batch["labels"], -100)}
        without = {name: value for name, value in batch.items() if name != "labels"}
        expected = model(**without, **columns).loss
        torch.testing.assert_close(model(**ignored, **columns, num_items_in_batch=items).loss, expected)
        states = {"teacher_states": columns["teacher_states"]}
        base = model.model(**ignored, **states, num_items_in_batch=items).loss
        torch.testing.assert_close(base, model.model(**without, **states).loss)

    def test_real_tokens_are_counted_in_whole_numbers_in_half_precision(self) -> None:
        model = self.model().model.to(torch.float16)
        ids = torch.full((1100, 60), 5)  # more tokens than the largest number of float16
        states = torch.randn(1, 1, 32).expand(1100, 60, 32)
        with torch.no_grad():
            many, few = (model(input_ids=ids[:rows], teacher_states=states[:rows]).loss for rows in (1100, 1))
        torch.testing.assert_close(many, few, rtol=1e-2, atol=0)

    def test_copies_in_threads_do_not_share_an_attached_teacher(self) -> None:
        teacher, tokenizer = tiny_teacher(), tiny_tokenizer()
        model = AlAdForTokenClassification.from_student_pretrained(
            AutoModel.from_config(tiny_config()), teacher=teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer
        )
        assert model._replicate_for_data_parallel()._is_replica
        model._is_replica = True  # the copy has no weights yet
        with pytest.raises(ValueError, match=r"DataParallel.*accelerate launch.*cache_teacher_states"):
            model(**random_batch())

    def test_unlabelled_tokens_count_without_a_task_loss(self) -> None:
        model, batch, columns = self.model(), random_batch(), self.columns()
        unlabelled = torch.where(batch["attention_mask"] == 1, -1, -100)
        outputs = model(**{**batch, "labels": unlabelled}, **columns)
        assert outputs.loss_terms["task"] == 0
        without = model(**{name: value for name, value in batch.items() if name != "labels"}, **columns)
        torch.testing.assert_close(outputs.loss, without.loss)

    def test_shapes_that_do_not_fit_are_refused(self) -> None:
        model, batch, columns = self.model(), random_batch(), self.columns()
        with pytest.raises(ValueError, match=r"teacher_states have shape \(3, 9, 31\)"):
            model(**batch, teacher_states=columns["teacher_states"][..., :31])
        with pytest.raises(ValueError, match=r"teacher_logits have shape \(3, 9, 4\).*distillation_weight=0"):
            model(**batch, teacher_logits=columns["teacher_logits"][..., :4])
        with pytest.raises(ValueError, match=r"attention_mask must be \(batch, tokens\)"):
            model(input_ids=batch["input_ids"], attention_mask=torch.ones(3, 1, 9, 9))

    def test_question_answering_equals_a_loop_over_examples(self) -> None:
        torch.manual_seed(0)
        model = AlAdForQuestionAnswering(tiny_alad_config(alignment_mse_weight=0.5)).eval()
        batch = random_batch()
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        states, logits = self.columns()["teacher_states"], torch.randn(3, 9, 2)
        starts, ends = torch.tensor([1, -1, 3]), torch.tensor([2, 50, 8])
        outputs = model(
            **inputs,
            start_positions=starts,
            end_positions=ends,
            teacher_states=states,
            teacher_logits=logits,
            output_hidden_states=True,
        )
        task = mse = distillation = 0.0
        for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            for scores, position, column in ((outputs.start_logits, starts, 0), (outputs.end_logits, ends, 1)):
                if 0 <= position[row] < length:
                    task -= scores[row, :length].log_softmax(-1)[position[row]].item() / 2
                teacher = logits[row, :length, column].log_softmax(-1)
                student = scores[row, :length].log_softmax(-1)
                distillation += functional.kl_div(student, teacher, log_target=True, reduction="sum").item() / 2
            error = outputs.hidden_states[-1][row, :length] - states[row, :length]
            mse += error.pow(2).mean().item()
        expected = {"task": task / 3, "alignment_mse": mse / 3, "distillation": distillation / 3}
        for name, value in expected.items():
            assert outputs.loss_terms[name].item() == pytest.approx(value, rel=1e-4), name
        assert outputs.loss.item() == pytest.approx((task + 0.5 * mse + distillation) / 3, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_an_example_of_padding_alone_harms_no_distillation(temperature: float) -> None:
    model = AlAdForQuestionAnswering(tiny_alad_config(distillation_temperature=temperature)).eval()
    mask = torch.tensor([[1, 1, 1], [0, 0, 0]])
    logits = torch.randn(2, 3, 2)
    terms = [
        model(input_ids=torch.ones_like(mask[:rows]), attention_mask=mask[:rows], teacher_logits=logits[:rows])
        for rows in (1, 2)
    ]
    alone, beside = (output.loss_terms["distillation"] for output in terms)
    assert beside.item() == pytest.approx(alone.item() / 2, rel=1e-5)


def trained_but_embeddings(model: PreTrainedModel) -> bool:
    fixed = model.get_input_embeddings().weight
    return all(parameter.requires_grad == (parameter is not fixed) for parameter in model.parameters())


class TestFrozenEmbeddings:
    def test_stay_as_they_are_in_joint_training(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = AlAdForTokenClassification(tiny_alad_config())
        model.save_pretrained(tmp_path)
        assert trained_but_embeddings(model)
        assert trained_but_embeddings(AutoModelForTokenClassification.from_pretrained(tmp_path))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.train()(**random_batch()).loss.backward()
        optimizer.step()
        same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
        assert "model.encoder.embeddings.word_embeddings.weight" in same
        assert not any(name.startswith("model.encoder.encoder.layer") and "key.bias" not in name for name in same)

    def test_can_be_trained(self, tmp_path: Path) -> None:
        model = AlAdForTokenClassification(tiny_alad_config(freeze_embeddings=False))
        model.save_pretrained(tmp_path)
        for trained in (model, AutoModelForTokenClassification.from_pretrained(tmp_path)):
            assert all(parameter.requires_grad for parameter in trained.parameters())
        model.freeze_student()
        assert not any(parameter.requires_grad for parameter in model.model.encoder.parameters())
        model.freeze_student(False)
        assert all(parameter.requires_grad for parameter in model.parameters())


class TestFrozenStudent:
    def test_stays_in_eval_mode_and_without_gradients(self, tmp_path: Path) -> None:
        model = AlAdForTokenClassification(tiny_alad_config(freeze_student=True))
        model.save_pretrained(tmp_path)
        for frozen in (model, AutoModelForTokenClassification.from_pretrained(tmp_path)):
            frozen.train()
            assert frozen.training and frozen.model.adapter.training and frozen.dropout.training
            assert not any(module.training for module in frozen.model.encoder.modules())
            assert not any(parameter.requires_grad for parameter in frozen.model.encoder.parameters())
            assert all(parameter.requires_grad for parameter in frozen.model.adapter.parameters())
        released = AutoModelForTokenClassification.from_pretrained(tmp_path, freeze_student=False).train()
        assert released.model.encoder.training
        assert trained_but_embeddings(released)

    def test_can_be_released_and_frozen_again(self) -> None:
        model = AlAdForTokenClassification(tiny_alad_config(freeze_student=True)).train()
        model.freeze_student(False)
        assert model.model.encoder.training and not model.config.freeze_student
        assert trained_but_embeddings(model)
        model.freeze_student()
        assert not model.model.encoder.training and model.config.freeze_student

    def test_print_trainable_parameters(self, capsys: pytest.CaptureFixture[str]) -> None:
        model = AlAdForTokenClassification(tiny_alad_config(freeze_student=True))
        model.print_trainable_parameters()
        # linear 16*32+32, down 16*6, up 5*6*32, head 32*5+5
        trainable = 16 * 32 + 32 + 16 * 6 + 5 * 6 * 32 + 32 * 5 + 5
        total = model.num_parameters()
        text = capsys.readouterr().out
        assert (
            f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.2f}"
            in text
        )
        assert model.num_parameters_by_part() == {
            "student": total - trainable,
            "adapter": trainable - 165,
            "head": 165,
        }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_size": 4}, "window_size must be an odd number from 1 to 129, got 4"),
        ({"window_size": -1}, "window_size must be an odd number"),
        ({"window_size": 10**9 + 1}, "window_size must be an odd number"),
        ({"hidden_size": 0}, "hidden_size must be from 1"),
        ({"adapter_size": 10**12}, "adapter_size must be from 1 to 65536"),
        ({"alignment_mse_weight": -1}, "alignment_mse_weight must be finite and not negative"),
        ({"distillation_weight": float("nan")}, "distillation_weight must be finite"),
        ({"distillation_temperature": 0}, "distillation_temperature must be finite and > 0"),
        ({"classifier_dropout": 1.0}, r"classifier_dropout must be in \[0, 1\)"),
        ({"adapter_type": "conv"}, "adapter_type"),
        ({"window_size": "five"}, "window_size"),
        ({"teacher_layers": []}, r"teacher_layers must name one layer or more, got \[\]"),
        ({"teacher_layers": 3}, "teacher_layers"),
        ({"teacher_layers": ["last"]}, "teacher_layers"),
    ],
)
def test_configurations_out_of_bounds_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        tiny_alad_config(**changes)


def test_unknown_student_architecture_is_named() -> None:
    with pytest.raises(ValueError, match="model_type='nonesuch', which this version of transformers does not know"):
        AlAdConfig(text_config={"model_type": "nonesuch"})


@pytest.mark.parametrize("compressed", [False, True])
def test_a_decoder_keeps_no_cache(compressed: bool) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    student = AutoModel.from_config(LlamaConfig(**sizes, vocab_size=len(VOCABULARY)))
    student = wrap_encoder(student) if compressed else student
    model = AlAdForTokenClassification.from_student_pretrained(student, hidden_size=24, num_labels=5)
    kept: list = []
    model.model.encoder.register_forward_hook(lambda module, inputs, output: kept.append(output.past_key_values))
    batch = {name: value for name, value in random_batch().items() if name != "labels"}
    model(**batch)
    model(**batch, use_cache=True)
    assert kept[0] is None and kept[1] is not None


def test_new_tokens_of_a_frozen_table_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    for changes, told in (({}, True), ({"freeze_embeddings": False}, False), ({"freeze_student": True}, True)):
        caplog.clear()
        model = AlAdForTokenClassification(tiny_alad_config(**changes))
        model.resize_token_embeddings(99)
        assert "frozen" not in caplog.text
        model.resize_token_embeddings(102)
        assert ("embeddings of 3 new tokens are frozen" in caplog.text) == told


def test_a_signal_without_labels_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """The Trainer keeps labels from the model where it smooths them, and its loss then replaces the model's."""
    logging.warning_once.cache_clear()
    model = AlAdForTokenClassification(tiny_alad_config()).train()
    batch = random_batch()
    signal = {"teacher_states": torch.zeros(3, 9, 32)}
    model(**batch, **signal)
    batch.pop("labels")
    model.eval()(**batch, **signal)
    assert not caplog.text
    model.train()(**batch, **signal)
    model(**batch, **signal)
    assert caplog.text.count("label_smoothing_factor") == 1


def test_rotary_frequencies_of_a_student_in_half_precision_are_not_rounded(tmp_path: Path) -> None:
    config = tiny_config("modernbert", max_position_embeddings=1024, hidden_size=64, initializer_range=0.3)
    student = AutoModel.from_config(config, dtype=torch.bfloat16)
    model = AlAdModel.from_student_pretrained(student, hidden_size=32, adapter_size=6)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path)
    ids = torch.randint(5, 99, (1, 1024), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
        assert torch.equal(states[-2], student.eval()(ids).last_hidden_state)
        assert torch.equal(AlAdModel.from_pretrained(tmp_path)(ids).last_hidden_state, states[-1])


@pytest.mark.parametrize("model_class", [AlAdModel, AlAdForTokenClassification])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_attention_is_computed_as_the_student_does(kernel: str, compressed: bool, model_class: type) -> None:
    student = AutoModel.from_config(tiny_config(), attn_implementation=kernel).eval()
    student = wrap_encoder(student) if compressed else student
    model = model_class.from_student_pretrained(student, hidden_size=32)
    encoders = [model.base_model.encoder, *([model.base_model.encoder.encoder] if compressed else [])]
    assert {encoder.config._attn_implementation for encoder in encoders} == {kernel}
    inputs = {name: value for name, value in random_batch().items() if name != "labels"}
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(states, student(**inputs).last_hidden_state, atol=0, rtol=0)


def test_an_encoder_decoder_is_no_student(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": len(VOCABULARY)}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    student = AutoModel.from_config(BartConfig(**sizes, **heads, encoder_ffn_dim=8, decoder_ffn_dim=8))
    student.save_pretrained(tmp_path)
    message = "A BartModel is an encoder-decoder, whose last states belong to the decoder"
    with pytest.raises(ValueError, match=message):
        AlAdForTokenClassification.from_student_pretrained(student, hidden_size=24, num_labels=5)
    with pytest.raises(ValueError, match=message):
        load_student(str(tmp_path))
    with pytest.raises(ValueError, match=message):
        AlAdForTokenClassification(AlAdConfig(text_config=student.config))
