"""Alignment in closed form: the linear window map nearest to the teacher's states, without gradient steps.

The squared error of a linear map depends on text only through second moments of the states, from which the regressions
of `least_squares` follow. Here an adapter's features are read from text, and the solution is put into its weights.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from huggingface_hub.utils import tqdm
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.collators import DataCollatorForAlignment
from ..data.token_alignment import TEACHER_COLUMNS
from ..evaluation_mode import evaluation_mode
from ..models.alignment_adapter import (
    AdapterLinear,
    LightAdapter,
    LinearAdapter,
    WindowMLPAdapter,
    context_windows,
)
from ..models.teacher import teacher_signal
from .find_teacher import find_teacher
from .least_squares import (
    AffineMap,
    AlignmentMoments,
    LowRankMap,
    add_over_processes,
    mean_squared_error,
    penalised,
    r_squared,
    reduced_rank,
    ridge,
    running_processes,
    solve,
    symmetric_roots,
)

_SIGNAL_COLUMNS = ("teacher_states", "teacher_mask")


@dataclass(frozen=True)
class ClosedFormFit:
    """What `fit_adapter` did.

    Args:
        tokens: Real tokens that the teacher has a counterpart of.
        passes: Times that the text was read.
        mse_before: Squared error of the adapter before, a mean over tokens and width.
        mse_after: The same of the weights that the adapter has now, rounded to its precision.
        r_squared: Share of the variance of the teacher's states that they explain.
        seconds: Wall time, tokenization included.
    """

    tokens: int
    passes: int
    mse_before: float
    mse_after: float
    r_squared: float
    seconds: float


@torch.no_grad()
def fit_adapter(
    model: PreTrainedModel,
    texts: Iterable[str] | Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    teacher: str | PreTrainedModel | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    regularisation: float = 1e-2,
    metric: torch.Tensor | None = None,
    batch_size: int = 32,
    cache_dir: str | os.PathLike | None = None,
) -> ClosedFormFit:
    """Set the adapter of an AlAd model to the weights of least squared error on unlabelled text.

    "linear" adapters get the exact solution in one pass. "light" ones take two: the first finds the directions D of
    the student's states through which neighbours explain most of what the token itself does not, in pairs (d, -d) as
    GELU(a) - GELU(-a) = a keeps their linear use possible; the second solves for the two linear parts jointly. "mlp"
    ones get the best output layer on the hidden layer that they have. The student, a layer mix and the head are not
    changed. Several processes share the rows and end with the same weights.

    Args:
        model: An AlAd model; it runs where it lies.
        texts: Strings, or a dataset with a column `text`, `tokens` or `input_ids`; with `teacher_states` (see
            `cache_teacher_states`) no teacher is needed.
        tokenizer: The student's tokenizer.
        teacher: By default the attached one, which follows the model to its device. It reads the text beside the
            student, nothing is stored.
        teacher_tokenizer: The teacher's tokenizer; by default that of the attached teacher, or loaded from its name.
        regularisation: Penalty on the weights as a share of the features' mean variance; see `ridge`. The less text
            there is, the larger it should be.
        metric: Only for linear adapters with an `adapter_size`: what their rank is spent on; see `reduced_rank`.
        batch_size: Rows, of similar length, in one forward pass.
        cache_dir: Keep the teacher's states here, as `align` does, which then finds them.

    Raises:
        ValueError: No teacher, one of another width, one beside rows with `teacher_states`, text without tokens, or
            linearly dependent features.
        TypeError: The model is none of this package.
    """
    start = time.perf_counter()
    adapter = getattr(model.base_model, "adapter", None)
    if not isinstance(adapter, (LightAdapter, LinearAdapter, WindowMLPAdapter)):
        raise TypeError(f"fit_adapter takes models with an alignment adapter, got a {type(model).__name__}.")
    limited = isinstance(adapter, LinearAdapter) and model.config.adapter_size is not None
    if metric is not None and not limited:
        raise ValueError(
            "A metric decides what a limited rank is spent on; it needs adapter_type='linear' with an adapter_size, "
            f"got {model.config.adapter_type!r} with {model.config.adapter_size}."
        )
    with evaluation_mode(model):
        text = _Text.prepare(model, texts, tokenizer, teacher, teacher_tokenizer, batch_size, cache_dir)
        if isinstance(adapter, LightAdapter):
            fit = _fit_light(adapter, text, regularisation)
        elif isinstance(adapter, WindowMLPAdapter):
            fit = _fit_output(adapter, text, regularisation)
        else:
            fit = _fit_linear(adapter, text, regularisation, metric)
    return ClosedFormFit(
        tokens=round(fit.moments.weight.item()),
        passes=text.passes,
        mse_before=fit.mse_before,
        mse_after=mean_squared_error(fit.moments, fit.stored),
        r_squared=r_squared(fit.moments, fit.stored),
        seconds=time.perf_counter() - start,
    )


class _Fit(NamedTuple):
    moments: AlignmentMoments
    mse_before: float
    stored: AffineMap | LowRankMap


def _fit_linear(adapter: LinearAdapter, text: _Text, regularisation: float, metric: torch.Tensor | None) -> _Fit:
    moments, mse_before = text.read(lambda states: context_windows(states, adapter.window_size))
    if not isinstance(adapter.down, AdapterLinear):
        return _Fit(moments, mse_before, _store_affine(ridge(moments, regularisation), adapter.linear))
    best = reduced_rank(moments, adapter.down.out_features, regularisation, metric)
    layers = [adapter.down.weight, adapter.linear.weight, adapter.linear.bias]
    stored = LowRankMap(*(_store(parameter, value) for parameter, value in zip(layers, best, strict=True)))
    return _Fit(moments, mse_before, stored)


def _fit_light(adapter: LightAdapter, text: _Text, regularisation: float) -> _Fit:
    moments, _ = text.read(lambda states: context_windows(states, adapter.window_size))
    down = _directions(moments, adapter.window_size, adapter.down.out_features, regularisation)
    down = down.to(adapter.down.weight.dtype).double()  # as the adapter will have it

    def features(states: torch.Tensor) -> torch.Tensor:
        reduced = functional.gelu(states @ down.T)
        return torch.cat([states, context_windows(reduced, adapter.window_size)], dim=-1)

    moments, mse_before = text.read(features)
    stored = _store_affine(ridge(moments, regularisation), adapter.linear, adapter.up)
    _store(adapter.down.weight, down)
    return _Fit(moments, mse_before, stored)


def _fit_output(adapter: WindowMLPAdapter, text: _Text, regularisation: float) -> _Fit:
    weight, bias = (parameter.cpu().double() for parameter in (adapter.hidden.weight, adapter.hidden.bias))

    def features(states: torch.Tensor) -> torch.Tensor:
        return functional.gelu(functional.linear(context_windows(states, adapter.window_size), weight, bias))

    moments, mse_before = text.read(features)
    return _Fit(moments, mse_before, _store_affine(ridge(moments, regularisation), adapter.output))


def _store_affine(best: AffineMap, *layers: AdapterLinear) -> AffineMap:
    """Write a map into layers that read its features side by side, the bias into the first one."""
    parts = best.weight.split([layer.in_features for layer in layers], dim=1)
    stored = [_store(layer.weight, part) for layer, part in zip(layers, parts, strict=True)]
    return AffineMap(torch.cat(stored, dim=1), _store(layers[0].bias, best.bias))


def _store(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Set a parameter; returns it as it is now, rounded to its precision."""
    parameter.copy_(value)
    return parameter.detach().cpu().double()


