"""Recursive students: what they take from their source, their size, and what can be done with them."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import TAGS, random_batch, tiny_config, tiny_teacher, tiny_tokenizer
from tiny_distillation import distill, tiny_mlm, tiny_texts
from tiny_training import make_rows, make_trainer, weights_of
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForTokenClassification,
    Data2VecTextConfig,
    PreTrainedModel,
)

from alad_hf import AlAdForTokenClassification, MiniAlbertForMaskedLM, MiniAlbertModel
from alad_hf.compression.factorised_embeddings import (
    SourceEmbeddings,
    TokenSample,
    embedding_error,
    fit_embeddings,
    sample_tokens,
)
from alad_hf.compression.recursive import make_recursive_student
from alad_hf.evaluation.efficiency import stored_bytes
from alad_hf.training.distillation_model import DistillationModel

SOURCES = ["bert", "roberta", "mpnet", "electra", "distilbert"]


def first_states(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model.eval().base_model(**inputs, output_hidden_states=True).hidden_states[0]


class TestEmbeddings:
    @pytest.mark.parametrize("model_type", SOURCES)
    def test_full_width_loses_nothing(self, model_type: str) -> None:
        """Positions behind the padding token, missing token types and ELECTRA's own factorisation included."""
        source = tiny_mlm(model_type)
        student = make_recursive_student(source, embedding_size=8 if model_type == "electra" else 16)
        batch = random_batch(padded=False)
        assert torch.allclose(first_states(student, batch), first_states(source, batch), atol=1e-4)

    @pytest.mark.parametrize("model_type", SOURCES)
    def test_the_error_falls_with_the_width(self, model_type: str) -> None:
        source = SourceEmbeddings(tiny_mlm(model_type))
        sample = sample_tokens(source)
        widths = (3, 5, 7) if model_type == "electra" else (3, 6, 12)
        errors = [
            embedding_error(
                make_recursive_student(tiny_mlm(model_type), embedding_size=width).model.embeddings, source, sample
            )
            for width in widths
        ]
        assert 1 > errors[0] > errors[1] > errors[2] > 0

    def test_error_is_measured_in_the_model(self) -> None:
        """By the states of both models, not by the fit's own arithmetic."""
        source = tiny_mlm()
        student = make_recursive_student(source, embedding_size=6)
        batch = random_batch(padded=False)
        ids = batch["input_ids"]
        sample = TokenSample(ids.flatten(), torch.arange(9).repeat(3), torch.zeros_like(ids).flatten())
        states, fitted = first_states(source, batch), first_states(student, batch)
        expected = (states - fitted).square().sum() / (states - states.mean(dim=(0, 1))).square().sum()
        measured = embedding_error(student.model.embeddings, SourceEmbeddings(source), sample)
        assert measured == pytest.approx(expected.item(), rel=1e-4)

    def test_better_than_the_truncated_svd_of_the_token_table(self) -> None:
        source_model = tiny_mlm()
        with torch.no_grad():  # as in real models, the layer norm's weights differ
            source_model.bert.embeddings.LayerNorm.weight.copy_(torch.linspace(0.1, 2, 16))
        source = SourceEmbeddings(source_model)
        sample = sample_tokens(source)
        student = make_recursive_student(source_model, embedding_size=8)
        plain = MiniAlbertModel(student.config).embeddings.eval()
        directions = torch.linalg.svd(source.words, full_matrices=False).Vh[:8].T
        with torch.no_grad():
            plain.word_embeddings.weight.copy_(source.words @ directions)
            plain.position_embeddings.weight.copy_(source.positions @ directions)
            plain.token_type_embeddings.weight.copy_(source.types @ directions)
            sums = plain.word_embeddings(sample.ids) + plain.position_embeddings(sample.positions)
            inputs = plain.LayerNorm(sums + plain.token_type_embeddings(sample.types))
            inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
            solution = torch.linalg.lstsq(inputs, source.states(sample), driver="gelsd").solution
            plain.projection.weight.copy_(solution[:-1].T)
            plain.projection.bias.copy_(solution[-1])
        assert embedding_error(student.model.embeddings, source, sample) < embedding_error(plain, source, sample)

    def test_no_map_behind_the_tables_is_better(self) -> None:
        """The least squares of the last step: any change of the map makes the error larger."""
        source = SourceEmbeddings(tiny_mlm())
        sample = sample_tokens(source)
        embeddings = make_recursive_student(tiny_mlm(), embedding_size=6).model.embeddings
        best = embedding_error(embeddings, source, sample)
        for _ in range(5):
            other = copy.deepcopy(embeddings)
            with torch.no_grad():
                other.projection.weight.add_(0.01 * torch.randn_like(other.projection.weight))
            assert embedding_error(other, source, sample) > best

    def test_a_text_makes_the_fit_better_on_it(self) -> None:
        source = SourceEmbeddings(tiny_mlm())
        texts, tokenizer = tiny_texts(200), tiny_tokenizer()
        sample = sample_tokens(source, texts, tokenizer)
        assert int(sample.ids.max()) < len(tokenizer) and int(sample.positions.min()) == 0
        with_text, without = (
            make_recursive_student(tiny_mlm(), embedding_size=5, texts=given, tokenizer=tokenizer)
            for given in (texts, None)
        )
        assert embedding_error(with_text.model.embeddings, source, sample) < 0.9 * embedding_error(
            without.model.embeddings, source, sample
        )

    def test_they_survive_initialisation_and_reloading(self, tmp_path: Path) -> None:
        student = make_recursive_student(tiny_mlm(), embedding_size=6)
        student.init_weights()
        student.save_pretrained(tmp_path)
        expected = first_states(make_recursive_student(tiny_mlm(), embedding_size=6), random_batch())
        for auto_class in (AutoModel, AutoModelForMaskedLM, AutoModelForTokenClassification):
            assert torch.allclose(first_states(auto_class.from_pretrained(tmp_path), random_batch()), expected)

    def test_others_are_refused(self) -> None:
        for model_type in ("albert", "modernbert"):
            with pytest.raises(ValueError, match=r"embeddings of a .* are not a layer norm over the sum.*BERT"):
                make_recursive_student(AutoModel.from_config(tiny_config(model_type)))
        with pytest.raises(ValueError, match="embedding_size=17 is more than the 16"):
            make_recursive_student(tiny_mlm(), embedding_size=17)
        with pytest.raises(ValueError, match="embedding_size=17 is more than the 16"):
            wide = make_recursive_student(tiny_mlm(), embedding_size=16)
            target = MiniAlbertModel(type(wide.config)(**{**wide.config.to_dict(), "embedding_size": 17})).embeddings
            fit_embeddings(target, SourceEmbeddings(tiny_mlm()), sample_tokens(SourceEmbeddings(tiny_mlm())))
        with pytest.raises(ValueError, match="takes their tokenizer"):
            make_recursive_student(tiny_mlm(), texts=["visited"])


