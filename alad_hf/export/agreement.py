"""How far an exported model is from the one that it was exported from, on random batches of several lengths."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from ..data.token_labels import stated_length
from ..evaluation.efficiency import ordinary_tokens

# Rows and tokens of the batches: single tokens, uneven numbers, and lengths that tracing did not see.
BATCH_SHAPES = ((1, 2), (2, 7), (1, 33), (5, 48), (3, 128), (1, 512))
TRACED_SHAPE = (2, 9)


class Agreement(NamedTuple):
    """Two models' logits of real tokens, compared.

    Attributes:
        difference: Root mean square of the differences, as a share of that of the first model's logits.
        same_decision: Share of decisions that agree: the best label of a token, or the best start or end of a row.
    """

    difference: float
    same_decision: float


def sample_batch(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, names: list[str], shape: tuple[int, int], seed: int
) -> dict[str, torch.Tensor]:
    """Draw token ids, with padding on the tokenizer's side in every row but the first, where the model takes a mask.

    Args:
        config: The model's configuration.
        tokenizer: Its tokenizer, whose ordinary tokens are drawn.
        names: Which inputs are wanted, of `input_ids`, `attention_mask` and `token_type_ids`.
        shape: Rows and tokens.
        seed: Of the draw.

    Returns:
        Tensors (rows, tokens) of int64 by name.
    """
    rows, tokens = shape
    generator = torch.Generator().manual_seed(seed)
    ordinary = ordinary_tokens(tokenizer)
    ids = ordinary[torch.randint(len(ordinary), shape, generator=generator)]
    mask = torch.ones_like(ids)
    for row in range(1, rows if "attention_mask" in names else 0):
        padding = row * (tokens - 1) // rows
        if tokenizer.padding_side == "left":
            mask[row, :padding] = 0
        else:
            mask[row, tokens - padding :] = 0
    pad = tokenizer.pad_token_id or 0
    # A question answerer's second text; models of one type, such as RoBERTa, know 0 alone.
    types = torch.zeros_like(ids)
    if getattr(config.get_text_config(), "type_vocab_size", 1) > 1:
        types[:, tokens // 2 :] = 1
    inputs = {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask, "token_type_ids": types * mask}
    return {name: inputs[name] for name in names}


@torch.inference_mode()
def compare_models(
    reference: nn.Module,
    exported: nn.Module,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    names: list[str],
) -> Agreement:
    """Run two models on the same random batches; lengths are cut to what the model takes.

    Args:
        reference: A token classifier or question answerer.
        exported: What should give the same logits.
        config: The reference's configuration.
        tokenizer: Its tokenizer.
        names: The inputs that both take.

    Returns:
        How far they agree; `difference` is NaN if a logit is.
    """
    longest = stated_length(config, tokenizer) or max(tokens for _, tokens in BATCH_SHAPES)
    squared_difference = squared_logits = same = decisions = 0.0
    for seed, (rows, tokens) in enumerate(BATCH_SHAPES):
        inputs = sample_batch(config, tokenizer, names, (rows, min(tokens, longest)), seed)
        real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])) > 0
        outputs = [model(**inputs) for model in (reference, exported)]
        expected, given = (all_logits(output) for output in outputs)
        squared_logits += expected[real].double().square().sum().item()
        squared_difference += (given - expected)[real].double().square().sum().item()
        agreeing = torch.eq(*(_decisions(output, real) for output in outputs))
        same += agreeing.sum().item()
        decisions += agreeing.numel()
    difference = (squared_difference / max(squared_logits, torch.finfo(torch.float64).tiny)) ** 0.5
    return Agreement(difference, same / decisions)


def all_logits(output: ModelOutput) -> torch.Tensor:
    """Logits (rows, tokens, labels) of a token classifier, or (rows, tokens, 2) of a question answerer."""
    if "start_logits" in output:
        return torch.stack([output["start_logits"], output["end_logits"]], dim=-1)
    return output["logits"]


def _decisions(output: ModelOutput, real: torch.Tensor) -> torch.Tensor:
    if "start_logits" in output:
        return all_logits(output).masked_fill(~real.unsqueeze(-1), -torch.inf).argmax(dim=1)
    return all_logits(output).argmax(dim=-1)[real]


__all__ = ["TRACED_SHAPE", "Agreement", "all_logits", "compare_models", "sample_batch"]
