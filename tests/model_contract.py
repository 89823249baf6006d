"""What every model class of this package must do: a test module subclasses `ModelContract` and builds a model."""

from __future__ import annotations

import functools
import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import transformers
from tiny import tiny_config
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

ROOT = Path(__file__).resolve().parents[1]


def skip_where_transformers_cannot_be_traced() -> None:
    """Skip the test where torch 2.6 cannot even compile a BERT of transformers, as of 5.6; elsewhere it has to."""
    if torch.__version__.startswith("2.6.") and not bert_compiles():
        pytest.skip(f"torch {torch.__version__} cannot trace a stock BERT of transformers {transformers.__version__}")


@functools.cache
def bert_compiles() -> bool:
    """Whether torch traces what decorates the models of transformers."""
    torch._dynamo.reset()
    bert = torch.compile(AutoModel.from_config(tiny_config()).eval(), fullgraph=True, backend="eager")
    try:
        bert(input_ids=torch.ones(2, 5, dtype=torch.long))
    except torch._dynamo.exc.Unsupported:
        return False
    return True


class ModelContract:
    """Save and load, initialisation, padding, attention implementations, precision, compilation and export."""

    model_class: type[PreTrainedModel]
    auto_class: type
    tolerance = 1e-5

    def config(self) -> PreTrainedConfig:
        """A tiny configuration."""
        raise NotImplementedError

    def inputs(self) -> dict[str, torch.Tensor]:
        """A right-padded batch without labels: `input_ids` and `attention_mask`."""
        raise NotImplementedError

    def targets(self) -> dict[str, torch.Tensor]:
        """What makes the model compute its loss on `inputs()`."""
        raise NotImplementedError

    def result(self, outputs: object) -> torch.Tensor:
        """The (batch, tokens, ...) tensor that is compared."""
        return outputs["logits"]

    def model(self) -> PreTrainedModel:
        """A model with every parameter random, also those that start at zero."""
        torch.manual_seed(0)
        model = self.model_class(self.config()).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model

    def run(self, model: PreTrainedModel, **inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.result(model(**inputs))

    def test_save_and_load_through_the_auto_class(self, tmp_path: Path) -> None:
        model = self.model()
        model.save_pretrained(tmp_path)
        loaded = self.auto_class.from_pretrained(tmp_path)
        assert type(loaded) is self.model_class
        assert torch.equal(self.run(loaded, **self.inputs()), self.run(model, **self.inputs()))
        config = AutoConfig.from_pretrained(tmp_path)
        assert type(config) is type(model.config)
        settings = [json.loads(one.to_json_string()) for one in (config, loaded.config)]
        for setting in settings:  # a nested config learns its dtype from the weights only
            setting.get("text_config", {}).pop("dtype", None)
        assert settings[0] == settings[1]

    def test_loads_without_the_package(self, tmp_path: Path) -> None:
        model = self.model()
        model.save_pretrained(tmp_path / "model")
        torch.save({"inputs": self.inputs(), "result": self.run(model, **self.inputs())}, tmp_path / "expected.pt")
        last_line = inspect.getsource(self.result).strip().splitlines()[-1].strip()
        expression = last_line.removeprefix("return ")
        script = f"""
            import sys, torch, transformers
            sys.modules["alad_hf"] = None  # any import of the package fails
            model = transformers.{self.auto_class.__name__}.from_pretrained("model", trust_remote_code=True)
            expected = torch.load("expected.pt")
            with torch.no_grad():
                outputs = model(**expected["inputs"])
            result = {expression}
            # Another process: the last bit of a sum depends on where its numbers lie in memory.
            torch.testing.assert_close(result, expected["result"], rtol=0, atol=1e-6)
            model.save_pretrained("again")
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
        again = {path.name for path in (tmp_path / "again").iterdir()}
        assert again == {path.name for path in (tmp_path / "model").iterdir()}
        auto_map = json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]
        assert auto_map == model.config.auto_map

    def test_init_fills_every_tensor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Loading builds the model on the meta device: what `_init_weights` leaves out would be old memory."""
        empty_like = torch.empty_like

        def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
            tensor = empty_like(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        monkeypatch.setattr(torch, "empty_like", poisoned)
        model = self.model_class.from_pretrained(None, config=self.config(), state_dict={})
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        bad = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
        assert bad == []

    def test_padding_changes_nothing(self) -> None:
        model, inputs = self.model(), self.inputs()
        together = self.run(model, **inputs)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        assert len(set(lengths)) > 1
        for row, length in enumerate(lengths):
            alone = self.run(model, **{name: value[row : row + 1, :length] for name, value in inputs.items()})
            torch.testing.assert_close(together[row, :length], alone[0], atol=self.tolerance, rtol=0)

    def test_batch_order_changes_nothing(self) -> None:
        model, inputs = self.model(), self.inputs()
        order = torch.arange(len(inputs["input_ids"])).flip(0)
        shuffled = self.run(model, **{name: value[order] for name, value in inputs.items()})
        torch.testing.assert_close(shuffled, self.run(model, **inputs)[order], atol=self.tolerance, rtol=0)

    def test_sdpa_and_eager_agree(self, tmp_path: Path) -> None:
        model = self.model()
        model.save_pretrained(tmp_path)
        results = []
        for implementation in ("eager", "sdpa"):
            loaded = self.auto_class.from_pretrained(tmp_path, attn_implementation=implementation)
            assert loaded.config._attn_implementation == implementation
            results.append(self.run(loaded, **self.inputs()))
        real = self.inputs()["attention_mask"].bool()
        torch.testing.assert_close(results[0][real], results[1][real], atol=self.tolerance, rtol=0)
        attentions = self.auto_class.from_pretrained(tmp_path, attn_implementation="eager")(
            **self.inputs(), output_attentions=True
        ).attentions
        assert attentions and all(layer is not None for layer in attentions)

    def test_gradient_checkpointing(self) -> None:
        model = self.model().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
                enable()
            model.zero_grad()
            model(**self.inputs(), **self.targets())["loss"].backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)

    def test_bfloat16(self, tmp_path: Path) -> None:
        model = self.model()
        model.save_pretrained(tmp_path)
        loaded = self.auto_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
        outputs = loaded(**self.inputs(), **self.targets())
        assert outputs["loss"].isfinite()
        exact = self.run(model, **self.inputs())
        assert (self.result(outputs).float() - exact).abs().mean() < 0.05 * exact.abs().mean() + 0.02

    def test_compiles_without_graph_breaks(self) -> None:
        skip_where_transformers_cannot_be_traced()
        model = self.model()
        torch._dynamo.reset()  # the models of other tests count towards a limit, where they run the same code
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        expected = self.run(model, **self.inputs())
        torch.testing.assert_close(self.run(compiled, **self.inputs()), expected, atol=self.tolerance, rtol=0)

    def test_exports(self) -> None:
        skip_where_transformers_cannot_be_traced()
        model, inputs = self.model(), self.inputs()
        dynamic = {0: torch.export.Dim("batch", min=2, max=16), 1: torch.export.Dim("tokens", min=3, max=32)}
        program = torch.export.export(model, (), inputs, dynamic_shapes=self._dynamic_shapes(model, inputs, dynamic))
        shorter = {name: value[:2, :6] for name, value in inputs.items()}
        for batch in (inputs, shorter):
            with torch.no_grad():
                result = self.result(program.module()(**batch))
            torch.testing.assert_close(result, self.run(model, **batch), atol=self.tolerance, rtol=0)

    def _dynamic_shapes(self, model: PreTrainedModel, inputs: dict, dynamic: dict) -> dict:
        return dict.fromkeys(inputs, dynamic)

    def test_resize_token_embeddings(self) -> None:
        model = self.model()
        before = self.run(model, **self.inputs())
        size = model.get_input_embeddings().weight.shape[0]
        model.resize_token_embeddings(size + 3)
        assert model.get_input_embeddings().weight.shape[0] == size + 3
        assert model.config.get_text_config().vocab_size == size + 3
        torch.testing.assert_close(self.run(model, **self.inputs()), before, atol=self.tolerance, rtol=0)

    def test_inputs_embeds_stand_for_ids(self) -> None:
        model, inputs = self.model(), self.inputs()
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        torch.testing.assert_close(
            self.run(model, inputs_embeds=embeds, **rest), self.run(model, **inputs), atol=self.tolerance, rtol=0
        )

    def test_tuple_output(self) -> None:
        model = self.model()
        with torch.no_grad():
            outputs = model(**self.inputs(), return_dict=False)
            expected = model(**self.inputs())
        assert isinstance(outputs, tuple)
        assert all(torch.equal(value, other) for value, other in zip(outputs, expected.to_tuple(), strict=True))