class TestLayer:
    @pytest.mark.parametrize("model_type", SOURCES)
    def test_one_call_of_one_layer_is_the_source(self, model_type: str) -> None:
        changes = {"embedding_size": 16} if model_type == "electra" else {}
        source = tiny_mlm(model_type, layers=2, **changes)
        if model_type == "mpnet":  # whose relative positions the student leaves behind
            torch.nn.init.zeros_(source.base_model.encoder.relative_attention_bias.weight)
        student = make_recursive_student(source, num_hidden_layers=1, embedding_size=16, layer_start=0)
        batch = random_batch()
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            expected = source.eval().base_model(**inputs, output_hidden_states=True).hidden_states[1]
            states = student.model(**inputs).last_hidden_state
        real = batch["attention_mask"] == 1
        assert torch.allclose(states[real], expected[real], atol=1e-4)

    def test_mean_and_random(self, caplog: pytest.LogCaptureFixture) -> None:
        source = tiny_mlm(layers=3)
        mean = make_recursive_student(source).model.layer.intermediate.weight
        layers = [layer.intermediate.dense.weight for layer in source.bert.encoder.layer]
        assert torch.allclose(mean, sum(layers) / 3)
        random = make_recursive_student(source, layer_start=None).model.layer.intermediate.weight
        assert random.std().item() == pytest.approx(source.config.initializer_range, rel=0.2)
        with caplog.at_level(logging.WARNING):
            make_recursive_student(source, intermediate_size=20)
        assert "starts at random" in caplog.text
        for wrong in (3, "middle"):
            with pytest.raises(ValueError, match=r"a layer from 0 to 2, or None"):
                make_recursive_student(source, layer_start=wrong)

    def test_the_vocabulary_matrix_is_the_source_s(self) -> None:
        source = tiny_mlm()
        student = make_recursive_student(source)
        assert torch.equal(student.vocab_projector.weight, source.bert.embeddings.word_embeddings.weight)
        assert torch.equal(student.vocab_projector.bias, source.cls.predictions.decoder.bias)
        bare = make_recursive_student(source.base_model)
        assert torch.equal(bare.vocab_projector.weight, source.bert.embeddings.word_embeddings.weight)

    def test_other_sizes(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            student = make_recursive_student(
                tiny_mlm(), hidden_size=24, num_attention_heads=3, embedding_size=6, layer_start=None
            )
        assert "hidden size is 24 and the source's 16" in caplog.text
        assert student(**random_batch()).logits.shape[:2] == (3, 9)


class TestSize:
    @pytest.mark.parametrize("use_adapter", [True, False])
    def test_the_largest_that_fits(self, use_adapter: bool) -> None:
        source, settings = tiny_mlm(), {"use_adapter": use_adapter, "num_hidden_layers": 3}
        for width in (2, 5, 11):
            size = stored_bytes(make_recursive_student(source, embedding_size=width, **settings).model)
            for budget, expected in ((size, width), (size + 40, width)):
                student = make_recursive_student(source, max_bytes=budget, **settings)
                assert student.config.embedding_size == expected
            if width > 2:
                smaller = make_recursive_student(source, max_bytes=size - 4, **settings)
                assert smaller.config.embedding_size == width - 1

    def test_bytes_on_disk(self, tmp_path: Path) -> None:
        student = make_recursive_student(tiny_mlm(), max_bytes=16_000)
        student.model.save_pretrained(tmp_path)
        assert stored_bytes(student.model) <= 16_000 < stored_bytes(student.model) + 4 * 200
        assert sum(tensor.nbytes for tensor in load_file(tmp_path / "model.safetensors").values()) <= 16_000

    def test_ample_and_scarce(self) -> None:
        assert make_recursive_student(tiny_mlm(), max_bytes=10**9).config.embedding_size == 16
        with pytest.raises(
            ValueError, match=r"max_bytes=1,000 is too small: with embeddings of width 2.*intermediate"
        ):
            make_recursive_student(tiny_mlm(), max_bytes=1000)
        with pytest.raises(ValueError, match="embedding_size=4 or max_bytes=1000, not both"):
            make_recursive_student(tiny_mlm(), embedding_size=4, max_bytes=1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A distilled student on disk."""
    folder = tmp_path_factory.mktemp("student")
    source = tiny_mlm(layers=4, seed=1)
    student = make_recursive_student(source, num_hidden_layers=2, embedding_size=8)
    trainer = distill(student, folder / "checkpoints", source)
    assert "attention_loss" in trainer.state.log_history[0]
    student.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


class TestUse:
    def test_attention_has_no_holes_in_training(self) -> None:
        """Probabilities are taken before dropout: rows sum to 1 whatever the dropout."""
        source = tiny_mlm(layers=2, seed=1)
        student = make_recursive_student(source, num_hidden_layers=2, attention_probs_dropout_prob=0.5)
        student.train().set_attn_implementation("eager")
        batch = random_batch(padded=False)
        attentions = student(input_ids=batch["input_ids"], output_attentions=True).attentions
        assert len(attentions) == 2
        for probabilities in attentions:
            assert torch.allclose(probabilities.sum(dim=-1), torch.ones(()), atol=1e-5)
        DistillationModel(student, source)  # takes a MiniALBERT with attention dropout

    def test_distillation_changes_the_student_alone(self) -> None:
        source = tiny_mlm(layers=2, seed=1)
        student = make_recursive_student(source, num_hidden_layers=2, embedding_size=8)
        assert isinstance(student, MiniAlbertForMaskedLM)
        before = weights_of(source)
        student.model.embeddings.word_embeddings.weight.data.zero_()
        student.vocab_projector.weight.data.zero_()
        assert all(torch.equal(weight, before[name]) for name, weight in weights_of(source).items())

    @pytest.mark.parametrize("adapters_only", [False, True])
    def test_fine_tuning(self, folder: str, adapters_only: bool, tmp_path: Path) -> None:
        model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=len(TAGS))
        if adapters_only:
            model.train_adapters_only()
        before = weights_of(model)
        make_trainer(model, make_rows(teacher=False), tmp_path).train()
        changed = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
        assert "classifier.weight" in changed and any("adapters" in name for name in changed)
        assert any(name.startswith("model.layer") for name in changed) != adapters_only

    @pytest.mark.parametrize("frozen", [True, False])
    def test_alad_on_top(self, folder: str, frozen: bool, tmp_path: Path) -> None:
        model = AlAdForTokenClassification.from_student_pretrained(
            folder, teacher=tiny_teacher(), freeze_student=frozen, teacher_tokenizer=tiny_tokenizer()
        )
        before = weights_of(model)
        trainer = make_trainer(model, make_rows(teacher=False), tmp_path / "train")
        trainer.train()
        changed = {name for name, weight in weights_of(model).items() if not torch.equal(weight, before[name])}
        assert any("adapter.linear" in name for name in changed)
        assert any(name.startswith("model.encoder.layer") for name in changed) != frozen
        model.save_pretrained(tmp_path / "saved")
        reloaded = AlAdForTokenClassification.from_pretrained(tmp_path / "saved").eval()
        batch = random_batch()
        with torch.no_grad():
            assert torch.allclose(reloaded(**batch).logits, model.eval()(**batch).logits, atol=1e-6)


def test_the_seed_decides() -> None:
    source, made = tiny_mlm(), []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        expected = torch.rand(1)  # of the caller's own numbers, which are not touched
        torch.manual_seed(number)
        made.append(weights_of(make_recursive_student(source, embedding_size=8, seed=seed)))
        assert torch.rand(1) == expected
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    assert any(not torch.equal(value, made[2][name]) for name, value in made[0].items())


def test_the_head_of_a_task_is_left_behind_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    make_recursive_student(tiny_mlm(), embedding_size=8)
    assert "left behind" not in caplog.text
    make_recursive_student(tiny_teacher(hidden_size=16), embedding_size=8)
    assert "The head of this BertForTokenClassification is left behind" in caplog.text


def test_positions_of_all_relatives_of_roberta_begin_behind_the_padding() -> None:
    config = Data2VecTextConfig(**tiny_config("roberta").to_dict() | {"model_type": "data2vec-text"})
    torch.manual_seed(0)
    source = AutoModelForMaskedLM.from_config(config).eval()
    student = make_recursive_student(source, embedding_size=16)
    assert student.config.max_position_embeddings == 65
    batch = random_batch(padded=False)
    batch["input_ids"] = batch["input_ids"].clamp(min=2)
    assert torch.allclose(first_states(student, batch), first_states(source, batch), atol=1e-4)


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"\['num_layers'\] are not fields of MiniAlbertConfig, .*'num_hidden_layers'"):
        make_recursive_student(AutoModel.from_config(tiny_config()), num_layers=3)
