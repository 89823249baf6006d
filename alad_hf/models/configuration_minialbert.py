"""Configuration of MiniALBERT: one transformer layer called many times, with bottleneck adapters between the calls."""

# No postponed annotations here: `strict` checks the types of fields only where annotations are objects.
# ruff: noqa: I002

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .config_bounds import MAX_PARAMETERS, check_labels

# Bounds that no sensible configuration reaches: a hostile config.json must fail here, before memory is allocated.
_LARGEST = {
    "vocab_size": 4_194_304,
    "embedding_size": 65_536,
    "hidden_size": 65_536,
    "num_hidden_layers": 1024,
    "num_attention_heads": 1024,
    "intermediate_size": 1_048_576,
    "max_position_embeddings": 4_194_304,
    "type_vocab_size": 65_536,
    "adapter_reduction": 65_536,
}


@strict
class MiniAlbertConfig(PreTrainedConfig):
    """Configuration of a MiniALBERT encoder (arXiv 2210.06425, section 3); the defaults are the published 128 model.

    Args:
        vocab_size: Tokens of the vocabulary.
        embedding_size: Width of the token, position and type embeddings. Where it is not `hidden_size`, a linear map
            with bias follows them.
        hidden_size: Width of the hidden states; a multiple of `num_attention_heads`.
        num_hidden_layers: Recursions: how many times the one shared layer is called.
        num_attention_heads: Attention heads of the shared layer.
        intermediate_size: Neurons of its feed-forward part.
        hidden_act: Activation of its feed-forward part, a name that transformers knows. Adapters and the masked-LM
            head always have GELU.
        use_adapter: Whether there are two bottleneck adapters for each recursion.
        adapter_reduction: How many times narrower than `hidden_size` the adapters are inside, rounded down.
        adapter_form: "published" is LN(x + W2 gelu(W1 x)). "identity_start" is x + W2 gelu(W1 x) with W2 zero at
            first: a new adapter of this form leaves the model's function as it is, one of the published form does not.
        hidden_dropout_prob: Dropout probability behind the embeddings and both parts of the layer.
        attention_probs_dropout_prob: Dropout probability of the attention probabilities.
        classifier_dropout: Dropout probability in front of a task head; by default `hidden_dropout_prob`.
        max_position_embeddings: Tokens that an input may have.
        type_vocab_size: Token types.
        initializer_range: Standard deviation of the normal that initialises weights.
        layer_norm_eps: Epsilon of every layer norm.
        pad_token_id: Token whose embedding is not trained; None for none.
        tie_word_embeddings: False; the masked-LM head has its own matrix, since the embeddings are factorised.

    Raises:
        ValueError: A value is out of its bounds or does not fit the others; the message names it and what is accepted.

    Example:
        >>> config = MiniAlbertConfig(num_hidden_layers=12, embedding_size=312)
        >>> config.adapter_size
        48
    """

    model_type = "minialbert"

    vocab_size: int = 30522
    embedding_size: int = 128
    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    use_adapter: bool = True
    adapter_reduction: int = 16
    adapter_form: Literal["published", "identity_start"] = "published"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    classifier_dropout: float | int | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-12
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the bounds and say where the modelling code is."""
        check_labels(self.id2label, kwargs.get("num_labels"))
        # Every checkpoint carries its own modelling code, so that it also loads where this package is not installed.
        self.auto_map = {
            "AutoConfig": "configuration_minialbert.MiniAlbertConfig",
            "AutoModel": "modeling_minialbert.MiniAlbertModel",
            "AutoModelForMaskedLM": "modeling_minialbert.MiniAlbertForMaskedLM",
            "AutoModelForSequenceClassification": "modeling_minialbert.MiniAlbertForSequenceClassification",
            "AutoModelForTokenClassification": "modeling_minialbert.MiniAlbertForTokenClassification",
            "AutoModelForQuestionAnswering": "modeling_minialbert.MiniAlbertForQuestionAnswering",
        }
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
        self._check_bounds()

    @property
    def adapter_size(self) -> int:
        """Width inside an adapter."""
        return self.hidden_size // self.adapter_reduction

    def _check_bounds(self) -> None:
        for name, largest in _LARGEST.items():
            if not 1 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} must be from 1 to {largest}, got {getattr(self, name)}.")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}.")
        if not 0 <= self.initializer_range < float("inf"):
            raise ValueError(f"initializer_range must be finite and not negative, got {self.initializer_range}.")
        if not 0 < self.layer_norm_eps < 1:
            raise ValueError(f"layer_norm_eps must be between 0 and 1, got {self.layer_norm_eps}.")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be one of {sorted(ACT2FN)}, got {self.hidden_act!r}.")
        self._check_together()

    def _check_together(self) -> None:
        """What is in its bounds by itself and does not fit the rest."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if self.use_adapter and self.adapter_size < 1:
            raise ValueError(
                f"adapter_reduction must be at most hidden_size={self.hidden_size}, got {self.adapter_reduction}: "
                "adapters would have no neurons. use_adapter=False leaves them out."
            )
        count = self._largest_parameter_count()
        if count > MAX_PARAMETERS:
            raise ValueError(
                f"vocab_size={self.vocab_size}, hidden_size={self.hidden_size}, intermediate_size="
                f"{self.intermediate_size} and num_hidden_layers={self.num_hidden_layers} make a model of about "
                f"{count:.1e} parameters; it may have {MAX_PARAMETERS:.0e}."
            )
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id must be from 0 to {self.vocab_size - 1}, below vocab_size, or None, "
                f"got {self.pad_token_id}."
            )
        if self.tie_word_embeddings:
            raise ValueError(
                "tie_word_embeddings must be False: the embeddings are factorised, and the masked-LM head has its own "
                "matrix."
            )

    def _largest_parameter_count(self) -> int:
        """About how many parameters the masked-LM model has, the largest of the family; biases and norms left out."""
        rows = self.vocab_size + self.max_position_embeddings + self.type_vocab_size
        layer = self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)
        adapters = 4 * self.num_hidden_layers * self.hidden_size * self.adapter_size if self.use_adapter else 0
        head = self.hidden_size * (self.hidden_size + self.vocab_size)
        return (rows + self.hidden_size) * self.embedding_size + layer + adapters + head


__all__ = ["MiniAlbertConfig"]