def _directions(moments: AlignmentMoments, window_size: int, count: int, regularisation: float) -> torch.Tensor:
    """Directions of the student's states for the light form's shared projection D, from the moments of the window.

    B_o being the part of the ridge map that reads the neighbour at offset o, and P what the token itself leaves of a
    neighbour's covariance, the nearest shared low-rank maps U_o D to the B_o in the metric P have the row space of the
    leading right singular vectors V of the stacked B_o P^(1/2): D = V^T P^(-1/2), here scaled to deviation 1 on the
    text. A window of one token has itself for a neighbour. If all d_C directions are in use, they come again at twice
    the scale, where GELU bends otherwise.

    Returns:
        (count, d_C), one of each pair (d, -d) in the first half.
    """
    covariances = moments.covariances()
    size = len(covariances.feature_mean) // window_size
    centre, neighbours = window_size // 2, [offset for offset in range(window_size) if offset != window_size // 2]
    maps = ridge(moments, regularisation).weight.unflatten(1, (window_size, size))
    blocks = covariances.features.unflatten(0, (window_size, size)).unflatten(2, (window_size, size))
    own = blocks[centre, :, centre]
    if neighbours:
        shared = [blocks[centre, :, offset] for offset in neighbours]
        explained = sum(one.T @ solve(own, one, regularisation) for one in shared)
        left = (sum(blocks[offset, :, offset] for offset in neighbours) - explained) / len(neighbours)
    else:
        neighbours, left = [centre], own
    maps = maps[:, neighbours].flatten(0, 1)
    root, inverse_root = symmetric_roots(penalised((left + left.T) / 2, regularisation), size)
    leading = torch.linalg.eigh(root @ (maps.T @ maps) @ root).eigenvectors.flip(-1)
    directions = leading.T @ inverse_root
    # Penalised, as a direction in which the states hardly vary would be blown up to noise.
    directions = (
        directions / (directions @ penalised(own, regularisation) * directions).sum(dim=1, keepdim=True).sqrt()
    )
    order = torch.arange((count + 1) // 2)
    directions = directions[order % size] * 2.0 ** (order // size).unsqueeze(1)
    return torch.cat([directions, -directions])[:count]


class _Text:
    """Rows of text with the states of the student and the teacher, read as often as asked.

    Args:
        model: The student with its adapter.
        rows: Encoded rows.
        tokenizer: The student's.
        teacher: Runs on the rows, unless they have its states.
        batch_size: Rows in a batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        teacher: PreTrainedModel | None,
        batch_size: int,
    ) -> None:
        if not len(rows):
            raise ValueError("There is no text to align on: the texts are an empty list or dataset.")
        names = [
            name
            for name in (*tokenizer.model_input_names, *TEACHER_COLUMNS, *_SIGNAL_COLUMNS)
            if name in rows.column_names
        ]
        self.model: Any = model
        self.teacher: Any = teacher
        self.rows = rows.select_columns(names)
        self.input_names = tokenizer.model_input_names
        self.collator = DataCollatorForAlignment(tokenizer)
        self.batch_size = batch_size
        self.passes = 0

    @classmethod
    def prepare(
        cls,
        model: PreTrainedModel,
        texts: Iterable[str] | Dataset,
        tokenizer: PreTrainedTokenizerBase,
        teacher: str | PreTrainedModel | None,
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        batch_size: int,
        cache_dir: str | os.PathLike | None,
    ) -> _Text:
        """Encode text and find the teacher; arguments as of `fit_adapter`."""
        if isinstance(texts, Dataset) and "teacher_states" in texts.column_names:
            if teacher is not None or cache_dir is not None:
                raise ValueError(
                    "The rows have teacher_states already: leave out teacher and cache_dir, or call "
                    'remove_columns("teacher_states").'
                )
            return cls(model, texts, tokenizer, None, batch_size)
        found = find_teacher(model, teacher, teacher_tokenizer)
        rows = found.encode(texts, model.config, tokenizer)
        if cache_dir is not None:
            rows = found.with_signal(rows, tokenizer, model.config.teacher_layers, cache_dir)
        return cls(model, rows, tokenizer, found.model, batch_size)

    def read(self, features: Callable[[torch.Tensor], torch.Tensor]) -> tuple[AlignmentMoments, float]:
        """Gather moments over all rows and processes.

        Args:
            features: From the states that the adapter reads, (batch, tokens, d_C) in float64 on the CPU, to
                (batch, tokens, features).

        Returns:
            The moments, and the mean squared error of the adapter as it is.
        """
        self.passes += 1
        width = self.model.config.hidden_size
        probe = features(torch.zeros(1, 1, self.model.config.text_config.hidden_size, dtype=torch.float64))
        moments = AlignmentMoments.zeros(probe.shape[-1], width)
        error = torch.zeros((), dtype=torch.float64)
        for batch in self._batches():
            states, aligned = self._student(batch)
            targets, weights = self._teacher(batch)
            if targets.shape[-1] != width:
                raise ValueError(
                    f"The teacher's states are {targets.shape[-1]} wide, the aligned states {width}. Build the model "
                    "for this teacher: from_student_pretrained(..., teacher=...)."
                )
            moments.update(features(states), targets, weights)
            counted = weights > 0
            error += (aligned[counted] - targets[counted]).square().mean(dim=-1).sum()
        moments.add_processes()
        add_over_processes(error)
        return moments, error.item() / max(moments.weight.item(), 1.0)

    def _batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """This process's share of the rows, those of similar length together."""
        state = running_processes()
        plain = self.rows.with_format(None).select_columns("input_ids")
        lengths = [len(ids) for ids in plain["input_ids"]]
        order = sorted((row for row, length in enumerate(lengths) if length), key=lengths.__getitem__)
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        share = batches[state.process_index :: state.num_processes]
        disable = None if state.is_main_process else True  # None: in a pipe or a log
        for batch in tqdm(share, desc="Moments", disable=disable, name="alad_hf.alignment"):
            yield self.collator([self.rows[row] for row in batch])

    def _student(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The states that the adapter reads, and those that it makes of them."""
        base, read = self.model.base_model, []
        inputs = {name: batch[name].to(self.model.device) for name in self.input_names if name in batch}
        hook = base.adapter.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
        try:
            aligned = base(**inputs).last_hidden_state
        finally:
            hook.remove()
        return read[0].cpu().double(), aligned.cpu().double()

    def _teacher(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The states to align to, and the weights of the tokens."""
        states, mask = batch.get("teacher_states"), batch.get("teacher_mask")
        if states is None:
            prefix = "teacher_" if "teacher_alignment" in batch else ""
            inputs = {name: batch.get(prefix + name) for name in ("input_ids", "attention_mask", "token_type_ids")}
            states, _, mask = teacher_signal(
                self.teacher,
                layers=self.model.config.teacher_layers,
                alignment=batch.get("teacher_alignment"),
                **inputs,
            )
        weights = batch["attention_mask"].double()
        if mask is not None:
            weights = weights * mask.cpu()
        return states.cpu().double(), weights
