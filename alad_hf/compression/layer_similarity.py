"""How alike two layers' states are: linear CKA over all real tokens, and the pairs of layers to merge by it.

Kornblith et al. 2019 (arXiv 1905.00414), with the unbiased estimator of HSIC by Song et al. 2012: few tokens of many
dimensions look alike to the plain one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from transformers import PreTrainedModel

from ..evaluation_mode import evaluation_mode
from .calibration import CalibrationText, model_inputs
from .layer_lists import find_layers


@dataclass
class LinearCKA:
    """Streaming sums of two sets of states over the same tokens, in float64; any split into batches gives the same.

    Example:
        >>> cka = LinearCKA()
        >>> cka.update(states, other_states)
        >>> cka.value()
    """

    tokens: int = 0
    _sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def update(self, one: torch.Tensor, two: torch.Tensor) -> None:
        """Add tokens.

        Args:
            one: (tokens, width).
            two: (tokens, another width).
        """
        one, two = one.cpu().double(), two.cpu().double()
        self.tokens += len(one)
        sides = {"x": one, "y": two}
        squares = {name: side.square().sum(dim=1) for name, side in sides.items()}
        for a, b in ("xx", "xy", "yy"):
            self._add(f"products {a}{b}", sides[a].T @ sides[b])
            self._add(f"squares {a}{b}", squares[a] @ squares[b])
            self._add(f"weighted {a}{b}", squares[b] @ sides[a])
            self._add(f"weighted {b}{a}", squares[a] @ sides[b], once=a == b)
        for name in sides:
            self._add(f"sum {name}", sides[name].sum(dim=0))
            self._add(f"square {name}", squares[name].sum())

    def _add(self, name: str, value: torch.Tensor, once: bool = False) -> None:
        if not once:
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def value(self, debiased: bool = True) -> float:
        """1 for states that are equal up to rotation, scale and shift.

        Args:
            debiased: Estimate without bias; around 0, and perhaps a little below, for states that have nothing to do
                with each other. The plain estimate is from 0 to 1, and near 1 for fewer tokens than dimensions.

        Raises:
            ValueError: There are fewer than 4 tokens.
        """
        if self.tokens < 4:
            raise ValueError(f"CKA needs 4 tokens or more, got {self.tokens}.")
        estimate = self._unbiased if debiased else self._plain
        spread = estimate("x", "x") * estimate("y", "y")
        return estimate("x", "y") / spread**0.5 if spread > 0 else 0.0

    def _plain(self, a: str, b: str) -> float:
        """Squared norm of the covariance, up to a factor."""
        sums = self._sums
        shift = torch.outer(sums[f"sum {a}"], sums[f"sum {b}"]) / self.tokens
        return (sums[f"products {a}{b}"] - shift).square().sum().item()

    def _unbiased(self, a: str, b: str) -> float:
        """HSIC of the kernels K = A A^T and L = B B^T without their diagonals, up to a factor."""
        sums, n = self._sums, self.tokens
        product, squares = sums[f"products {a}{b}"], sums[f"squares {a}{b}"]
        total_a, total_b = sums[f"sum {a}"], sums[f"sum {b}"]
        # tr(KL), the sums of all entries of K and of L, and 1^T K L 1.
        trace = product.square().sum() - squares
        entries = [total @ total - sums[f"square {name}"] for total, name in ((total_a, a), (total_b, b))]
        between = total_a @ product @ total_b - total_a @ sums[f"weighted {a}{b}"] - total_b @ sums[f"weighted {b}{a}"]
        value = trace + entries[0] * entries[1] / ((n - 1) * (n - 2)) - 2 * (between + squares) / (n - 2)
        return value.item()


@torch.no_grad()
def similar_groups(model: PreTrainedModel, num_groups: int, calibration: CalibrationText) -> list[list[int]]:
    """Merge the most similar neighbours until so many groups of layers are left.

    A group's states are those after its last layer. Merging puts the group with the more similar states below it.

    Args:
        model: An encoder, perhaps with a task head.
        num_groups: From 1 to the number of layers.
        calibration: Text to read.

    Returns:
        Indices of layers: a partition in order.
    """
    encoder = cast(PreTrainedModel, model.base_model)
    depth = encoder.config.num_hidden_layers
    check_depth(num_groups, depth)
    groups = [[index] for index in range(depth)]
    known: dict[tuple[int, int], float] = {}
    while len(groups) > num_groups:
        tops = [group[-1] for group in groups]
        pairs = [pair for pair in zip(tops, tops[1:], strict=False) if pair not in known]
        known |= layer_similarities(encoder, pairs, calibration)
        likeness = [known[pair] for pair in zip(tops, tops[1:], strict=False)]
        best = max(range(len(likeness)), key=likeness.__getitem__)
        groups[best : best + 2] = [groups[best] + groups[best + 1]]
    return groups


@torch.no_grad()
def layer_similarities(
    model: PreTrainedModel, pairs: Sequence[tuple[int, int]], calibration: CalibrationText
) -> dict[tuple[int, int], float]:
    """Debiased linear CKA of the states after two layers, for each pair of layers counted from 0."""
    encoder = cast(PreTrainedModel, model.base_model)
    sums = {pair: LinearCKA() for pair in pairs}
    for states in _real_states(encoder, calibration):
        for (one, two), cka in sums.items():
            cka.update(states[one + 1], states[two + 1])
    return {pair: cka.value() for pair, cka in sums.items()}


@torch.no_grad()
def layer_cosines(model: PreTrainedModel, calibration: CalibrationText) -> list[float]:
    """Mean cosine over real tokens of what enters and what leaves each layer; 1 is a layer that changes nothing."""
    encoder = cast(PreTrainedModel, model.base_model)
    total, tokens = torch.zeros(encoder.config.num_hidden_layers, dtype=torch.float64), 0
    for states in _real_states(encoder, calibration):
        tokens += len(states[0])
        for layer, (before, after) in enumerate(zip(states, states[1:], strict=False)):
            cosines = torch.nn.functional.cosine_similarity(before.cpu().double(), after.cpu().double(), dim=-1)
            total[layer] += cosines.sum()
    return (total / tokens).tolist()


def _real_states(encoder: PreTrainedModel, calibration: CalibrationText) -> Iterator[list[torch.Tensor]]:
    """States (real tokens, width) of the embeddings and after each layer, batch by batch."""
    top: list[torch.Tensor] = []
    last_layer = getattr(*find_layers(encoder))[-1]
    # What encoders with a norm behind the last layer (ModernBERT) return as its states has gone through that.
    watch = last_layer.register_forward_hook(
        lambda _, inputs, output: top.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        for batch in calibration.batches:
            inputs = model_inputs(batch, encoder)
            real = inputs["attention_mask"].bool()
            with evaluation_mode(encoder):
                hidden = encoder(**inputs, output_hidden_states=True).hidden_states
            yield [states[real] for states in (*hidden[:-1], top.pop())]
            top.clear()
    finally:
        watch.remove()


def equal_groups(num_groups: int, depth: int) -> list[list[int]]:
    """Neighbours in groups of like size; where they cannot be equal, upper ones are larger, since they differ less.

    Example:
        >>> equal_groups(4, 6)
        [[0], [1], [2, 3], [4, 5]]
    """
    check_depth(num_groups, depth)
    size, larger = divmod(depth, num_groups)
    sizes = [size] * (num_groups - larger) + [size + 1] * larger
    groups, first = [], 0
    for count in sizes:
        groups.append(list(range(first, first + count)))
        first += count
    return groups


def upper_groups(num_groups: int, depth: int) -> list[list[int]]:
    """The lowest layers by themselves, and all others in one group.

    Example:
        >>> upper_groups(3, 6)
        [[0], [1], [2, 3, 4, 5]]
    """
    check_depth(num_groups, depth)
    return [*([index] for index in range(num_groups - 1)), list(range(num_groups - 1, depth))]


def check_depth(num_groups: int, depth: int) -> None:
    """Raise ValueError unless a model of so many layers can be left with that number."""
    if not 1 <= num_groups <= depth:
        raise ValueError(f"num_hidden_layers (--num-layers) must be from 1 to the model's {depth}, got {num_groups}.")
