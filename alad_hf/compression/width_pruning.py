"""Width pruning: the heads and neurons of each layer that matter least are taken out, the depth stays."""

from __future__ import annotations

from collections.abc import Iterable

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .calibration import CALIBRATION_TOKENS, CalibrationText
from .compression_record import refit_record
from .encoder_layouts import encoder_layers
from .grafting import finished, graft_record, write_grafts
from .importance import layer_importance
from .refit import LayerSources, refit_layers


def prune_width(
    model: PreTrainedModel,
    *,
    heads: int | None = None,
    neurons: int | None = None,
    texts: Iterable[str] | Dataset,
    tokenizer: PreTrainedTokenizerBase,
    refit: bool = True,
    max_tokens: int = CALIBRATION_TOKENS,
    batch_size: int = 32,
    seed: int = 0,
) -> PreTrainedModel:
    """Keep the most important heads and neurons of each layer (Michel et al. 2019, arXiv 1905.10650).

    Args:
        model: As for `graft_layers`; it is not changed.
        heads: Heads of each layer to keep; by default all that it has.
        neurons: Feed-forward neurons of each layer to keep; likewise.
        texts: Text, or labelled rows, for importance and refit.
        tokenizer: The model's tokenizer.
        refit: Refit what is left to the whole layer's output; see `refit_layers`.
        max_tokens: Tokens of `texts` to read.
        batch_size: Rows read at a time.
        seed: For importance without labels.

    Returns:
        A new model in eval mode: a compressed encoder, whose configuration carries the widths.

    Raises:
        ValueError: There is no number, or one is out of range, or the layers are of an unknown layout.
    """
    if heads is None and neurons is None:
        raise ValueError("Say what is to be kept of each layer: heads=... or neurons=... (--heads, --neurons).")
    layers = encoder_layers(model)
    for name, given, most in (
        ("heads", heads, min(part.heads for part in layers)),
        ("neurons", neurons, min(part.neurons for part in layers)),
    ):
        if given is not None and not 1 <= given <= most:
            raise ValueError(f"{name} must be from 1 to the {most} of a layer, got {given}.")
    text = CalibrationText(model, texts, tokenizer, batch_size=batch_size, max_tokens=max_tokens)
    importance = layer_importance(model, text, seed=seed)
    sources = []
    for index in range(len(layers)):
        # Without a number, [:None], a layer keeps as many as it has.
        best = (
            sorted(scores.argsort(descending=True, stable=True)[:count].tolist())
            for scores, count in ((importance.heads[index], heads), (importance.neurons[index], neurons))
        )
        sources.append(LayerSources([index], *([(index, one) for one in kept] for kept in best)))
    student = write_grafts(model, sources)
    record = {**graft_record(sources, importance, normalised=False), "method": "width pruning"}
    if refit:
        record["refit"] = refit_record(refit_layers(student, model, sources, text), text)
    return finished(student, layers, record)
