"""Artefacts as numbers: each fault is planted in a picture, and found."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from instructir_core.evaluation import artefacts
from instructir_core.evaluation.artefacts import CONTROL, GRID, folded, smooth_areas

SKY = artefacts.sky()
PHOTO = (data.astronaut()[:128, 128:288] / 255).astype(np.float32)
EVERYWHERE = np.ones(SKY.shape[:2], bool)


def with_grid(image: np.ndarray, levels: float, period: int) -> np.ndarray:
    """One bright pixel in every ``period`` by ``period``."""
    yy, xx = np.mgrid[: image.shape[0], : image.shape[1]]
    points = (yy % period == 3) & (xx % period == 5)
    return image + points[..., None] * levels / 255


@pytest.mark.parametrize("levels", [1.0, 2.0, 4.0])
def test_a_planted_grid_is_found_at_its_period(levels: float) -> None:
    planted = with_grid(SKY, levels, GRID)
    found = folded(planted, GRID, EVERYWHERE)
    assert found == pytest.approx(levels, abs=0.35)
    assert found > 2.5 * folded(planted, CONTROL, EVERYWHERE)
    other = with_grid(SKY, levels, CONTROL)
    assert folded(other, CONTROL, EVERYWHERE) > 1.5 * folded(other, GRID, EVERYWHERE)


def test_a_sky_without_a_grid_has_none() -> None:
    assert folded(SKY, GRID, EVERYWHERE) < 1.5 * folded(SKY, CONTROL, EVERYWHERE)
    assert folded(SKY, GRID, EVERYWHERE) < 0.3


def test_smooth_areas_are_skies_not_detail() -> None:
    assert smooth_areas(SKY).mean() > 0.9
    both = SKY.copy()
    both[:, :192] = np.random.default_rng(0).random((256, 192, 3))
    flat = smooth_areas(both)
    assert not flat[:, :192].any() and flat[:, 220:].mean() > 0.8
    assert smooth_areas(with_grid(SKY, 2.0, GRID)).mean() > 0.9  # a faint grid hides nothing


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_a_planted_line_at_the_border_is_found(side: str) -> None:
    lined = SKY.astype(np.float64)
    edge = {"top": np.s_[0], "bottom": np.s_[-1], "left": np.s_[:, 0], "right": np.s_[:, -1]}[side]
    lined[edge] += np.array([0.0, 0.0, 7.0]) / 255  # blue
    assert artefacts.border_line(lined, SKY) == pytest.approx(7.0, abs=1e-6)
    assert artefacts.border_line(SKY + 9 / 255, SKY) < 1e-4


def test_a_planted_cast_is_found() -> None:
    grey = np.full((32, 32, 3), 0.4)
    assert artefacts.cast(grey) == 0
    purple = grey + np.array([6.0, 0.0, 4.0]) / 255
    assert artefacts.cast(purple) == pytest.approx(6.0)


@pytest.mark.parametrize("bars", [False, True])
@pytest.mark.parametrize("left", [1.0, 0.4, 0.0])
def test_eaten_lines_are_found(bars: bool, left: float) -> None:
    cover = artefacts.thin_lines(128, 160, bars=bars)
    assert 0.02 < (cover > 0.1).mean() < 0.25 and cover.max() == pytest.approx(1, abs=0.01)
    lined = PHOTO + cover[..., None] * (0.9 - PHOTO)
    eaten = PHOTO + left * (lined - PHOTO)
    assert artefacts.kept_lines(eaten, PHOTO, lined, cover) == pytest.approx(left, abs=1e-5)
    blurry = eaten + np.random.default_rng(0).normal(0, 0.02, eaten.shape)
    assert artefacts.kept_lines(blurry, PHOTO, lined, cover) == pytest.approx(left, abs=0.03)


@pytest.mark.parametrize("task", artefacts.SCENE_TASKS)
def test_scenes_without_a_cast_stay_grey_where_they_are_grey(task: str) -> None:
    grey = np.repeat(np.linspace(0, 1, 48)[None, :, None], 16, 0).repeat(3, 2)
    hidden = artefacts.veiled(grey, task)
    assert artefacts.cast(hidden) < 0.01 and not np.allclose(hidden, grey, atol=0.1)


def test_rows_of_a_model_that_does_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A network that returns its input leaves lines and clean pictures alone, and adds nothing."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("clean")
    Image.fromarray((PHOTO * 255).astype(np.uint8)).save(folder / "a.png")

    class Same:
        def encode(self, text: str) -> str:
            return text

    monkeypatch.setattr(artefacts, "network_output", lambda restorer, pixels, asked: pixels)
    rows = list(artefacts.artefacts(Same(), [folder / "a.png"]))  # type: ignore[arg-type]
    name = folder.name
    value = {row.set: row.value for row in rows}
    assert value[f"{name}, left as it was: noise"] == np.inf
    assert value[f"{name}, wires left by rain"] == pytest.approx(1)
    assert value[f"{name}, cast on greys: en"] < 0.01
    assert value["sky, grid against control: haze"] < 1.5
    one, two = (
        value[f"{name}, haze then rain, undone: {order}"]
        for order in ("rain then haze", "haze then rain")
    )
    assert one == two
    assert all({"test", "set", "image", "value", "unit"} == row.columns().keys() for row in rows)
