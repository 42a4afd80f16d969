"""How the samples of each task are made: one row for each.

The degradations themselves are pure functions of `degradations`; `samples` draws by this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import sheets
from ..tasks import TASKS
from . import degradations, noise, weather
from .degradations import Degradation
from .imaging import Pixels


@dataclass(frozen=True)
class Recipe:
    """How a clean picture becomes an input of a task."""

    degrade: Degradation
    """What the task undoes, as various as photos are."""
    paper: Degradation | None = None
    """The paper's own (section 4.1), for its data sets of clean pictures."""
    clean_share: float = 0.0
    """Share of synthetic samples whose input is already clean: such a sentence leaves a clean
    picture as it is. Light and colour are a matter of taste, so they have no such samples."""
    whole_scene: bool = False
    """Only the scene as a whole tells: a white wall from fog, dusk from too little light."""
    sets_brightness: bool = False
    """A dark photo is no target for it."""


RECIPES: dict[str, Recipe] = {
    "en": Recipe(degradations.faded, whole_scene=True, sets_brightness=True),
    "haze": Recipe(weather.haze, clean_share=0.15, whole_scene=True),
    "rain": Recipe(weather.rain, clean_share=0.12),
    "lol": Recipe(degradations.low_light, whole_scene=True, sets_brightness=True),
    "blur": Recipe(degradations.blur, clean_share=0.06),
    "sr": Recipe(degradations.low_resolution, degradations.bicubic_resolution, clean_share=0.06),
    "noise": Recipe(noise.noise, noise.gaussian_noise, clean_share=0.04),
}
"""In the order in which they stack up in a real photo: the scene, the weather, the light, lens
and sensor."""


def compose(tasks: Sequence[str], image: Pixels, rng: np.random.Generator) -> list[Pixels]:
    """Stack several degradations as a camera would; instructions undo them in reverse.

    Returns every stage, the clean image first and the fully degraded one last; the task undone
    between stages ``i + 1`` and ``i`` is the i-th of ``tasks`` in the order of `RECIPES`.
    Raises ``ValueError`` for an unknown or repeated task.
    """
    unknown = sorted(set(tasks) - set(RECIPES))
    if unknown or len(set(tasks)) != len(tasks):
        raise ValueError(
            f"Found the tasks {', '.join(tasks)}; expected different ones of {', '.join(RECIPES)}. "
            "Name each degradation once."
        )
    stages = [image]
    for task in sorted(tasks, key=list(RECIPES).index):
        stages.append(RECIPES[task].degrade(stages[-1], rng))
    return stages


def contact_sheet(image: Pixels, seed: int = 0, draws: int = 5) -> sheets.Bytes:
    """Every task in a row: the clean image, then ``draws`` degraded ones; last, compositions.

    (H, W, 3) in [0, 1] -> (8 H, (draws + 1) W, 3) 8 bits, with white lines between.
    """

    def row(number: int, degrade: Degradation) -> list[Pixels]:
        generators = [np.random.default_rng((seed, number, draw)) for draw in range(draws)]
        return [image, *(degrade(image, rng) for rng in generators)]

    def composed(clean: Pixels, rng: np.random.Generator) -> Pixels:
        chosen = rng.choice(list(RECIPES), size=int(rng.integers(2, 4)), replace=False)
        return compose([str(task) for task in chosen], clean, rng)[-1]

    known = [RECIPES[task].degrade for task in TASKS]
    rows = [row(number, degrade) for number, degrade in enumerate((*known, composed))]
    return sheets.mosaic(rows, line=4)
