"""A student encoder beside its teacher, as one model for the stock Trainer (MiniALBERT, arXiv 2210.06425)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ..models.alignment_loss import cosine_distance, distillation_divergence
from ..models.configuration_minialbert import MiniAlbertConfig
from ..models.task_losses import IGNORED
from ..models.teacher import accepted_arguments

logger = logging.getLogger(__name__)

PROJECTION_FILE = "distillation_projection.safetensors"
"""Beside a checkpoint's weights where widths differ: what resuming needs and the student does not."""
_SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class DistillationWeights:
    """Weights of the four terms of the loss, by default the published ones; 0 leaves a term out."""

    mlm: float = 1.0
    """Cross entropy of the masked tokens."""
    attention: float = 3.0
    """KL(teacher || student) of the attention probabilities, a mean over heads, a sum over the student's layers."""
    hidden: float = 3.0
    """One minus the cosine of hidden states, a sum over the student's layers."""
    output: float = 5.0
    """KL(teacher || student) of the predictions of masked tokens."""

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0 or not any(vars(self).values()):
            raise ValueError(f"Weights of the loss must not be negative, nor all of them 0, got {self}.")


@dataclass
class DistillationOutput(ModelOutput):
    """The loss, and its unweighted parts by name."""

    loss: torch.Tensor | None = None
    loss_terms: dict[str, torch.Tensor] | None = None


