"""MiniALBERT: the contract of every model class, the shared layer, adapters, losses, models on top, bad input."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from model_contract import ModelContract
from tiny import TAGS, VOCABULARY, random_batch, tiny_config, tiny_teacher, tiny_tokenizer
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from alad_hf import (
    AlAdConfig,
    AlAdForQuestionAnswering,
    AlAdForTokenClassification,
    MiniAlbertConfig,
    MiniAlbertForMaskedLM,
    MiniAlbertForQuestionAnswering,
    MiniAlbertForSequenceClassification,
    MiniAlbertForTokenClassification,
    MiniAlbertModel,
)
from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.models.minialbert_layers import MiniAlbertLayer

STEPS = 3
AUTO_CLASSES = {
    "AutoModel": MiniAlbertModel,
    "AutoModelForMaskedLM": MiniAlbertForMaskedLM,
    "AutoModelForSequenceClassification": MiniAlbertForSequenceClassification,
    "AutoModelForTokenClassification": MiniAlbertForTokenClassification,
    "AutoModelForQuestionAnswering": MiniAlbertForQuestionAnswering,
}


def small_config(**changes: object) -> MiniAlbertConfig:
    fields = {
        "vocab_size": len(VOCABULARY),
        "embedding_size": 6,
        "hidden_size": 16,
        "num_hidden_layers": STEPS,
        "num_attention_heads": 2,
        "intermediate_size": 20,
        "max_position_embeddings": 40,
        "adapter_reduction": 4,
        "id2label": dict(enumerate(TAGS)),
        "label2id": {tag: index for index, tag in enumerate(TAGS)},
    }
    return MiniAlbertConfig(**{**fields, **changes})


def inputs() -> dict[str, torch.Tensor]:
    batch = random_batch()
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def filled(model_class: type[PreTrainedModel] = MiniAlbertModel, **changes: object) -> PreTrainedModel:
    """A model in eval mode with every parameter random, also those that start at zero or one."""
    torch.manual_seed(0)
    model = model_class(small_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


class MiniAlbertContract(ModelContract):
    def config(self) -> MiniAlbertConfig:
        return small_config()

    def inputs(self) -> dict[str, torch.Tensor]:
        return inputs()

    def targets(self) -> dict[str, torch.Tensor]:
        return {"labels": random_batch()["labels"]}


class TestForTokenClassification(MiniAlbertContract):
    model_class = MiniAlbertForTokenClassification
    auto_class = AutoModelForTokenClassification
    # Here and below: one process loads them all, see TestOtherModels.
    test_loads_without_the_package = None


class TestForQuestionAnswering(MiniAlbertContract):
    """Also of what the others do not have: new adapters, and embeddings that need no projection."""

    model_class = MiniAlbertForQuestionAnswering
    auto_class = AutoModelForQuestionAnswering
    test_loads_without_the_package = None

    def config(self) -> MiniAlbertConfig:
        return small_config(adapter_form="identity_start", embedding_size=16)

    def targets(self) -> dict[str, torch.Tensor]:
        return {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 2, 4])}

    def result(self, outputs: object) -> torch.Tensor:
        return torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)


class TestForMaskedLM(MiniAlbertContract):
    model_class = MiniAlbertForMaskedLM
    auto_class = AutoModelForMaskedLM
    test_loads_without_the_package = None

    def test_resize_token_embeddings(self) -> None:
        """The head has rows for the new tokens too."""
        model = self.model()
        before = self.run(model, **inputs())
        model.resize_token_embeddings(len(VOCABULARY) + 3)
        assert model.get_input_embeddings().weight.shape == (len(VOCABULARY) + 3, 6)
        after = self.run(model, **inputs())
        assert after.shape[-1] == len(VOCABULARY) + 3 == model.config.vocab_size
        torch.testing.assert_close(after[..., :-3], before, atol=1e-5, rtol=0)


class TestForSequenceClassification(MiniAlbertContract):
    """One result a text, which stands here for each of its tokens."""

    model_class = MiniAlbertForSequenceClassification
    auto_class = AutoModelForSequenceClassification
    test_loads_without_the_package = None

    def targets(self) -> dict[str, torch.Tensor]:
        return {"labels": torch.tensor([0, 2, 1])}

    def result(self, outputs: object) -> torch.Tensor:
        return outputs["logits"].unsqueeze(1).expand(-1, inputs()["input_ids"].shape[1], -1)

    def test_padding_changes_nothing(self) -> None:
        model, together = self.model(), self.run(self.model(), **inputs())
        for row, length in enumerate(inputs()["attention_mask"].sum(dim=1).tolist()):
            alone = self.run(model, **{name: value[row : row + 1, :length] for name, value in inputs().items()})
            torch.testing.assert_close(together[row], alone[0], atol=self.tolerance, rtol=0)


class TestModel(MiniAlbertContract):
    model_class = MiniAlbertModel
    auto_class = AutoModel
    test_loads_without_the_package = None
    test_gradient_checkpointing = None  # these two need a loss
    test_bfloat16 = None

    def config(self) -> MiniAlbertConfig:
        return small_config(use_adapter=False)

    def result(self, outputs: object) -> torch.Tensor:
        return outputs["last_hidden_state"]


class TestParameterCounts:
    """The exact numbers of the authors' classes (transformers 4.23.1) and of their files' sizes."""

    @pytest.mark.parametrize(
        ("changes", "encoder", "with_adapters", "masked_lm"),
        [
            ({}, 11_159_808, 12_072_768, 36_136_314),
            ({"vocab_size": 28_996}, 10_964_480, 11_877_440, 35_358_084 - 590_592),
            ({"vocab_size": 28_996, "embedding_size": 312}, 16_536_000, 17_448_960, 40_929_604 - 590_592),
            ({"embedding_size": 312}, 17_012_112, 17_925_072, 42_579_210 - 590_592),
        ],
        ids=["miniALBERT-128", "bio-miniALBERT-128", "clinical-miniALBERT-312", "uncased-312"],
    )
    def test_published_checkpoints(self, changes: dict, encoder: int, with_adapters: int, masked_lm: int) -> None:
        """The masked-LM files hold 590,592 more, a pooler that nothing calls; new-miniAlbert-128 has none."""
        with torch.device("meta"):
            assert MiniAlbertModel(MiniAlbertConfig(use_adapter=False, **changes)).num_parameters() == encoder
            model = MiniAlbertForMaskedLM(MiniAlbertConfig(**changes))
        assert model.model.num_parameters() == with_adapters
        assert model.num_parameters() == masked_lm

    def test_more_recursions_cost_only_their_adapters(self) -> None:
        def count(**changes: object) -> int:
            with torch.device("meta"):
                return MiniAlbertModel(MiniAlbertConfig(**changes)).num_parameters()

        assert count(num_hidden_layers=12, use_adapter=False) == count(use_adapter=False)
        assert count(num_hidden_layers=7) - count(num_hidden_layers=6) == 152_160
        assert count(adapter_form="identity_start") == count() - 12 * 2 * 768

    def test_projection_only_between_different_widths(self) -> None:
        assert filled(embedding_size=16).embeddings.projection is None
        assert filled(embedding_size=6).embeddings.projection.bias.shape == (16,)


def test_weights_may_stay_on_disk(tmp_path: Path) -> None:
    """The adapters are handed to the shared layer as arguments, which accelerate would move."""
    model = filled()
    model.save_pretrained(tmp_path / "model")
    places = {name: "disk" if name.endswith("adapters") else "cpu" for name, _ in model.named_children()}
    offloaded = MiniAlbertModel.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
    )
    assert all(parameter.is_meta for parameter in offloaded.attention_adapters.parameters())
    batch = {name: random_batch()[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected, found = model(**batch), offloaded(**batch)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)


class TestRecursion:
    def test_without_adapters_it_is_the_same_layer_again_and_again(self) -> None:
        model = filled(use_adapter=False)
        assert sum(isinstance(module, MiniAlbertLayer) for module in model.modules()) == 1
        with torch.no_grad():
            outputs = model(**inputs(), output_hidden_states=True)
            states = [outputs.hidden_states[0]]
            mask = inputs()["attention_mask"][:, None, None, :].bool()
            for _ in range(STEPS):
                states.append(model.layer(states[-1], None, None, mask)[0])
        assert len(outputs.hidden_states) == STEPS + 1
        assert outputs.hidden_states[-1] is outputs.last_hidden_state
        for given, expected in zip(outputs.hidden_states, states, strict=True):
            torch.testing.assert_close(given, expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("kind", ["attention_adapters", "feed_forward_adapters"])
    def test_each_recursion_has_adapters_of_its_own(self, kind: str) -> None:
        model = filled()
        with torch.no_grad():
            before = model(**inputs(), output_hidden_states=True).hidden_states
            getattr(model, kind)[1].up.bias.add_(torch.arange(16.0))
            after = model(**inputs(), output_hidden_states=True).hidden_states
        same = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
        assert same == [True, True, False, False]

    def test_attentions_are_taken_before_dropout(self) -> None:
        """In training too their rows sum to 1, while the states have dropout's noise."""
        model = filled(attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)
        model.set_attn_implementation("eager")
        model.train()
        outputs = model(**inputs(), output_attentions=True)
        assert len(outputs.attentions) == STEPS
        for probabilities in outputs.attentions:
            assert probabilities.shape == (3, 2, 9, 9)
            torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(3, 2, 9))
        assert not torch.equal(outputs.last_hidden_state, model(**inputs()).last_hidden_state)
        first = model(**inputs(), output_attentions=True).attentions[0]
        assert torch.equal(first, outputs.attentions[0])

    def test_attentions_and_states_have_gradients_under_checkpointing(self) -> None:
        model = filled(attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0)
        model.set_attn_implementation("eager")
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
            model.train().zero_grad()
            outputs = model(**inputs(), output_attentions=True, output_hidden_states=True)
            loss = sum(one.square().sum() for one in (*outputs.attentions, *outputs.hidden_states))
            loss.backward()
            gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-4, msg=name)
        assert gradients[0]["layer.attention.query.weight"].abs().max() > 0

    def test_attentions_are_refused_where_there_are_none(self) -> None:
        model = filled()
        assert model.config._attn_implementation == "sdpa"
        with pytest.raises(ValueError, match=r"'sdpa' gives no attention probabilities.*attn_implementation='eager'"):
            model(**inputs(), output_attentions=True)

    def test_positions_and_types_count(self) -> None:
        model, given = filled(), inputs()
        tokens = given["input_ids"].shape[1]
        with torch.no_grad():
            plain = model(**given).last_hidden_state
            zeros = torch.zeros_like(given["input_ids"])
            spelled = model(**given, position_ids=torch.arange(tokens)[None], token_type_ids=zeros).last_hidden_state
            moved = model(**given, position_ids=torch.arange(tokens)[None] + 1).last_hidden_state
            typed = model(**given, token_type_ids=zeros + 1).last_hidden_state
        assert torch.equal(plain, spelled)
        assert not torch.allclose(plain, moved) and not torch.allclose(plain, typed)


