"""Terms of the training loss, as weighted sums over tokens; whoever adds them up divides once.

Sums, because a mean over what happens to share a batch changes with padding, gradient accumulation and the number of
processes, and a sum does not. Everything is computed in float32 whatever the inputs' precision.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from .task_losses import candidates, span_sum, token_sum


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


def tagging_sums(
    logits: torch.Tensor,
    labels: torch.Tensor | None,
    teacher_logits: torch.Tensor | None,
    token_weights: torch.Tensor,
    temperature: float = 1.0,
) -> dict[str, torch.Tensor]:
    """What a tagger's head has to learn of the labels ("task") and of a teacher ("distillation").

    Args:
        logits: (batch, tokens, labels).
        labels: (batch, tokens), negative where there is no task loss; None for no such term.
        teacher_logits: (batch, tokens, labels); None for no such term.
        token_weights: (batch, tokens), of the tokens of which the teacher speaks; zero for the others.
        temperature: Of the distillation.

    Returns:
        Scalars by name.
    """
    sums = {}
    if labels is not None:
        sums["task"] = token_sum(logits, labels)
    if teacher_logits is not None:
        sums["distillation"] = distillation_divergence(logits, teacher_logits, token_weights, temperature)
    return sums


def answering_sums(
    logits: torch.Tensor,
    positions: tuple[torch.Tensor, torch.Tensor] | None,
    teacher_logits: torch.Tensor | None,
    real: torch.Tensor,
    token_weights: torch.Tensor,
    temperature: float = 1.0,
) -> dict[str, torch.Tensor]:
    """What a question answerer's head has to learn of the answers ("task") and of a teacher ("distillation").

    Start and end share an example's unit of weight. Padding is no candidate for an answer.

    Args:
        logits: (batch, tokens, 2), start and end logits.
        positions: Start and end of the answer, (batch,) each; negative or not a real token is ignored. None for no
            such term.
        teacher_logits: (batch, tokens, 2); None for no such term.
        real: (batch, tokens), 0 for padding.
        token_weights: (batch, tokens), zero where the teacher says nothing of a token.
        temperature: Of the distillation.

    Returns:
        Scalars by name.
    """
    scores = candidates(logits, real)
    sums = {}
    if positions is not None:
        sums["task"] = span_sum(logits, *positions, real)
    if teacher_logits is not None:
        ruled_out = (token_weights == 0).unsqueeze(-1)
        teacher_scores = teacher_logits.float().masked_fill(ruled_out, -torch.inf)
        # An example of which the teacher says nothing agrees with the model: no divergence, no gradient.
        silent = teacher_scores.isneginf().all(dim=1, keepdim=True)
        sums["distillation"] = distillation_divergence(
            scores.transpose(1, 2),
            torch.where(silent, scores.detach(), teacher_scores).transpose(1, 2),
            logits.new_full((logits.shape[0], 2), 0.5, dtype=torch.float32),
            temperature,
        )
    return sums


def shared_by_tokens(token_weights: torch.Tensor) -> torch.Tensor:
    """Weights of which the tokens of one example share a unit; (batch, tokens) as given."""
    return token_weights / token_weights.sum(dim=1, keepdim=True).clamp(min=1)


__all__ = [
    "answering_sums",
    "cosine_distance",
    "distillation_divergence",
    "shared_by_tokens",
    "squared_error",
    "tagging_sums",
]
