"""The parts of the loss, by name, in the logs of the stock Trainer."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..models.modeling_alad import AlAdPreTrainedModel
from .distillation import Distilling
from .distillation_model import DistillationModel


def inner_model(model: nn.Module) -> Any:  # noqa: ANN401 - a model of transformers
    """The model under torch.compile and peft, which take any argument and pass it on."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class LossTermsCallback(TrainerCallback):
    """Log every term of an AlAd model's loss, unweighted, as `task_loss`, `alignment_mse_loss` and so on.

    `loss` in the same line is their sum by the weights of the configuration. Terms are summed over the micro-batches
    of a step and over processes exactly as the loss is, and averaged over the steps since the last log.

    Example:
        >>> LossTermsCallback.add_to(trainer)
    """

    @classmethod
    def add_to(cls, trainer: Trainer) -> None:
        """Put one before the callbacks of a Trainer: those that report, to TensorBoard for one, see the terms then.

        In `Trainer(callbacks=...)` it would come after them.
        """
        trainer.callback_handler.callbacks.insert(0, cls())

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._step_sums: dict[str, torch.Tensor] = {}
        self._micro_batches = 0
        self._last_step = 0
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen to the model's outputs.

        Raises:
            ValueError: Label smoothing is on, and the model learns from a teacher: the Trainer would then replace its
                loss by one of its own.
        """
        model: Any = kwargs["model"]
        inner = inner_model(model)
        if args.label_smoothing_factor and isinstance(inner, (AlAdPreTrainedModel, Distilling, DistillationModel)):
            raise ValueError(
                f"label_smoothing_factor={args.label_smoothing_factor} makes the Trainer compute its own loss, "
                "without the terms of a teacher. Set it to 0."
            )
        self._stop()  # an earlier training with this callback may have ended in an exception
        self._sums, self._step_sums = defaultdict(float), defaultdict(float)
        self._micro_batches = 0
        self._last_step = state.global_step

        def add(module: nn.Module, _: tuple, inputs: dict, outputs: object) -> None:
            terms = outputs.get("loss_terms") if hasattr(outputs, "get") else None
            if not module.training or not terms:
                return
            # The Trainer counts items over a whole step where it can; elsewhere it averages the micro-batches.
            if inputs.get("num_items_in_batch") is None:
                self._micro_batches += 1
            for name, value in terms.items():
                self._step_sums[f"{name}_loss"] += value

        self._hook = model.register_forward_hook(add, with_kwargs=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the sums of one step; the last one of an epoch may have fewer micro-batches than the others."""
        if self._micro_batches:
            share = 1 / (self._micro_batches * args.world_size)
        else:
            share = 1.0 if args.average_tokens_across_devices else 1 / args.world_size
        for name, value in self._step_sums.items():
            self._sums[name] += share * value
        self._step_sums.clear()
        self._micro_batches = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the averages since the last log beside the loss."""
        steps = state.global_step - self._last_step
        if logs is None or "loss" not in logs or not self._sums or steps < 1:
            return
        values = torch.stack([value.float() for value in self._sums.values()])
        if args.world_size > 1:
            torch.distributed.all_reduce(values)
        parts = {name: value.item() / steps for name, value in zip(self._sums, values, strict=True)}
        logs.update(parts)
        state.log_history[-1].update(parts)
        self._sums = defaultdict(float)
        self._last_step = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop listening."""
        self._stop()

    def _stop(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
