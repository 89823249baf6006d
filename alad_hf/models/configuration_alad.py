"""Configuration of AlAd models: a student encoder, an alignment adapter and, on top, a task head."""

# No postponed annotations here: `strict` checks the types of fields only where annotations are objects.
# ruff: noqa: I002

import copy
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .config_bounds import MAX_PARAMETERS, adapter_parameters, check_labels, check_size
from .own_encoders import build_configuration

if TYPE_CHECKING:
    # transformers 5.6 takes from a local folder only the files that the one it loads first names itself.
    from .alignment_adapter import AdapterLinear  # noqa: F401
    from .bit_packing import pack_bits  # noqa: F401
    from .compressed_embeddings import BinaryCodeEmbedding  # noqa: F401
    from .configuration_compressed_encoder import CompressedEncoderConfig  # noqa: F401
    from .configuration_minialbert import MiniAlbertConfig  # noqa: F401
    from .embedding_table import FACTOR_DTYPES  # noqa: F401
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

# Width of the adapter's inner layer when the user names none. 1280 is the published one (arXiv 2602.14635, authors'
# code); 64 keeps the light form under a fifth of the published form's parameters from 128 to 1024 wide students. The
# linear form has an inner layer, which limits its rank, only where one is asked for.
DEFAULT_ADAPTER_SIZES = {"light": 64, "linear": None, "mlp": 1280}

# Bounds that no sensible configuration reaches: a hostile config.json must fail here, before memory is allocated.
MAX_WINDOW_SIZE = 129
MAX_WIDTH = 65_536


