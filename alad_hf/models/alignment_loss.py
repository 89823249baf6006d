"""Terms of the training loss, as weighted sums over tokens; whoever adds them up divides once.

Sums, because a mean over what happens to share a batch changes with padding, gradient accumulation and the number of
processes, and a sum does not. Everything is computed in float32 whatever the inputs' precision.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def squared_error(aligned: torch.Tensor, target: torch.Tensor, token_weights: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of the weighted squared error, a mean over the width (arXiv 2602.14635 up to that factor).

    Args:
        aligned: (batch, tokens, width) states of the adapter.
        target: (batch, tokens, width) states of the teacher.
        token_weights: (batch, tokens); zero where a token carries no loss.

    Returns:
        A scalar.
    """
    per_token = functional.mse_loss(aligned.float(), target.float(), reduction="none").mean(dim=-1)
    return (per_token * token_weights).sum()


def cosine_distance(aligned: torch.Tensor, target: torch.Tensor, token_weights: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of the weighted one minus cosine; arguments as in `squared_error`. A scalar."""
    per_token = 1 - functional.cosine_similarity(aligned.float(), target.float(), dim=-1)
    return (per_token * token_weights).sum()


def distillation_divergence(
    logits: torch.Tensor, teacher_logits: torch.Tensor, weights: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Weighted sum of T^2 KL(teacher || student) over softmax(logits / T) (Hinton et al. 2015, section 2).

    Args:
        logits: (..., classes) of the student.
        teacher_logits: (..., classes) of the teacher; minus infinity rules a class out.
        weights: (...), zero where no loss is taken.
        temperature: T; the factor T^2 keeps the gradient's scale when T changes.

    Returns:
        A scalar.
    """
    student_log = functional.log_softmax(logits.float() / temperature, dim=-1)
    teacher_log = functional.log_softmax(teacher_logits.float() / temperature, dim=-1)
    # A class that the teacher rules out adds nothing; its -inf must not meet the student's.
    gap = torch.where(teacher_log.isneginf(), torch.zeros_like(teacher_log), teacher_log - student_log)
    return temperature**2 * ((teacher_log.exp() * gap).sum(dim=-1) * weights).sum()


__all__ = ["cosine_distance", "distillation_divergence", "squared_error"]
