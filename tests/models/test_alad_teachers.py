"""The teacher of an AlAd model: attached or as columns, with the student's tokenizer or another, and its layers."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tiny import TAGS, VOCABULARY, random_batch, tiny_alad_config, tiny_config, tiny_teacher, tiny_tokenizer
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alad_hf import AlAdForQuestionAnswering, AlAdForTokenClassification, AlAdModel
from alad_hf.hub.public_names import hub_id, public_name
from alad_hf.models.teacher import teacher_signal


def model_under_teacher(**changes: object) -> AlAdForTokenClassification:
    """Under a teacher with the student's tokenizer."""
    torch.manual_seed(0)
    return AlAdForTokenClassification.from_student_pretrained(
        AutoModel.from_config(tiny_config()),
        teacher=tiny_teacher(),
        tokenizer=tiny_tokenizer(),
        teacher_tokenizer=tiny_tokenizer(),
        **changes,
    )


class TestTeacher:
    def test_attached_and_columns_give_the_same_loss_and_gradient(self) -> None:
        model, batch = model_under_teacher(), random_batch()
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

    def test_new_tokens_of_the_student_are_not_given_to_it(self) -> None:
        model, batch = model_under_teacher(freeze_embeddings=False), random_batch()
        expected = model(**batch).loss
        model.resize_token_embeddings(len(VOCABULARY), pad_to_multiple_of=64)
        torch.testing.assert_close(model(**batch).loss, expected)
        model.resize_token_embeddings(len(VOCABULARY) + 1)
        batch["input_ids"][0, 1] = len(VOCABULARY)
        with pytest.raises(ValueError, match=rf"resized to {len(VOCABULARY) + 1} tokens.*knows {len(VOCABULARY)}\."):
            model(**batch)
        assert model(batch["input_ids"], batch["attention_mask"]).loss is None
        teacher, tokenizer = model.teacher, tiny_tokenizer()
        tokenizer.add_tokens(["acme-works"])
        model.attach_teacher(teacher, tokenizer=tokenizer, teacher_tokenizer=tiny_tokenizer())
        with pytest.raises(ValueError, match="the batch lacks teacher_input_ids"):
            model(**batch)
        model.attach_teacher(teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer)
        teacher.resize_token_embeddings(len(VOCABULARY) + 1)
        assert model(**batch).loss > 0

    def test_is_no_part_of_the_model(self, tmp_path: Path) -> None:
        model = model_under_teacher()
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
        model, batch = model_under_teacher(), random_batch()
        monkeypatch.setattr(model.teacher, "forward", lambda **_: pytest.fail("the teacher ran"))
        labels = batch.pop("labels")
        model(**batch)
        with pytest.raises(pytest.fail.Exception):
            model(**batch, labels=labels)

    def test_gives_labels_width_and_head(self) -> None:
        model, teacher = model_under_teacher(), tiny_teacher()
        assert model.config.id2label == dict(enumerate(TAGS))
        assert model.config.hidden_size == 32
        assert torch.equal(model.classifier.weight, teacher.classifier.weight)
        labels = {0: "O", 1: "B-X", 2: "I-X", 3: "B-Y", 4: "I-Y"}
        with pytest.raises(ValueError, match=r"'B-PER'.*the model's \['O', 'B-X'.*distillation_weight=0"):
            model_under_teacher(id2label=labels)
        other = model_under_teacher(id2label=labels, distillation_weight=0)
        assert not torch.equal(other.classifier.weight, teacher.classifier.weight)
        assert other.config.label2id["I-Y"] == 4
        own = model_under_teacher(copy_teacher_head=False)
        assert not torch.equal(own.classifier.weight, teacher.classifier.weight)

    def test_tokenizers_have_to_be_known(self) -> None:
        with pytest.raises(ValueError, match=r"Pass tokenizer=AutoTokenizer"):
            self.attach(tokenizer=None, teacher_tokenizer=tiny_tokenizer())

    def attach(self, **tokenizers: object) -> None:
        model = AlAdForTokenClassification(tiny_alad_config())
        model.attach_teacher(tiny_teacher(), **{"tokenizer": tiny_tokenizer(), **tokenizers})

    def test_another_width_is_refused(self) -> None:
        model = AlAdForTokenClassification(tiny_alad_config(hidden_size=24))
        with pytest.raises(ValueError, match=r"teacher's states are 32 wide, the aligned states 24.*from_student"):
            model.attach_teacher(tiny_teacher(), tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer())

    def test_a_relative_folder_is_not_recorded_as_an_id_of_the_hub(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name, saved in (("runs/teacher", tiny_teacher()), ("runs/student", AutoModel.from_config(tiny_config()))):
            saved.save_pretrained(name)
            tiny_tokenizer().save_pretrained(name)
        for student in ("runs/student", AutoModel.from_pretrained("runs/student")):
            model = AlAdForTokenClassification.from_student_pretrained(student, teacher="runs/teacher")
            names = (model.config.student_name_or_path, model.config.teacher_name_or_path)
            assert names == ("./runs/student", "./runs/teacher")
            assert [(hub_id(name), public_name(name)) for name in names] == [(None, "student"), (None, "teacher")]

    def test_the_logits_of_another_task_are_no_targets(self) -> None:
        """A tagger of two labels has a head of a question answerer's shape."""
        options = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
        torch.manual_seed(0)
        student, tagger = AutoModel.from_config(tiny_config()), tiny_teacher(tags=["O", "B-X"])
        answerer = AutoModelForQuestionAnswering.from_config(tiny_config(hidden_size=32)).eval()
        for kind, teacher, labels in (
            (AlAdForQuestionAnswering, tagger, {}),
            (AlAdForTokenClassification, answerer, {"id2label": {0: "O", 1: "B-X"}}),
        ):
            with pytest.raises(ValueError, match="are no targets for those of an .* distillation_weight=0"):
                kind.from_student_pretrained(student, teacher=teacher, **labels, **options)
            model = kind.from_student_pretrained(student, teacher=teacher, distillation_weight=0, **labels, **options)
            own = model.qa_outputs if kind is AlAdForQuestionAnswering else model.classifier
            head = teacher.classifier if teacher is tagger else teacher.qa_outputs
            assert own.weight.shape == head.weight.shape and not torch.equal(own.weight, head.weight)
            inputs = {name: random_batch()[name] for name in ("input_ids", "attention_mask")}
            assert model.train()(**inputs).loss_terms.keys() == {"alignment_mse"}

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
        teacher = model_under_teacher(window_size=3)
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
        model = AlAdForTokenClassification(tiny_alad_config())
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
    def test_their_mean_is_aligned(self) -> None:
        model, batch = model_under_teacher(teacher_layers=[1, -1]), random_batch()
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
        assert torch.equal(model_under_teacher(teacher_layers=[3]).classifier.weight, head)
        assert not torch.equal(model_under_teacher(teacher_layers=[2]).classifier.weight, head)

    def test_out_of_range_are_refused_when_the_teacher_is_attached(self) -> None:
        with pytest.raises(ValueError, match=r"has 4 hidden states.*from -4 to 3, got \[1, 4\]"):
            model_under_teacher(teacher_layers=[1, 4])
        model = AlAdForTokenClassification(tiny_alad_config(teacher_layers=[-5]))
        with pytest.raises(ValueError, match=r"from -4 to 3, got \[-5\]"):
            model.attach_teacher(tiny_teacher(), tokenizer=tiny_tokenizer(), teacher_tokenizer=tiny_tokenizer())
        assert model.teacher is None

    def test_are_saved(self, tmp_path: Path) -> None:
        AlAdForTokenClassification(tiny_alad_config(teacher_layers=[2, -1])).save_pretrained(tmp_path)
        assert AutoModelForTokenClassification.from_pretrained(tmp_path).config.teacher_layers == [2, -1]
        assert tiny_alad_config().teacher_layers is None
