"""Students made by leaving layers out, for every architecture of the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from tiny import STUDENT_CONFIGS, TAGS, random_batch, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForTokenClassification,
    BertModel,
    EsmConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    LlamaModel,
    LongformerConfig,
    PreTrainedConfig,
    PreTrainedModel,
    SmolLM3Config,
)

from alad_hf import AlAdForTokenClassification
from alad_hf.compression import compress_embeddings
from alad_hf.compression.truncation import find_layers, groups_of, truncate_layers
from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.models.layer_widths import encoder_layers, set_layer_width

DEPTH = 4
TEXTS = ["jones works for acme in london .", "smith visited the un", "new york and berlin played", "a b c d e f"] * 5
TRUNCATED = [name for name in STUDENT_CONFIGS if name != "albert"]  # ALBERT runs one layer many times


def deep_config(name: str, **changes: object) -> PreTrainedConfig:
    changes = {"n_layers" if name == "distilbert" else "num_hidden_layers": DEPTH, **changes}
    if name == "modernbert":
        changes = {"layer_types": None, "global_attn_every_n_layers": 3, **changes}
    return tiny_config(name, **changes)


def skip_where_transformers_cannot_reload(name: str, layer_map: list[int]) -> None:
    """Older transformers write ModernBERT configurations with one kind of attention that they then refuse to read."""
    if name == "modernbert":
        kinds = deep_config(name).layer_types
        types = [kinds[index] for index in layer_map]
        try:  # without any code of ours
            config = deep_config(name, num_hidden_layers=len(layer_map), layer_types=types)
            type(config).from_dict(AutoModel.from_config(config).config.to_dict())
        except StrictDataclassError as error:
            pytest.skip(f"transformers {transformers.__version__} cannot reload this configuration: {error!s:.80}")


def deep_model(name: str) -> PreTrainedModel:
    """An encoder with every parameter random, so that no layer is like another."""
    torch.manual_seed(0)
    model = AutoModel.from_config(deep_config(name)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs() -> dict[str, torch.Tensor]:
    batch = random_batch()
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def states(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs()).last_hidden_state


@pytest.mark.parametrize("name", TRUNCATED)
class TestEveryArchitecture:
    @pytest.mark.parametrize("kept", [1, 3])
    def test_the_bottom_layers_give_the_hidden_state_above_them(self, name: str, kept: int) -> None:
        model = deep_model(name)
        with torch.no_grad():
            hidden = model(**inputs(), output_hidden_states=True).hidden_states
            expected = hidden[kept]
            if name == "modernbert":  # whose layers leave the sum without the norm that ends the model
                expected = model.final_norm(expected)
        assert len(hidden) == DEPTH + 1
        real = inputs()["attention_mask"].bool()
        student = truncate_layers(model, range(kept))
        torch.testing.assert_close(states(student)[real], expected[real], atol=1e-6, rtol=0)
        assert not torch.allclose(states(student)[real], states(model)[real], atol=1e-2)

    def test_all_layers_are_the_model_and_it_is_not_changed(self, name: str) -> None:
        model = deep_model(name)
        before, config = {key: value.clone() for key, value in model.state_dict().items()}, model.config.to_dict()
        expected = states(model)
        assert torch.equal(states(truncate_layers(model, range(DEPTH))), expected)
        student = truncate_layers(model, [0, 2])
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.zero_()
        assert model.config.to_dict() == config
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert torch.equal(states(model), expected)

    @pytest.mark.parametrize("layer_map", [[0], [0, 3], [0, 2, 3], [0, 3, 1]])
    def test_saves_and_loads(self, name: str, layer_map: list[int], tmp_path: Path) -> None:
        skip_where_transformers_cannot_reload(name, layer_map)
        model = deep_model(name)
        student = truncate_layers(model, layer_map)
        assert type(student) is type(model)
        assert student.config.num_hidden_layers == len(layer_map)
        student.save_pretrained(tmp_path)
        loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert torch.equal(states(loaded), states(student))
        layers = getattr(*find_layers(loaded))
        originals = getattr(*find_layers(model))
        for layer, index in zip(layers, layer_map, strict=True):
            for key, value in layer.state_dict().items():
                assert torch.equal(value, originals[index].state_dict()[key]), key

    def test_becomes_the_student_of_an_alad_model(self, name: str, tmp_path: Path) -> None:
        student = truncate_layers(deep_model(name), [0, 2])
        model = AlAdForTokenClassification.from_student_pretrained(student, hidden_size=24, num_labels=5)
        torch.testing.assert_close(states(model.model.encoder), states(student))
        model.save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        assert torch.equal(loaded(**inputs()).logits, model(**inputs()).logits)

    def test_a_task_head_is_kept(self, name: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        config = deep_config(name)
        config.id2label = dict(enumerate(TAGS))
        tagger = AutoModelForTokenClassification.from_config(config).eval()
        student = truncate_layers(tagger, [0, 1])
        assert torch.equal(student.classifier.weight, tagger.classifier.weight)
        student.save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        assert torch.equal(loaded(**inputs()).logits, student(**inputs()).logits)
        assert loaded.config.id2label == dict(enumerate(TAGS))


@pytest.mark.parametrize("layer_map", [[0, 3], [0, 2, 1], [0, 1, 2], [0]])
def test_modernberts_attention_types_follow_the_map(layer_map: list[int], tmp_path: Path) -> None:
    """Every third layer sees the whole text, the others a window: a layer must keep its own kind."""
    skip_where_transformers_cannot_reload("modernbert", layer_map)
    model = deep_model("modernbert")
    full = model.config.layer_types
    assert full == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    student = truncate_layers(model, layer_map)
    student.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    for one in (student, loaded):
        assert one.config.layer_types == [full[index] for index in layer_map]
        assert [layer.attention_type for layer in one.layers] == one.config.layer_types


@pytest.mark.parametrize("layer_map", [[1], [1, 0], [3, 2, 1]])
def test_modernberts_first_layer_must_stay_first(layer_map: list[int]) -> None:
    with pytest.raises(ValueError, match=r"cannot hold the layers .*differ by position.*attn_norm.*layer_map=\[0"):
        truncate_layers(deep_model("modernbert"), layer_map)


@pytest.mark.parametrize("layer_map", [[2], [3, 0], [2, 1, 0]])
def test_other_models_take_any_order(layer_map: list[int], tmp_path: Path) -> None:
    model = deep_model("bert")
    student = truncate_layers(model, layer_map)
    hidden = model.embeddings(input_ids=inputs()["input_ids"])
    mask = (1.0 - inputs()["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min
    with torch.no_grad():
        for index in layer_map:
            output = model.encoder.layer[index](hidden, mask)
            hidden = output[0] if isinstance(output, tuple) else output
    real = inputs()["attention_mask"].bool()
    torch.testing.assert_close(states(student)[real], hidden[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer_map", [[], [4], [-1], [0, 0], [0, 1, 7]])
def test_maps_that_do_not_fit_are_refused(layer_map: list[int]) -> None:
    with pytest.raises(ValueError, match=r"layers from 0 to 3, each at most once, got \["):
        truncate_layers(deep_model("bert"), layer_map)


def test_integers_of_numpy_are_taken_and_floats_are_not(tmp_path: Path) -> None:
    model = deep_model("bert")
    evenly = {"layer_map": "every_second", "num_hidden_layers": np.int64(2)}
    for number, given in enumerate(({"layer_map": np.linspace(0, 3, 2).astype(int)}, evenly)):
        student = truncate_layers(model, **given)
        student.save_pretrained(tmp_path / str(number))
        assert AutoModel.from_pretrained(tmp_path / str(number)).config.num_hidden_layers == 2
    with pytest.raises(ValueError, match=r"layer_map must hold integers, got \[0\.0, 1\.0\]"):
        truncate_layers(model, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"num_hidden_layers must hold integers, got \[2\.0\]"):
        truncate_layers(model, "bottom", 2.0)


@pytest.mark.parametrize("groups", [1, 4])
def test_albert_is_refused(groups: int) -> None:
    sizes = tiny_config("albert").to_dict()
    config = AlbertConfig.from_dict({**sizes, "num_hidden_layers": DEPTH, "num_hidden_groups": groups})
    with pytest.raises(ValueError, match="its layers cannot be told apart"):
        truncate_layers(AutoModel.from_config(config), [0, 1])


def test_two_lists_of_layers_are_refused() -> None:
    model = BertModel(deep_config("bert"))
    model.second = torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(DEPTH)])
    with pytest.raises(ValueError, match="BertModel has 2 lists of 4 equal layers where one was expected"):
        truncate_layers(model, [0])


def test_a_pooler_is_no_obstacle() -> None:
    model = tiny_teacher().base_model
    assert truncate_layers(model, [1]).config.num_hidden_layers == 1
    assert truncate_layers(BertModel(deep_config("bert"), add_pooling_layer=True), [3]).pooler is not None


@pytest.mark.parametrize(
    ("rule", "count", "expected"),
    [
        ("bottom", 2, [0, 1]),
        ("top", 2, [2, 3]),
        ("every_second", 2, [0, 2]),
        ("every_second", 3, [0, 1, 2]),
        ("top", DEPTH, [0, 1, 2, 3]),
    ],
)
def test_rules_name_what_is_kept(rule: str, count: int, expected: list[int]) -> None:
    model = deep_model("bert")
    student = truncate_layers(model, rule, count)
    assert student.config.compression == {"method": "truncation", "layer_map": [[index] for index in expected]}
    assert torch.equal(states(student), states(truncate_layers(model, expected)))


def test_by_similarity_drops_the_layer_that_changes_least() -> None:
    model = deep_model("bert")
    layer = model.encoder.layer[1]
    with torch.no_grad():
        for module in (layer.attention.output.dense, layer.output.dense):
            module.weight.zero_()
            module.bias.zero_()
        for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.load_state_dict(model.encoder.layer[0].output.LayerNorm.state_dict())
    student = truncate_layers(model, "by_similarity", 3, texts=TEXTS, tokenizer=tiny_tokenizer())
    assert student.config.compression["layer_map"] == [[0], [2], [3]]


def test_a_refit_comes_nearer_to_the_model() -> None:
    model = deep_model("bert")
    plain = truncate_layers(model, "bottom", 2)
    refitted = truncate_layers(model, "bottom", 2, texts=TEXTS, tokenizer=tiny_tokenizer(), refit=True)
    batch = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted, one, two = (side(**batch).last_hidden_state for side in (model, plain, refitted))
    real = batch["attention_mask"].bool()
    assert (two - wanted)[real].square().sum() < 0.5 * (one - wanted)[real].square().sum()
    record = refitted.config.compression
    assert record["stands_for"] == [[0], [1, 2, 3]] and len(record["refit"]["state_errors_before_and_after"]) == 2


@pytest.mark.parametrize(
    ("layer_map", "groups"),
    [([0, 2, 4], [[0, 1], [2, 3], [4, 5]]), ([1, 2], [[0, 1], [2, 3, 4, 5]]), ([5], [[0, 1, 2, 3, 4, 5]])],
)
def test_kept_layers_stand_for_the_dropped_ones(layer_map: list[int], groups: list[list[int]]) -> None:
    assert groups_of(layer_map, 6) == groups


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("middle", 2), "layer_map must be indices, or one of .*got 'middle'"),
        (("top",), "num_hidden_layers=None"),
        (("top", 9), "from 1 to the model's 4, got 9"),
        (("by_similarity", 2), "pass texts=... and tokenizer=..."),
        (([0, 2], 3), r"layer_map names 2 layers, and num_hidden_layers=3 \(--num-layers\) says otherwise"),
    ],
)
def test_rules_that_do_not_fit_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truncate_layers(deep_model("bert"), *arguments)


@pytest.mark.parametrize("layer_map", [[0, 2], "bottom"])
def test_text_that_nothing_reads_is_refused(layer_map: list[int] | str) -> None:
    with pytest.raises(ValueError, match=r"reads no text without a refit: pass refit=True \(--refit\)"):
        truncate_layers(deep_model("bert"), layer_map, 2, texts=TEXTS, tokenizer=tiny_tokenizer())
    assert truncate_layers(deep_model("bert"), layer_map, 2).config.num_hidden_layers == 2


def test_the_record_of_layers_outlives_compressed_embeddings() -> None:
    """Layers are counted as in the first model, whatever was compressed between two truncations."""
    once = truncate_layers(deep_model("bert"), [0, 1, 3])
    compressed = compress_embeddings(once, "int8")
    record = compressed.config.compression
    assert record["layer_map"] == [[0], [1], [3]] and "embedding" in record
    assert not hasattr(compressed.config.text_config, "compression")
    twice = truncate_layers(compressed, [0, 2]).config.compression
    assert twice["layer_map"] == [[0], [3]] and twice["made_of"] == "truncation" and "embedding" in twice


def test_the_student_of_a_frozen_teacher_can_be_trained() -> None:
    teacher, tokenizer = tiny_teacher(), tiny_tokenizer()
    AlAdForTokenClassification.from_student_pretrained(
        AutoModel.from_config(tiny_config()), teacher=teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer
    )
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for options in ({}, {"texts": TEXTS, "tokenizer": tokenizer, "refit": True}):
        student = truncate_layers(teacher, "bottom", 1, **options)
        assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
@pytest.mark.parametrize("layer_map", [[0, 2], [0, 2, 1]])
def test_a_compressed_model_loses_the_layers_that_the_stock_one_does(
    name: str, layer_map: list[int], tmp_path: Path
) -> None:
    skip_where_transformers_cannot_reload(name, layer_map)
    model = deep_model(name)
    compressed = compress_embeddings(model, "int8")
    student = truncate_layers(compressed, layer_map)
    assert type(student) is type(compressed) and student.config.num_hidden_layers == len(layer_map)
    assert "num_hidden_layers" not in student.config.to_dict()  # the encoder in it says so
    assert torch.equal(states(student), states(compress_embeddings(truncate_layers(model, layer_map), "int8")))
    assert student.config.compression["embedding"] == compressed.config.compression["embedding"]
    assert student.config.compression["layer_map"] == [[index] for index in layer_map]
    student.save_pretrained(tmp_path)
    assert torch.equal(states(AutoModel.from_pretrained(tmp_path)), states(student))
    assert compressed.config.num_hidden_layers == DEPTH and states(compressed).isfinite().all()


def test_a_compressed_model_is_refitted_and_keeps_the_widths_of_its_layers(tmp_path: Path) -> None:
    model = deep_model("bert")
    widths = [{"heads": 1 + index % 2, "intermediate": 10 + index} for index in range(DEPTH)]
    for layer, width in zip(encoder_layers(model), widths, strict=True):
        set_layer_width(layer, **width)
    compressed = wrap_encoder(model)
    student = truncate_layers(compressed, [0, 3], texts=TEXTS, tokenizer=tiny_tokenizer(), refit=True)
    assert student.config.layer_widths == [widths[0], widths[3]]
    assert compressed.config.layer_widths == widths and "num_hidden_layers" not in vars(compressed.config)
    student.save_pretrained(tmp_path)
    assert torch.equal(states(AutoModel.from_pretrained(tmp_path)), states(student))


@pytest.mark.parametrize("layer_map", [[0, 3], [3, 1]])
def test_a_truncated_decoder_reads_before_it_is_saved_and_after(layer_map: list[int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 99}
    student = truncate_layers(LlamaModel(LlamaConfig(num_hidden_layers=DEPTH, **sizes)).eval(), layer_map)
    assert [layer.self_attn.layer_idx for layer in student.layers] == [0, 1]
    student.save_pretrained(tmp_path)
    assert torch.equal(states(AutoModel.from_pretrained(tmp_path)), states(student))


@pytest.mark.parametrize("layer_map", [[0, 1, 3], [2, 0]])
def test_what_a_configuration_says_of_each_layer_follows_the_map(layer_map: list[int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "intermediate_size": 24}
    config = SmolLM3Config(**sizes, num_key_value_heads=2, vocab_size=99, pad_token_id=0, no_rope_layer_interval=2)
    model = AutoModel.from_config(config).eval()
    student = truncate_layers(model, layer_map)
    assert student.config.no_rope_layers == [config.no_rope_layers[index] for index in layer_map]
    student.save_pretrained(tmp_path)
    assert torch.equal(states(AutoModel.from_pretrained(tmp_path)), states(student))

    windows = [2, 4, 6, 8]
    config = LongformerConfig(**sizes, vocab_size=99, attention_window=windows, max_position_embeddings=66)
    student = truncate_layers(AutoModel.from_config(config).eval(), layer_map)
    assert student.config.attention_window == [windows[index] for index in layer_map]


def test_a_student_that_would_compute_otherwise_once_loaded_is_refused() -> None:
    sizes = {"n_embd": 16, "n_head": 2, "n_layer": DEPTH, "vocab_size": 99}
    model = AutoModel.from_config(GPT2Config(**sizes, scale_attn_by_inverse_layer_idx=True)).eval()
    with pytest.raises(ValueError, match=r"layers \[0, 2\] .* compute with scaling .* layer_map=range\(2\)"):
        truncate_layers(model, [0, 2])
    assert truncate_layers(model, [0, 1]).config.num_hidden_layers == 2


def test_a_student_with_tensors_for_all_layers_is_refused() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "intermediate_size": 24}
    config = EsmConfig(**sizes, vocab_size=99, pad_token_id=0, mask_token_id=4, max_position_embeddings=66)
    with pytest.raises(ValueError, match=r"depends on the number of layers.*contact_head.regression.weight"):
        truncate_layers(AutoModel.from_config(config), [0, 1])


@pytest.mark.parametrize("layer_map", [[0, 3], [2, 1]])
def test_attention_of_gpt_neo_follows_the_map(layer_map: list[int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": DEPTH, "num_heads": 2, "intermediate_size": 24, "vocab_size": 99}
    config = GPTNeoConfig(**sizes, attention_types=[[["global", "local"], 2]], window_size=4)
    student = truncate_layers(AutoModel.from_config(config).eval(), layer_map)
    assert student.config.attention_layers == [config.attention_layers[index] for index in layer_map]
    student.save_pretrained(tmp_path)
    assert torch.equal(states(AutoModel.from_pretrained(tmp_path)), states(student))


# peft 0.21 itself still asks transformers under a name that 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_of_peft_are_to_be_merged_first() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'alad_hf[lora]'")
    wrapped = peft.get_peft_model(deep_model("bert"), peft.LoraConfig(target_modules=["query"]))
    for model in (wrapped, wrapped.get_base_model()):
        with pytest.raises(ValueError, match=r"carries adapters of peft.*merge_and_unload"):
            truncate_layers(model, [0, 1])
        with pytest.raises(ValueError, match=r"carries adapters of peft.*merge_and_unload"):
            compress_embeddings(model, "int8")
    assert truncate_layers(wrapped.merge_and_unload(), [0, 1]).config.num_hidden_layers == 2
