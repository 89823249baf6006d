"""Tiny stock models with heads, and what they say of one batch."""

from __future__ import annotations

import torch
from tiny import TAGS, VOCABULARY, random_batch, tiny_config
from transformers import AutoModelForTokenClassification, PreTrainedModel

from alad_hf.models.compressed_embeddings import LowRankEmbedding
from alad_hf.models.configuration_minialbert import MiniAlbertConfig


def stock_model(architecture: str, auto_class: type = AutoModelForTokenClassification) -> PreTrainedModel:
    """A stock model with every parameter random; "minialbert" is this package's own."""
    torch.manual_seed(0)
    if architecture == "minialbert":
        config = MiniAlbertConfig(
            vocab_size=len(VOCABULARY),
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            adapter_reduction=4,
            max_position_embeddings=64,
        )
    else:
        config = tiny_config(architecture)
    if auto_class is AutoModelForTokenClassification:
        config.id2label = dict(enumerate(TAGS))
        config.label2id = {tag: index for index, tag in enumerate(TAGS)}
    model = auto_class.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def exact_embedding(model: PreTrainedModel) -> LowRankEmbedding:
    """The model's table as a low-rank embedding of full rank: identity times the table."""
    table = model.get_input_embeddings().weight.detach()
    return LowRankEmbedding.from_factors(table, torch.eye(table.shape[1]))


def inputs() -> dict[str, torch.Tensor]:
    """A padded batch without labels."""
    batch = random_batch()
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def result(model: PreTrainedModel) -> torch.Tensor:
    """The first output on `inputs()`."""
    with torch.no_grad():
        return model(**inputs())[0]
