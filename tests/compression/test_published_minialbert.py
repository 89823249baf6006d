"""Checkpoints in the layout of MiniALBERT's authors: the same outputs as theirs, and what is wrong is named."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from golden.published_minialbert import (
    CONFIG,
    example_inputs,
    published_shapes,
    published_weights,
    restated_outputs,
)
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification

from alad_hf import MiniAlbertForMaskedLM, MiniAlbertForTokenClassification, MiniAlbertModel
from alad_hf.compression import published_minialbert
from alad_hf.compression.published_minialbert import load_published_minialbert

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "published_minialbert.json"
RECORDED = json.loads(GOLDEN.read_text(encoding="utf-8"))


def write_checkpoint(folder: Path, config: dict, weights: dict[str, torch.Tensor], kind: str = "safetensors") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if kind == "safetensors":
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    return str(folder)


@pytest.fixture(params=RECORDED)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict, dict, str]:
    """What the authors' code computed, the configuration, and a folder in their layout."""
    recorded = RECORDED[request.param]
    config = {**CONFIG, **recorded["changes"]}
    kind = "safetensors" if config["use_adapter"] else "bin"
    return recorded, config, write_checkpoint(tmp_path, config, published_weights(config), kind)


class TestOutputs:
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_are_those_of_the_authors_code_and_of_the_restated_maths(self, case: tuple, implementation: str) -> None:
        recorded, config, folder = case
        model = load_published_minialbert(folder, MiniAlbertForMaskedLM)
        model.set_attn_implementation(implementation)
        inputs = example_inputs(config)
        real = inputs["attention_mask"].bool()
        is_eager = implementation == "eager"
        with torch.no_grad():
            outputs = model(**inputs, output_hidden_states=True, output_attentions=is_eager)
        restated = restated_outputs(published_weights(config), config, **inputs)

        for name, values in (("logits", outputs.logits), ("last_hidden_state", outputs.hidden_states[-1])):
            torch.testing.assert_close(values[real][:, :5], torch.tensor(recorded[name]), atol=1e-5, rtol=0)
        torch.testing.assert_close(outputs.logits[real], restated["logits"][real], atol=1e-5, rtol=0)
        states = torch.stack(outputs.hidden_states)
        assert len(states) == config["num_hidden_layers"] + 1
        torch.testing.assert_close(states[:, real], restated["hidden_states"][:, real], atol=1e-5, rtol=0)
        if is_eager:
            maps = torch.stack(outputs.attentions).transpose(2, 3)[:, real.unsqueeze(2).expand(-1, -1, 2)]
            expected = restated["attentions"].transpose(2, 3)[:, real.unsqueeze(2).expand(-1, -1, 2)]
            torch.testing.assert_close(maps, expected, atol=1e-6, rtol=0)

    def test_stay_when_the_model_is_saved_in_our_layout(self, case: tuple, tmp_path: Path) -> None:
        _, config, folder = case
        model = load_published_minialbert(folder, MiniAlbertForMaskedLM)
        model.save_pretrained(tmp_path / "ours")
        again = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours")
        inputs = example_inputs(config)
        with torch.no_grad():
            assert torch.equal(again(**inputs).logits, model(**inputs).logits)
        assert not any("pooler" in name for name in again.state_dict())


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return write_checkpoint(tmp_path / "published", CONFIG, published_weights(CONFIG))


class TestOtherHeads:
    def test_bare_encoder(self, folder: str) -> None:
        model = load_published_minialbert(folder)
        assert type(model) is MiniAlbertModel
        inputs = example_inputs(CONFIG)
        restated = restated_outputs(published_weights(CONFIG), CONFIG, **inputs)
        real = inputs["attention_mask"].bool()
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        torch.testing.assert_close(states[real], restated["hidden_states"][-1][real], atol=1e-5, rtol=0)

    def test_bare_checkpoint_without_the_prefix_of_a_task_model(self, tmp_path: Path, folder: str) -> None:
        weights = {
            name.removeprefix("albert."): value
            for name, value in published_weights(CONFIG).items()
            if not name.startswith("vocab_")
        }
        assert set(weights) == set(published_shapes(CONFIG, is_masked_lm=False))
        bare = load_published_minialbert(write_checkpoint(tmp_path / "bare", CONFIG, weights))
        for name, value in load_published_minialbert(folder).state_dict().items():
            assert torch.equal(bare.state_dict()[name], value), name
        with pytest.raises(
            ValueError, match=r"does not fit a MiniAlbertForMaskedLM .*missing \['vocab_layer_norm.bias'"
        ):
            load_published_minialbert(str(tmp_path / "bare"), MiniAlbertForMaskedLM)

    def test_new_tagger_says_that_its_head_is_new(self, folder: str, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "alad_hf.compression.published_minialbert"):
            model = load_published_minialbert(folder, MiniAlbertForTokenClassification, num_labels=5)
        assert model.classifier.weight.shape == (5, 16) and len(model.config.id2label) == 5
        assert "no weights for ['classifier.bias', 'classifier.weight']" in caplog.text
        assert "vocab_projector.weight" in caplog.text and "pooler" in caplog.text

    def test_published_tagger_keeps_its_head_and_labels(self, tmp_path: Path) -> None:
        weights = {name: value for name, value in published_weights(CONFIG).items() if not name.startswith("vocab_")}
        weights |= {"classifier.weight": torch.randn(3, 16), "classifier.bias": torch.randn(3)}
        labels = {"id2label": {"0": "O", "1": "B-X", "2": "I-X"}, "label2id": {"O": 0, "B-X": 1, "I-X": 2}}
        folder = write_checkpoint(tmp_path / "tagger", {**CONFIG, **labels}, weights)
        model = load_published_minialbert(folder, MiniAlbertForTokenClassification)
        assert torch.equal(model.classifier.weight, weights["classifier.weight"])
        assert model.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
        with pytest.raises(ValueError, match=r"other shapes[\s\S]*classifier.weight"):
            load_published_minialbert(folder, MiniAlbertForTokenClassification, num_labels=4)
        model.save_pretrained(tmp_path / "ours")
        assert AutoModelForTokenClassification.from_pretrained(tmp_path / "ours").config.num_labels == 3