class DistillationModel(PreTrainedModel):
    """A student and a teacher that read the same tokens; the output is the loss.

    The teacher is in eval mode, without gradient, and no part of this model: neither its parameters nor its weights on
    disk. Saving and loading are the student's, so that every checkpoint of a Trainer is one of the student. Where
    widths differ, the student's hidden states are compared through a learned linear map, which is stored for resuming
    only.

    Every term is a sum over real tokens divided once by their number (`num_items_in_batch` of the Trainer). Masked
    tokens of a row stand for all of it: they weigh as much as the row has tokens, which in rows of one length is their
    mean. So neither padding nor gradient accumulation nor the number of processes changes the loss.

    Both models compute attention eagerly from the first call on, since other kernels give no probabilities; `release`
    undoes it.

    Args:
        student: A masked-language model, or a bare encoder if the weights of `mlm` and `output` are 0.
        teacher: A masked-language model. Of any other, the weight of `output` becomes 0, with a warning.
        weights: Of the terms.
        layer_map: For each of the student's layers, the teacher's layer that it learns from, counted from 0. By
            default as many evenly spaced ones as the student has, the last one among them.

    Raises:
        ValueError: Depths, heads, vocabularies or the map do not fit, the student has no vocabulary head, or its
            attention has dropout that its probabilities do not show.
    """

    accepts_loss_kwargs = True  # the Trainer counts the items
    supports_gradient_checkpointing = True
    # The wrapper has no attention of its own: the student decides, and refuses what it cannot do.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        *,
        weights: DistillationWeights | None = None,
        layer_map: Sequence[int] | None = None,
    ) -> None:
        super().__init__(student.config)
        self.student = student
        # In a tuple, past nn.Module: a teacher is needed now and never afterwards.
        self.__dict__["_teacher"] = (teacher,)
        self.weights = _check_heads(student, teacher, weights or DistillationWeights())
        self.layer_map = _check_layers(student, teacher, layer_map)
        self.projection: nn.Linear | None = None
        if self.weights.hidden and _width(student) != _width(teacher):
            self.projection = nn.Linear(_width(student), _width(teacher), device=student.device)
        self._attention = [(model, model.config._attn_implementation) for model in (student, teacher)]
        if self.weights.attention:
            _check_attention(student, teacher, self.layer_map)

    @property
    def teacher(self) -> PreTrainedModel:
        """The teacher, which is no submodule."""
        return self.__dict__["_teacher"][0]

    def get_input_embeddings(self) -> nn.Module:
        """The student's token embeddings, to which the Trainer adds noise (`neftune_noise_alpha`)."""
        return self.student.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the student's token embeddings."""
        self.student.set_input_embeddings(value)

    def _attend_eagerly(self) -> None:
        for model in (self.student, self.teacher):
            if self.weights.attention and model.config._attn_implementation != "eager":
                model.set_attn_implementation("eager")

    def release(self) -> None:
        """Give student and teacher their attention kernels back."""
        for model, implementation in self._attention:
            if model.config._attn_implementation != implementation:
                model.set_attn_implementation(implementation)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> DistillationOutput:
        """Compute the loss.

        Args:
            input_ids: (batch, tokens), some of them masked.
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); left out for models without token types.
            labels: (batch, tokens), ids of hidden tokens, -1 for other real tokens, -100 for padding and nothing else.
                Needed for the terms `mlm` and `output`.
            num_items_in_batch: Real tokens of the whole step, as the Trainer counts them; by default of this batch.

        Raises:
            ValueError: Labels are missing, or -100 stands for something else than padding.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        real = attention_mask.float()
        hidden_tokens = _hidden_tokens(labels, attention_mask, self.weights)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        self._attend_eagerly()
        outputs = self._run(self.student, hidden_tokens, inputs)
        if self.teacher.device != input_ids.device:
            self.teacher.to(input_ids.device)
        self.teacher.eval()
        with torch.no_grad():
            targets = self._run(self.teacher, hidden_tokens if self.weights.output else None, inputs)

        sums: dict[str, torch.Tensor] = {}
        if labels is not None and hidden_tokens is not None:
            share = real.sum(dim=1) / hidden_tokens.sum(dim=1).clamp(min=1)
            token_weights = share.unsqueeze(1).expand_as(real)[hidden_tokens]
            logits = outputs.logits[0].float()
            if self.weights.mlm:
                errors = functional.cross_entropy(logits, labels[hidden_tokens], reduction="none")
                sums["mlm"] = (errors * token_weights).sum()
            if self.weights.output:
                sums["output"] = distillation_divergence(logits, targets.logits[0], token_weights)
        if self.weights.attention:
            pairs = [
                (own, targets.attentions[layer]) for own, layer in zip(outputs.attentions, self.layer_map, strict=True)
            ]
            sums["attention"] = torch.stack([attention_divergence(own, target, real) for own, target in pairs]).sum()
        if self.weights.hidden:
            own_states = map(self._projected, outputs.hidden_states[1:])
            pairs = [
                (own, targets.hidden_states[layer + 1]) for own, layer in zip(own_states, self.layer_map, strict=True)
            ]
            sums["hidden"] = torch.stack([cosine_distance(own, target, real) for own, target in pairs]).sum()
        items = real.sum() if num_items_in_batch is None else num_items_in_batch
        terms = {name: value / items for name, value in sums.items()}
        loss = sum(getattr(self.weights, name) * value for name, value in terms.items())
        return DistillationOutput(loss=loss, loss_terms={name: value.detach() for name, value in terms.items()})

    def _run(
        self, model: PreTrainedModel, hidden_tokens: torch.Tensor | None, inputs: dict[str, torch.Tensor | None]
    ) -> ModelOutput:
        """States of all layers; logits of shape (1, hidden tokens, vocabulary), only where they are wanted."""
        wants = {"output_hidden_states": True, "output_attentions": bool(self.weights.attention), "return_dict": True}
        if hidden_tokens is None:
            model = model.base_model
        accepted = accepted_arguments(model)
        given = {name: value for name, value in inputs.items() if value is not None and name in accepted}
        if hidden_tokens is None:
            return model(**given, **wants)
        with _head_reads_only(model, hidden_tokens):
            return model(**given, **wants)

    def _projected(self, states: torch.Tensor) -> torch.Tensor:
        if self.projection is None:
            return states
        return self.projection(states.to(self.projection.weight.dtype))  # learned in float32, whatever the student is

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The student's weights."""
        return self.student.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load the student's weights."""
        return self.student.load_state_dict(*args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save the student; the map between widths, if there is one, into a file that only `load_projection` reads."""
        self.student.save_pretrained(save_directory, *args, **kwargs)
        if self.projection is not None and kwargs.get("is_main_process", True):
            save_file(self.projection.state_dict(), Path(save_directory) / PROJECTION_FILE)

    def load_projection(self, checkpoint: str | os.PathLike) -> None:
        """Load what `save_pretrained` stored of the map between widths, where there is one."""
        if self.projection is not None:
            self.projection.load_state_dict(load_file(Path(checkpoint) / PROJECTION_FILE))


def attention_divergence(student: torch.Tensor, teacher: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Sum over real queries of KL(teacher || student) of their attention, a mean over heads.

    A divergence sums over keys. The published one takes the mean over them too, which makes it smaller by the padded
    length of a batch, whatever that happens to be.

    Args:
        student: (batch, heads, tokens, tokens) probabilities, before dropout.
        teacher: Likewise.
        real: (batch, tokens), 1 for real tokens.

    Returns:
        A scalar, computed in float32.
    """
    student, teacher = student.float(), teacher.float()
    gap = (teacher + _SMALLEST_PROBABILITY).log() - (student + _SMALLEST_PROBABILITY).log()
    per_query = (teacher * gap).sum(dim=-1).mean(dim=1)
    return (per_query * real).sum()


def even_layer_map(student_layers: int, teacher_layers: int) -> list[int]:
    """Evenly spaced teacher layers, counted from 0, the last one among them: 1, 3, ..., 11 for 6 of 12.

    Raises:
        ValueError: The teacher has fewer layers than the student.
    """
    if teacher_layers < student_layers:
        raise ValueError(
            f"The teacher has {teacher_layers} layers, fewer than the student's {student_layers}, so that not every "
            f"one has its own. Build the student with num_hidden_layers={teacher_layers} or fewer (alad-hf compress "
            "--num-layers), or name a teacher layer for each of the student's: layer_map=[...]."
        )
    return [(step + 1) * teacher_layers // student_layers - 1 for step in range(student_layers)]


def _width(model: PreTrainedModel) -> int:
    return model.config.hidden_size


def _check_layers(student: PreTrainedModel, teacher: PreTrainedModel, layer_map: Sequence[int] | None) -> list[int]:
    steps, layers = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    if layer_map is None:
        return even_layer_map(steps, layers)
    if len(layer_map) != steps or not all(0 <= layer < layers for layer in layer_map):
        raise ValueError(
            f"layer_map must name {steps} teacher layers, one for each of the student's, from 0 to {layers - 1}, got "
            f"{list(layer_map)}."
        )
    return list(layer_map)


def _check_heads(
    student: PreTrainedModel, teacher: PreTrainedModel, weights: DistillationWeights
) -> DistillationWeights:
    """The weights, that of the output term 0 where the teacher does not predict tokens."""
    if weights.output and teacher.get_output_embeddings() is None:
        logger.warning(
            "%s has no trained masked-language-modelling head, so it predicts no tokens: the output term of the "
            "distillation (weight %g) is off. Attention, hidden states and masked tokens remain.",
            teacher.name_or_path or type(teacher).__name__,
            weights.output,
        )
        weights = replace(weights, output=0.0)
    if (weights.mlm or weights.output) and student.get_output_embeddings() is None:
        raise ValueError(
            f"A {type(student).__name__} predicts no tokens. Take a ...ForMaskedLM as the student, or leave these "
            "terms out: weights=DistillationWeights(mlm=0, output=0)."
        )
    if weights.output and student.config.vocab_size != teacher.config.vocab_size:
        raise ValueError(
            f"The student predicts {student.config.vocab_size} tokens, the teacher {teacher.config.vocab_size}. They "
            "must have one vocabulary; or leave the output term out: weights=DistillationWeights(output=0)."
        )
    return weights


def _check_attention(student: PreTrainedModel, teacher: PreTrainedModel, layer_map: list[int]) -> None:
    heads, every_head = _heads(student.config), _heads(teacher.config)
    teacher_heads = [every_head[layer] for layer in layer_map]
    if heads != teacher_heads:
        raise ValueError(
            f"The student's layers have {heads} attention heads, the teacher's {teacher_heads}; attention is compared "
            "head by head. Build the student with as many heads as the teacher has, or leave the term out: "
            "weights=DistillationWeights(attention=0)."
        )
    config = student.config
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        # MiniALBERT returns probabilities before dropout, the encoders of transformers return them after it.
        if config.model_type != MiniAlbertConfig.model_type and getattr(config, name, 0):
            raise ValueError(
                f"In training, a {type(student).__name__} gives attention probabilities after dropout "
                f"({name}={getattr(config, name)}), which do not sum to 1. Load the student with "
                f"from_pretrained(..., {name}=0), or say so in its config.json."
            )


def _hidden_tokens(
    labels: torch.Tensor | None, attention_mask: torch.Tensor, weights: DistillationWeights
) -> torch.Tensor | None:
    """Where tokens are to be predicted, a bool (batch, tokens); None if no term asks for it."""
    if labels is not None and not torch.equal(labels == IGNORED, attention_mask == 0):
        raise ValueError(
            "labels must be -100 for padding and nothing else, since the Trainer divides the loss by the number of "
            "the others: -1 for real tokens that are not hidden. MaskedTextStream and DataCollatorForAlignment do so."
        )
    if not (weights.mlm or weights.output):
        return None
    if labels is None:
        raise ValueError(
            "The terms mlm and output need labels: the ids of the hidden tokens, -1 for other tokens, -100 for "
            "padding. Take rows from MaskedTextStream, or leave the terms out: DistillationWeights(mlm=0, output=0)."
        )
    return labels >= 0


def _heads(config: PreTrainedConfig) -> list[int]:
    """Attention heads, layer by layer."""
    widths = getattr(config, "layer_widths", None)  # of a compressed encoder
    if widths is not None:
        return [width["heads"] for width in widths]
    return [config.num_attention_heads] * config.num_hidden_layers


@contextmanager
def _head_reads_only(model: PreTrainedModel, chosen: torch.Tensor) -> Iterator[None]:
    """Let a vocabulary head see the tokens `chosen` (batch, tokens) alone: it works token by token, and is costly."""

    def choose(module: nn.Module, arguments: tuple, output: ModelOutput) -> ModelOutput:
        output.last_hidden_state = output.last_hidden_state[chosen].unsqueeze(0)
        return output

    handle = model.base_model.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()


__all__ = [
    "PROJECTION_FILE",
    "DistillationModel",
    "DistillationOutput",
    "DistillationWeights",
    "attention_divergence",
    "even_layer_map",
]