class TestAdapters:
    def test_identity_start_keeps_the_function_and_the_published_form_does_not(self) -> None:
        plain = filled(use_adapter=False)
        with torch.no_grad():
            before = plain(**inputs()).last_hidden_state
            for form, is_same in (("identity_start", True), ("published", False)):
                model = copy.deepcopy(plain)
                model.add_adapters(form=form, reduction=8)
                assert torch.equal(model(**inputs()).last_hidden_state, before) is is_same
                assert model.attention_adapters[0].down.weight.shape == (2, 16)
                assert (model.config.use_adapter, model.config.adapter_form) == (True, form)

    def test_a_new_model_starts_with_identities(self) -> None:
        model = MiniAlbertModel(small_config(adapter_form="identity_start"))
        states = torch.randn(2, 3, 16)
        for adapter in (*model.attention_adapters, *model.feed_forward_adapters):
            assert torch.equal(adapter(states), states)
            assert adapter.down.weight.any()

    @pytest.mark.parametrize("form", ["identity_start", "published"])
    def test_added_ones_are_like_built_in_ones_and_are_saved(self, form: str, tmp_path: Path) -> None:
        model = filled(MiniAlbertForTokenClassification, use_adapter=False).to(torch.bfloat16)
        model.add_adapters(form=form, reduction=4)
        built = MiniAlbertForTokenClassification(small_config(adapter_form=form))
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        assert shapes == {name: value.shape for name, value in built.state_dict().items()}
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        added = model.model.feed_forward_adapters[2]
        assert 0.01 < added.down.weight.float().std() < 0.03
        assert bool(added.up.weight.any()) is (form == "published")
        with torch.no_grad():
            added.up.weight.normal_()
        model.save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name

    def test_none_are_added_twice_or_too_narrow(self) -> None:
        with pytest.raises(ValueError, match="has 'published' adapters already"):
            filled().add_adapters()
        model = filled(use_adapter=False)
        with pytest.raises(ValueError, match=r"adapter_reduction must be at most hidden_size=16, got 17"):
            model.add_adapters(reduction=17)
        assert model.config.use_adapter is False and model.attention_adapters is None

    @pytest.mark.parametrize(
        ("model_class", "head", "targets"),
        [
            (MiniAlbertForMaskedLM, (), {"labels": random_batch()["labels"]}),
            (MiniAlbertForTokenClassification, ("classifier.",), {"labels": random_batch()["labels"]}),
            (MiniAlbertForSequenceClassification, ("classifier.",), {"labels": torch.tensor([0, 3, 1])}),
            (
                MiniAlbertForQuestionAnswering,
                ("qa_outputs.",),
                {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 2, 4])},
            ),
        ],
    )
    def test_only_they_and_the_head_train(self, model_class: type, head: tuple, targets: dict) -> None:
        model = filled(model_class).train()
        model.train_adapters_only()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        model(**inputs(), **targets).loss.backward()
        optimizer.step()
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        trained = ("model.attention_adapters.", "model.feed_forward_adapters.", *head)
        assert changed == {name for name in before if name.startswith(trained)}
        assert any("LayerNorm" in name for name in changed)

    def test_training_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"has no adapters to train; call add_adapters\(\) first"):
            filled(MiniAlbertForTokenClassification, use_adapter=False).train_adapters_only()


