"""Configuration of compressed encoders: stock ones with a smaller token embedding or layers of their own width."""

# No postponed annotations here: `strict` checks the types of fields only where annotations are objects.
# ruff: noqa: I002

import copy
import json
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .compressed_embeddings import build_embedding
from .config_bounds import MAX_PARAMETERS, check_labels, check_size
from .embedding_table import check_number
from .own_encoders import build_configuration

if TYPE_CHECKING:
    # transformers 5.6 takes from a local folder only the files that the one it loads first names itself.
    from .alignment_adapter import AdapterLinear  # noqa: F401
    from .bit_packing import pack_bits  # noqa: F401
    from .configuration_minialbert import MiniAlbertConfig  # noqa: F401
    from .integer_embedding import IntegerEmbedding  # noqa: F401
    from .layer_widths import LayerLayout  # noqa: F401
    from .minialbert_layers import BottleneckAdapter  # noqa: F401
    from .modeling_compressed_encoder import CompressedEncoderForQuestionAnswering  # noqa: F401
    from .modeling_minialbert import MiniAlbertForMaskedLM  # noqa: F401
    from .quantized_student import asking_for_torchao  # noqa: F401
    from .shard_names import check_shard_names  # noqa: F401
    from .student import bare_encoder  # noqa: F401
    from .task_losses import span_loss  # noqa: F401
    from .teacher import TeacherColumns  # noqa: F401

# Bounds that no sensible configuration reaches: a hostile config.json must fail here, before memory is allocated.
MAX_LAYERS = 1024
MAX_HEADS = 4096
MAX_NEURONS = 1_048_576


@strict
class CompressedEncoderConfig(PreTrainedConfig):
    """Configuration of a compressed encoder.

    What it does not have itself, such as `hidden_size` or `hidden_dropout_prob`, is `text_config`'s, to read and to
    write.

    Args:
        text_config: Configuration of the encoder before compression, any that `AutoModel` builds; by default a
            `BertConfig`. Its `num_hidden_layers` is the number of layers that are there.
        embedding: Specification of the token embedding (see `build_embedding`); None keeps the stock one.
        layer_widths: One dictionary for each layer with its attention `heads` and `intermediate` neurons, and for
            MPNet `position_heads` where heads changed places; None keeps the stock widths. The size of a head is
            `text_config`'s.
        compression: How the model was made: a free record, JSON.

    Raises:
        ValueError: A value is out of its bounds or does not fit the others.

    Example:
        >>> config = CompressedEncoderConfig(embedding={
        ...     "method": "low_rank", "num_embeddings": 30522, "embedding_dim": 768, "rank": 64})
        >>> config.hidden_size
        768
    """

    model_type = "compressed_encoder"
    sub_configs = {"text_config": AutoConfig}

    text_config: dict | PreTrainedConfig | None = None
    embedding: dict | None = None
    layer_widths: list[dict] | None = None
    compression: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the stock encoder's configuration and check what was given against it."""
        check_labels(self.id2label, kwargs.get("num_labels"))
        if self.text_config is None:
            self.text_config = AutoConfig.for_model("bert")
        elif isinstance(self.text_config, dict):
            check_size(self.text_config, "text_config")
            fields = copy.deepcopy(self.text_config)
            self.text_config = build_configuration(fields.pop("model_type", "bert"), **fields)
        if isinstance(self.text_config, CompressedEncoderConfig):
            raise ValueError(
                "text_config is a compressed encoder's; wrap_encoder compresses one further without nesting."
            )
        # Every checkpoint carries its own modelling code, so that it also loads where this package is not installed.
        self.auto_map = {
            "AutoConfig": "configuration_compressed_encoder.CompressedEncoderConfig",
            "AutoModel": "modeling_compressed_encoder.CompressedEncoderModel",
            "AutoModelForTokenClassification": ("modeling_compressed_encoder.CompressedEncoderForTokenClassification"),
            "AutoModelForQuestionAnswering": "modeling_compressed_encoder.CompressedEncoderForQuestionAnswering",
        }
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
        self._check_embedding()
        self._check_layer_widths()
        _check_json(self.compression)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - fields of any type
        """What only the stock encoder's configuration has."""
        inner = self.__dict__.get("text_config")
        # "rope_": transformers rewrites such fields wherever it finds them, and would do it to the inner ones again.
        if name.startswith(("_", "rope_")) or not isinstance(inner, PreTrainedConfig):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(inner, name)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - fields of any type
        """Write what only the stock encoder's configuration has there, as `from_pretrained(..., name=value)` does."""
        inner = self.__dict__.get("text_config")
        is_own = name in self.__dict__ or hasattr(type(self), name) or name.startswith(("_", "rope_"))
        if not is_own and isinstance(inner, PreTrainedConfig) and hasattr(inner, name):
            setattr(inner, name, value)
        else:
            super().__setattr__(name, value)

    def _check_embedding(self) -> None:
        if self.embedding is None:
            return
        with torch.device("meta"):  # takes no memory
            embedding = build_embedding(self.embedding)
        if embedding.num_embeddings != self.text_config.vocab_size:
            raise ValueError(
                f"embedding has num_embeddings={embedding.num_embeddings}, text_config has vocab_size="
                f"{self.text_config.vocab_size}; they must be the same."
            )

    def _check_layer_widths(self) -> None:
        if self.layer_widths is None:
            return
        depth = self.text_config.num_hidden_layers
        check_number("num_hidden_layers", depth, MAX_LAYERS)
        if len(self.layer_widths) != depth:
            raise ValueError(f"layer_widths has {len(self.layer_widths)} entries, text_config {depth} layers.")
        for width in self.layer_widths:
            if not {"heads", "intermediate"} <= set(width) <= {"heads", "intermediate", "position_heads"}:
                raise ValueError(
                    "An entry of layer_widths has heads, intermediate and perhaps position_heads, "
                    f"got {sorted(width)}."
                )
            check_number("heads", width["heads"], MAX_HEADS)
            check_number("intermediate", width["intermediate"], MAX_NEURONS)
            if "position_heads" in width:
                self._check_position_heads(width)
        hidden = self.text_config.hidden_size
        head_size = hidden // self.text_config.num_attention_heads
        count = sum(4 * width["heads"] * head_size + 2 * width["intermediate"] for width in self.layer_widths) * hidden
        if count > MAX_PARAMETERS:
            raise ValueError(
                f"layer_widths describes layers of about {count:.1e} parameters together; they may have "
                f"{MAX_PARAMETERS:.0e}."
            )

    def _check_position_heads(self, width: dict) -> None:
        chosen, biases = width["position_heads"], self.text_config.num_attention_heads
        if not isinstance(chosen, list) or len(chosen) != width["heads"]:
            raise ValueError(f"position_heads must be a list of {width['heads']} heads, got {chosen!r}.")
        for head in chosen:
            check_number("position_heads", head, biases - 1, smallest=0)


def _check_json(record: dict | None) -> None:
    try:
        json.dumps(record)
    except (TypeError, ValueError) as error:
        raise ValueError(f"compression must be plain JSON, got {record!r}: {error}.") from error


__all__ = ["CompressedEncoderConfig"]
