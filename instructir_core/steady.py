"""Frames of one shot under the same light: the averages that steer the network, carried along.

Every block of the network weighs its channels by their average over the whole picture. Fresh noise
and every small movement change these averages a little, and haze, light and colour pulse with
them. Carried from frame to frame as an exponential mean they stay; at a cut they start anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

RATE = 1 / 3
"""Weight of the newest frame: what a scene turns into is followed within a few frames."""
CUT = 0.3
"""Share of the pixels that has other colours after a cut; 0.6 and more between the photos tried,
0.1 at the most between frames of a pan with noise."""
LEVELS = 8
"""Levels per channel that colours are told apart by."""
SAMPLES = 128
"""Pixels looked at, about, along the shorter side."""

Place = tuple[int, ...]
"""Which average: that of one block, of one tile, under one instruction."""


class Averages:
    """The averages of a shot's frames. For each frame: `begin`, `carry` each average, `keep`."""

    def __init__(self) -> None:
        self._kept: dict[Place, Tensor] = {}
        self._new: dict[Place, Tensor] = {}
        self._colours: Tensor | None = None
        self._new_colours: Tensor | None = None

    def state(self) -> dict[str, Any]:
        """All of it as JSON can hold it, which keeps float32 as it is."""
        kept = [[place, average.tolist()] for place, average in self._kept.items()]
        return {"kept": kept, "colours": None if self._colours is None else self._colours.tolist()}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Averages:
        """Those that `state` told of."""
        made = cls()
        made._kept = {tuple(place): torch.tensor(average) for place, average in state["kept"]}
        if state["colours"] is not None:
            made._colours = torch.tensor(state["colours"])
        return made

    def begin(self, frame: Tensor) -> bool:
        """Look at an (H, W, 3) frame in [0, 1]; True when it starts a shot.

        A frame may be begun again, as when memory ran out: nothing is counted before `keep`.
        """
        colours = _colours(frame)
        before = self._colours
        starts = before is None or float((colours - before).abs().sum()) / 2 > CUT
        if starts:
            self._kept = {}
        self._new, self._new_colours = {}, colours
        return starts

    def carry(self, place: Place, average: Tensor) -> Tensor:
        """A (C,) average of this frame -> the one to steer by."""
        kept = self._kept.get(place)
        if kept is not None:
            average = torch.lerp(kept, average.to(kept.device), RATE).to(average.device)
        self._new[place] = average
        return average

    def keep(self) -> None:
        """The frame is done: its averages are carried to the next."""
        self._kept, self._colours = self._new, self._new_colours


def _colours(frame: Tensor) -> Tensor:
    """How many pixels have which colour, as shares of all: what the averages depend on."""
    step = max(1, min(frame.shape[:2]) // SAMPLES)
    levels = (frame[::step, ::step] * LEVELS).long().clamp_(0, LEVELS - 1).flatten(0, 1)
    index = (levels[:, 0] * LEVELS + levels[:, 1]) * LEVELS + levels[:, 2]
    return torch.bincount(index.cpu(), minlength=LEVELS**3) / len(index)