class TestLosses:
    def test_of_tokens_is_a_mean_that_accumulated_batches_add_up_to(self) -> None:
        batch = random_batch()
        for model_class in (MiniAlbertForTokenClassification, MiniAlbertForMaskedLM):
            model = filled(model_class)
            with torch.no_grad():
                outputs = model(**batch)
                items = (batch["labels"] != -100).sum()
                parts = [
                    model(
                        **{name: value[row : row + 1] for name, value in batch.items()}, num_items_in_batch=items
                    ).loss
                    for row in range(3)
                ]
            wanted = functional.cross_entropy(outputs.logits.flatten(0, 1), batch["labels"].flatten())
            torch.testing.assert_close(outputs.loss, wanted)
            torch.testing.assert_close(sum(parts), wanted)
            nothing = model(**{**batch, "labels": torch.full_like(batch["labels"], -100)}).loss
            assert nothing == 0

    @pytest.mark.parametrize(
        ("num_labels", "problem_type", "labels", "oracle"),
        [
            (5, None, torch.tensor([4, 0, 2]), functional.cross_entropy),
            (2, "single_label_classification", torch.tensor([1, 0, 1]), functional.cross_entropy),
            (
                1,
                None,
                torch.tensor([0.5, -1.0, 3.0]),
                lambda logits, labels: functional.mse_loss(logits[:, 0], labels),
            ),
            (3, "regression", torch.arange(9.0).view(3, 3), functional.mse_loss),
            (3, None, torch.eye(3), functional.binary_cross_entropy_with_logits),
        ],
        ids=["classes", "two classes", "score", "scores", "several classes"],
    )
    def test_of_texts(self, num_labels: int, problem_type: str | None, labels: torch.Tensor, oracle: object) -> None:
        names = {str(index): index for index in range(num_labels)}
        model = filled(
            MiniAlbertForSequenceClassification,
            id2label={index: name for name, index in names.items()},
            label2id=names,
            problem_type=problem_type,
        )
        with torch.no_grad():
            outputs = model(**inputs(), labels=labels)
            parts = [
                model(
                    **{name: value[row : row + 1] for name, value in inputs().items()},
                    labels=labels[row : row + 1],
                    num_items_in_batch=labels.numel(),
                ).loss
                for row in range(3)
            ]
            nothing = model(**inputs(), labels=torch.full_like(labels, -100), num_items_in_batch=0).loss
            states = model.model(**inputs()).last_hidden_state[:, 0]
        torch.testing.assert_close(outputs.logits, model.classifier(states))
        torch.testing.assert_close(outputs.loss, oracle(outputs.logits, labels))
        torch.testing.assert_close(sum(parts), outputs.loss)
        assert nothing == 0 and model.config.problem_type == problem_type

    def test_of_texts_with_classes_in_a_column(self) -> None:
        model = filled(MiniAlbertForSequenceClassification)
        labels = torch.tensor([4, 0, 2])
        with torch.no_grad():
            assert model(**inputs(), labels=labels.view(3, 1)).loss == model(**inputs(), labels=labels).loss

    def test_of_texts_with_labels_of_another_shape(self) -> None:
        model = filled(MiniAlbertForSequenceClassification, problem_type="multi_label_classification")
        with pytest.raises(ValueError, match=r"must have the logits' shape \(3, 5\), got \(3, 4\)"):
            model(**inputs(), labels=torch.zeros(3, 4))

    def test_of_answers_is_over_real_tokens(self) -> None:
        model = filled(MiniAlbertForQuestionAnswering)
        starts, ends = torch.tensor([1, 2, 0]), torch.tensor([3, 2, 8])  # the last one is padding: ignored
        with torch.no_grad():
            outputs = model(**inputs(), start_positions=starts, end_positions=ends)
        total = 0.0
        for row, length in enumerate(inputs()["attention_mask"].sum(1).tolist()):
            for logits, position in ((outputs.start_logits, starts[row]), (outputs.end_logits, ends[row])):
                if position < length:
                    total += functional.cross_entropy(logits[row, :length], position)
        torch.testing.assert_close(outputs.loss, total / 2 / 3)

    def test_the_trainer_accumulates_to_the_same_gradient(self, tmp_path: Path) -> None:
        batch = random_batch(batch=4)
        lengths = batch["attention_mask"].sum(1).tolist()
        rows = [
            {name: value[row, :length].tolist() for name, value in batch.items()} for row, length in enumerate(lengths)
        ]
        after = []
        for size, accumulation in ((4, 1), (1, 4)):
            model = filled(MiniAlbertForTokenClassification, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            arguments = TrainingArguments(
                output_dir=str(tmp_path),
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulation,
                max_steps=1,
                learning_rate=1.0,
                optim="sgd",
                max_grad_norm=0.0,
                lr_scheduler_type="constant",
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
            )
            collator = DataCollatorForTokenClassification(tiny_tokenizer())
            Trainer(model, arguments, data_collator=collator, train_dataset=Dataset.from_list(rows)).train()
            after.append(dict(model.named_parameters()))
        start = dict(filled(MiniAlbertForTokenClassification).named_parameters())
        assert not torch.allclose(after[0]["classifier.weight"], start["classifier.weight"], atol=1e-3)
        for name, value in after[0].items():
            torch.testing.assert_close(after[1][name], value, atol=1e-5, rtol=0, msg=name)


class TestLoading:
    @pytest.mark.parametrize("model_class", AUTO_CLASSES.values())
    def test_embeddings_survive_initialisation(self, model_class: type, tmp_path: Path) -> None:
        """The authors' classes overwrite them with random ones under the transformers of their time."""
        encoder = MiniAlbertModel(small_config())
        sentinel = torch.arange(len(VOCABULARY) * 6.0).view(-1, 6)
        encoder.get_input_embeddings().weight.data.copy_(sentinel)
        encoder.save_pretrained(tmp_path)
        model = model_class.from_pretrained(tmp_path)
        assert torch.equal(model.get_input_embeddings().weight, sentinel)
        for name, value in encoder.state_dict().items():
            assert torch.equal(model.base_model.state_dict()[name], value), name

    def test_embeddings_that_were_put_in_stay_and_are_saved(self, tmp_path: Path) -> None:
        sentinel = torch.arange(len(VOCABULARY) * 6.0).view(-1, 6)
        model = MiniAlbertForMaskedLM(small_config())
        model.set_input_embeddings(nn.Embedding.from_pretrained(sentinel, freeze=False))
        model.save_pretrained(tmp_path)
        assert torch.equal(AutoModel.from_pretrained(tmp_path).get_input_embeddings().weight, sentinel)
        assert not torch.equal(model.get_output_embeddings().weight[:, :6], sentinel)

    def test_lost_weights_of_the_encoder_are_named(self, tmp_path: Path) -> None:
        model = filled(MiniAlbertForTokenClassification)
        weights = model.state_dict()
        del weights["model.layer.attention.key.bias"]
        model.save_pretrained(tmp_path, state_dict=weights)
        with pytest.raises(ValueError, match=r"lacks 1 tensors .*\['model.layer.attention.key.bias'\]"):
            AutoModelForTokenClassification.from_pretrained(tmp_path)

    def test_pickled_weights_are_not_read_unasked(self, tmp_path: Path) -> None:
        model = filled(MiniAlbertForTokenClassification)
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(OSError, match="model.safetensors"):
            AutoModelForTokenClassification.from_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path, use_safetensors=False)
        assert torch.equal(loaded.classifier.weight, model.classifier.weight)

    def test_adapters_that_a_checkpoint_does_not_have(self, tmp_path: Path) -> None:
        filled(use_adapter=False).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"Load it with use_adapter=False and call add_adapters"):
            MiniAlbertForTokenClassification.from_pretrained(tmp_path, use_adapter=True)


