"""How much heads and neurons matter: the gradient of a mask on each of them (Michel et al. 2019, arXiv 1905.10650)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ..evaluation_mode import evaluation_mode
from .calibration import CalibrationText, model_inputs
from .encoder_layouts import LayerParts, encoder_layers


@dataclass(frozen=True)
class Importance:
    """Scores by layer, in float64; larger matters more."""

    heads: list[torch.Tensor]
    """(heads,) a layer."""
    neurons: list[torch.Tensor]
    """(neurons,) a layer."""

    def normalised(self) -> Importance:
        """Each layer's scores divided by their Euclidean norm, so that layers of other gradient scales compare."""
        return Importance(*([functional.normalize(one, dim=0) for one in part] for part in (self.heads, self.neurons)))


def layer_importance(model: PreTrainedModel, calibration: CalibrationText, *, seed: int = 0) -> Importance:
    """The mean over tokens of |dL/dm| for a mask m = 1 on each head's values and on each neuron's activation.

    L is summed over a row, and |.| taken by row: what shares a batch does not matter. It is the task's own loss for
    labelled rows. Without labels, a task model is asked how sure it is of labels drawn from its own predictions, and
    for an encoder without head L = v . h with a random v for each token's state h, so that the score estimates
    |dh/dm|: to first order the change of the states if the part is taken out. (The squared change itself has no
    gradient where nothing is taken out.)

    Args:
        model: An encoder, or a token classifier or question answerer; nothing of it is changed.
        calibration: Text or labelled rows.
        seed: Of drawn labels and random directions.

    Raises:
        ValueError: Every score is 0, which ranks nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = encoder_layers(model)
    scores = [[torch.zeros(size, dtype=torch.float64) for size in (part.heads, part.neurons)] for part in layers]
    with evaluation_mode(model), torch.enable_grad():
        for batch in calibration.batches:
            with _masked(layers, len(batch["input_ids"])) as masks:
                loss = summed_loss(model, batch, calibration.labelled, generator)
                gradients = torch.autograd.grad(loss, masks)
            for index, gradient in enumerate(gradients):
                scores[index // 2][index % 2] += gradient.abs().sum(dim=0).cpu().double()
    if not any(one.any() for layer in scores for one in layer):
        raise ValueError(
            f"Every head and neuron of this {type(model).__name__} has the importance 0, so that none can be chosen: "
            "the loss of the text does not depend on them, as where the head has one label. Pass labelled text of a "
            "model with several labels, or the encoder alone, model.base_model, which needs no labels."
        )
    tokens = calibration.num_tokens
    return Importance([heads / tokens for heads, _ in scores], [neurons / tokens for _, neurons in scores])


@contextmanager
def _masked(layers: list[LayerParts], rows: int) -> Iterator[list[torch.Tensor]]:
    """Multiply what enters the output projections by masks of 1, one value a row and part; they end with the block."""
    masks, handles = [], []

    def multiply(projection: nn.Linear, parts: int) -> None:
        mask = torch.ones(rows, parts, device=projection.weight.device, dtype=projection.weight.dtype)
        mask.requires_grad_()

        def hook(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            values = arguments[0]
            spread = mask.repeat_interleave(values.shape[-1] // parts, dim=1)
            return (values * spread.unsqueeze(1), *arguments[1:])

        handles.append(projection.register_forward_pre_hook(hook))
        masks.append(mask)

    for layer in layers:
        multiply(layer.attention_output, layer.heads)
        multiply(layer.output, layer.neurons)
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()


def summed_loss(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], labelled: bool, generator: torch.Generator
) -> torch.Tensor:
    """What `layer_importance` says of L, for one batch."""
    outputs = model(**model_inputs(batch, model))
    real = batch["attention_mask"].bool().to(model.device)
    # Pairs of scores and labels; without labels, drawn by the scores' own probabilities.
    if "start_logits" in outputs:
        lowest = torch.finfo(torch.float32).min
        names = {"start_logits": "start_positions", "end_logits": "end_positions"}
        terms = [(outputs[name].float().masked_fill(~real, lowest), batch.get(names[name])) for name in names]
    elif "logits" in outputs:
        logits, labels = outputs.logits.float(), batch.get("labels")
        by_token = logits.dim() == 3
        terms = [(logits[real], None if labels is None else labels[real.cpu()]) if by_token else (logits, labels)]
    else:
        states = outputs.last_hidden_state[real].float()
        # In whole blocks of 16 numbers a row, by which torch draws: then what shares a batch does not matter.
        drawn = torch.randn(len(states), -(-states.shape[1] // 16) * 16, generator=generator)
        return (states * drawn[:, : states.shape[1]].to(states.device)).sum()
    loss = terms[0][0].new_zeros(())
    # Row by row, so that the same rows draw the same labels in whatever batches they come.
    draws = torch.rand(len(terms[0][0]), len(terms), dtype=torch.float64, generator=generator)
    for (scores, labels), numbers in zip(terms, draws.unbind(dim=1), strict=True):
        labels = labels.to(scores.device) if labelled and labels is not None else _drawn(scores, numbers)
        loss = loss + functional.cross_entropy(scores, labels.masked_fill(labels < 0, -100), reduction="sum")
    return loss


def _drawn(scores: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A label for each row of (rows, classes), by a number from 0 to 1 (rows,); padding among the classes is idle."""
    reached = scores.detach().cpu().double().softmax(dim=-1).cumsum(dim=-1)
    # Of the whole sum, which may end a little beside 1.
    return (reached <= numbers.unsqueeze(1) * reached[:, -1:]).sum(dim=-1).to(scores.device)
