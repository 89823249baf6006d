"""Factorised embeddings fitted to those of an encoder, so that a narrow table gives nearly the same first states."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.token_labels import POSITIONS_BEHIND_PADDING
from ..data.unlabelled_text import encode_text
from ..models.minialbert_layers import MiniAlbertEmbeddings

SAMPLED_TOKENS = 30_000
_SAMPLED_POSITIONS = 128


class TokenSample(NamedTuple):
    """Tokens, their positions counted from 0 and their types, each of shape (n,)."""

    ids: torch.Tensor
    positions: torch.Tensor
    types: torch.Tensor


class SourceEmbeddings:
    """The tables of an encoder whose first states are a layer norm over their sum, and perhaps a linear map.

    Args:
        model: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, MPNet, ELECTRA or DistilBERT, with or without a head.

    Raises:
        ValueError: Its embeddings are of another form.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        base = model.base_model
        embeddings: Any = getattr(base, "embeddings", None)
        parts: list[Any] = [
            getattr(embeddings, name, None) for name in ("word_embeddings", "position_embeddings", "LayerNorm")
        ]
        mapped = getattr(base, "encoder", None)
        if any(part is None for part in parts) or hasattr(mapped, "embedding_hidden_mapping_in"):
            raise ValueError(
                f"The embeddings of a {type(base).__name__} are not a layer norm over the sum of token, position and "
                "type tables. Those of BERT, RoBERTa, XLM-RoBERTa, CamemBERT, MPNet, ELECTRA and DistilBERT are."
            )
        offset = embeddings.padding_idx + 1 if model.config.model_type in POSITIONS_BEHIND_PADDING else 0
        self.words, position_table = (part.weight.detach().float().cpu() for part in parts[:2])
        self.positions = position_table[offset:]
        types = getattr(embeddings, "token_type_embeddings", None)
        self.types = torch.zeros(1, self.width) if types is None else types.weight.detach().float().cpu()
        self.norm: nn.LayerNorm = parts[2]
        self.map: nn.Linear | None = getattr(base, "embeddings_project", None)

    @property
    def width(self) -> int:
        """Width of the tables."""
        return self.words.shape[1]

    def states(self, sample: TokenSample) -> torch.Tensor:
        """(n, hidden size), what enters the first layer, without dropout."""
        sums = self.words[sample.ids] + self.positions[sample.positions] + self.types[sample.types]
        weight, bias = self.norm.weight.detach().float().cpu(), self.norm.bias.detach().float().cpu()
        states = functional.layer_norm(sums, (self.width,), weight, bias, self.norm.eps)
        if self.map is None:
            return states
        return functional.linear(states, self.map.weight.detach().float().cpu(), self.map.bias.detach().float().cpu())

    def linear_part(self) -> torch.Tensor:
        """(width, hidden size), by which sums of the tables become states, up to their deviation and a constant."""
        centred = torch.eye(self.width) - 1 / self.width
        scaled = centred * self.norm.weight.detach().float().cpu()
        return scaled if self.map is None else scaled @ self.map.weight.detach().float().cpu().T


