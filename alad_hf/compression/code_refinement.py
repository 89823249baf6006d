"""Binary codes made better by turns: decoders by least squares on the codes, codes bit by bit under the decoders.

This goes beyond the LightToken paper, which takes the codes as its encoders give them. An encoder decides every bit
by itself; a row's squared error depends on all of its bits together.
"""

from __future__ import annotations

import torch

_BITS_AT_ONCE = 32
_MOST_BITS = 24
"""Of a component: as many as float32 can tell apart."""


def fit_decoder(
    bits: torch.Tensor, targets: torch.Tensor, row_weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The decoder (bits, columns) and bias (columns,) with the least squared error of bits @ decoder + bias.

    With a ridge of 1e-6 of the mean square of a column of bits, so that bits that never change do no harm.

    Args:
        bits: (rows, bits) float, 0 or 1.
        targets: (rows, columns).
        row_weights: (rows,) non-negative; squared errors of rows count so much. None: all alike.
    """
    inputs = torch.cat([bits, bits.new_ones(len(bits), 1)], dim=1)
    weighted = inputs if row_weights is None else inputs * row_weights.unsqueeze(1)
    gram = (weighted.T @ inputs).double()
    gram.diagonal().add_(1e-6 * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, (weighted.T @ targets).double()).to(targets.dtype)
    return solution[:-1], solution[-1]


def improve_bits(
    bits: torch.Tensor, targets: torch.Tensor, decoder: torch.Tensor, bias: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Set each bit in turn, in random order, to what is better for its row; no row's squared error rises.

    Bits go in blocks: within one, correlations of the residual with the decoder are kept up to date bit by bit, and
    those of all other bits with one matrix product after it.

    Args:
        bits: (rows, bits) float, 0 or 1.
        targets: (rows, columns).
        decoder: (bits, columns).
        bias: (columns,).
        generator: Of the order.

    Returns:
        New bits (rows, bits).
    """
    gram = decoder @ decoder.T
    columns = bits.T.contiguous()
    correlations = decoder @ (targets - bias - bits @ decoder).T
    for block in torch.randperm(len(decoder), generator=generator).split(_BITS_AT_ONCE):
        near, inner, chosen = correlations[block], gram[block][:, block], columns[block]
        before = chosen.clone()
        for place in range(len(block)):
            # The residual without the bit has this correlation with its decoder row, above half of the row's square:
            # setting it lowers the error.
            gain = near[place] + (chosen[place] - 0.5) * inner[place, place]
            better = (gain > 0).to(bits.dtype)
            near.addr_(inner[place], chosen[place] - better)
            chosen[place] = better
        columns[block] = chosen
        correlations.addmm_(gram[:, block], before - chosen)
    return columns.T.contiguous()


def rotation_bits(targets: torch.Tensor, length: int, generator: torch.Generator) -> torch.Tensor:
    """Bits (rows, length): on which side of random orthogonal hyperplanes through the mean each row lies.

    Better to begin with than trained encoders where there are up to about two bits a column, and free.
    """
    centred = targets - targets.mean(dim=0)
    width = targets.shape[1]
    bits = []
    for begin in range(0, length, width):
        basis, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
        bits.append((centred @ basis[:, : length - begin] > 0).to(targets.dtype))
    return torch.cat(bits, dim=1)


def transform_bits(targets: torch.Tensor, length: int) -> torch.Tensor:
    """Bits (rows, length): principal components rounded to a grid, more finely where they vary more.

    Each further bit of a component divides its squared error by three to four, so bits go one by one to the component
    with the largest error left. Better to begin with where there are many bits a column.
    """
    centred = (targets - targets.mean(dim=0)).double()
    variances, basis = torch.linalg.eigh(centred.T @ centred / len(centred))
    left = variances.clamp(min=0)
    counts = [0] * len(left)
    for _ in range(length):
        component = int(left.argmax())
        left[component] /= 4 if counts[component] else 2.75
        counts[component] += 1
        if counts[component] == _MOST_BITS:
            left[component] = -1
    bits: list[torch.Tensor] = []
    for component, count in enumerate(counts):
        if count:
            values = centred @ basis[:, component]
            # The grid that is best for a normal distribution covers so many standard deviations.
            reach = 1.6 + 0.36 * (count - 1)
            steps = (values / variances[component].sqrt().clamp(min=1e-30) / (2 * reach) + 0.5) * 2**count
            levels = steps.floor().clamp(0, 2**count - 1).long()
            bits.extend((levels >> place) & 1 for place in range(count))
    return torch.stack(bits, dim=1).to(targets.dtype)
