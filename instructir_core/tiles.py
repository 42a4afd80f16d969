"""Cutting a picture into overlapping tiles and blending their results back together.

Tiles bound memory but are not exact: the network pools over its whole input, so each tile sees
its own averages. The overlap is blended linearly, which hides what is left of the seams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

MIN_TILE = 64
"""Smallest tile side in pixels; below, a tile holds too little of a picture to be restored."""


def check_tiles(tile_size: int, overlap: int | None) -> tuple[int, int]:
    """The two numbers, the overlap filled in as an eighth; raises ``ValueError`` if senseless."""
    if tile_size < MIN_TILE:
        raise ValueError(
            f"tile_size is {tile_size}; expected at least {MIN_TILE} pixels, or None for the "
            "whole picture at once. Choose a larger tile."
        )
    overlap = tile_size // 8 if overlap is None else overlap
    if not 0 <= overlap <= tile_size // 2:
        raise ValueError(
            f"overlap is {overlap}; expected 0 to {tile_size // 2} pixels, half of tile_size. "
            "Choose a smaller overlap or larger tiles."
        )
    return tile_size, overlap


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one side: all of full size, the last one flush with the border."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def tiles(height: int, width: int, tile: int, overlap: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each tile, line by line."""
    for y in tile_starts(height, tile, overlap):
        for x in tile_starts(width, tile, overlap):
            yield slice(y, min(y + tile, height)), slice(x, min(x + tile, width))


def _ramp(part: slice, length: int, overlap: int, like: Tensor) -> Tensor:
    """Weights along one side of a tile: rising over the overlap, except at the picture's border."""
    size = part.stop - part.start
    position = torch.arange(1, size + 1, device=like.device, dtype=like.dtype)
    weight = torch.ones_like(position)
    if part.start > 0:
        weight = torch.minimum(weight, position / (overlap + 1))
    if part.stop < length:
        weight = torch.minimum(weight, position.flip(0) / (overlap + 1))
    return weight


def run_tiled(run: Callable[[Tensor], Tensor], image: Tensor, tile: int, overlap: int) -> Tensor:
    """Apply ``run`` to tiles of (1, C, H, W) and blend the results."""
    height, width = image.shape[-2:]
    total = torch.zeros_like(image)
    weights = image.new_zeros(1, 1, height, width)
    for rows, columns in tiles(height, width, tile, overlap):
        result = run(image[..., rows, columns])
        vertical = _ramp(rows, height, overlap, image)
        weight = vertical[:, None] * _ramp(columns, width, overlap, image)
        total[..., rows, columns] += result * weight
        weights[..., rows, columns] += weight
    return total / weights