class TestOtherModels:
    def student(self) -> PreTrainedModel:
        return filled()

    @pytest.mark.parametrize("freeze_student", [False, True])
    def test_alad_on_top(self, freeze_student: bool, tmp_path: Path) -> None:
        student = self.student()
        model = AlAdForTokenClassification.from_student_pretrained(
            student,
            teacher=tiny_teacher(),
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=tiny_tokenizer(),
            mix_student_layers=True,
            freeze_student=freeze_student,
        )
        assert torch.equal(model.get_input_embeddings().weight, student.get_input_embeddings().weight)
        before = {name: parameter.detach().clone() for name, parameter in model.model.encoder.named_parameters()}
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(2):  # the adapter's correction starts at zero, and the mix gets its gradient through it
            optimizer.zero_grad()
            model(**random_batch()).loss.backward()
            optimizer.step()
        after = dict(model.model.encoder.named_parameters())
        changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
        assert changed == (set() if freeze_student else set(before) - {"embeddings.word_embeddings.weight"})
        mix = next(model.model.layer_mix.parameters())
        assert mix.numel() >= STEPS + 1 and mix.grad is not None

        model.eval().save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        assert type(loaded.config.text_config) is MiniAlbertConfig
        with torch.no_grad():
            assert torch.equal(loaded(**inputs()).logits, model(**inputs()).logits)

    def test_alad_reads_a_student_from_a_folder(self, tmp_path: Path) -> None:
        student = filled(MiniAlbertForMaskedLM)
        student.save_pretrained(tmp_path)
        model = AlAdForQuestionAnswering.from_student_pretrained(str(tmp_path), hidden_size=32)
        for name, value in student.model.state_dict().items():
            assert torch.equal(model.model.encoder.state_dict()[name], value), name

    @pytest.mark.parametrize("model_class", [MiniAlbertModel, MiniAlbertForTokenClassification])
    def test_compressed_encoder_around_it(self, model_class: type, tmp_path: Path) -> None:
        model = filled(model_class)
        wrapped = wrap_encoder(model)
        wrapped.save_pretrained(tmp_path)
        loaded = type(wrapped).from_pretrained(tmp_path)
        with torch.no_grad():
            assert torch.equal(loaded(**inputs())[0], model(**inputs())[0])

    def test_all_load_without_the_package(self, tmp_path: Path) -> None:
        """Every class, and AlAd over MiniALBERT, whose files travel with it; what is loaded can be saved again."""
        models = {model_class.__name__: (auto, filled(model_class)) for auto, model_class in AUTO_CLASSES.items()}
        alad = AlAdForTokenClassification.from_student_pretrained(self.student(), id2label=dict(enumerate(TAGS)))
        models["AlAd"] = ("AutoModelForTokenClassification", alad)
        expected = {}
        for name, (auto, model) in models.items():
            model.save_pretrained(tmp_path / name)
            with torch.no_grad():
                expected[name] = (auto, model(**inputs())[0])
        torch.save({"inputs": inputs(), "expected": expected}, tmp_path / "expected.pt")
        script = """
            import sys, torch, transformers
            sys.modules["alad_hf"] = None  # any import of the package fails
            given = torch.load("expected.pt")
            for name, (auto, expected) in given["expected"].items():
                model = getattr(transformers, auto).from_pretrained(name, trust_remote_code=True)
                with torch.no_grad():
                    assert torch.equal(model(**given["inputs"])[0], expected), name
                model.save_pretrained("again/" + name)
            print("same")
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith("same")
        for name in models:
            again = {path.name for path in (tmp_path / "again" / name).iterdir()}
            assert again == {path.name for path in (tmp_path / name).iterdir()} >= {"modeling_minialbert.py"}


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"hidden_size": 18, "num_attention_heads": 4}, r"multiple of num_attention_heads, got 18 and 4"),
            ({"num_hidden_layers": 0}, r"num_hidden_layers must be from 1 to 1024, got 0"),
            ({"num_hidden_layers": 5000}, r"num_hidden_layers must be from 1 to 1024, got 5000"),
            ({"embedding_size": 0}, r"embedding_size must be from 1 to 65536, got 0"),
            ({"vocab_size": 10**12}, r"vocab_size must be from 1 to 4194304, got 1000000000000"),
            ({"adapter_reduction": 0}, r"adapter_reduction must be from 1 to 65536, got 0"),
            ({"adapter_reduction": 17}, r"adapter_reduction must be at most hidden_size=16, got 17"),
            (
                {"hidden_size": 65_536, "intermediate_size": 1_048_576},
                r"about 1.7e\+11 parameters; it may have",
            ),
            ({"hidden_size": 8192, "num_hidden_layers": 1024, "adapter_reduction": 1}, r"about 2.8e\+11 parameters"),
            ({"hidden_act": "gelu_unknown"}, r"hidden_act must be one of .*'gelu'.*, got 'gelu_unknown'"),
            ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob must be in \[0, 1\), got 1.0"),
            ({"classifier_dropout": -0.1}, r"classifier_dropout must be in \[0, 1\), got -0.1"),
            ({"initializer_range": float("nan")}, r"initializer_range must be finite and not negative, got nan"),
            ({"layer_norm_eps": 0}, r"layer_norm_eps must be between 0 and 1, got 0"),
            (
                {"pad_token_id": len(VOCABULARY)},
                r"pad_token_id must be from 0 to \d+, below vocab_size, or None",
            ),
            ({"tie_word_embeddings": True}, r"tie_word_embeddings must be False"),
            ({"id2label": {0: "O", 2: "X"}}, r"id2label must name the labels 0, 1, 2"),
        ],
    )
    def test_configuration(self, changes: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            small_config(**changes)

    @pytest.mark.parametrize("changes", [{"adapter_form": "prefix"}, {"num_hidden_layers": "6"}, {"use_adapter": 1.5}])
    def test_kinds_of_values(self, changes: dict) -> None:
        with pytest.raises(Exception, match=next(iter(changes))):
            small_config(**changes)

    def test_reduction_does_not_matter_without_adapters(self) -> None:
        assert small_config(use_adapter=False, adapter_reduction=17).use_adapter is False

    def test_hostile_configuration_inside_alad(self) -> None:
        with pytest.raises(ValueError, match="num_hidden_layers"):
            AlAdConfig(text_config={"model_type": "minialbert", "num_hidden_layers": 10**9})

    def test_inputs(self) -> None:
        model = filled()
        with pytest.raises(ValueError, match=r"has 41 tokens, max_position_embeddings is 40\. Truncate"):
            model(torch.ones(1, 41, dtype=torch.long))
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            model(attention_mask=torch.ones(1, 4))
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            model(torch.ones(1, 4, dtype=torch.long), inputs_embeds=torch.ones(1, 4, 6))

    def test_a_bert_checkpoint(self, tmp_path: Path) -> None:
        AutoModel.from_config(tiny_config()).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"lacks \d+ tensors .*load_published_minialbert"):
            MiniAlbertModel.from_pretrained(
                tmp_path, config=small_config(embedding_size=16, max_position_embeddings=64)
            )


def test_defaults_are_the_published_model() -> None:
    config = AutoConfig.for_model("minialbert")
    assert type(config) is MiniAlbertConfig
    sizes = (config.hidden_size, config.num_attention_heads, config.num_hidden_layers, config.embedding_size)
    assert sizes == (768, 12, 6, 128)
    assert (config.vocab_size, config.adapter_size, config.intermediate_size) == (30522, 48, 3072)
