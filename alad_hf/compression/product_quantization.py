"""Product quantization (Jegou et al. 2011): k-means on parts of the rows, one byte a part; and a learned rotation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

MAX_CENTROIDS = 256
_DISTANCES_AT_ONCE = 2**19
"""Two megabytes, which caches hold: written to memory and read again they take twice as long."""


@dataclass(frozen=True)
class ProductCodes:
    """Row = (concatenation of one centroid a part) @ rotation."""

    codes: torch.Tensor
    """(rows, parts) uint8"""
    codebooks: torch.Tensor
    """(parts, centroids, columns / parts)"""
    rotation: torch.Tensor | None = None
    """(columns, columns), orthogonal; None: the identity."""

    def dense(self) -> torch.Tensor:
        """The table (rows, columns) that they stand for."""
        parts = [codebook[code.long()] for codebook, code in zip(self.codebooks, self.codes.T, strict=True)]
        table = torch.cat(parts, dim=1)
        return table if self.rotation is None else table @ self.rotation


def quantize_parts(
    matrix: torch.Tensor,
    parts: int,
    *,
    centroids: int = MAX_CENTROIDS,
    iterations: int = 20,
    rotations: int = 0,
    row_weights: torch.Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ProductCodes:
    """Cut rows into parts of equal length and run k-means on each part.

    Args:
        matrix: (rows, columns).
        parts: A divisor of the columns.
        centroids: Entries of a codebook, at most 256 and at most the rows.
        iterations: Of k-means (Lloyd), from centroids drawn among the rows.
        rotations: How often a rotation of the columns is fitted to the codes in closed form (orthogonal Procrustes),
            each time with a quarter of the iterations, before the last k-means. It begins at the principal axes, dealt
            out so that no part has more to code than another. 0: no rotation. Ge et al. 2013, both solutions.
        row_weights: (rows,) non-negative; squared errors of rows count so much. None: all alike.
        seed: Draws the first centroids.
        progress: Show a progress bar.

    Raises:
        ValueError: The parts or centroids do not fit the matrix.
    """
    rows, columns = matrix.shape
    if parts < 1 or columns % parts:
        raise ValueError(f"parts must divide the {columns} columns of the matrix, got {parts}.")
    if not 1 <= centroids <= min(MAX_CENTROIDS, rows):
        raise ValueError(f"centroids must be from 1 to {min(MAX_CENTROIDS, rows)}, got {centroids}.")
    weights = torch.ones(rows) if row_weights is None else row_weights.float()
    generator = torch.Generator().manual_seed(seed)
    first = [torch.randperm(rows, generator=generator)[:centroids] for _ in range(parts)]
    rotation = _balanced_axes(matrix, weights, parts) if rotations else None
    vectors = _cut(matrix if rotation is None else matrix @ rotation.T, parts)
    codebooks = torch.stack([part[chosen] for part, chosen in zip(vectors, first, strict=True)])
    with tqdm(total=iterations + rotations * (iterations // 4), desc="k-means", disable=not progress) as bar:
        for _ in range(rotations):
            codes, codebooks = _k_means(vectors, codebooks, weights, iterations // 4, bar)
            rotation = _procrustes(ProductCodes(codes, codebooks).dense(), matrix, weights)
            vectors = _cut(matrix @ rotation.T, parts)
        codes, codebooks = _k_means(vectors, codebooks, weights, iterations, bar)
    return ProductCodes(codes, codebooks, rotation)


def _k_means(
    vectors: torch.Tensor, codebooks: torch.Tensor, weights: torch.Tensor, iterations: int, bar: tqdm
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (rows, parts) and codebooks from vectors (parts, rows, length), all parts at once."""
    parts, rows, length = vectors.shape
    centroids = codebooks.shape[1]
    first = centroids * torch.arange(parts).unsqueeze(1)
    weighted = (vectors * weights.unsqueeze(1)).flatten(0, 1)
    for _ in range(iterations):
        entries = (_nearest(vectors, codebooks) + first).flatten()
        sums = torch.zeros(parts * centroids, length).index_add_(0, entries, weighted)
        mass = torch.zeros(parts * centroids).index_add_(0, entries, weights.repeat(parts))
        means = sums / mass.clamp(min=torch.finfo(mass.dtype).tiny).unsqueeze(1)
        # A centroid that nobody chose stays where it is.
        codebooks = torch.where((mass > 0).unsqueeze(1), means, codebooks.flatten(0, 1)).view_as(codebooks)
        bar.update()
    return _nearest(vectors, codebooks).T.to(torch.uint8).contiguous(), codebooks


def _nearest(vectors: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
    """Index (parts, rows) of the nearest to vectors (parts, rows, length) in codebooks (parts, centroids, length)."""
    parts, centroids, length = codebooks.shape
    if length == 1:  # Sorted numbers: the nearest is found by halving, without the distances to all.
        values, order = codebooks.squeeze(2).sort(dim=1)
        places = torch.searchsorted((values[:, :-1] + values[:, 1:]) / 2, vectors.squeeze(2))
        return order.gather(1, places)
    half_norms = codebooks.square().sum(dim=2).unsqueeze(1) / 2
    transposed = codebooks.transpose(1, 2)
    return torch.cat(
        [
            torch.baddbmm(half_norms, some, transposed, alpha=-1).argmin(dim=2)
            for some in vectors.split(max(1, _DISTANCES_AT_ONCE // (parts * centroids)), dim=1)
        ],
        dim=1,
    )


def _balanced_axes(matrix: torch.Tensor, weights: torch.Tensor, parts: int) -> torch.Tensor:
    """The principal axes as rows (columns, columns), in an order in which all parts have like products of variances.

    The error of a part follows the product of its variances, whatever their sum. So each axis, in the order of their
    variances, goes to that part with room whose product is the smallest so far ("eigenvalue allocation").
    """
    mass, values = weights.double(), matrix.double()
    mass = mass / mass.sum()
    centred = values - mass @ values
    variances, axes = torch.linalg.eigh((centred * mass.unsqueeze(1)).T @ centred)
    # In logarithms above the smallest, so that a part without an axis is never behind one that has some.
    logarithms = variances.clamp(min=max(1e-12 * float(variances[-1]), torch.finfo(torch.double).tiny)).log()
    logarithms = (logarithms - logarithms[0]).tolist()
    dealt: list[list[int]] = [[] for _ in range(parts)]
    products = [0.0] * parts
    for axis in reversed(range(len(logarithms))):
        part = min((part for part in range(parts) if len(dealt[part]) < len(axes) // parts), key=products.__getitem__)
        dealt[part].append(axis)
        products[part] += logarithms[axis]
    return axes.T[[axis for part in dealt for axis in part]].float()


def _procrustes(quantized: torch.Tensor, matrix: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The orthogonal matrix Q with the least squared error of quantized @ Q against the matrix."""
    left, _, right = torch.linalg.svd((quantized * weights.unsqueeze(1)).double().T @ matrix.double())
    return (left @ right).float()


def _cut(matrix: torch.Tensor, parts: int) -> torch.Tensor:
    """(rows, columns) as (parts, rows, columns / parts)."""
    return matrix.unflatten(1, (parts, -1)).transpose(0, 1).contiguous()
