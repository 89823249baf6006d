"""The parts of the loss, by name, in the logs of the stock Trainer."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class LossTermsCallback(TrainerCallback):
    """Log every term of an AlAd model's loss, unweighted, as `task_loss`, `alignment_mse_loss` and so on.

    `loss` in the same line is their sum by the weights of the configuration. The terms are summed over the micro-batches
    of a step and over processes exactly as the loss is, and averaged over the steps since the last log.

    Example:
        >>> trainer = Trainer(model=model, callbacks=[LossTermsCallback()], ...)
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._last_step = 0
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: object
    ) -> None:
        """Listen to the model's outputs.

        Raises:
            ValueError: Label smoothing is on: the Trainer would then replace the model's loss by its own.
        """
        if args.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={args.label_smoothing_factor} makes the Trainer compute its own loss, without "
                "the alignment terms. Set it to 0."
            )
        self._sums = defaultdict(float)
        self._last_step = state.global_step

        def add(module: nn.Module, _: tuple, inputs: dict, outputs: object) -> None:
            terms = outputs.get("loss_terms") if hasattr(outputs, "get") else None
            if not module.training or not terms:
                return
            # The Trainer counts items over a whole step where it can; elsewhere it averages the micro-batches.
            counted = inputs.get("num_items_in_batch") is not None
            share = 1.0 if counted else 1 / (args.gradient_accumulation_steps * args.world_size)
            for name, value in terms.items():
                self._sums[f"{name}_loss"] += share * value

        self._hook = model.register_forward_hook(add, with_kwargs=True)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Write the averages since the last log beside the loss."""
        steps = state.global_step - self._last_step
        if logs is None or "loss" not in logs or not self._sums or steps < 1:
            return
        values = torch.stack([value.float() for value in self._sums.values()])
        if args.world_size > 1:
            torch.distributed.all_reduce(values)
        parts = {name: value.item() / steps for name, value in zip(self._sums, values)}
        logs.update(parts)
        state.log_history[-1].update(parts)
        self._sums = defaultdict(float)
        self._last_step = state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Stop listening."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
