"""Loads checkpoints of MiniALBERT's authors (arXiv 2210.06425), such as nlpie/miniALBERT-128, into our classes.

Theirs say model_type "bert" in config.json and are laid out after the authors' own classes, which build on ALBERT's.
"""

from __future__ import annotations

import dataclasses
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file
from transformers import PreTrainedConfig

from ..models.configuration_minialbert import MiniAlbertConfig
from ..models.modeling_minialbert import MiniAlbertForMaskedLM, MiniAlbertModel, MiniAlbertPreTrainedModel

logger = logging.getLogger(__name__)

_LAYER = r"^albert\.encoder\.albert_layer_groups\.0\.albert_layers\.0\."
# Their names, without the prefix of a task model, to ours; a name that none of these matches stays.
_RENAMED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^albert\.embeddings\.", "embeddings."),
        (r"^projector\.", "embeddings.projection."),
        (_LAYER + r"attention\.dense\.", "layer.attention.output."),
        (_LAYER + r"attention\.", "layer.attention."),
        (_LAYER + r"ffn\.", "layer.intermediate."),
        (_LAYER + r"ffn_output\.", "layer.output."),
        (_LAYER + r"full_layer_layer_norm\.", "layer.LayerNorm."),
        (r"^att_adapters\.(\d+)\.block\.0\.", r"attention_adapters.\1.down."),
        (r"^att_adapters\.(\d+)\.block\.2\.", r"attention_adapters.\1.up."),
        (r"^att_adapters\.(\d+)\.norm\.", r"attention_adapters.\1.LayerNorm."),
        (r"^mlp_adapters\.(\d+)\.block\.0\.", r"feed_forward_adapters.\1.down."),
        (r"^mlp_adapters\.(\d+)\.block\.2\.", r"feed_forward_adapters.\1.up."),
        (r"^mlp_adapters\.(\d+)\.norm\.", r"feed_forward_adapters.\1.LayerNorm."),
    )
]
# ALBERT's pooler, which their forward never calls, and what old versions of transformers stored of position ids.
_UNUSED = re.compile(r"^albert\.pooler\.|^albert\.embeddings\.(position_ids|token_type_ids)$")
_HEAD = re.compile(r"^(vocab_transform|vocab_layer_norm|vocab_projector|classifier)\.")

_REQUIRED = (
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "use_adapter",
    "reduction_factor",
)
_OPTIONAL = (
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "id2label",
    "label2id",
    "problem_type",
)
_ADAPTER_EPS = 1e-12


def load_published_minialbert(
    name_or_path: str,
    task_class: type[MiniAlbertPreTrainedModel] = MiniAlbertModel,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    **config_changes: Any,
) -> MiniAlbertPreTrainedModel:
    """Load a checkpoint in the layout of MiniALBERT's authors.

    The encoder must be complete, and so must the head that a masked-LM model needs. A head for another task is loaded
    where the checkpoint has it and is new where not. What is left behind, the pooler that nobody calls and heads that
    `task_class` does not have, is logged.

    Args:
        name_or_path: Folder or Hub id with `config.json` and `model.safetensors` or `pytorch_model.bin`. Of the latter
            only tensors are read (`weights_only`), no code in it is run.
        task_class: The class to load it into, such as `MiniAlbertForTokenClassification`.
        revision: Branch, tag or commit on the Hub.
        token: For private models on the Hub.
        **config_changes: Fields of `MiniAlbertConfig` that differ from the checkpoint's, such as `id2label`.

    Returns:
        The model in float32 and eval mode; `save_pretrained` writes it in our layout.

    Raises:
        OSError: There is no such folder, model or file.
        TypeError: A field that `MiniAlbertConfig` does not have.
        ValueError: The configuration is no MiniALBERT's, weights are missing, unknown or of another shape; the message
            names them.

    Example:
        >>> model = load_published_minialbert("nlpie/miniALBERT-128", MiniAlbertForTokenClassification, num_labels=9)
        >>> model.save_pretrained("minialbert-128")
    """
    source = {"revision": revision, "token": token}
    published, _ = PreTrainedConfig.get_config_dict(name_or_path, **source)
    config = _convert_config(name_or_path, published, config_changes)
    weights = _convert_names(name_or_path, _read_weights(name_or_path, **source))
    model = task_class(config)
    _fill(model, weights, name_or_path)
    model.name_or_path = model.config.name_or_path = name_or_path
    return model.eval()


