"""Random streams: one for each use of a run's seed, so that more draws here change none there."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Their numbers are in every run that was made: none is ever changed or used again."""

    EXAMPLES = 1
    """Sentences as other people type them, and pairs of them, for the sentence encoder."""
    SENTENCE_BATCHES = 2
    SAMPLES = 3
    """Pictures, crops and degradations of each batch."""
    SENTENCES = 4
    """Those that steer the network in this run."""
    SCORES = 5
    """Of held-out pictures, while training."""
    CLASS_BATCHES = 6
    """When the head's last layer is fitted anew."""
    VIEWS = 6
    """The size of each step's scenes: with a place, which the other has not, so they differ."""
    LESSONS = 7
    """Sentences that the teacher is asked about."""
    CLASS_SENTENCES = 8
    """When the head's last layer is fitted anew."""
    LANGUAGES = 9
    """Sentences, and parts of them, that the encoder learns languages by."""
    DIAGNOSES = 10
    """Pictures to diagnose, and the order in which they are learned."""


def stream(seed: int, which: Stream, *place: int) -> np.random.Generator:
    """The generator of one use of a seed, and where there are many, of its place among them."""
    return np.random.default_rng((seed, int(which), *place))
