"""What suggestions are worth, counted by hand for a diagnosis that answers what it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from told_diagnosis import ToldDiagnosis
from word_reader import WordReader

from instructir_core import Restorer
from instructir_core.cli import main
from instructir_core.evaluation import diagnosis
from instructir_core.evaluation.metrics import psnr
from instructir_core.evaluation.report import Report
from instructir_core.evaluation.sets import ImageSet, Pair, files
from instructir_core.tasks import TASKS
from instructir_core.training.diagnosis_samples import collect


@pytest.fixture
def teller(restorer: Restorer) -> Restorer:
    restorer.reader = WordReader(name="tiny")  # type: ignore[assignment]
    return restorer


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        pixels = data.coffee()[40 * number : 40 * number + 110, 150:280]
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def tell(restorer: Restorer, *answers: dict[str, float]) -> list[str]:
    restorer.diagnosis = ToldDiagnosis(*answers)  # type: ignore[assignment]
    return []


def test_a_set_counts_what_is_named_first(teller: Restorer, tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    pairs = [Pair(str(n), *rng.rand(2, 20, 24, 3).astype("f4")) for n in range(3)]
    images = ImageSet("drops", "rain", 3, lambda: iter(pairs))
    lines = tell(teller, {"rain": 0.9, "noise": 0.4}, {"noise": 0.9}, {})
    report = Report(tmp_path / "out", {})
    diagnosis.evaluate_suggestions(teller, [images], None, report=report, tell=lines.append)
    assert "1 of 3 right" in lines[0] and "'noise': 1" in lines[0] and "'none': 1" in lines[0]
    assert [row.read_as for row in report.rows] == ["noise+rain", "noise", ""]
    # Nothing suggested: the picture as it was, beside the one under the right sentence.
    asked = teller.restore(
        diagnosis._tensor(pairs[2].degraded), teller.encode(TASKS["rain"].prompt)
    )
    expected = psnr(pairs[2].degraded, pairs[2].clean) - psnr(asked.numpy(), pairs[2].clean)
    assert report.rows[2].value == pytest.approx(expected, abs=1e-6)
    assert (tmp_path / "out" / "sheet-suggest-misread.png").exists()


def test_fresh_degradations_are_counted_by_hand(teller: Restorer, photos: Path) -> None:
    lines = tell(teller, {"noise": 0.9})
    held = collect(photos)[1]
    report = diagnosis.evaluate_suggestions(teller, [], held, count=1, tell=lines.append)
    text = "\n".join(lines)
    first = [row for row in report.rows if row.set == "held-out" and row.test == "suggest"]
    assert [row.task for row in first] == [*TASKS] and {row.read_as for row in first} == {"noise"}
    assert "14.3% of 7" in text  # one of seven
    guarded = [row for row in report.rows if row.test == "guard"]
    assert len(guarded) == 49
    # It says that there is noise alone: whatever else is asked for is warned of.
    assert {row.speaker for row in guarded if row.read_as == "noise"} == {"silent"}
    assert {row.speaker for row in guarded if row.read_as == "rain"} == {"warned"}
    assert {row.speaker for row in guarded if row.read_as == "lol"} == {"warned"}
    nothing = [row for row in report.rows if row.task == "none"]
    assert len(nothing) == 2 * 8 + len(held.photos) and "nothing suggested" in text


def test_pictures_that_need_nothing(teller: Restorer, photos: Path) -> None:
    lines = tell(teller, {}, {"haze": 0.5}, {})
    diagnosis.evaluate_suggestions(
        teller, [], None, unchanged=files(photos), limit=4, tell=lines.append
    )
    assert "75.0% of 4" in lines[0] and "haze 1" in lines[1]


def test_the_command_needs_something_to_look_at(
    weights: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model", str(weights), "--suggest"]) == 1
    assert "nothing to diagnose" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(weights), "--suggest", "--identity", str(photos)]) == 1
    assert "no diagnosis" in capsys.readouterr().err
