"""The AlAd model classes: contract, student architectures, the loss, the frozen student, the teacher."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from model_contract import ModelContract
from tiny import STUDENT_CONFIGS, TAGS, VOCABULARY, random_batch, tiny_config, tiny_teacher, tiny_tokenizer
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    BartConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alad_hf import AlAdConfig, AlAdForQuestionAnswering, AlAdForTokenClassification, AlAdModel
from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.models.student import load_student
from alad_hf.models.teacher import teacher_signal


def alad_config(student: str = "bert", hidden_size: int = 32, **changes: object) -> AlAdConfig:
    return AlAdConfig(
        text_config=tiny_config(student),
        hidden_size=hidden_size,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: index for index, tag in enumerate(TAGS)},
        **{"adapter_size": 6, **changes},
    )


class AlAdContract(ModelContract):
    def config(self) -> PreTrainedConfig:
        return alad_config()

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
        return alad_config(adapter_type="mlp", window_size=3, freeze_student=True)


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
        model = AlAdForTokenClassification(alad_config(**changes)).eval()
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
        model = AlAdForQuestionAnswering(alad_config(alignment_mse_weight=0.5)).eval()
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


def trained_but_embeddings(model: PreTrainedModel) -> bool:
    fixed = model.get_input_embeddings().weight
    return all(parameter.requires_grad == (parameter is not fixed) for parameter in model.parameters())


class TestFrozenEmbeddings:
    def test_stay_as_they_are_in_joint_training(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = AlAdForTokenClassification(alad_config())
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
        model = AlAdForTokenClassification(alad_config(freeze_embeddings=False))
        model.save_pretrained(tmp_path)
        for trained in (model, AutoModelForTokenClassification.from_pretrained(tmp_path)):
            assert all(parameter.requires_grad for parameter in trained.parameters())
        model.freeze_student()
        assert not any(parameter.requires_grad for parameter in model.model.encoder.parameters())
        model.freeze_student(False)
        assert all(parameter.requires_grad for parameter in model.parameters())


class TestFrozenStudent:
    def test_stays_in_eval_mode_and_without_gradients(self, tmp_path: Path) -> None:
        model = AlAdForTokenClassification(alad_config(freeze_student=True))
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
        model = AlAdForTokenClassification(alad_config(freeze_student=True)).train()
        model.freeze_student(False)
        assert model.model.encoder.training and not model.config.freeze_student
        assert trained_but_embeddings(model)
        model.freeze_student()
        assert not model.model.encoder.training and model.config.freeze_student

    def test_print_trainable_parameters(self, capsys: pytest.CaptureFixture[str]) -> None:
        model = AlAdForTokenClassification(alad_config(freeze_student=True))
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


class TestTeacher:
    def attached(self, **changes: object) -> AlAdForTokenClassification:
        torch.manual_seed(0)
        return AlAdForTokenClassification.from_student_pretrained(
            AutoModel.from_config(tiny_config()),
            teacher=tiny_teacher(),
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=tiny_tokenizer(),
            **changes,
        )

    def test_attached_and_columns_give_the_same_loss_and_gradient(self) -> None:
        model, batch = self.attached(), random_batch()
        teacher = tiny_teacher()
        with torch.no_grad():
            signal = teacher(**batch, output_hidden_states=True)
            assert torch.equal(
                signal.hidden_states[-1],
                teacher.base_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state,
            )
        model(**batch).loss.backward()
        attached = {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        model.zero_grad()
        model.detach_teacher()
        model(**batch, teacher_states=signal.hidden_states[-1], teacher_logits=signal.logits).loss.backward()
        for name, gradient in attached.items():
            assert torch.equal(model.get_parameter(name).grad, gradient), name

    def test_is_no_part_of_the_model(self, tmp_path: Path) -> None:
        model = self.attached()
        plain = AlAdForTokenClassification(copy.deepcopy(model.config))
        assert model.state_dict().keys() == plain.state_dict().keys()
        assert model.num_parameters() == plain.num_parameters()
        model.train()
        assert not model.teacher.training
        model.save_pretrained(tmp_path)
        assert AutoModelForTokenClassification.from_pretrained(tmp_path).teacher is None
        tensors = json.loads((tmp_path / "config.json").read_text())
        assert "teacher" not in {key for key in tensors if key != "teacher_name_or_path"}

    def test_is_not_run_where_no_loss_is_wanted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, batch = self.attached(), random_batch()
        monkeypatch.setattr(model.teacher, "forward", lambda **_: pytest.fail("the teacher ran"))
        labels = batch.pop("labels")
        model(**batch)
        with pytest.raises(pytest.fail.Exception):
            model(**batch, labels=labels)

    def test_gives_labels_width_and_head(self) -> None:
        model, teacher = self.attached(), tiny_teacher()
        assert model.config.id2label == dict(enumerate(TAGS))
        assert model.config.hidden_size == 32
        assert torch.equal(model.classifier.weight, teacher.classifier.weight)
        labels = {0: "O", 1: "B-X", 2: "I-X", 3: "B-Y", 4: "I-Y"}
        with pytest.raises(ValueError, match=r"'B-PER'.*the model's \['O', 'B-X'.*distillation_weight=0"):
            self.attached(id2label=labels)
        other = self.attached(id2label=labels, distillation_weight=0)
        assert not torch.equal(other.classifier.weight, teacher.classifier.weight)
        assert other.config.label2id["I-Y"] == 4
        own = self.attached(copy_teacher_head=False)
        assert not torch.equal(own.classifier.weight, teacher.classifier.weight)

    def test_tokenizers_have_to_be_known(self) -> None:
        with pytest.raises(ValueError, match=r"Pass tokenizer=AutoTokenizer"):
            self.attach(tokenizer=None, teacher_tokenizer=tiny_tokenizer())

    def attach(self, **tokenizers: object) -> None:
        model = AlAdForTokenClassification(alad_config())
        model.attach_teacher(tiny_teacher(), **{"tokenizer": tiny_tokenizer(), **tokenizers})

    def test_another_width_is_refused(self) -> None:
        model = AlAdForTokenClassification(alad_config(hidden_size=24))
        with pytest.raises(ValueError, match=r"teacher's states are 32 wide, the aligned states 24.*from_student"):
            model.attach_teacher(tiny_teacher(), tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer())

    def test_by_name(self, tmp_path: Path) -> None:
        teacher = tiny_teacher()
        for name, saved in (("teacher", teacher), ("student", AutoModel.from_config(tiny_config()))):
            saved.save_pretrained(tmp_path / name)
            tiny_tokenizer().save_pretrained(tmp_path / name)
        model = AlAdForTokenClassification.from_student_pretrained(
            str(tmp_path / "student"), teacher=str(tmp_path / "teacher")
        )
        assert model.config.student_name_or_path == str(tmp_path / "student")
        assert model.config.teacher_name_or_path == str(tmp_path / "teacher")
        assert model(**random_batch()).loss_terms["distillation"] > 0

    def test_an_alad_model_can_be_the_teacher_of_another(self) -> None:
        teacher = self.attached(window_size=3)
        teacher.detach_teacher()
        model = AlAdForTokenClassification.from_student_pretrained(
            AutoModel.from_config(tiny_config()),
            teacher=teacher,
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=tiny_tokenizer(),
        )
        assert model.config.hidden_size == 32
        assert torch.equal(model.classifier.weight, teacher.classifier.weight)
        assert model(**random_batch()).loss_terms["alignment_mse"] > 0

    def test_unknown_arguments_are_refused(self) -> None:
        with pytest.raises(TypeError, match=r"\['windowsize'\] are not fields of AlAdConfig.*window_size"):
            AlAdForTokenClassification.from_student_pretrained(AutoModel.from_config(tiny_config()), windowsize=3)

    def test_a_student_without_its_weights_is_refused(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        AutoModel.from_config(tiny_config()).save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        del weights["encoder.layer.1.output.dense.weight"]
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks 1 tensors of a BertModel, such as \['encoder.layer.1.output"):
            AlAdModel.from_student_pretrained(str(tmp_path))


TEACHER_TOKENS = 6
"""Ids of the small teacher, far fewer than the student's."""