class TestBadCheckpoints:
    def load(self, tmp_path: Path, config: dict, weights: dict[str, torch.Tensor], **changes: object) -> None:
        load_published_minialbert(write_checkpoint(tmp_path, config, weights), MiniAlbertForMaskedLM, **changes)

    def test_missing_weights_are_named(self, tmp_path: Path) -> None:
        weights = published_weights(CONFIG)
        del weights["albert.mlp_adapters.1.block.2.bias"], weights["vocab_projector.weight"]
        with pytest.raises(
            ValueError, match=r"missing \['model.feed_forward_adapters.1.up.bias', 'vocab_projector.wei"
        ):
            self.load(tmp_path, CONFIG, weights)

    def test_unknown_weights_are_named(self, tmp_path: Path) -> None:
        weights = {**published_weights(CONFIG), "albert.albert.encoder.another": torch.zeros(2)}
        with pytest.raises(ValueError, match=r"unexpected \['model.albert.encoder.another'\]"):
            self.load(tmp_path, CONFIG, weights)

    def test_adapters_that_the_configuration_does_not_have(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"unexpected \['model.attention_adapters.0.LayerNorm.bias'"):
            self.load(tmp_path, {**CONFIG, "use_adapter": False}, published_weights(CONFIG))

    def test_other_shapes_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"other shapes[\s\S]*word_embeddings.weight"):
            self.load(tmp_path, {**CONFIG, "vocab_size": 24}, published_weights(CONFIG))

    def test_configuration_of_a_bert(self, tmp_path: Path) -> None:
        config = {name: value for name, value in CONFIG.items() if name not in ("reduction_factor", "embedding_size")}
        with pytest.raises(
            ValueError, match=r"lacks \['embedding_size', 'reduction_factor'\].*describes a 'bert' model"
        ):
            self.load(tmp_path, config, published_weights(CONFIG))

    def test_epsilon_that_adapters_cannot_have(self, tmp_path: Path) -> None:
        config = {**CONFIG, "layer_norm_eps": 1e-5}
        with pytest.raises(ValueError, match=r"layer_norm_eps is 1e-05 .* always have 1e-12"):
            self.load(tmp_path, config, published_weights(CONFIG))
        self.load(tmp_path, config, published_weights(CONFIG), layer_norm_eps=1e-12)

    def test_our_own_layout(self, tmp_path: Path, folder: str) -> None:
        load_published_minialbert(folder).save_pretrained(tmp_path / "ours")
        with pytest.raises(ValueError, match="load it with from_pretrained"):
            load_published_minialbert(str(tmp_path / "ours"))

    def test_unknown_setting(self, folder: str) -> None:
        with pytest.raises(TypeError, match=r"\['num_recursions'\] are not fields"):
            load_published_minialbert(folder, num_recursions=3)

    def test_no_weights(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        with pytest.raises(OSError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
            load_published_minialbert(str(tmp_path))

    def test_a_hub_out_of_reach_is_no_missing_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(name: str, file: str, **source: object) -> str:
            raise error

        monkeypatch.setattr(published_minialbert, "hf_hub_download", download)
        error = EntryNotFoundError("no such file")
        assert published_minialbert._find_file("nobody/mini", "model.safetensors") is None
        error = LocalEntryNotFoundError("out of reach")
        with pytest.raises(OSError, match="out of reach"):
            published_minialbert._find_file("nobody/mini", "model.safetensors")

    @pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 cut off"])
    def test_damaged_pickle(self, tmp_path: Path, content: bytes) -> None:
        write_checkpoint(tmp_path, CONFIG, {}, "bin")
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match="damaged or holds more than tensors"):
            load_published_minialbert(str(tmp_path))

    def test_pickle_with_code_is_not_run(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, CONFIG, {}, "bin")
        torch.save({"albert": Harmful(str(tmp_path / "trace"))}, tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match="holds more than tensors"):
            load_published_minialbert(str(tmp_path))
        assert not (tmp_path / "trace").exists()

    def test_pickle_that_is_no_state_dict(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path, CONFIG, {}, "bin")
        torch.save([torch.zeros(2)], tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match="no state dict"):
            load_published_minialbert(str(tmp_path))


class Harmful:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)
