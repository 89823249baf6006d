"""Recursive students: a BERT-like encoder in, a MiniALBERT out (arXiv 2210.06425)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.efficiency import stored_bytes
from ..models.configuration_minialbert import MiniAlbertConfig
from ..models.minialbert_layers import MiniAlbertLayer
from ..models.modeling_minialbert import MiniAlbertForMaskedLM, MiniAlbertModel
from ..models.teacher import answering_head, tagging_head
from .encoder_layouts import LayerParts, encoder_layers
from .factorised_embeddings import SourceEmbeddings, embedding_error, fit_embeddings, sample_tokens

logger = logging.getLogger(__name__)

PUBLISHED_EMBEDDING_SIZE = 128


def make_recursive_student(
    model: PreTrainedModel,
    *,
    num_hidden_layers: int = 6,
    embedding_size: int | None = None,
    max_bytes: int | None = None,
    layer_start: Literal["mean"] | int | None = "mean",
    texts: Iterable[str] | Dataset | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
    **fields: Any,
) -> MiniAlbertForMaskedLM:
    """Make a student of one layer that is called many times, ready for `distill_encoder`.

    Its embeddings are fitted to those of the source (see `fit_embeddings`), its vocabulary matrix starts as the
    source's. It is saved, loaded, fine-tuned and put under an AlAd adapter as any other encoder.

    Args:
        model: The source: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, MPNet, ELECTRA or DistilBERT, with or without a head,
            of which that of a task is left behind, with a warning; it is not changed. Relative positions (MPNet's
            beside its absolute ones) are left behind.
        num_hidden_layers: How often the layer is called. It costs time, and bytes only in adapters.
        embedding_size: Width of the embedding tables, which are most of the bytes; by default the published 128.
        max_bytes: In place of `embedding_size`, the most bytes that the encoder may take on disk in float32, without
            the head of masked-language modelling; the widest embeddings that fit are taken.
        layer_start: What the shared layer starts as: the mean of the source's layers, one of them (its index), or None
            for random weights.
        texts: A sample of text that the embeddings are fitted to; random tokens by default. Real text, a few thousand
            sentences, fits better to text of its kind.
        tokenizer: For `texts`.
        seed: Of what starts at random, such as adapters.
        **fields: Other fields of `MiniAlbertConfig`, such as `use_adapter=False`, `adapter_reduction` or
            `intermediate_size`; by default they are the source's, with adapters that change nothing at the start
            ("identity_start").

    Returns:
        A `MiniAlbertForMaskedLM` in eval mode.

    Raises:
        TypeError: A field that `MiniAlbertConfig` does not have.
        ValueError: The source is of another form, both sizes are given, the budget is too small, `layer_start` is
            no layer of the source, or a field does not fit.

    Example:
        >>> student = make_recursive_student(teacher, max_bytes=20_000_000)
        >>> student.base_model.save_pretrained("student")
    """
    unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(MiniAlbertConfig)})
    if unknown:
        own = sorted(name for name in MiniAlbertConfig.__annotations__ if name != "model_type")
        raise TypeError(f"{unknown} are not fields of MiniAlbertConfig, which has {own}.")
    source = SourceEmbeddings(model)
    if tagging_head(model) is not None or answering_head(model) is not None:
        logger.warning(
            "The head of this %s is left behind: a recursive student is distilled first, and fine-tuned for the task "
            "then.",
            type(model).__name__,
        )
    if embedding_size is not None and max_bytes is not None:
        raise ValueError(
            f"Give embedding_size={embedding_size} or max_bytes={max_bytes}, not both (--embedding-size, --bytes)."
        )
    settings = _source_fields(model, source) | {"num_hidden_layers": num_hidden_layers, **fields}
    if max_bytes is not None:
        embedding_size = _widest_embeddings(settings, source.width, max_bytes)
    if embedding_size is None:
        embedding_size = min(PUBLISHED_EMBEDDING_SIZE, source.width)
    config = MiniAlbertConfig(embedding_size=embedding_size, **settings)
    layers = _starting_layers(model, layer_start)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = MiniAlbertForMaskedLM(MiniAlbertConfig(**{**config.to_dict(), "use_adapter": False}))
        # After the constructor: it initialises every weight, and would overwrite these.
        sample = sample_tokens(source, texts, tokenizer)
        fit_embeddings(student.model.embeddings, source, sample)
        _start_layer(student.model.layer, layers)
        _start_vocabulary_matrix(student.vocab_projector, model, source)
        if config.use_adapter:
            # Not by the constructor: transformers passes over modules without parameters of their own when it
            # initialises code that is not its own, and so over what makes new adapters change nothing.
            student.add_adapters(form=config.adapter_form, reduction=config.adapter_reduction)
    if config.hidden_size != model.config.hidden_size:
        logger.warning(
            "The student's hidden size is %d and the source's %d: the map behind its embeddings and its vocabulary "
            "matrix start at random.",
            config.hidden_size,
            model.config.hidden_size,
        )
    else:
        error = embedding_error(student.model.embeddings, source, sample)
        logger.info("Embeddings of width %d leave %.1f %% of the variance.", embedding_size, 100 * error)
    return student.eval()


def _source_fields(model: PreTrainedModel, source: SourceEmbeddings) -> dict[str, Any]:
    """Fields of the student's configuration that are the source's."""
    config = model.config
    names = ("hidden_size", "num_attention_heads", "vocab_size", "pad_token_id")
    distilbert = {"intermediate_size": "hidden_dim", "hidden_act": "activation", "hidden_dropout_prob": "dropout"}
    distilbert |= {"attention_probs_dropout_prob": "attention_dropout"}
    fields = {name: getattr(config, name) for name in names}
    for name, other in distilbert.items():
        fields[name] = getattr(config, name if hasattr(config, name) else other)
    return fields | {
        "max_position_embeddings": len(source.positions),
        "type_vocab_size": len(source.types),
        "layer_norm_eps": source.norm.eps,
        "initializer_range": config.initializer_range,
        "adapter_form": "identity_start",
    }


def _widest_embeddings(settings: dict[str, Any], source_width: int, max_bytes: int) -> int:
    """The largest embedding size whose encoder takes `max_bytes` at most."""

    def size(width: int) -> int:
        with torch.device("meta"):
            return stored_bytes(MiniAlbertModel(MiniAlbertConfig(embedding_size=width, **settings)))

    if size(source_width) <= max_bytes:
        return source_width
    smallest, step = size(2), size(3) - size(2)
    width = 2 + (max_bytes - smallest) // step
    if width < 2:
        raise ValueError(
            f"max_bytes={max_bytes:,} is too small: with embeddings of width 2 the student takes {smallest:,} bytes. "
            "Allow more (--bytes), shrink the layer (intermediate_size=...) or the adapters (adapter_reduction=..., "
            "use_adapter=False; on the command line by --option), or start from a source with narrower states."
        )
    return min(width, source_width - 1)


def _starting_layers(model: PreTrainedModel, start: Literal["mean"] | int | None) -> list[LayerParts]:
    """The layers of the source whose mean the shared one starts as; none for random weights."""
    depth = model.config.num_hidden_layers
    if start is None:
        return []
    if start != "mean" and not (isinstance(start, int) and 0 <= start < depth):
        raise ValueError(f'layer_start must be "mean", a layer from 0 to {depth - 1}, or None, got {start!r}.')
    layers = encoder_layers(model)
    return layers if start == "mean" else [layers[start]]


@torch.no_grad()
def _start_layer(layer: MiniAlbertLayer, sources: list[LayerParts]) -> None:
    if not sources:
        return
    attention = layer.attention
    pairs: list[tuple[nn.Module, str]] = [
        (attention.query, "query"),
        (attention.key, "key"),
        (attention.value, "value"),
        (attention.output, "attention_output"),
        (attention.LayerNorm, "attention_norm"),
        (layer.intermediate, "intermediate"),
        (layer.output, "output"),
        (layer.LayerNorm, "output_norm"),
    ]
    if any(module.weight.shape != getattr(sources[0], name).weight.shape for module, name in pairs):
        logger.warning("The source's layers have other shapes than the student's, so that this starts at random.")
        return
    for module, name in pairs:
        for part, own in module.named_parameters():
            own.copy_(torch.stack([getattr(source, name).get_parameter(part) for source in sources]).mean(dim=0))


@torch.no_grad()
def _start_vocabulary_matrix(target: nn.Linear, model: PreTrainedModel, source: SourceEmbeddings) -> None:
    head = model.get_output_embeddings()
    for weight, bias in ((getattr(head, "weight", None), getattr(head, "bias", None)), (source.words, None)):
        if weight is not None and weight.shape == target.weight.shape:
            target.weight.copy_(weight)
            if bias is not None:
                target.bias.copy_(bias)
            return


__all__ = ["make_recursive_student"]