def small_teacher(auto_class: type = AutoModelForTokenClassification) -> PreTrainedModel:
    """A teacher whose embedding table ends before most of the student's ids."""
    torch.manual_seed(1)
    config = tiny_config("bert", hidden_size=32, vocab_size=TEACHER_TOKENS)
    if auto_class is AutoModelForTokenClassification:
        config.id2label = dict(enumerate(TAGS))
        config.label2id = {tag: index for index, tag in enumerate(TAGS)}
    return auto_class.from_config(config).eval()


def another_tokenizer() -> PreTrainedTokenizerBase:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"]
    return tiny_tokenizer(vocabulary={word: index for index, word in enumerate(words)})


def teacher_tokens() -> dict[str, torch.Tensor]:
    """Seven, five and four tokens of a teacher for `random_batch`, whose rows have nine, eight and seven."""
    generator = torch.Generator().manual_seed(7)
    mask = (torch.arange(7) < torch.tensor([[7], [5], [4]])).long()
    ids = torch.randint(0, TEACHER_TOKENS, (3, 7), generator=generator) * mask
    alignment = torch.zeros(3, 9, 7)
    for token in range(7):
        alignment[0, token, token] = 1  # the last two tokens of the student have no counterpart
    alignment[0, 3, 3:5] = torch.tensor([0.4, 0.6])  # and one has two
    alignment[1, :8, :5] = torch.eye(5).repeat_interleave(2, dim=0)[:8]  # two tokens of the student for one
    alignment[2, 0, 0] = 1
    return {
        "teacher_input_ids": ids,
        "teacher_attention_mask": mask,
        "teacher_token_type_ids": torch.zeros_like(ids),
        "teacher_alignment": alignment,
    }


