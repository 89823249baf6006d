"""Tiny encoders and taggers of five architectures, every parameter random, and text for them."""

from __future__ import annotations

import torch
from datasets import Dataset
from tiny import TAGS, VOCABULARY, tiny_config, tiny_tokenizer
from transformers import AutoModel, AutoModelForTokenClassification, PreTrainedModel

from alad_hf.compression.calibration import CalibrationText

LAYOUTS = ["bert", "roberta", "electra", "mpnet", "distilbert"]
DEPTH, HEADS, NEURONS = 4, 4, 24


def model_of(name: str = "bert", *, tagger: bool = False, seed: int = 0, noise: float = 0.1) -> PreTrainedModel:
    sizes = {"n_layers": DEPTH, "n_heads": HEADS} if name == "distilbert" else {}
    sizes = sizes or {"num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    config = tiny_config(name, **sizes)
    config.id2label = dict(enumerate(TAGS))
    torch.manual_seed(seed)
    model = (AutoModelForTokenClassification if tagger else AutoModel).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def rows(count: int = 40, *, labelled: bool = False, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 12, (count,), generator=generator).tolist()
    columns = {
        "input_ids": [torch.randint(5, len(VOCABULARY), (n,), generator=generator).tolist() for n in lengths],
        "attention_mask": [[1] * n for n in lengths],
    }
    if labelled:
        columns["labels"] = [torch.randint(0, len(TAGS), (n,), generator=generator).tolist() for n in lengths]
    return Dataset.from_dict(columns)


def text_for(
    model: PreTrainedModel, count: int = 40, *, labelled: bool = False, batch_size: int = 32
) -> CalibrationText:
    return CalibrationText(model, rows(count, labelled=labelled), tiny_tokenizer(), batch_size=batch_size)


@torch.no_grad()
def states(model: PreTrainedModel, text: CalibrationText) -> torch.Tensor:
    """Last states of all real tokens, (tokens, width)."""
    encoder = model.base_model
    parts = []
    for batch in text.batches:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        parts.append(encoder(**inputs).last_hidden_state[batch["attention_mask"].bool()])
    return torch.cat(parts)
