"""Bits in bytes and back."""

from __future__ import annotations

import torch
from torch import nn


def pack_bits(bits: torch.Tensor) -> torch.Tensor:
    """Pack bits (rows, bits), 0 or 1, into bytes (rows, ceil(bits / 8)) uint8, the first bit highest."""
    padded = nn.functional.pad(bits.to(torch.uint8), (0, -bits.shape[1] % 8))
    return (padded.unflatten(1, (-1, 8)) << _shifts(bits.device)).sum(dim=2, dtype=torch.uint8)


def unpack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack bytes (rows, ceil(bits / 8)) into bits (rows, bits) uint8; undoes `pack_bits`."""
    return ((codes.unsqueeze(2) >> _shifts(codes.device)) & 1).flatten(1)[:, :bits]


def _shifts(device: torch.device) -> torch.Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=device)


__all__ = ["pack_bits", "unpack_bits"]
