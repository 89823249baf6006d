"""From a stock model in memory to a compressed encoder: everything that is not replaced is kept exactly."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..models.compressed_embeddings import CompressedEmbedding
from ..models.configuration_compressed_encoder import CompressedEncoderConfig
from ..models.layer_widths import encoder_layers, layer_width
from ..models.modeling_compressed_encoder import (
    STOCK_MODELS,
    CompressedEncoderForQuestionAnswering,
    CompressedEncoderForTokenClassification,
    CompressedEncoderModel,
    CompressedEncoderPreTrainedModel,
)
from ..models.own_encoders import own_task_models
from ..models.quantized_student import is_quantized
from ..models.student import cast_parameters
from .layer_lists import check_no_adapter

logger = logging.getLogger(__name__)

_TASK_MODELS = {
    "token-classification": CompressedEncoderForTokenClassification,
    "question-answering": CompressedEncoderForQuestionAnswering,
}


def wrap_encoder(
    model: PreTrainedModel,
    *,
    embedding: CompressedEmbedding | None = None,
    layer_widths: Sequence[dict[str, Any]] | None = None,
    compression: dict[str, Any] | None = None,
) -> CompressedEncoderPreTrainedModel:
    """Put a copy of a model into a compressed encoder, which can be saved and loaded with what was replaced.

    Args:
        model: A bare encoder, a tagger or a reader: of transformers, MiniALBERT, or compressed already, which
            compresses it further. It is not changed. A task head is kept; a bare encoder's pooler is left behind.
        embedding: Takes the place of the token embedding. By default the model's own, stock or compressed.
        layer_widths: See `CompressedEncoderConfig.layer_widths`; the model's layers have these widths already (see
            `set_layer_width`). By default read off the layers.
        compression: How the model was made, JSON; added to the record of a model that is compressed already.

    Returns:
        A `CompressedEncoderModel`, or `CompressedEncoderForTokenClassification` or `...ForQuestionAnswering` where the
        model has such a head; in eval mode, with the model's dtype and on its device.

    Raises:
        ValueError: The model is quantized or has another head, or embedding or widths do not fit it.

    Example:
        >>> latents, decoder = ...  # (30522, 64) and (384, 64)
        >>> model = wrap_encoder(tagger, embedding=LowRankEmbedding.from_factors(latents, decoder))
        >>> model.save_pretrained("smaller-tagger")
    """
    check_compressible(model)
    kind = _wrapper_class(model)
    source: Any = model.base_model
    compression = {**(getattr(model.config, "compression", None) or {}), **(compression or {})} or None
    if isinstance(source, CompressedEncoderModel):
        source = source.encoder
    own = source.get_input_embeddings()
    if embedding is None and isinstance(own, CompressedEmbedding):
        embedding = own
    if layer_widths is None:
        layer_widths = _own_widths(source)
    text_config = copy.deepcopy(source.config)
    text_config.__dict__.pop("compression", None)  # a record of the whole
    config = CompressedEncoderConfig(
        text_config=text_config,
        embedding=None if embedding is None else embedding.specification(),
        layer_widths=None if layer_widths is None else [dict(width) for width in layer_widths],
        compression=compression,
        id2label=model.config.id2label,
        label2id=model.config.label2id,
    )
    wrapped: Any = kind(config)
    wrapped.config.name_or_path = model.name_or_path
    wrapped.name_or_path = model.name_or_path
    cast_parameters(wrapped.to(model.device), model.dtype)
    _copy_encoder(source, wrapped.base_model.encoder, keep_embedding=embedding is None)
    if embedding is not None:
        wrapped.get_input_embeddings().load_state_dict(embedding.state_dict())
    for name, head in wrapped.named_children():
        if head is not wrapped.base_model and head is not wrapped.base_model.encoder:
            head.load_state_dict(model.get_submodule(name).state_dict())
    attention = source.config._attn_implementation
    if attention != wrapped.base_model.encoder.config._attn_implementation:
        wrapped.set_attn_implementation(attention)
    return wrapped.eval()


def check_compressible(model: PreTrainedModel) -> None:
    """Raise ValueError for what cannot be wrapped.

    That is an AlAd model, peft's adapters, weights of torchao's, which no other model's layers can hold, and an
    encoder that ties tensors of its own to each other (T5's embedding).
    """
    check_no_adapter(model)
    if is_quantized(model):
        raise ValueError(
            f"The weights of this {type(model).__name__} are quantized. Compress the model in float, save it, and "
            "quantize the result: AutoModel.from_pretrained(..., quantization_config=...)."
        )
    encoder: Any = model.base_model
    pairs = getattr(encoder, "_tied_weights_keys", None) or {}
    tied = {*pairs, *pairs.values()}
    names = [name for name, _ in encoder.named_parameters(remove_duplicate=False) if name in tied]
    if names:
        raise ValueError(
            f"A {type(encoder).__name__} knows one tensor as {' and '.join(names)}, which a compressed encoder "
            "cannot. Take an encoder that has it once, such as a BertModel."
        )


def _wrapper_class(model: PreTrainedModel) -> type[CompressedEncoderPreTrainedModel]:
    if isinstance(model, CompressedEncoderPreTrainedModel):
        return type(model)
    for task, wrapper in _TASK_MODELS.items():
        stock = STOCK_MODELS[task].get(type(model.config), ())
        kinds = [
            *(stock if isinstance(stock, tuple) else (stock,)),
            own_task_models(task).get(model.config.model_type),
        ]
        if type(model) in kinds:
            return wrapper
    if model.base_model is model:
        return CompressedEncoderModel
    raise ValueError(
        f"A {type(model).__name__} is neither a bare encoder nor a tagger or reader of transformers, so its head "
        "would be lost; the head of a masked language model, moreover, is tied to the embedding that is replaced. "
        "Compress its encoder: pass model.base_model."
    )


def _own_widths(encoder: PreTrainedModel) -> list[dict[str, Any]] | None:
    """The widths of the layers where they are not those that the configuration gives to all."""
    try:
        widths = [layer_width(layer) for layer in encoder_layers(encoder)]
    except ValueError:  # a layout whose widths nobody can have changed
        return None
    config = encoder.config
    stock = {"heads": config.num_attention_heads, "intermediate": _intermediate_size(config)}
    return None if all(width == stock for width in widths) else widths


def _intermediate_size(config: PreTrainedConfig) -> int:
    return config.hidden_dim if config.model_type == "distilbert" else config.intermediate_size


def _copy_encoder(source: PreTrainedModel, target: PreTrainedModel, *, keep_embedding: bool) -> None:
    weights = source.state_dict()
    replaced = () if keep_embedding else (_embedding_prefix(source), _embedding_prefix(target))
    weights = {name: value for name, value in weights.items() if not (replaced and name.startswith(replaced))}
    # Some classes, such as BigBird's tagger, have a pooler that no argument leaves out.
    own = target.state_dict()
    poolers = [name for name in weights if name.startswith("pooler.") and name not in own]
    if poolers:
        logger.info("The pooler of a %s is left behind: compressed encoders have none.", type(source).__name__)
    weights = {name: value for name, value in weights.items() if name not in poolers}
    try:
        missing, unexpected = target.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"The layers of this {type(source).__name__} do not have the widths in layer_widths: {error}"
        ) from error
    missing = [name for name in missing if not (replaced and name.startswith(replaced))]
    if missing or unexpected:
        raise ValueError(
            f"A {type(source).__name__} does not fit the one that its configuration builds: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}."
        )


def _embedding_prefix(encoder: PreTrainedModel) -> str:
    embedding = encoder.get_input_embeddings()
    return next(f"{name}." for name, module in encoder.named_modules() if module is embedding)


__all__ = ["check_compressible", "wrap_encoder"]
