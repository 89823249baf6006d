"""Compressed encoders: the contract of every model class, stock heads kept, layer widths, files on disk."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from model_contract import ModelContract
from tiny import STUDENT_CONFIGS, TAGS, VOCABULARY, random_batch, tiny_config
from tiny_stock import exact_embedding, inputs, result, stock_model
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    BertForMaskedLM,
    BigBirdConfig,
    PreTrainedModel,
    SplinterConfig,
    T5Config,
    Trainer,
    TrainingArguments,
)

from alad_hf import (
    AlAdForTokenClassification,
    CompressedEncoderConfig,
    CompressedEncoderForQuestionAnswering,
    CompressedEncoderForTokenClassification,
    CompressedEncoderModel,
)
from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.models.compressed_embeddings import LowRankEmbedding
from alad_hf.models.layer_widths import encoder_layers, set_layer_width

LOW_RANK = {"method": "low_rank", "num_embeddings": len(VOCABULARY), "embedding_dim": 16, "rank": 6, "bias": True}
BINARY = {"method": "binary_code", "num_embeddings": len(VOCABULARY), "embedding_dim": 16, "bits": 20, "rank": 2}
QUANTIZED = {
    "method": "product_quantized",
    "num_embeddings": len(VOCABULARY),
    "embedding_dim": 16,
    "subvectors": 4,
    "centroids": 9,
    "rotation": True,
    "row_scales": True,
}
WIDTHS = [{"heads": 3, "intermediate": 10}, {"heads": 1, "intermediate": 40}]


class CompressedContract(ModelContract):
    """The contract; resizing is refused, and the codes are random too."""

    embedding: dict = LOW_RANK
    layer_widths: list | None = None
    architecture = "bert"

    def config(self) -> CompressedEncoderConfig:
        return CompressedEncoderConfig(
            text_config=tiny_config(self.architecture, hidden_dropout_prob=0.0),
            embedding=self.embedding,
            layer_widths=self.layer_widths,
            compression={"method": "random"},
            id2label=dict(enumerate(TAGS)) if self.auto_class is AutoModelForTokenClassification else None,
        )

    def inputs(self) -> dict[str, torch.Tensor]:
        return inputs()

    def model(self) -> PreTrainedModel:
        model = super().model()
        embedding = model.get_input_embeddings()
        if self.embedding["method"] != "low_rank":
            largest = embedding.specification().get("centroids", 256)
            embedding.codes.copy_(torch.randint(0, largest, embedding.codes.shape))
        return model

    def test_init_fills_every_tensor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a checkpoint lacks is filled, but for the embedding, whose codes nobody can make up."""
        empty_like = torch.empty_like

        def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
            tensor = empty_like(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        model = self.model()
        path = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
        state = {f"{path}.{name}": tensor for name, tensor in model.get_input_embeddings().state_dict().items()}
        monkeypatch.setattr(torch, "empty_like", poisoned)
        loaded = self.model_class.from_pretrained(None, config=self.config(), state_dict=dict(state))
        tensors = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
        assert [name for name, tensor in tensors.items() if not tensor.isfinite().all()] == []
        for name, tensor in loaded.get_input_embeddings().state_dict().items():
            assert torch.equal(tensor, state[f"{path}.{name}"]), name
        state.popitem()
        with pytest.raises(ValueError, match="The checkpoint lacks .*cannot be decoded"):
            self.model_class.from_pretrained(None, config=self.config(), state_dict=dict(state))

    def test_resize_token_embeddings(self) -> None:
        model = self.model()
        with pytest.raises(
            ValueError, match=r"of 99 tokens cannot be resized to 102: codes and latents of new tokens"
        ):
            model.resize_token_embeddings(len(VOCABULARY) + 3)
        assert model.resize_token_embeddings(len(VOCABULARY)) is model.get_input_embeddings()


class TestModelContract(CompressedContract):
    model_class = CompressedEncoderModel
    auto_class = AutoModel
    embedding = BINARY

    def result(self, outputs: object) -> torch.Tensor:
        return outputs["last_hidden_state"]

    def targets(self) -> dict[str, torch.Tensor]:
        return {}

    # These need a loss, which a bare encoder does not have; the task models run them.
    test_gradient_checkpointing = None
    test_bfloat16 = None
    test_loads_without_the_package = None  # slow; the tagger's runs it over the same files


class TestTaggerContract(CompressedContract):
    model_class = CompressedEncoderForTokenClassification
    auto_class = AutoModelForTokenClassification
    layer_widths = WIDTHS

    def targets(self) -> dict[str, torch.Tensor]:
        return {"labels": random_batch()["labels"]}


class TestReaderContract(CompressedContract):
    model_class = CompressedEncoderForQuestionAnswering
    auto_class = AutoModelForQuestionAnswering
    embedding = QUANTIZED
    test_loads_without_the_package = None  # slow; the tagger's runs it over the same files

    def result(self, outputs: object) -> torch.Tensor:
        return outputs["start_logits"]

    def targets(self) -> dict[str, torch.Tensor]:
        return {"start_positions": torch.tensor([1, 2, 3]), "end_positions": torch.tensor([2, 3, 4])}


def real(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[inputs()["attention_mask"].bool()]


@pytest.mark.parametrize("architecture", [*STUDENT_CONFIGS, "minialbert"])
class TestEveryArchitecture:
    @pytest.mark.parametrize(
        ("auto_class", "kind"),
        [
            (AutoModelForTokenClassification, CompressedEncoderForTokenClassification),
            (AutoModelForQuestionAnswering, CompressedEncoderForQuestionAnswering),
            (AutoModel, CompressedEncoderModel),
        ],
    )
    def test_what_is_not_replaced_is_kept(
        self, architecture: str, auto_class: type, kind: type, tmp_path: Path
    ) -> None:
        stock = stock_model(architecture, auto_class)
        expected = result(stock)
        model = wrap_encoder(stock, embedding=exact_embedding(stock), compression={"method": "exact"})
        assert type(model) is kind
        torch.testing.assert_close(result(model), expected, atol=1e-5, rtol=0)
        assert torch.equal(result(stock), expected)
        assert model.config.id2label == stock.config.id2label and model.config.hidden_size == stock.config.hidden_size
        model.save_pretrained(tmp_path)
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert torch.equal(result(loaded), result(model))
        assert not any(info.values())
        assert not any("weight" in name and "word_embeddings" in name for name in loaded.state_dict())
        token_types = torch.zeros_like(inputs()["input_ids"])  # tokenizers give them to every model
        loaded(**inputs(), token_type_ids=token_types)

    def test_task_and_bare_checkpoints_load_as_each_other(self, architecture: str, tmp_path: Path) -> None:
        stock = stock_model(architecture)
        tagger = wrap_encoder(stock, embedding=exact_embedding(stock))
        tagger.save_pretrained(tmp_path / "tagger")
        bare, info = AutoModel.from_pretrained(tmp_path / "tagger", output_loading_info=True)
        assert not any(info.values())
        torch.testing.assert_close(real(result(bare)), real(result(stock.base_model)), atol=1e-5, rtol=0)
        bare.save_pretrained(tmp_path / "bare")
        again, info = AutoModelForTokenClassification.from_pretrained(
            tmp_path / "bare", num_labels=7, output_loading_info=True
        )
        assert info["missing_keys"] and not any(name.startswith("model.") for name in info["missing_keys"])
        assert result(again).shape[-1] == 7
        assert torch.equal(result(again.base_model), result(bare))

    def test_it_is_a_student_of_alad(self, architecture: str, tmp_path: Path) -> None:
        stock = stock_model(architecture)
        student = wrap_encoder(stock, embedding=exact_embedding(stock))
        model = AlAdForTokenClassification.from_student_pretrained(student, hidden_size=24, num_labels=5)
        torch.testing.assert_close(
            real(result(model.model.encoder)), real(result(stock.base_model)), atol=1e-5, rtol=0
        )
        model.save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        assert torch.equal(result(loaded), result(model))


class TestWrapping:
    def test_a_compressed_model_is_compressed_further(self) -> None:
        stock = stock_model("bert")
        set_layer_width(encoder_layers(stock.base_model)[0], heads=2, intermediate=10)
        once = wrap_encoder(stock, compression={"layers": "cut"})
        twice = wrap_encoder(once, embedding=exact_embedding(once), compression={"embedding": "exact"})
        assert type(twice) is CompressedEncoderForTokenClassification
        assert twice.config.text_config.model_type == "bert"
        assert twice.config.layer_widths == once.config.layer_widths is not None
        assert twice.config.compression == {"layers": "cut", "embedding": "exact"}
        assert once.config.embedding is None and twice.config.embedding["rank"] == 16
        torch.testing.assert_close(result(twice), result(stock), atol=1e-5, rtol=0)
        thrice = wrap_encoder(twice)
        assert thrice.config.embedding == twice.config.embedding
        assert torch.equal(result(thrice), result(twice))

    def test_dtype_name_and_mode_are_the_models(self) -> None:
        stock = stock_model("bert").bfloat16()
        stock.name_or_path = "some/name"
        model = wrap_encoder(stock.train(), embedding=exact_embedding(stock))
        assert model.dtype == torch.bfloat16 and not model.training and model.name_or_path == "some/name"

    def test_rotary_frequencies_keep_their_precision(self, tmp_path: Path) -> None:
        config = tiny_config("modernbert", max_position_embeddings=1024, hidden_size=64, initializer_range=0.3)
        stock = AutoModelForTokenClassification.from_config(config, dtype=torch.bfloat16).eval()
        model = wrap_encoder(stock)
        ids = torch.randint(5, len(VOCABULARY), (1, 1024), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = stock(ids).logits
            assert torch.equal(model(ids).logits, expected)
            model.save_pretrained(tmp_path)
            assert torch.equal(AutoModelForTokenClassification.from_pretrained(tmp_path)(ids).logits, expected)

    def test_a_pooler_that_no_argument_leaves_out_is_kept(self) -> None:
        stock = AutoModelForTokenClassification.from_config(
            BigBirdConfig(**tiny_config("bert").to_diff_dict() | {"attention_type": "original_full"})
        ).eval()
        assert stock.base_model.pooler is not None
        model = wrap_encoder(stock, embedding=exact_embedding(stock))
        torch.testing.assert_close(result(model), result(stock), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("kind", ["bigbird", "splinter"])
    def test_heads_that_read_more_than_their_layers_are_kept(self, kind: str) -> None:
        fields = tiny_config("bert").to_diff_dict()
        config = {
            "bigbird": BigBirdConfig(**fields | {"attention_type": "original_full", "sep_token_id": 3}),
            "splinter": SplinterConfig(**fields | {"question_token_id": 7}),
        }[kind]
        stock = AutoModelForQuestionAnswering.from_config(config).eval()
        model = wrap_encoder(stock, embedding=exact_embedding(stock))
        batch = {name: value for name, value in random_batch().items() if name != "labels"}
        batch["input_ids"][:, 4] = 3
        with torch.no_grad():
            found, expected = model(**batch), stock(**batch)
        torch.testing.assert_close(found.start_logits, expected.start_logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.end_logits, expected.end_logits, atol=1e-5, rtol=0)

    def test_the_kind_of_attention_is_kept(self) -> None:
        config = tiny_config("bert")
        stock = AutoModelForTokenClassification.from_config(config, attn_implementation="eager").eval()
        model = wrap_encoder(stock, embedding=exact_embedding(stock))
        ids = torch.ones(1, 4).long()
        with torch.no_grad():
            found, expected = (one(input_ids=ids, output_attentions=True) for one in (model, stock))
        assert len(found.attentions) == len(expected.attentions) == config.num_hidden_layers
        assert torch.equal(found.attentions[1], expected.attentions[1])

    def test_an_embedding_with_two_names_is_refused(self) -> None:
        config = T5Config(vocab_size=99, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
        with pytest.raises(ValueError, match=r"T5EncoderModel knows one tensor as shared.weight and .*embed_tokens"):
            wrap_encoder(AutoModelForTokenClassification.from_config(config))

    def test_another_head_is_refused(self) -> None:
        masked = BertForMaskedLM(tiny_config())
        with pytest.raises(ValueError, match=r"BertForMaskedLM is neither.*tied to the embedding.*model.base_model"):
            wrap_encoder(masked)
        assert type(wrap_encoder(masked.base_model)) is CompressedEncoderModel

    def test_an_embedding_of_another_shape_is_refused(self) -> None:
        stock = stock_model("bert")
        other = LowRankEmbedding(len(VOCABULARY), 8, rank=2)
        with pytest.raises(ValueError, match=r"The embedding is \(99, 8\), the encoder's own \(99, 16\)"):
            wrap_encoder(stock, embedding=other)
        with pytest.raises(ValueError, match="num_embeddings=98, text_config has vocab_size=99"):
            wrap_encoder(stock, embedding=LowRankEmbedding(98, 16, rank=2))

    def test_a_stock_embedding_in_its_place_can_be_resized_and_saved(self, tmp_path: Path) -> None:
        stock = stock_model("bert")
        model = wrap_encoder(stock, embedding=exact_embedding(stock))
        model.set_input_embeddings(nn.Embedding.from_pretrained(model.get_input_embeddings().dense().detach()))
        assert model.config.embedding is None
        model.resize_token_embeddings(len(VOCABULARY) + 3)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        assert loaded.get_input_embeddings().weight.shape == (len(VOCABULARY) + 3, 16)
        torch.testing.assert_close(result(loaded), result(stock), atol=1e-5, rtol=0)

    def test_the_trainer_averages_over_accumulated_steps(self, tmp_path: Path) -> None:
        """Stock losses ignore `num_items_in_batch`; handed it, they would grow with the number of steps."""
        stock = stock_model("bert")
        model = wrap_encoder(stock, embedding=exact_embedding(stock))
        trainer = Trainer(model=model, args=TrainingArguments(str(tmp_path), report_to="none", use_cpu=True))
        assert trainer.model_accepts_loss_kwargs is False

    def test_what_the_configuration_asks_for(self) -> None:
        stock = stock_model("bert")
        model = wrap_encoder(stock, embedding=exact_embedding(stock))
        model.set_attn_implementation("eager")
        over_it = AlAdForTokenClassification.from_student_pretrained(model, hidden_size=16, id2label={0: "O"})
        over_it.set_attn_implementation("eager")
        for one in (model, model.base_model, over_it, over_it.base_model):
            assert one(**inputs()).hidden_states is None and one(**inputs()).attentions is None
            one.config.output_hidden_states = one.config.output_attentions = True
            assert len(one(**inputs()).hidden_states) >= 3 and len(one(**inputs()).attentions) == 2
            assert one(**inputs(), output_attentions=False).attentions is None
            one.config.output_hidden_states = one.config.output_attentions = False
            assert isinstance(one(**inputs(), return_dict=False), tuple)

    def test_a_copy_is_independent(self) -> None:
        stock = stock_model("bert")
        model = wrap_encoder(stock, embedding=exact_embedding(stock))
        before, other = result(model), copy.deepcopy(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert torch.equal(result(model), before) and not result(other).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": {"method": "low_rank"}}, "does not describe a LowRankEmbedding"),
        ({"embedding": {**LOW_RANK, "num_embeddings": 98}}, "num_embeddings=98, text_config has vocab_size=99"),
        ({"embedding": {**BINARY, "bits": 10**12}}, "bits must be a whole number"),
        ({"layer_widths": WIDTHS[:1]}, "layer_widths has 1 entries, text_config 2 layers"),
        ({"layer_widths": [WIDTHS[0], {"heads": 1}]}, "has heads, intermediate and perhaps position_heads"),
        ({"layer_widths": [WIDTHS[0], {"heads": 0, "intermediate": 1}]}, "heads must be a whole number"),
        ({"layer_widths": [WIDTHS[0], {"heads": 1, "intermediate": 10**9}]}, "intermediate must be a whole number"),
        (
            {"layer_widths": [WIDTHS[0], {"heads": 1, "intermediate": 1, "position_heads": [2]}]},
            "position_heads must be a whole number from 0 to 1",
        ),
        (
            {"layer_widths": [WIDTHS[0], {"heads": 1, "intermediate": 1, "position_heads": [0, 0]}]},
            "position_heads must be a list of 1 heads",
        ),
        (
            {
                "text_config": tiny_config(hidden_size=4096, num_attention_heads=1),
                "layer_widths": [{"heads": 4096, "intermediate": 1_048_576}] * 2,
            },
            r"layer_widths describes layers of about 5\.\de\+11 parameters together; they may have 1e\+10",
        ),
        ({"compression": {"a": {1, 2}}}, "compression must be plain JSON"),
        ({"text_config": CompressedEncoderConfig()}, "wrap_encoder compresses one further without nesting"),
    ],
)
def test_hostile_configurations_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompressedEncoderConfig(**{"text_config": tiny_config(), **changes})


def test_what_the_stock_configuration_has_is_written_there(tmp_path: Path) -> None:
    """As the library's users change it: by arguments of `from_pretrained`."""
    stock = stock_model("bert")
    wrap_encoder(stock, embedding=exact_embedding(stock)).save_pretrained(tmp_path)
    model = AutoModelForTokenClassification.from_pretrained(
        tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.25
    )
    assert model.config.text_config.hidden_dropout_prob == model.config.hidden_dropout_prob == 0.0
    assert {part.p for part in model.base_model.encoder.modules() if isinstance(part, nn.Dropout)} == {0.0, 0.25}
    config = CompressedEncoderConfig(text_config=tiny_config(), hidden_act="relu", id2label={0: "A"})
    assert config.text_config.hidden_act == "relu" and "hidden_act" not in config.to_dict()
    assert config.text_config.id2label != config.id2label == {0: "A"}


def test_a_reader_has_two_labels_whatever_the_stock_configuration_says() -> None:
    config = CompressedEncoderConfig(text_config=tiny_config(num_labels=9))
    model = CompressedEncoderForQuestionAnswering(config)
    assert model.num_labels == model.qa_outputs.out_features == 2


def test_a_new_model_with_kept_rows_reads_and_is_saved(tmp_path: Path) -> None:
    rows = len(VOCABULARY)
    kept = {"method": "kept_rows", "num_embeddings": rows, "embedding_dim": 16, "kept_rows": 5, "kept_bits": 4}
    shared = {**BINARY, "num_embeddings": rows - 5}
    config = CompressedEncoderConfig(text_config=tiny_config(), embedding={**kept, "shared": shared})
    model = AutoModel.from_config(config)
    assert model.get_input_embeddings().kept_ids.tolist() == [0, 1, 2, 3, 4]
    assert model(input_ids=torch.tensor([[2, 10, 3]])).last_hidden_state.isfinite().all()
    model.save_pretrained(tmp_path)
    AutoModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("specification", [LOW_RANK, BINARY, QUANTIZED | {"rank": 2}, "kept"], ids=str)
def test_weights_may_stay_on_disk(specification: dict | str, tmp_path: Path) -> None:
    rows = len(VOCABULARY)
    if specification == "kept":
        sizes = {"num_embeddings": rows, "embedding_dim": 16, "kept_rows": 5, "kept_bits": 4}
        specification = {"method": "kept_rows", **sizes, "shared": {**BINARY, "num_embeddings": rows - 5}}
    torch.manual_seed(0)
    model = AutoModel.from_config(CompressedEncoderConfig(text_config=tiny_config(), embedding=specification)).eval()
    model.save_pretrained(tmp_path / "model")
    places = {"encoder.embeddings": "disk", "encoder.encoder": "cpu"}
    offloaded = AutoModel.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload")
    assert all(parameter.is_meta for parameter in offloaded.get_input_embeddings().parameters())
    batch = inputs()
    torch.testing.assert_close(offloaded(**batch).last_hidden_state, model(**batch).last_hidden_state)


def test_the_configuration_reads_the_stock_one() -> None:
    config = CompressedEncoderConfig(text_config=tiny_config("distilbert").to_dict())
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (16, 2, len(VOCABULARY))
    assert config.get_text_config() is config.text_config
    assert copy.deepcopy(config).max_position_embeddings == 64
    with pytest.raises(AttributeError):
        _ = config.colour
    assert "hidden_size" not in config.to_dict() and "vocab_size" not in config.to_dict()