def sample_tokens(
    source: SourceEmbeddings,
    texts: Iterable[str] | Dataset | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> TokenSample:
    """Tokens of a text, or random ones at random positions where there is none.

    Raises:
        ValueError: There is a text and no tokenizer.
    """
    if texts is None:
        generator = torch.Generator().manual_seed(seed)
        limits = (len(source.words), min(_SAMPLED_POSITIONS, len(source.positions)), len(source.types))
        return TokenSample(*(torch.randint(limit, (SAMPLED_TOKENS,), generator=generator) for limit in limits))
    if tokenizer is None:
        raise ValueError("Fitting embeddings to texts takes their tokenizer: tokenizer=...")
    rows = encode_text(texts, tokenizer, max_length=min(len(source.positions), tokenizer.model_max_length))
    every = max(1, sum(map(len, rows["input_ids"])) // SAMPLED_TOKENS)
    rows = rows.select(range(0, len(rows), every))
    ids = torch.tensor([token for row in rows["input_ids"] for token in row])
    positions = torch.tensor([place for row in rows["input_ids"] for place in range(len(row))])
    types = torch.zeros_like(ids)
    if "token_type_ids" in rows.column_names and len(source.types) > 1:
        types = torch.tensor([kind for row in rows["token_type_ids"] for kind in row])
    return TokenSample(ids, positions, types)


@torch.no_grad()
def fit_embeddings(target: MiniAlbertEmbeddings, source: SourceEmbeddings, sample: TokenSample) -> None:
    """Set factorised embeddings so that they give the source's first states, nearly.

    The tables are the source's, seen along the directions in which its states vary most on the sample; one direction
    is given up, since a layer norm takes the mean away. The map behind them is then the one of least squares on the
    sample. Where the width is the source's, everything is copied and nothing is lost. Truncated SVD of the token table
    alone (the usual factorisation) leaves about half as much error again, since the layer norm scales directions.

    Args:
        target: Where the result goes; its dropout is not applied.
        source: What to imitate.
        sample: Tokens on which it matters.

    Raises:
        ValueError: The target is wider than the source.
    """
    width = target.LayerNorm.normalized_shape[0]
    if width > source.width:
        raise ValueError(
            f"embedding_size={width} is more than the {source.width} of the source; take {source.width} or less."
        )
    narrowing = torch.eye(width)
    if width < source.width:
        states = source.states(sample).double()
        centred = states - states.mean(dim=0)
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : width - 1]
        narrowing = (source.linear_part().double() @ directions @ _mean_free_basis(width).T).float()
        # The layer norm makes the scale arbitrary; that of the source suits the usual learning rates.
        narrowing *= source.words.std() / (source.words @ narrowing).std()
    else:
        target.LayerNorm.weight.copy_(source.norm.weight)
        target.LayerNorm.bias.copy_(source.norm.bias)
    for table, values in (
        (target.word_embeddings, source.words),
        (target.position_embeddings, source.positions),
        (target.token_type_embeddings, source.types),
    ):
        rows = min(len(values), table.num_embeddings)
        table.weight.zero_()
        table.weight[:rows] = values[:rows] @ narrowing
    if target.projection is not None:
        _fit_projection(target.projection, _normalised(target, sample), source.states(sample))


@torch.no_grad()
def embedding_error(target: MiniAlbertEmbeddings, source: SourceEmbeddings, sample: TokenSample) -> float:
    """Squared error of the first states relative to their variance: 0 for a perfect fit, 1 for their mean alone."""
    states = source.states(sample)
    fitted = _normalised(target, sample)
    fitted = fitted if target.projection is None else target.projection(fitted)
    return ((fitted - states).square().sum() / (states - states.mean(dim=0)).square().sum()).item()


def _fit_projection(projection: nn.Linear, inputs: torch.Tensor, states: torch.Tensor) -> None:
    """Least squares; a map into states of another width stays as it is."""
    if projection.out_features != states.shape[1]:
        return
    inputs = functional.pad(inputs.double(), (0, 1), value=1.0)
    # Not lstsq on the tokens: some columns depend on each other (a normalised row sums to 0).
    moments = inputs.T @ inputs
    solution = torch.linalg.pinv(moments, rtol=1e-8, hermitian=True) @ (inputs.T @ states.double())
    projection.weight.copy_(solution[:-1].T)
    projection.bias.copy_(solution[-1])


def _normalised(target: MiniAlbertEmbeddings, sample: TokenSample) -> torch.Tensor:
    sums = target.word_embeddings(sample.ids) + target.position_embeddings(sample.positions)
    return target.LayerNorm(sums + target.token_type_embeddings(sample.types))


def _mean_free_basis(width: int) -> torch.Tensor:
    """(width, width - 1) with orthonormal columns that sum to 0: cosines, which spread every direction evenly."""
    places, waves = torch.arange(width, dtype=torch.float64) + 0.5, torch.arange(1, width, dtype=torch.float64)
    return math.sqrt(2 / width) * torch.cos(math.pi / width * places.unsqueeze(1) * waves)


__all__ = ["SourceEmbeddings", "TokenSample", "embedding_error", "fit_embeddings", "sample_tokens"]
