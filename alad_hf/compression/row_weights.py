"""How much each row of a token embedding counts: tokens of real text are few, and a table's rows are many."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import PreTrainedTokenizerBase

from .low_rank import truncated_svd

_AT_ONCE = 1000
_ORDER_OFFSET = 1000
_RANK_OF_LIKENESS = 32


def order_weights(num_embeddings: int) -> torch.Tensor:
    """Weights (num_embeddings,) by place in the vocabulary, 1 / (place + 1000), with a mean of 1.

    Vocabularies of WordPiece, BPE and unigram models are in the order of frequency, more or less, so that the place
    says without any text which tokens are common. The offset keeps the special and unused tokens at the front of
    BERT's vocabulary from counting for all.
    """
    weights = 1 / (torch.arange(num_embeddings) + _ORDER_OFFSET)
    return weights / weights.mean()


def rows_to_keep(table: torch.Tensor, count: int, row_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Which rows (rows,) bool, `count` of them, a compressed table should keep by themselves.

    Those of the largest weights. Without weights those that are least like the others, which codes serve worst:
    common tokens, signs and special tokens are among them. Measured is the share of a row's square that the best
    table of rank 32 leaves (of half the width, where that is less); its square counts by `order_weights`.

    Args:
        table: (rows, columns).
        count: Fewer than there are rows.
        row_weights: (rows,) non-negative, such as `token_weights`.
    """
    importance = row_weights
    if importance is None:
        weights = order_weights(len(table))
        alike = truncated_svd(table, min(_RANK_OF_LIKENESS, table.shape[1] // 2), row_weights=weights).dense()
        left = (table - alike).square().sum(dim=1) / table.square().sum(dim=1).clamp(min=1e-12)
        importance = weights * left.square()
    kept = torch.zeros(len(table), dtype=torch.bool)
    kept[importance.topk(count).indices] = True
    return kept


def token_weights(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, num_embeddings: int, *, power: float = 0.5
) -> torch.Tensor:
    """Weights (num_embeddings,) that grow with how often a token occurs: (count + 1) ** power, with a mean of 1.

    Args:
        texts: Any text of the kind that the model will read, without labels; some thousand lines do.
        tokenizer: The model's.
        num_embeddings: Rows of its table.
        power: 0 weights all rows alike, 1 by count alone, which gives up on rare tokens.

    Raises:
        ValueError: There is no text, or a token has no row.
    """
    counts = torch.zeros(num_embeddings)
    lines = [text for text in texts if text.strip()]
    if not lines:
        raise ValueError("token_weights needs text, such as a few thousand lines of what the model will read.")
    for begin in range(0, len(lines), _AT_ONCE):
        ids = torch.tensor([token for row in tokenizer(lines[begin : begin + _AT_ONCE])["input_ids"] for token in row])
        if ids.max() >= num_embeddings:
            raise ValueError(
                f"The tokenizer gives token {int(ids.max())}, the table has {num_embeddings} rows: it is another "
                "model's."
            )
        counts += torch.bincount(ids, minlength=num_embeddings)
    weights = (counts + 1) ** power
    return weights / weights.mean()