def _convert_config(name: str, published: dict[str, Any], changes: dict[str, Any]) -> MiniAlbertConfig:
    if published.get("model_type") == MiniAlbertConfig.model_type:
        raise ValueError(f"{name!r} is in the layout of this package already; load it with from_pretrained.")
    lacking = [field for field in _REQUIRED if field not in published]
    if lacking:
        raise ValueError(
            f"config.json of {name!r} lacks {lacking}, which every published MiniALBERT has; it describes a "
            f"{published.get('model_type')!r} model."
        )
    known = {field.name for field in dataclasses.fields(MiniAlbertConfig)} | {"num_labels"}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise TypeError(f"{unknown} are not fields of MiniAlbertConfig; its fields are {sorted(known)}.")
    fields = {field: published[field] for field in (*_REQUIRED, *_OPTIONAL) if field in published}
    fields["adapter_reduction"] = fields.pop("reduction_factor")
    if "num_labels" in changes or "id2label" in changes:
        fields.pop("id2label", None)
        fields.pop("label2id", None)
    config = MiniAlbertConfig(**{**fields, **changes})
    if config.layer_norm_eps != _ADAPTER_EPS:
        raise ValueError(
            f"layer_norm_eps is {config.layer_norm_eps} in config.json of {name!r}; the authors' adapters always have "
            f"{_ADAPTER_EPS}, and all norms share one value here. layer_norm_eps={_ADAPTER_EPS} takes it for all."
        )
    return config


def _read_weights(name: str, **source: Any) -> dict[str, torch.Tensor]:
    path = _find_file(name, "model.safetensors", **source)
    if path is not None:
        return load_file(path)
    path = _find_file(name, "pytorch_model.bin", **source)
    if path is None:
        raise OSError(f"{name!r} has neither model.safetensors nor pytorch_model.bin.")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged or holds more than tensors, which is not loaded: {error}") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{path} is no state dict: it must be a dictionary of tensors by name.")
    return weights


def _find_file(name: str, file: str, **source: Any) -> str | None:
    if Path(name).is_dir():
        path = Path(name) / file
        return str(path) if path.is_file() else None
    try:
        return hf_hub_download(name, file, **source)
    except LocalEntryNotFoundError:  # the Hub is out of reach, and does not say what it has
        raise
    except EntryNotFoundError:
        return None


def _convert_names(name: str, published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names for the encoder's weights, and the heads' own."""
    is_task_model = any(key.startswith("albert.albert.") for key in published)
    weights, left_behind = {}, []
    for key, value in published.items():
        inner = key.removeprefix("albert.") if is_task_model else key
        if _UNUSED.match(inner):
            left_behind.append(key)
            continue
        for pattern, replacement in _RENAMED:
            inner = pattern.sub(replacement, inner)
        weights[inner] = value
    if left_behind:
        logger.info("%s: left behind, since nothing reads them: %s", name, ", ".join(left_behind))
    return weights


def _fill(model: MiniAlbertPreTrainedModel, weights: dict[str, torch.Tensor], name: str) -> None:
    """Copy the weights into a model that is initialised already, so that nothing overwrites them afterwards."""
    heads = {key: weights.pop(key) for key in list(weights) if _HEAD.match(key)}
    wanted = set(model.state_dict())
    prefix = "" if isinstance(model, MiniAlbertModel) else "model."
    given = {prefix + key: value for key, value in weights.items()}
    unexpected = sorted(set(given) - wanted)
    given |= {key: value for key, value in heads.items() if key in wanted}
    missing = wanted - set(given)
    if not isinstance(model, MiniAlbertForMaskedLM):
        new = sorted(key for key in missing if not key.startswith("model.")) if prefix else []
        missing -= set(new)
        if new:
            logger.warning("%s has no weights for %s of a %s: train them.", name, new, type(model).__name__)
    if missing or unexpected:
        raise ValueError(
            f"The checkpoint {name!r} does not fit a {type(model).__name__} of its configuration: missing "
            f"{sorted(missing)}, unexpected {unexpected} (by the names of this package)."
        )
    unused = sorted(set(heads) - wanted)
    if unused:
        logger.info("%s: left behind, since a %s has no such head: %s", name, type(model).__name__, ", ".join(unused))
    try:
        model.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise ValueError(f"The weights of {name!r} have other shapes than its configuration says: {error}") from error


__all__ = ["load_published_minialbert"]
