"""Rows of different lengths laid end to end, so that batches are cut out of them without a loop over rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch


@dataclass(frozen=True)
class RaggedRows:
    """A column of lists.

    Args:
        values: (items of all rows, ...), row by row.
        lengths: (rows,), the items of each row.
    """

    values: np.ndarray
    lengths: np.ndarray

    @classmethod
    def from_ids(cls, column: pa.ChunkedArray) -> RaggedRows:
        """A column of lists of integers."""
        return cls(pc.list_flatten(column).to_numpy().astype(np.int64), list_lengths(column))

    @classmethod
    def from_triples(cls, column: pa.ChunkedArray) -> RaggedRows:
        """A column of lists of three numbers each; values are (triples of all rows, 3), float32."""
        values = pc.list_flatten(pc.list_flatten(column)).to_numpy()
        return cls(values.astype(np.float32).reshape(-1, 3), list_lengths(column))

    @cached_property
    def starts(self) -> np.ndarray:
        """(rows,), the index of each row's first item."""
        return np.cumsum(self.lengths) - self.lengths

    def indices(self, rows: np.ndarray) -> np.ndarray:
        """Indices into `values` of all items of some rows, row by row."""
        lengths = self.lengths[rows]
        return np.repeat(self.starts[rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())

    def mask(self, rows: np.ndarray) -> torch.Tensor:
        """(rows, longest), True where the padded rows have items."""
        lengths = self.lengths[rows]
        return torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])

    def padded(self, rows: np.ndarray) -> torch.Tensor:
        """(rows, longest), zeros behind the shorter ones."""
        mask = self.mask(rows)
        padded = torch.zeros(mask.shape, dtype=torch.long)
        padded[mask] = torch.from_numpy(self.values[self.indices(rows)])
        return padded

    def dense(self, rows: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
        """(rows, *shape), the third number of each triple at the place that the first two name, else zero."""
        triples = self.values[self.indices(rows)]
        places = triples[:, :2].astype(np.int64).T
        dense = np.zeros((len(rows), *shape), np.float32)
        dense[np.repeat(np.arange(len(rows)), self.lengths[rows]), places[0], places[1]] = triples[:, 2]
        return torch.from_numpy(dense)


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """(rows,), the items of each row of a column of lists."""
    return pc.list_value_length(column).to_numpy().astype(np.int64)
