"""The alignment adapter F: a context window of student states (T x d_C) to aligned states (T x d_L)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init


def context_windows(states: torch.Tensor, window_size: int) -> torch.Tensor:
    """Concatenate every position with its neighbours, leftmost first; positions outside the tensor are zeros.

    Args:
        states: (batch, tokens, width).
        window_size: Odd number of positions K in one window.

    Returns:
        (batch, tokens, K * width).
    """
    if window_size == 1:
        return states
    radius = window_size // 2
    tokens = states.shape[1]
    padded = functional.pad(states, (0, 0, radius, radius))
    return torch.cat([padded[:, offset : offset + tokens] for offset in range(window_size)], dim=-1)


class AdapterLinear(nn.Linear):
    """A linear layer that knows how it starts: "uniform" is PyTorch's default, "zero", or "identity".

    "identity" passes on the middle one of `positions` equal parts of the input, if it is as wide as the output;
    otherwise the start is uniform.

    The start is a property of this leaf because transformers, for classes outside its own package, calls
    `_init_weights` only on modules that own a parameter directly: an adapter could not initialise its layers.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, start: str = "uniform", positions: int = 1
    ) -> None:
        self.start = start
        self.positions = positions
        super().__init__(in_features, out_features, bias)

    def init_weights(self) -> None:
        """Initialise what was not loaded from a checkpoint; called by the model's `_init_weights`."""
        zero = self.start == "zero"
        identity = self.start == "identity" and self.in_features == self.positions * self.out_features
        bound = 1 / math.sqrt(self.in_features)
        if identity:
            before = self.positions // 2 * self.out_features
            init.copy_(self.weight, functional.pad(torch.eye(self.out_features), (before, before)))
        elif zero:
            init.zeros_(self.weight)
        else:
            init.uniform_(self.weight, -bound, bound)
        if self.bias is not None and (identity or zero):
            init.zeros_(self.bias)
        elif self.bias is not None:
            init.uniform_(self.bias, -bound, bound)


class AlignmentAdapter(nn.Module):
    """Base of the adapter forms; `AlignmentAdapter.from_sizes` picks one (arXiv 2602.14635, section on the adapter).

    A caller multiplies the student's states by the attention mask first: then a sentence's aligned states do not
    depend on the padding that a batch brings along.
    """

    @staticmethod
    def from_sizes(
        adapter_type: str, student_size: int, aligned_size: int, window_size: int, adapter_size: int | None
    ) -> AlignmentAdapter:
        """Build the form called `adapter_type` ("light", "linear" or "mlp") for the given widths."""
        forms = {"light": LightAdapter, "linear": LinearAdapter, "mlp": WindowMLPAdapter}
        if adapter_type not in forms:
            raise ValueError(f"adapter_type must be one of {sorted(forms)}, got {adapter_type!r}.")
        return forms[adapter_type](student_size, aligned_size, window_size, adapter_size)

    def forward(self, student_states: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, d_C) to (batch, tokens, d_L)."""
        raise NotImplementedError


class LinearAdapter(AlignmentAdapter):
    """A linear map of the window, W [x_(t-r); ...; x_(t+r)] + b, with W full or of rank `adapter_size`.

    The only form whose best weights are known in closed form (`alad_hf.alignment.fit_adapter`). A full W starts, where
    the widths agree, as the student itself.
    """

    def __init__(self, student_size: int, aligned_size: int, window_size: int, adapter_size: int | None) -> None:
        super().__init__()
        self.window_size = window_size
        window = window_size * student_size
        if adapter_size is None:
            self.down = nn.Identity()
            self.linear = AdapterLinear(window, aligned_size, start="identity", positions=window_size)
        else:
            self.down = AdapterLinear(window, adapter_size, bias=False)
            self.linear = AdapterLinear(adapter_size, aligned_size)

    def forward(self, student_states: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, d_C) to (batch, tokens, d_L)."""
        return self.linear(self.down(context_windows(student_states, self.window_size)))


class WindowMLPAdapter(AlignmentAdapter):
    """The published form: window -> Linear(K d_C, h) -> GELU -> Linear(h, d_L), without residual, norm or dropout."""

    def __init__(self, student_size: int, aligned_size: int, window_size: int, adapter_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.hidden = AdapterLinear(window_size * student_size, adapter_size)
        self.output = AdapterLinear(adapter_size, aligned_size)

    def forward(self, student_states: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, d_C) to (batch, tokens, d_L)."""
        return self.output(functional.gelu(self.hidden(context_windows(student_states, self.window_size))))


class LightAdapter(AlignmentAdapter):
    """A linear path per token plus a low-rank correction that sees the window: A x_t + U GELU([D x]_(t-r..t+r)).

    The states are projected down before the window is taken, so a wider window costs little. U starts at zero and A,
    where the widths agree, at the identity: the adapter begins as the student itself. The closed form can set A, too.
    """

    def __init__(self, student_size: int, aligned_size: int, window_size: int, adapter_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.linear = AdapterLinear(student_size, aligned_size, start="identity")
        # Without biases a masked position contributes nothing, as if it lay outside the tensor.
        self.down = AdapterLinear(student_size, adapter_size, bias=False)
        self.up = AdapterLinear(window_size * adapter_size, aligned_size, bias=False, start="zero")

    def forward(self, student_states: torch.Tensor) -> torch.Tensor:
        """Map (batch, tokens, d_C) to (batch, tokens, d_L)."""
        reduced = functional.gelu(self.down(student_states))
        return self.linear(student_states) + self.up(context_windows(reduced, self.window_size))


class LayerMix(nn.Module):
    """A learned weighted mean of all hidden states of the student (scalar mix of Peters et al. 2018, with scale 1).

    Args:
        num_states: Number of hidden states, the embeddings included.
    """

    # At first the mix is nearly the last states: the student was made for these to be read.
    LAST_WEIGHT_AT_START = 0.99

    def __init__(self, num_states: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.empty(num_states))
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise what was not loaded from a checkpoint; called by the model's `_init_weights`."""
        logits = torch.zeros(len(self.logits))
        odds = self.LAST_WEIGHT_AT_START / (1 - self.LAST_WEIGHT_AT_START)
        logits[-1] = math.log(odds * max(1, len(logits) - 1))
        init.copy_(self.logits, logits)

    def forward(self, hidden_states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Mix states of shape (batch, tokens, d_C), one for every logit, into one.

        Raises:
            ValueError: There are more or fewer states than logits.
        """
        if len(hidden_states) != len(self.logits):
            raise ValueError(
                f"The student returned {len(hidden_states)} hidden states where {len(self.logits)} were expected, one "
                "for the embeddings and one for every layer of its configuration. Set mix_student_layers=False."
            )
        weights = self.logits.float().softmax(dim=0).to(self.logits.dtype)
        return sum(weight * states for weight, states in zip(weights.unbind(), hidden_states, strict=True))


__all__ = [
    "AdapterLinear",
    "AlignmentAdapter",
    "LayerMix",
    "LightAdapter",
    "LinearAdapter",
    "WindowMLPAdapter",
    "context_windows",
]
