"""What a picture needs, and what would do it harm, by a diagnosis that answers what it is told."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import permutations

import numpy as np
import pytest
import torch
from told_diagnosis import ToldDiagnosis
from word_reader import WordReader

from instructir_core import Restorer, trials
from instructir_core.guard import Guard
from instructir_core.instruction import Instruction
from instructir_core.reading import read_parts
from instructir_core.suggest import degree, spread, suggest
from instructir_core.tasks import TASKS

PICTURE = torch.rand(20, 31, 3, generator=torch.Generator().manual_seed(0))


def asks(task: str) -> Instruction:
    return Instruction(TASKS[task].prompt, torch.zeros(1, 256), task, {task: 1.0}, "tiny")


def told(restorer: Restorer, *answers: dict[str, float]) -> ToldDiagnosis:
    """Give the restorer a diagnosis of these answers."""
    restorer.diagnosis = ToldDiagnosis(*answers)  # type: ignore[assignment]
    return restorer.diagnosis  # type: ignore[return-value]


# --- suggesting --------------------------------------------------------------------------------


def test_the_worst_in_the_order_to_carry_out(restorer: Restorer) -> None:
    told(restorer, {"noise": 0.5, "lol": 0.9, "haze": 0.35})
    found = restorer.suggest(PICTURE)
    assert found.sentences == (TASKS["noise"].prompt, TASKS["lol"].prompt)
    assert [i.model for i in found.instructions] == ["tiny", "tiny"]
    assert found.severities["haze"] == 0.35 and set(found.severities) == set(TASKS)
    assert found.report == "very dark, noise; left aside: a little haze"
    assert restorer.suggest(PICTURE, 1).sentences == (TASKS["lol"].prompt,)
    three = restorer.suggest(PICTURE, most=3)
    assert len(three.sentences) == 3 and three.report.endswith("; nothing else found")
    with pytest.raises(FrozenInstanceError):
        found.report = "other"  # type: ignore[misc]
    restored = restorer.restore(PICTURE, found.instructions)
    expected = restorer.restore(PICTURE, [restorer.encode(s) for s in found.sentences])
    assert torch.equal(restored, expected)


@pytest.mark.parametrize("tasks", [*permutations(("noise", "rain", "lol"), 2)])
def test_the_order_is_that_of_a_sentence_that_says_none(tasks: tuple[str, str]) -> None:
    words = {"noise": "noise", "rain": "the rain", "lol": "brighten"}
    said = read_parts(f"{words[tasks[0]]} and {words[tasks[1]]}", WordReader())
    diagnosis = ToldDiagnosis(dict.fromkeys(tasks, 0.5))
    by_text = {TASKS[task].prompt: task for task in TASKS}
    found = suggest(PICTURE, diagnosis, lambda text: asks(by_text[text]))  # type: ignore[arg-type]
    assert [i.task for i in found.instructions] == [i.task for i in said]


def test_nothing_found_gives_back_the_picture(restorer: Restorer) -> None:
    told(restorer, {"noise": 0.29})
    found = restorer.suggest(PICTURE)
    assert found.instructions == () == found.sentences and found.report == "nothing found"
    assert restorer.restore(PICTURE, found.instructions) is PICTURE
    assert restorer.suggest(PICTURE, threshold=0.2).sentences == (TASKS["noise"].prompt,)
    assert len(restorer.suggest(PICTURE, 7, 0.0).sentences) == len(TASKS)
    assert restorer.suggest(PICTURE, threshold=0.29).report == (
        "a little noise; nothing else found"
    )


def test_a_batch_gets_one_suggestion(restorer: Restorer) -> None:
    rising = [{"noise": n / 10} for n in range(5)]
    diagnosis = told(restorer, *rising)
    video = torch.linspace(0, 1, 100)[:, None, None, None].expand(-1, 8, 9, 3)
    found = restorer.suggest(video, threshold=0.2)
    assert [round(99 * float(frame[0, 0, 0])) for frame in diagnosis.seen] == [10, 30, 50, 70, 90]
    assert found.severities["noise"] == 0.2  # the median: one black frame decides nothing
    assert found.report == ("a little noise; nothing else found (frames 11, 31, 51, 71, 91 of 100)")
    told(restorer, *rising)
    assert restorer.suggest(video[:2]).report == "nothing found (2 frames)"
    kept = video.clone()
    assert torch.equal(video, kept)


@pytest.mark.parametrize("count", range(1, 40))
def test_frames_are_spread_evenly(count: int) -> None:
    places = spread(count)
    assert len(set(places)) == min(count, 5) and places == sorted(places)
    assert places[0] >= 0 and places[-1] < count
    assert abs(places[0] - (count - 1 - places[-1])) <= 1  # as far from the end as from the start
    assert count < 10 or places[0] > 0


def test_degrees_are_told_apart() -> None:
    for task in TASKS:
        assert len({degree(task, severity) for severity in (0.3, 0.5, 0.9)}) == 3
    assert degree("dust", 0.8) == "strong dust" and degree("dust", 0.1) == "a little dust"


def test_what_is_missing_is_said(restorer: Restorer) -> None:
    with pytest.raises(
        ValueError, match=r"model 'tiny' has no diagnosis.*expected one in the weig"
    ):
        restorer.suggest(PICTURE)
    bare = Restorer(restorer.network, None, "bare")
    told(bare, {"rain": 0.9})
    with pytest.raises(ValueError, match="no instruction head and text encoder"):
        bare.suggest(PICTURE)
    told(restorer, {})
    for options, message in (
        ({"most": 0}, "most is 0; expected"),
        ({"most": 1.5}, "most is 1.5"),
        ({"threshold": 1.5}, "threshold is 1.5; expected a severity from 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            restorer.suggest(PICTURE, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN or infinity among the pixels in frame 2 of 2"):
        restorer.suggest(torch.stack([PICTURE, PICTURE * float("nan")]))


# --- guarding ----------------------------------------------------------------------------------


def watched(mode: str, tasks: str, *answers: dict[str, float]) -> tuple[Guard, list[str], bool]:
    """A guard after a restoration, the tasks that it let pass, and whether the result may stand."""
    guard = Guard(ToldDiagnosis(*answers), mode)  # type: ignore[arg-type]
    kept = [i.task for i in guard.before(PICTURE, [asks(task) for task in tasks.split()])]
    return guard, kept, guard.after(PICTURE)


def test_what_the_picture_does_not_show() -> None:
    guard, kept, stands = watched("warn", "haze noise", {"noise": 0.6}, {"noise": 0.1})
    assert kept == ["haze", "noise"] and stands
    assert guard.notes == [
        "This picture shows no haze: 'remove the haze from this photo' may do harm."
    ]
    guard, kept, _ = watched("skip", "haze noise", {"noise": 0.6}, {"noise": 0.1})
    assert kept == ["noise"] and guard.notes[0].endswith("was left out.")
    assert watched("skip", "rain", {})[1] == []
    assert not watched("warn", "noise", {"noise": 0.2}, {})[0].notes  # doubtful, and so allowed


def test_what_got_worse() -> None:
    before, after = {"rain": 0.9, "noise": 0.1}, {"rain": 0.8, "noise": 0.4}
    guard, _, stands = watched("warn", "rain", before, after)
    assert stands and guard.notes == ["Got worse: noise rose from 0.1 to 0.4."]
    guard, _, stands = watched("skip", "rain", before, after)
    assert not stands
    assert guard.notes == ["Got worse: noise rose from 0.1 to 0.4: the picture is left as it was."]
    # What brings out a little noise and takes away much rain has helped.
    assert not watched("skip", "rain", before, {"rain": 0.1, "noise": 0.4})[0].notes
    assert not watched("warn", "rain", {"rain": 0.9}, {"rain": 0.8, "noise": 0.12})[0].notes


def test_one_kind_of_unsharp_stands_for_the_other() -> None:
    assert not watched("warn", "sr", {"blur": 0.5}, {})[0].notes
    assert not watched("warn", "blur", {"sr": 0.5}, {})[0].notes
    assert watched("warn", "blur", {"noise": 0.5}, {})[0].notes


def test_what_an_earlier_sentence_brings_out_may_be_asked_for() -> None:
    assert watched("skip", "lol noise", {"lol": 0.9}, {})[1] == ["lol", "noise"]
    assert watched("skip", "noise lol", {"lol": 0.9}, {})[1] == ["lol"]


def test_light_and_colour_are_warned_of_at_extremes_only() -> None:
    for task in ("lol", "en"):
        assert not watched("warn", task, {task: 0.1}, {})[0].notes
        assert watched("warn", task, {task: 0.02}, {})[0].notes
        risen = {"rain": 0.9}, {"rain": 0.8, task: 0.4}
        assert not watched("warn", "rain", *risen)[0].notes
        extreme = {"rain": 0.9}, {"rain": 0.8, task: 0.8}
        assert watched("warn", "rain", *extreme)[0].notes


def test_off_looks_at_nothing() -> None:
    diagnosis = ToldDiagnosis({})
    guard = Guard(diagnosis, "off")  # type: ignore[arg-type]
    asked = [asks("rain")]
    assert guard.before(PICTURE, asked) == asked and guard.after(PICTURE)
    assert not diagnosis.seen and not guard.notes
    guard = Guard(None, "skip")  # a model without one
    assert guard.before(PICTURE, asked) == asked and guard.after(PICTURE) and not guard.notes
    with pytest.raises(ValueError, match="guard is 'maybe'; expected one of off, warn, skip"):
        Guard(None, "maybe")


def test_of_a_masked_picture_the_masked_part_is_looked_at() -> None:
    picture = torch.zeros(300, 400, 3)
    for (top, bottom, left, right), shape in (
        ((100, 250, 200, 390), (150, 190, 3)),
        ((10, 12, 0, 5), (96, 96, 3)),  # so small a part tells nothing
        ((295, 300, 395, 400), (96, 96, 3)),
        ((0, 0, 0, 0), (300, 400, 3)),
    ):
        mask = torch.zeros(300, 400)
        mask[top:bottom, left:right] = 1.0
        picture[top:bottom, left:right] = 1.0
        diagnosis = ToldDiagnosis({"rain": 0.5})
        guard = Guard(diagnosis)  # type: ignore[arg-type]
        assert guard.before(picture, [asks("rain")], mask) and guard.after(picture)
        assert [tuple(seen.shape) for seen in diagnosis.seen] == [shape, shape]
        if bottom:
            assert float(diagnosis.seen[0].sum()) >= 3 * (bottom - top) * (right - left)
    small = Guard(diagnosis)  # type: ignore[arg-type]
    assert small.before(PICTURE, [asks("rain")], torch.eye(31)[:20])
    assert tuple(diagnosis.seen[-1].shape) == (20, 31, 3)


# --- trying all --------------------------------------------------------------------------------


def test_every_task_on_one_sheet(restorer: Restorer) -> None:
    told(restorer, {"rain": 0.83, "noise": 0.5})
    view = trials.shrunk(torch.rand(60, 90, 3), 45)
    assert view.shape == (30, 45, 3) and trials.shrunk(view, 0) is view is trials.shrunk(view, 45)
    kept = view.clone()
    tried = trials.try_all(restorer, view)
    assert list(tried) == list(TASKS) and torch.equal(view, kept)
    found = restorer.suggest(view, 1)
    sheet = trials.sheet(view, tried, found)
    pixels = {name: (255 * image).round().byte() for name, image in {"": view, **tried}.items()}
    places = {name: where(sheet, image) for name, image in pixels.items()}
    rows = sorted({place[0] for place in places.values()})
    assert [name for name in places if places[name][0] == rows[0]] == ["", "noise", "blur", "rain"]
    assert len(rows) == 2
    y, x = places["rain"]  # a frame of four pixels around it, and around it alone
    frames = (sheet == (0, 140, 60)).all(-1)
    assert frames[y - 4 : y, x - 4 : x + 49].all() and frames[y + 30 : y + 34, x - 4].all()
    assert frames.sum() == 53 * 38 - 45 * 30
    plain = trials.sheet(view, tried)  # no severities, no guess, other words
    assert not (plain == (0, 140, 60)).all(-1).any()
    told(restorer, {})
    sheet = trials.sheet(view, tried, restorer.suggest(view, 1))
    y, x = where(sheet, pixels[""])
    assert (sheet[y - 4, x] == (0, 140, 60)).all()


def where(sheet: np.ndarray, picture: torch.Tensor) -> tuple[int, int]:
    """Top and left of a picture on a sheet, which must hold it once, pixel by pixel."""
    height, width = picture.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (height, width, 3))[:, :, 0]
    first = np.argwhere((windows[:, :, 0, 0] == picture[0, 0].numpy()).all(-1))
    found = [(y, x) for y, x in first if np.array_equal(windows[y, x], picture.numpy())]
    assert len(found) == 1
    return int(found[0][0]), int(found[0][1])