class TestTeacherWithAnotherTokenizer:
    def attached(
        self, model_class: type = AlAdForTokenClassification, teacher: PreTrainedModel | None = None, **changes: object
    ) -> AlAdForTokenClassification:
        torch.manual_seed(0)
        return model_class.from_student_pretrained(
            AutoModel.from_config(tiny_config()),
            teacher=teacher or small_teacher(),
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=another_tokenizer(),
            alignment_cosine_weight=0.5,
            **changes,
        )

    def signal(self, teacher: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
        given = teacher_tokens()
        with torch.no_grad():
            outputs = teacher(given["teacher_input_ids"], given["teacher_attention_mask"], output_hidden_states=True)
        return outputs.hidden_states[-1], outputs

    def test_ids_of_one_never_reach_the_other(self) -> None:
        model, batch = self.attached(), random_batch()
        assert batch["input_ids"].max() >= TEACHER_TOKENS
        read = {"student": [], "teacher": []}
        model.model.encoder.embeddings.word_embeddings.register_forward_pre_hook(
            lambda module, given: read["student"].append(given[0])
        )
        model.teacher.bert.embeddings.word_embeddings.register_forward_pre_hook(
            lambda module, given: read["teacher"].append(given[0])
        )
        given = teacher_tokens()
        model(**batch, **given)
        assert [ids.tolist() for ids in read["student"]] == [batch["input_ids"].tolist()]
        assert [ids.tolist() for ids in read["teacher"]] == [given["teacher_input_ids"].tolist()]
        for absent in (["teacher_input_ids"], ["teacher_alignment"], list(given)):
            rest = {name: value for name, value in given.items() if name not in absent}
            with pytest.raises(
                ValueError, match=r"encode_tagged_words\(..., teacher_tokenizer=...\), or.*cache_teacher"
            ):
                model(**batch, **rest)
        assert len(read["teacher"]) == 1
        labels = batch.pop("labels")
        model(**batch)  # no loss is wanted, so nothing is missing
        model.detach_teacher()
        model(**batch, labels=labels, **given)
        assert len(read["teacher"]) == 1

    def test_tokens_of_a_teacher_have_to_be_complete_for_a_like_tokenizer_too(self) -> None:
        model = self.attached()
        model.attach_teacher(tiny_teacher(), tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer())
        model(**random_batch())
        with pytest.raises(ValueError, match="lacks teacher_input_ids or teacher_alignment"):
            model(**random_batch(), teacher_input_ids=teacher_tokens()["teacher_input_ids"])

    def test_attached_and_columns_give_the_same_loss_and_gradient(self) -> None:
        model, batch, given = self.attached(), random_batch(), teacher_tokens()
        states, outputs = self.signal(small_teacher())
        alignment = given["teacher_alignment"]
        columns = {
            "teacher_states": alignment @ states,
            "teacher_logits": alignment @ outputs.logits,
            "teacher_mask": (alignment.sum(-1) > 0).to(torch.int8),
        }
        # What stands where there is no counterpart is of no matter.
        for name in ("teacher_states", "teacher_logits"):
            columns[name][columns["teacher_mask"] == 0] = 1e3
        model(**batch, **given).loss.backward()
        attached = {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        model.zero_grad()
        model.detach_teacher()
        model(**batch, **columns).loss.backward()
        for name, gradient in attached.items():
            torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-6, rtol=1e-4, msg=name)

    def test_equals_a_loop_over_tokens(self) -> None:
        model, batch, given = self.attached(), random_batch(), teacher_tokens()
        with torch.no_grad():
            for parameter in model.classifier.parameters():
                parameter.add_(torch.randn_like(parameter))
            outputs = model(**batch, **given, output_hidden_states=True)
        states, teacher = self.signal(small_teacher())
        sums = {"alignment_mse": 0.0, "alignment_cosine": 0.0, "distillation": 0.0}
        compared = 0
        for row in range(3):
            for token in range(9):
                weights = given["teacher_alignment"][row, token]
                if not weights.any() or not batch["attention_mask"][row, token]:
                    continue
                compared += 1
                target = sum(weights[other] * states[row, other] for other in range(7))
                wanted = sum(weights[other] * teacher.logits[row, other] for other in range(7))
                aligned = outputs.hidden_states[-1][row, token]
                sums["alignment_mse"] += (aligned - target).pow(2).mean().item()
                sums["alignment_cosine"] += 1 - functional.cosine_similarity(aligned, target, dim=0).item()
                p, q = wanted.softmax(-1), outputs.logits[row, token].softmax(-1)
                sums["distillation"] += (p * (p / q).log()).sum().item()
        assert compared == 7 + 8 + 1
        items = (batch["labels"] != -100).sum().item()
        for name, value in sums.items():
            assert outputs.loss_terms[name].item() == pytest.approx(value / items, rel=1e-4), name

    @pytest.mark.parametrize("model_class", [AlAdModel, AlAdForTokenClassification])
    def test_identity_is_the_fast_path_exactly(self, model_class: type) -> None:
        model, batch = self.attached(model_class, tiny_teacher()), random_batch()
        own = {
            "teacher_input_ids": batch["input_ids"],
            "teacher_attention_mask": batch["attention_mask"],
            "teacher_alignment": torch.diag_embed(batch["attention_mask"].float()),
        }
        moved = model(**batch, **own)
        model.attach_teacher(tiny_teacher(), tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer())
        fast = model(**batch)
        assert len(fast.loss_terms) >= 2
        assert torch.equal(moved.loss, fast.loss)
        assert moved.loss_terms == fast.loss_terms

    def question_batch(self) -> dict[str, torch.Tensor]:
        batch = {name: random_batch()[name] for name in ("input_ids", "attention_mask")}
        return batch | {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 2, 4])}

    def test_question_answering_equals_a_loop_over_examples(self) -> None:
        teacher = small_teacher(AutoModelForQuestionAnswering)
        model, batch, given = self.attached(AlAdForQuestionAnswering, teacher), self.question_batch(), teacher_tokens()
        outputs = model(**batch, **given, output_hidden_states=True)
        states, read = self.signal(teacher)
        alignment, lengths = given["teacher_alignment"], (9, 8, 7)
        mse = distillation = 0.0
        for row in range(3):
            real = given["teacher_attention_mask"][row].bool()
            covered = [token for token in range(lengths[row]) if alignment[row, token].any()]
            for token in covered:
                error = outputs.hidden_states[-1][row, token] - alignment[row, token] @ states[row]
                mse += error.pow(2).mean().item() / len(covered)
            for scores, own in ((read.start_logits, outputs.start_logits), (read.end_logits, outputs.end_logits)):
                p = torch.zeros(7)
                p[real] = scores[row, real].softmax(-1)
                received = alignment[row].sum(0)
                q = (alignment[row] / received.where(received > 0, torch.ones(7)) @ p)[covered]
                q = q / q.sum()
                student = own[row, : lengths[row]].log_softmax(-1)[covered]
                distillation += (q * (q.log() - student)).sum().item() / 2
        for name, value in (("alignment_mse", mse / 3), ("distillation", distillation / 3)):
            assert outputs.loss_terms[name].item() == pytest.approx(value, rel=1e-4), name

    def test_question_answering_with_columns(self) -> None:
        teacher = small_teacher(AutoModelForQuestionAnswering)
        model, batch, given = self.attached(AlAdForQuestionAnswering, teacher), self.question_batch(), teacher_tokens()
        attached = model(**batch, **given).loss
        signal = teacher_signal(
            teacher,
            alignment=given["teacher_alignment"],
            input_ids=given["teacher_input_ids"],
            attention_mask=given["teacher_attention_mask"],
        )
        model.detach_teacher()
        columns = {
            "teacher_states": signal.states,
            "teacher_logits": signal.logits.half(),
            "teacher_mask": signal.mask,
        }
        torch.testing.assert_close(model(**batch, **columns).loss, attached, atol=1e-3, rtol=0)
        identity = {"teacher_mask": torch.ones(3, 9, dtype=torch.int8), "teacher_logits": torch.randn(3, 9, 2)}
        everywhere = model(**batch, **identity)
        nowhere = model(**batch, **{**identity, "teacher_mask": None})
        assert torch.equal(everywhere.loss, nowhere.loss)

    def test_an_example_without_any_counterpart_has_only_the_task_loss(self) -> None:
        teacher = small_teacher(AutoModelForQuestionAnswering)
        model, batch, given = self.attached(AlAdForQuestionAnswering, teacher), self.question_batch(), teacher_tokens()
        given["teacher_alignment"] = torch.zeros(3, 9, 7)
        outputs = model(**batch, **given)
        assert {name for name, value in outputs.loss_terms.items() if value} == {"task"}
        outputs.loss.backward()
        with_nothing = [parameter.grad.clone() for parameter in model.qa_outputs.parameters()]
        model.zero_grad()
        model.detach_teacher()
        model(**batch).loss.backward()
        for parameter, gradient in zip(model.qa_outputs.parameters(), with_nothing, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)

    def test_a_mask_of_another_shape_is_refused(self) -> None:
        model = AlAdForTokenClassification(alad_config())
        states = torch.randn(3, 9, 32)
        with pytest.raises(ValueError, match=r"teacher_mask has shape \(3, 1\), the batch \(3, 9\)"):
            model(**random_batch(), teacher_states=states, teacher_mask=torch.ones(3, 1))

    def test_a_decoder_as_the_teacher(self) -> None:
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=TEACHER_TOKENS, n_embd=24, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3
        )
        model = self.attached(AlAdModel, AutoModelForCausalLM.from_config(config).eval())
        assert model.config.hidden_size == 24
        outputs = model.train()(**random_batch(), **teacher_tokens())
        outputs.loss.backward()
        assert outputs.loss_terms["alignment_mse"] > 0
        assert model.adapter.up.weight.grad.abs().sum() > 0

    def test_labels_of_a_decoder_are_compared_too(self) -> None:
        config = LlamaConfig(
            vocab_size=TEACHER_TOKENS,
            hidden_size=32,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            id2label=dict(enumerate(TAGS)),
            label2id={tag: index for index, tag in enumerate(TAGS)},
        )
        teacher = AutoModelForTokenClassification.from_config(config).eval()
        model = self.attached(teacher=teacher)
        assert torch.equal(model.classifier.weight, teacher.score.weight)
        with pytest.raises(ValueError, match="Distillation needs the same ones in the same order"):
            self.attached(teacher=teacher, id2label={0: "O", 1: "B-X", 2: "I-X", 3: "B-Y", 4: "I-Y"})


