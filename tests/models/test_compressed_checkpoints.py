"""Compressed encoders on disk: their size, damage, and AlAd models over them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import VOCABULARY, random_batch, tiny_config
from tiny_stock import exact_embedding, inputs, result, stock_model
from transformers import AutoModel, AutoModelForTokenClassification, PreTrainedModel

from alad_hf import AlAdForTokenClassification, CompressedEncoderConfig, CompressedEncoderModel
from alad_hf.compression import compress_embeddings, truncate_layers
from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.data.token_labels import usable_positions
from alad_hf.evaluation.efficiency import stored_bytes
from alad_hf.models.compressed_embeddings import BinaryCodeEmbedding
from alad_hf.models.layer_widths import encoder_layers, set_layer_width

QUANTIZED = {
    "method": "product_quantized",
    "num_embeddings": len(VOCABULARY),
    "embedding_dim": 16,
    "subvectors": 4,
    "centroids": 9,
    "rotation": True,
    "row_scales": True,
}


class TestWhatFineTuningChanges:
    """Long binary codes share a decoder, which a step that suits a layer takes apart."""

    @pytest.mark.parametrize(
        ("method", "most_bits", "frozen"),
        [("lighttoken", 8, True), ("lighttoken", 512, False), ("pq", 8, False), ("svd", 8, False)],
    )
    @pytest.mark.parametrize("kept_rows", [0, 5])
    def test_of_a_tagger_as_made_cut_saved_and_loaded(
        self,
        method: str,
        most_bits: int,
        frozen: bool,
        kept_rows: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("alad_hf.models.compressed_embeddings.MOST_TRAINED_BITS", most_bits)
        stock = stock_model("bert")
        made = compress_embeddings(stock, method, ratio=4, kept_rows=kept_rows, progress=False)
        made.save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        for model in (made, truncate_layers(made, [0]), wrap_encoder(made), loaded):
            embedding = model.get_input_embeddings()
            trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
            every = {id(parameter) for parameter in model.parameters()}
            assert every - trained == ({id(parameter) for parameter in embedding.parameters()} if frozen else set())
        embedding.requires_grad_(True)
        loaded.train()(**random_batch()).loss.backward()
        assert all(parameter.grad is not None for parameter in embedding.parameters())


class TestAlAdOverIt:
    def student(self) -> PreTrainedModel:
        stock = stock_model("bert", AutoModel)
        embedding = BinaryCodeEmbedding.from_bits(
            torch.randint(0, 2, (len(VOCABULARY), 20)),
            torch.randn(20, 16),
            torch.randn(16),
            latents=torch.randn(len(VOCABULARY), 2),
            low_rank_decoder=torch.randn(16, 2),
            factor_dtype="float16",
        )
        return wrap_encoder(stock, embedding=embedding)

    @pytest.mark.parametrize(
        ("settings", "factors", "layers"),
        [
            ({"freeze_student": True}, False, False),
            ({"freeze_student": False, "freeze_embeddings": True}, False, True),
            ({"freeze_student": False, "freeze_embeddings": False}, True, True),
        ],
    )
    def test_what_learns(self, settings: dict, factors: bool, layers: bool, tmp_path: Path) -> None:
        model = AlAdForTokenClassification.from_student_pretrained(
            self.student(), hidden_size=24, num_labels=5, **settings
        )
        model.save_pretrained(tmp_path)
        for one in (model, AutoModelForTokenClassification.from_pretrained(tmp_path)):
            one.train()
            one(**random_batch()).loss.backward()
            embedding = one.get_input_embeddings()
            assert {parameter.grad is not None for parameter in embedding.parameters()} == {factors}
            assert {parameter.dtype for parameter in embedding.parameters()} == {torch.float32}
            assert (one.model.encoder.encoder.encoder.layer[0].output.dense.weight.grad is not None) == layers

    def test_it_is_checked_and_not_resized(self, tmp_path: Path) -> None:
        model = AlAdForTokenClassification.from_student_pretrained(self.student(), hidden_size=24, num_labels=5)
        with pytest.raises(ValueError, match="of 99 tokens cannot be resized to 100"):
            model.resize_token_embeddings(100)
        assert model.resize_token_embeddings(99) is model.get_input_embeddings()
        model.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        name = "model.encoder.encoder.embeddings.word_embeddings.decoder"
        save_file({**tensors, name: tensors[name] * torch.nan}, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="decoder of this BinaryCodeEmbedding has entries that are not finite"):
            AutoModelForTokenClassification.from_pretrained(tmp_path)

    def test_loads_without_the_package(self, tmp_path: Path) -> None:
        model = AlAdForTokenClassification.from_student_pretrained(self.student(), hidden_size=24, num_labels=5)
        model.save_pretrained(tmp_path / "model")
        torch.save({"inputs": inputs(), "result": result(model)}, tmp_path / "expected.pt")
        script = """if True:
            import sys, torch, transformers
            sys.modules["alad_hf"] = None  # any import of the package fails
            model = transformers.AutoModelForTokenClassification.from_pretrained("model", trust_remote_code=True)
            expected = torch.load("expected.pt")
            logits = model(**expected["inputs"]).logits
            # Another process: the last bit of a sum depends on where its numbers lie in memory.
            torch.testing.assert_close(logits, expected["result"], rtol=0, atol=1e-6)
        """
        environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr


class TestAlAdOverLayersOfTheirOwnWidth:
    def student(self) -> PreTrainedModel:
        stock = stock_model("roberta", AutoModel)
        set_layer_width(encoder_layers(stock)[0], heads=1, intermediate=10)
        return wrap_encoder(stock)

    def test_it_is_resized_and_saved(self, tmp_path: Path) -> None:
        model = AlAdForTokenClassification.from_student_pretrained(self.student(), hidden_size=24, num_labels=5)
        before = result(model)
        model.resize_token_embeddings(len(VOCABULARY) + 3)
        assert model.config.text_config.text_config.vocab_size == len(VOCABULARY) + 3
        assert "vocab_size" not in model.config.text_config.to_dict()
        model.save_pretrained(tmp_path)
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
        assert loaded.get_input_embeddings().weight.shape == (len(VOCABULARY) + 3, 16)
        torch.testing.assert_close(result(loaded), before, atol=1e-6, rtol=0)

    def test_it_has_the_positions_of_the_student(self) -> None:
        student = self.student()
        model = AlAdForTokenClassification.from_student_pretrained(student, hidden_size=24, num_labels=5)
        positions = student.config.text_config.max_position_embeddings
        assert usable_positions(model.config) == usable_positions(student.config) == positions - 1  # padding is 0 here


class TestOnDisk:
    @pytest.mark.parametrize("factor_dtype", ["float32", "float16"])
    def test_the_file_is_as_small_as_the_formula_says(self, factor_dtype: str, tmp_path: Path) -> None:
        rows, width, bits, rank = 40_000, 16, 100, 3
        config = tiny_config("bert", vocab_size=rows)
        specification = {"method": "binary_code", "num_embeddings": rows, "embedding_dim": width, "bits": bits}
        specification |= {"rank": rank, "factor_dtype": factor_dtype}
        model = CompressedEncoderModel(CompressedEncoderConfig(text_config=config, embedding=specification))
        model.save_pretrained(tmp_path)
        floats = bits * width + width + rank * (rows + width)
        table = rows * 13 + floats * (4 if factor_dtype == "float32" else 2)
        layers = sum(p.numel() for p in AutoModel.from_config(config, add_pooling_layer=False).parameters())
        expected = table + 4 * (layers - rows * width)
        on_disk = (tmp_path / "model.safetensors").stat().st_size
        assert abs(on_disk - expected) < 0.01 * expected
        assert stored_bytes(model) == expected
        loaded = AutoModel.from_pretrained(tmp_path)
        assert stored_bytes(loaded) == expected and loaded.dtype == torch.float32
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}

    def saved(self, folder: Path, damage: dict[str, object]) -> None:
        config = CompressedEncoderConfig(text_config=tiny_config(), embedding=QUANTIZED)
        CompressedEncoderModel(config).save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        for name, change in damage.items():
            path = f"encoder.embeddings.word_embeddings.{name}"
            tensors[path] = change(tensors[path])
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ({"codes": lambda codes: None}, r"lacks \['encoder.embeddings.word_embeddings.codes'\]"),
            ({"codes": lambda codes: codes + 9}, "codes .* go up to 9, its codebooks have 9 centroids"),
            ({"codes": lambda codes: codes[:-1].clone()}, "codes|ignore_mismatched_sizes"),  # and a table that says so
            ({"row_scales": lambda scales: scales / 0}, "row_scales .* not finite"),
        ],
    )
    def test_damage_is_an_error(self, damage: dict, message: str, tmp_path: Path) -> None:
        self.saved(tmp_path, damage)
        with pytest.raises((ValueError, RuntimeError), match=message):
            AutoModel.from_pretrained(tmp_path)

    def test_a_truncated_file_is_an_error(self, tmp_path: Path) -> None:
        self.saved(tmp_path, {})
        AutoModel.from_pretrained(tmp_path)
        whole = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(whole[:-100])
        with pytest.raises(Exception, match="incomplete metadata|not fully covered|MetadataIncompleteBuffer"):
            AutoModel.from_pretrained(tmp_path)

    def test_a_missing_layer_is_an_error(self, tmp_path: Path) -> None:
        self.saved(tmp_path, {})
        tensors = load_file(tmp_path / "model.safetensors")
        tensors.pop("encoder.encoder.layer.1.output.dense.weight")
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match="lacks 1 tensors of the encoder"):
            AutoModel.from_pretrained(tmp_path)

    def test_materialized_on_request(self, tmp_path: Path) -> None:
        stock = stock_model("bert")
        wrap_encoder(stock, embedding=exact_embedding(stock)).save_pretrained(tmp_path / "one")
        model = AutoModelForTokenClassification.from_pretrained(tmp_path / "one", materialize_embeddings=True)
        assert model.get_input_embeddings().table is not None
        torch.testing.assert_close(result(model), result(stock), atol=1e-5, rtol=0)
        model.save_pretrained(tmp_path / "two")
        assert load_file(tmp_path / "two" / "model.safetensors").keys() == (
            load_file(tmp_path / "one" / "model.safetensors").keys()
        )
        assert AutoModelForTokenClassification.from_pretrained(tmp_path / "two").get_input_embeddings().table is None