@strict
class AlAdConfig(PreTrainedConfig):
    """Configuration of an AlAd model (Alignment Adapter, arXiv 2602.14635).

    Args:
        text_config: Configuration of the student encoder, any that `AutoModel` builds; by default a `BertConfig`.
        hidden_size: Width of the aligned states, i.e. of the teacher. Defaults to the student's width.
        window_size: How many student positions the adapter sees for one output; odd.
        adapter_type: "light" (a linear path plus a low-rank window correction), "linear" (a linear map of the window)
            or "mlp" (the published window MLP).
        adapter_size: Inner width of the adapter; defaults to 64 for "light" and 1280 for "mlp". Of "linear" it is the
            map's rank, at most `hidden_size`, and by default None, full rank.
        mix_student_layers: Give the adapter a learned weighted mean of all the student's hidden states in place of the
            last one.
        freeze_student: Keep the student's weights fixed and the student in eval mode (plug-and-play).
        freeze_embeddings: Keep the student's token embeddings fixed when the rest of it is trained. Words that the
            training text lacks then stay beside those that it has, and most of the optimiser's work falls away. Turn
            it off for a student whose embeddings were never trained.
        alignment_mse_weight: Weight of the squared error between aligned and teacher states, a mean over the width.
            The published loss sums over the width instead, which is a weight of `hidden_size` here.
        alignment_cosine_weight: Weight of one minus the cosine of aligned and teacher states.
        distillation_weight: Weight of the divergence between the teacher's and the model's task logits.
        distillation_temperature: Temperature of that divergence, > 0.
        teacher_layers: Which of the teacher's hidden states are aligned, as their mean: indices with 0 for the
            embeddings, or negative from the end. By default the last ones, which the teacher's head reads.
        classifier_dropout: Dropout probability in front of the task head.
        initializer_range: Standard deviation of the normal that initialises the task head.
        student_name_or_path: Where the student came from; for the record and to find its tokenizer.
        teacher_name_or_path: Where the teacher came from; for the record. A teacher is never part of a checkpoint.

    Raises:
        ValueError: A value is out of its bounds; the message names the field, the value and what is accepted.

    Example:
        >>> from transformers import BertConfig
        >>> config = AlAdConfig(text_config=BertConfig(hidden_size=128, num_attention_heads=2), hidden_size=768)
        >>> config.adapter_size
        64
    """

    model_type = "alad"
    sub_configs = {"text_config": AutoConfig}
    keys_to_ignore_at_inference = ["loss_terms"]

    text_config: dict | PreTrainedConfig | None = None
    hidden_size: int | None = None
    window_size: int = 5
    adapter_type: Literal["light", "linear", "mlp"] = "light"
    adapter_size: int | None = None
    mix_student_layers: bool = False
    freeze_student: bool = False
    freeze_embeddings: bool = True
    alignment_mse_weight: float | int = 0.1
    alignment_cosine_weight: float | int = 0.0
    distillation_weight: float | int = 1.0
    distillation_temperature: float | int = 1.0
    teacher_layers: list[int] | None = None
    classifier_dropout: float | int = 0.1
    initializer_range: float | int = 0.02
    student_name_or_path: str | None = None
    teacher_name_or_path: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the student's configuration, fill the defaults that depend on it, and check the bounds."""
        check_labels(self.id2label, kwargs.get("num_labels"))
        if self.text_config is None:
            self.text_config = AutoConfig.for_model("bert")
        elif isinstance(self.text_config, PreTrainedConfig):
            check_size(self.text_config.to_dict(), "text_config")
        else:
            check_size(self.text_config, "text_config")
            fields = copy.deepcopy(self.text_config)
            model_type = fields.pop("model_type", "bert")
            self.text_config = build_configuration(model_type, **fields)
        if self.hidden_size is None:
            self.hidden_size = self.text_config.hidden_size
        if self.adapter_size is None:
            self.adapter_size = DEFAULT_ADAPTER_SIZES[self.adapter_type]
        # Every checkpoint carries its own modelling code, so that it also loads where this package is not installed.
        self.auto_map = {
            "AutoConfig": "configuration_alad.AlAdConfig",
            "AutoModel": "modeling_alad.AlAdModel",
            "AutoModelForTokenClassification": "modeling_alad.AlAdForTokenClassification",
            "AutoModelForQuestionAnswering": "modeling_alad.AlAdForQuestionAnswering",
        }
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
        self._check_bounds()
        self._check_adapter()

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The configuration that has the vocabulary and positions: of a compressed student, its stock encoder's."""
        return self.text_config.get_text_config(decoder=decoder, encoder=encoder)

    def _check_bounds(self) -> None:
        if not 1 <= self.window_size <= MAX_WINDOW_SIZE or self.window_size % 2 == 0:
            raise ValueError(f"window_size must be an odd number from 1 to {MAX_WINDOW_SIZE}, got {self.window_size}.")
        for name in ("hidden_size", "adapter_size"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_WIDTH:
                raise ValueError(f"{name} must be from 1 to {MAX_WIDTH}, got {value}.")
        for name in ("alignment_mse_weight", "alignment_cosine_weight", "distillation_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}; 0 turns it off.")
        if not 0 < self.distillation_temperature < float("inf"):
            raise ValueError(f"distillation_temperature must be finite and > 0, got {self.distillation_temperature}.")
        if self.teacher_layers == []:
            raise ValueError("teacher_layers must name one layer or more, got []; None takes the last one.")
        if not 0 <= self.initializer_range < float("inf"):
            raise ValueError(f"initializer_range must be finite and not negative, got {self.initializer_range}.")
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"classifier_dropout must be in [0, 1), got {self.classifier_dropout}.")

    def _check_adapter(self) -> None:
        adapter = adapter_parameters(
            self.window_size, self.text_config.hidden_size, self.adapter_size, self.hidden_size
        )
        if adapter > MAX_PARAMETERS:
            raise ValueError(
                f"window_size={self.window_size}, adapter_size={self.adapter_size} and hidden_size={self.hidden_size} "
                f"make an adapter of about {adapter:.1e} parameters; it may have {MAX_PARAMETERS:.0e}."
            )
        if self.adapter_type == "linear" and self.adapter_size is not None and self.adapter_size > self.hidden_size:
            raise ValueError(
                f"adapter_size is the rank of a linear adapter, which cannot exceed hidden_size={self.hidden_size}, "
                f"got {self.adapter_size}; leave it out for full rank."
            )


__all__ = ["AlAdConfig"]