class TestTeacherLayers:
    def attached(self, **changes: object) -> AlAdForTokenClassification:
        torch.manual_seed(0)
        return AlAdForTokenClassification.from_student_pretrained(
            AutoModel.from_config(tiny_config()),
            teacher=tiny_teacher(),
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=tiny_tokenizer(),
            **changes,
        )

    def test_their_mean_is_aligned(self) -> None:
        model, batch = self.attached(teacher_layers=[1, -1]), random_batch()
        with torch.no_grad():
            hidden = tiny_teacher()(**batch, output_hidden_states=True).hidden_states
        attached = model(**batch).loss_terms["alignment_mse"]
        model.detach_teacher()
        cached = model(**batch, teacher_states=(hidden[1] + hidden[3]) / 2).loss_terms["alignment_mse"]
        last = model(**batch, teacher_states=hidden[3]).loss_terms["alignment_mse"]
        torch.testing.assert_close(attached, cached)
        assert abs(last - cached) > 1e-3

    def test_the_head_is_copied_only_with_its_layer(self) -> None:
        head = tiny_teacher().classifier.weight
        assert torch.equal(self.attached(teacher_layers=[3]).classifier.weight, head)
        assert not torch.equal(self.attached(teacher_layers=[2]).classifier.weight, head)

    def test_out_of_range_are_refused_when_the_teacher_is_attached(self) -> None:
        with pytest.raises(ValueError, match=r"has 4 hidden states.*from -4 to 3, got \[1, 4\]"):
            self.attached(teacher_layers=[1, 4])
        model = AlAdForTokenClassification(alad_config(teacher_layers=[-5]))
        with pytest.raises(ValueError, match=r"from -4 to 3, got \[-5\]"):
            model.attach_teacher(tiny_teacher(), tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer())
        assert model.teacher is None

    def test_are_saved(self, tmp_path: Path) -> None:
        AlAdForTokenClassification(alad_config(teacher_layers=[2, -1])).save_pretrained(tmp_path)
        assert AutoModelForTokenClassification.from_pretrained(tmp_path).config.teacher_layers == [2, -1]
        assert alad_config().teacher_layers is None


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
        alad_config(**changes)


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
