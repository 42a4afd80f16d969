"""How a picture is restored in the memory that is free: the plan, and what to try after an error.

Two feature maps of full resolution are all that an exact result needs, beside the strips of rows
that are worked on at a time (`strips`).
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from .model import NetworkConfig
from .tiles import MIN_TILE

log = logging.getLogger(__name__)

CPU_STRIP = 4 << 20
"""Bytes of a strip's widest tensor on a CPU.

Smaller strips stay in the caches but cost more calls, larger ones the other way round."""
GPU_STRIP = 1 << 27
"""The same on a GPU, where fewer and larger launches are faster."""
SMALLEST_RETRY = 256
"""Below tiles of this side in pixels an out-of-memory error is given up on."""


def strip_bytes(device: torch.device) -> int:
    """The strip size that runs fastest on a device."""
    return CPU_STRIP if device.type == "cpu" else GPU_STRIP


@dataclass(frozen=True)
class Plan:
    """How a picture is restored: exactly in strips, or, where memory is short, in tiles.

    `Restorer.restore` carries out the very plan it is given.
    """

    config: NetworkConfig
    value_bytes: int
    """Bytes of one value of a feature map: 4 for float32, 2 for half precision."""
    height: int
    width: int
    strip: int
    """Bytes of a strip's widest tensor, see `Strips`."""
    tile: int | None = None
    """Side of the approximate tiles in pixels, or None: exact."""

    @property
    def exact(self) -> bool:
        """Whether the result is that of the whole picture at once."""
        return self.tile is None or self.tile >= max(self.height, self.width)

    @property
    def rows(self) -> int:
        """Rows per strip at full resolution."""
        height, width = self._piece
        return max(2, min(height, self.strip // self._row(width)))

    @property
    def bytes(self) -> int:
        """Memory at the peak, beside the weights, the input and the result."""
        return self.maps + 5 * self.strip_used

    @property
    def maps(self) -> int:
        """Bytes of the two feature maps of full resolution, without which nothing is exact."""
        height, width = self._piece
        multiple = self.config.multiple
        return (height + -height % multiple) * self._row(width)

    @property
    def strip_used(self) -> int:
        """Bytes of the widest tensor of the rows that are taken at a time."""
        return self.rows * self._row(self._piece[1])

    @property
    def _piece(self) -> tuple[int, int]:
        """Height and width of what the network sees at once."""
        tile = self.tile or max(self.height, self.width)
        return min(tile, self.height), min(tile, self.width)

    def _row(self, width: int) -> int:
        """Bytes of one row of a block's widest tensor, or of the two maps: twice the channels."""
        return 2 * self.config.width * self.value_bytes * (width + -width % self.config.multiple)

    def within(self, free: int) -> Plan:
        """The same with strips that fit into ``free`` bytes, of two rows at the least."""
        least = 2 * self._row(self._piece[1])
        return replace(self, strip=max(least, min(self.strip, (free - self.maps) // 5)))

    def smaller(self) -> Plan | None:
        """What to try after memory ran out: smaller strips, then smaller tiles; None: nothing.

        Large steps, because every failed trial costs up to a whole run.
        """
        least = 2 * self._row(self._piece[1])
        if self.strip_used > least:
            return replace(self, strip=max(least, self.strip_used // 8))
        side = max(self._piece)
        tile = max(SMALLEST_RETRY, side // 2 // 16 * 16)
        return replace(self, tile=tile, strip=1) if tile < side else None

    def __str__(self) -> str:
        size = f"{self.width} x {self.height}: "
        if not self.exact:
            kind = f"approximate tiles of {self.tile} px"
        elif self.rows >= self.height:
            kind = "exact, whole"
        else:
            kind = f"exact, in strips of {self.rows} rows"
        return f"{size}{kind}, about {self.bytes / 2**20:.0f} MiB at the peak"


def plan(
    config: NetworkConfig,
    height: int,
    width: int,
    *,
    value_bytes: int = 4,
    free: int | None = None,
    strip: int = CPU_STRIP,
    tile: int | None = None,
) -> Plan:
    """Choose how to restore one picture in ``free`` bytes (None: plenty).

    Where they are short, strips get smaller first, down to two rows, and the result stays exact;
    tiles are taken only where two feature maps do not fit. A ``tile`` asked for is kept.
    """
    chosen = Plan(config, value_bytes, height, width, strip, tile)
    if free is None:
        return chosen
    if tile is None and chosen.maps > free:
        chosen = replace(chosen, strip=1, tile=max(height, width))
        while (side := chosen.tile or MIN_TILE) > MIN_TILE and chosen.bytes > free:
            chosen = replace(chosen, tile=max(MIN_TILE, side * 3 // 4 // 16 * 16))
        chosen = replace(chosen, strip=strip)
    return chosen.within(free)


Result = TypeVar("Result")


def with_smaller_pieces(
    run: Callable[[Plan], Result],
    plan: Plan,
    *,
    is_out_of_memory: Callable[[BaseException], bool] | None = None,
    release: Callable[[], None] | None = None,
) -> tuple[Result, Plan]:
    """``run(plan)``, with smaller pieces after each out-of-memory error; also the plan that did.

    ``is_out_of_memory`` tells such errors, ``release`` gives cached memory back. Raises
    `torch.OutOfMemoryError` when not even the smallest pieces fit.
    """
    runs_short = is_out_of_memory or ran_out_of_memory
    while True:
        try:
            return run(plan), plan
        except Exception as error:
            if not runs_short(error):
                raise
            smaller = plan.smaller()
            if smaller is None:
                raise torch.OutOfMemoryError(
                    f"Found too little memory even for the smallest pieces ({plan}); expected "
                    "that much to be free. Close other programs, or make the picture smaller."
                ) from error
            message = (str(error).splitlines() or [type(error).__name__])[0]
        # Outside the except block, where the error no longer holds the failed call's tensors.
        log.warning("Out of memory (%s); trying again: %s.", message, smaller)
        gc.collect()
        (release or _release)()
        plan = smaller


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether smaller pieces may help."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # A CPU's allocator raises a plain RuntimeError.
    text = str(error)
    signs = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def _release() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def share(processes: int) -> None:
    """Take only this part of a machine's free memory from now on, in this process."""
    global _processes
    _processes = max(1, processes)


_processes = 1


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a device, or this process's part of them; None where the system is silent."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type == "cpu":
        try:
            lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        except OSError:
            return None
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // _processes
    return None
