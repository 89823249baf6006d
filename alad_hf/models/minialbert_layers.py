"""The parts of MiniALBERT (arXiv 2210.06425, section 3): embeddings, bottleneck adapters and the shared layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .alignment_adapter import AdapterLinear
from .configuration_minialbert import MiniAlbertConfig


class MiniAlbertEmbeddings(nn.Module):
    """Sum of token, position and type embeddings, layer norm, dropout, and a map to the hidden size where it differs.

    Args:
        config: The configuration.
    """

    def __init__(self, config: MiniAlbertConfig) -> None:
        super().__init__()
        width = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projection = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None

    def forward(
        self,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
    ) -> torch.Tensor:
        """Arguments as in `MiniAlbertModel.forward`; returns (batch, tokens, hidden size)."""
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        tokens, longest = inputs_embeds.shape[1], self.position_embeddings.num_embeddings
        if position_ids is None:
            if tokens > longest:
                raise ValueError(
                    f"The input has {tokens} tokens, max_position_embeddings is {longest}. Truncate it in the "
                    "tokenizer: truncation=True, max_length=..."
                )
            position_ids = torch.arange(tokens, device=inputs_embeds.device).unsqueeze(0)
        if token_type_ids is None:
            token_type_ids = torch.zeros(inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device)
        states = inputs_embeds + self.position_embeddings(position_ids) + self.token_type_embeddings(token_type_ids)
        states = self.dropout(self.LayerNorm(states))
        return states if self.projection is None else self.projection(states)


class BottleneckAdapter(nn.Module):
    """A narrow two-layer perceptron on the residual stream, with a layer norm behind the sum in its published form.

    Args:
        config: The configuration, with `adapter_size` and `adapter_form`.
    """

    def __init__(self, config: MiniAlbertConfig) -> None:
        super().__init__()
        self.down = nn.Linear(config.hidden_size, config.adapter_size)
        is_published = config.adapter_form == "published"
        up = nn.Linear if is_published else partial(AdapterLinear, start="zero")
        self.up = up(config.adapter_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if is_published else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, hidden size) to the same shape."""
        hidden_states = hidden_states + self.up(functional.gelu(self.down(hidden_states)))
        return hidden_states if self.LayerNorm is None else self.LayerNorm(hidden_states)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, for the library's attention interface.

    Args:
        module: The attention module; its mode decides whether dropout is on.
        query: (batch, heads, tokens, head size).
        key: Likewise.
        value: Likewise.
        attention_mask: Added to the scores.
        scaling: Factor of the scores.
        dropout: Dropout probability of the attention probabilities.
        **kwargs: What other implementations take.

    Returns:
        States of shape (batch, tokens, heads, head size), and the probabilities (batch, heads, tokens, tokens) before
        dropout: their rows sum to 1 in training too, so a distillation loss can compare them with a teacher's.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(dim=-1)
    dropped = functional.dropout(probabilities, p=dropout, training=module.training)
    return (dropped @ value).transpose(1, 2), probabilities


class MiniAlbertAttention(nn.Module):
    """Self-attention with its residual sum and layer norm.

    Args:
        config: The configuration.
    """

    is_causal = False

    def __init__(self, config: MiniAlbertConfig) -> None:
        super().__init__()
        self.config = config
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        # A module, though only its probability is read: whoever turns dropout off looks for such modules.
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, tokens, hidden size) to the same shape, and the attention probabilities where there are any."""
        by_head = (*hidden_states.shape[:-1], -1, self.head_size)
        query, key, value = (
            linear(hidden_states).view(by_head).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        states, probabilities = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.head_size**-0.5,
            dropout=self.attention_dropout.p if self.training else 0.0,
            **kwargs,
        )
        states = self.output(states.reshape(hidden_states.shape))
        return self.LayerNorm(hidden_states + self.dropout(states)), probabilities


class MiniAlbertLayer(GradientCheckpointingLayer):
    """The shared layer: attention and feed-forward part, each behind the adapter of the recursion that calls it.

    Args:
        config: The configuration.
    """

    def __init__(self, config: MiniAlbertConfig) -> None:
        super().__init__()
        self.attention = MiniAlbertAttention(config)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_adapter: BottleneckAdapter | None = None,
        feed_forward_adapter: BottleneckAdapter | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One recursion.

        Args:
            hidden_states: (batch, tokens, hidden size).
            attention_adapter: Applied in front of the attention.
            feed_forward_adapter: Applied in front of the feed-forward part.
            attention_mask: As the attention implementation wants it.
            **kwargs: For the attention implementation.

        Returns:
            States of the same shape, and the attention probabilities where the implementation has them.
        """
        if attention_adapter is not None:
            hidden_states = attention_adapter(hidden_states)
        hidden_states, probabilities = self.attention(hidden_states, attention_mask, **kwargs)
        if feed_forward_adapter is not None:
            hidden_states = feed_forward_adapter(hidden_states)
        update = self.dropout(self.output(self.activation(self.intermediate(hidden_states))))
        return self.LayerNorm(hidden_states + update), probabilities


def build_adapters(config: MiniAlbertConfig) -> nn.ModuleList:
    """One adapter for each recursion."""
    return nn.ModuleList(BottleneckAdapter(config) for _ in range(config.num_hidden_layers))


__all__ = [
    "BottleneckAdapter",
    "MiniAlbertAttention",
    "MiniAlbertEmbeddings",
    "MiniAlbertLayer",
    "build_adapters",
    "eager_attention_forward",
]
