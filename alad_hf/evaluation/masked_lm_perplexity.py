"""Perplexity of a masked language model, also with another input embedding: what compressing a table costs at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation_mode import evaluation_mode

_IGNORED = -100


@torch.no_grad()
def masked_lm_perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    input_table: torch.Tensor | None = None,
    tied: bool = False,
    share: float = 0.15,
    whole_words: bool = True,
    shortest: int = 1,
    max_length: int = 512,
    batch_size: int = 16,
    seed: int = 0,
) -> float:
    """Exponential of the mean cross-entropy of hidden tokens; the same seed hides the same tokens whatever the table.

    Of the tokens that are hidden, 80 % become the mask, 10 % a random token and 10 % stay, as in BERT's training.

    Args:
        model: With a head for masked-language modelling; it is left as it was.
        tokenizer: A fast one with a mask token.
        texts: One text a row; what is longer than `max_length` is cut.
        input_table: (vocabulary, width) in place of the model's own input embedding, such as
            `compressed.get_input_embeddings().dense()`. None: the model's own.
        tied: Whether `input_table` also takes the place of the output softmax's matrix, which most models share with
            the input. False leaves the softmax as it was, as in arXiv 2106.08181; True is the harder number.
        share: Of a text's tokens that are hidden, at least one.
        whole_words: Hide all tokens of a word or none.
        shortest: Texts of fewer tokens, without special ones, are left out.
        max_length: In tokens, with special ones.
        batch_size: Texts a forward.
        seed: Of what is hidden.

    Raises:
        ValueError: There is no text, no mask token, or the table or share does not fit.
    """
    if tokenizer.mask_token_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no mask token: its model was not trained to fill masks.")
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}.")
    generator = torch.Generator().manual_seed(seed)
    rows = [
        hidden
        for text in texts
        if (hidden := _hide(text, tokenizer, share, whole_words, shortest, max_length, generator)) is not None
    ]
    if not rows:
        raise ValueError(f"There is no text of {shortest} tokens or more.")
    total, count = 0.0, 0
    with evaluation_mode(model), _with_table(model, input_table, tied):
        for begin in range(0, len(rows), batch_size):
            batch = _padded(rows[begin : begin + batch_size], tokenizer.pad_token_id or 0)
            labels = batch.pop("labels").to(model.device)
            logits = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits
            total += functional.cross_entropy(
                logits.float().transpose(1, 2), labels, ignore_index=_IGNORED, reduction="sum"
            ).item()
            count += int((labels != _IGNORED).sum())
    return torch.tensor(total / count, dtype=torch.float64).exp().item()


def _hide(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    share: float,
    whole_words: bool,
    shortest: int,
    max_length: int,
    generator: torch.Generator,
) -> dict[str, list[int]] | None:
    encoding = tokenizer(text, truncation=True, max_length=max_length)
    ids, words = list(encoding["input_ids"]), encoding.word_ids()
    places = [place for place, word in enumerate(words) if word is not None]
    if len(places) < max(shortest, 1):
        return None
    groups: dict[int, list[int]] = {}
    for place in places:
        groups.setdefault(words[place] if whole_words else place, []).append(place)
    wanted, labels, hidden = max(1, round(share * len(places))), [_IGNORED] * len(ids), 0
    order = list(groups.values())
    for index in torch.randperm(len(order), generator=generator).tolist():
        if hidden >= wanted:
            break
        for place in order[index]:
            labels[place] = ids[place]
            hidden += 1
            draw = torch.rand((), generator=generator).item()
            if draw < 0.8:
                ids[place] = tokenizer.mask_token_id
            elif draw < 0.9:
                ids[place] = int(torch.randint(len(tokenizer), (), generator=generator))
    return {"input_ids": ids, "labels": labels}


def _padded(rows: list[dict[str, list[int]]], padding: int) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)

    def stacked(name: str, filler: int) -> torch.Tensor:
        return torch.tensor([row[name] + [filler] * (width - len(row[name])) for row in rows])

    real = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": stacked("input_ids", padding),
        "attention_mask": torch.tensor(real),
        "labels": stacked("labels", _IGNORED),
    }


@contextmanager
def _with_table(model: PreTrainedModel, table: torch.Tensor | None, tied: bool) -> Iterator[None]:
    """Let the model look tokens up in another table, and score them with it if tied."""
    if table is None:
        yield
        return
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    own = embedding.get_parameter("weight")
    if table.shape != own.shape:
        raise ValueError(f"input_table is {tuple(table.shape)}, the model's own {tuple(own.shape)}.")
    if tied and (output is None or output.weight.shape != table.shape):
        raise ValueError(f"The softmax of {type(model).__name__} has no matrix of this shape; take tied=False.")
    table = table.to(own)

    def look_up(module: torch.nn.Module, arguments: tuple, vectors: torch.Tensor) -> torch.Tensor:
        return functional.embedding(arguments[0], table)

    def score(module: torch.nn.Module, arguments: tuple, logits: torch.Tensor) -> torch.Tensor:
        return functional.linear(arguments[0], table, getattr(module, "bias", None))

    handles = [embedding.register_forward_hook(look_up)]
    if tied:
        handles.append(output.register_forward_hook(score))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["masked_lm_perplexity"]
