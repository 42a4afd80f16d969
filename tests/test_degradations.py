"""Degradations: pure and seeded, and each one's physics checked by an independent route."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import color, data, metrics

from instructir_core.evaluation.degradations import FROZEN, KINDS
from instructir_core.training import imaging, recipes, weather

TASKS = {task: recipe.degrade for task, recipe in recipes.RECIPES.items()}
PHOTO = (data.astronaut()[:128, 128:288] / 255).astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
def test_pure_seeded_and_in_range(task: str) -> None:
    kept = PHOTO.copy()
    one = TASKS[task](PHOTO, np.random.default_rng(3))
    two = TASKS[task](PHOTO, np.random.default_rng(3))
    other = TASKS[task](PHOTO, np.random.default_rng(4))
    assert np.array_equal(PHOTO, kept)
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    assert one.shape == PHOTO.shape and one.dtype == np.float32
    assert one.min() >= 0 and one.max() <= 1
    np.testing.assert_allclose(one * 255, np.rint(one * 255), atol=1e-4)  # as an 8-bit file


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(6))
def test_degrades_any_size(task: str, seed: int) -> None:
    small = PHOTO[:33, :41]
    result = TASKS[task](small, np.random.default_rng(seed))
    assert result.shape == small.shape
    assert metrics.peak_signal_noise_ratio(small, result, data_range=1) < 50


def test_srgb_curve_against_scikit_image() -> None:
    values = np.linspace(0, 1, 768, dtype=np.float32).reshape(16, 16, 3)
    # XYZ of scikit-image is linear light times a matrix, whose Y row sums to 1.
    linear = color.rgb2xyz(values)[..., 1]
    ours = imaging.to_linear(values) @ np.array([0.212671, 0.715160, 0.072169])
    np.testing.assert_allclose(ours, linear, atol=2e-6)
    np.testing.assert_allclose(imaging.to_srgb(imaging.to_linear(values)), values, atol=2e-6)


@pytest.mark.parametrize(
    "weights",
    [
        imaging.path_kernel(np.linspace(0.0, 2.0, 64), 31.0),
        imaging.path_kernel(np.zeros(64), 3.0),
        imaging.disc_kernel(1.3),
        imaging.disc_kernel(6.5, rim=1.2),
        imaging.oval_kernel(2.2, 0.6, 0.7),
    ],
)
def test_blur_kernels_keep_brightness_and_place(weights: np.ndarray) -> None:
    assert weights.shape[0] == weights.shape[1] and weights.shape[0] % 2 == 1
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-5)
    yy, xx = np.nonzero(weights)
    half = weights.shape[0] // 2
    assert abs(yy.min() + yy.max() - 2 * half) <= 1 and abs(xx.min() + xx.max() - 2 * half) <= 1


def test_a_path_is_as_long_as_it_says_and_a_rim_is_brighter_than_the_middle() -> None:
    straight = imaging.path_kernel(np.zeros(64), 20.0)  # heads to the right
    assert 18 <= np.count_nonzero(straight.sum(axis=0) > 1e-3) <= 22
    assert np.count_nonzero(straight.sum(axis=1) > 1e-3) <= 2
    disc = imaging.disc_kernel(6.0, rim=1.0)
    centre = disc.shape[0] // 2
    assert disc[centre, centre + 5] > 1.3 * disc[centre, centre]


def test_convolution_against_scipy() -> None:
    kernel = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    ours = imaging.convolve(PHOTO, kernel)
    for c in range(3):
        expected = ndimage.convolve(PHOTO[..., c].astype(np.float64), kernel, mode="reflect")
        np.testing.assert_allclose(ours[..., c], expected, atol=1e-4)


def test_rain_only_adds_light_along_streaks() -> None:
    dark = np.full((96, 96, 3), 0.2, np.float32)
    for seed in range(8):
        rained = TASKS["rain"](dark, np.random.default_rng(seed))
        assert rained.min() >= 0.2 - 1 / 255
        assert np.ptp(rained, axis=2).max() <= 1.01 / 255  # streaks have no colour


def test_haze_brings_contrast_down() -> None:
    for seed in range(8):
        hazy = TASKS["haze"](PHOTO, np.random.default_rng(seed))
        assert hazy.std() < PHOTO.std()


def test_haze_is_weak_or_thick_everywhere_or_far_away_grey_or_of_smoke() -> None:
    black = np.zeros((64, 64, 3), np.float32)
    light = [TASKS["haze"](black, np.random.default_rng(s)) for s in range(120)]  # A (1 - t)
    means = np.array([image.mean() for image in light])
    assert (means < 0.2).sum() >= 8 and (means > 0.6).sum() >= 10
    nearest = np.array([image.min() for image in light])
    assert 10 <= (nearest < 0.02).sum() <= 70 and (nearest > 0.2).sum() >= 20
    tints = np.array([np.ptp(image.mean(axis=(0, 1))) / image.mean() for image in light])
    assert (tints < 0.06).sum() >= 80 and (tints > 0.08).sum() >= 4


def test_rooms_have_flat_walls_and_streets_an_open_end() -> None:
    for seed in range(6):
        room = weather._scene((96, 128), np.random.default_rng(seed), street=False)
        street = weather._scene((96, 128), np.random.default_rng(seed), street=True)
        for depth in (room, street):
            assert depth.shape == (96, 128) and depth.min() >= 0 and depth.max() <= 1.001
        # Planes under perspective: one over depth is linear, so its second differences vanish.
        inverse = 1.0 / np.maximum(room, 1e-3)
        bent = np.abs(np.diff(inverse, 2, axis=1))
        assert np.mean(bent < 0.02 * inverse[:, 1:-1]) > 0.7
        inverse = 1.0 / np.maximum(street, 1e-3)
        bent = np.abs(np.diff(inverse, 2, axis=1))
        assert np.mean(bent < 0.02 * inverse[:, 1:-1]) > 0.7
    open_sky = [weather._scene((96, 128), np.random.default_rng(s), street=True) for s in range(20)]
    assert np.mean([s[0].max() == s.max() for s in open_sky]) > 0.5


def test_low_light_is_half_a_stop_to_four_and_a_half_darker() -> None:
    bright = imaging.to_linear(PHOTO).mean()
    stops = np.array([
        -np.log2(imaging.to_linear(TASKS["lol"](PHOTO, np.random.default_rng(s))).mean() / bright)
        for s in range(60)
    ])  # fmt: skip
    assert 0.3 < stops.min() < 1.2 and 4.0 < stops.max() < 7.0


def test_low_resolution_loses_fine_detail() -> None:
    checker = np.indices((96, 96)).sum(0)[..., None] % 2 * np.ones(3, np.float32)
    for seed in range(8):
        low = TASKS["sr"](checker.astype(np.float32), np.random.default_rng(seed))
        assert low.std() < 0.5 * checker.std()


def test_faded_colours_are_less_saturated() -> None:
    def colour(image: np.ndarray) -> float:
        """Mean distance from each pixel's own grey, without the mean colour: casts do not count."""
        return float(np.std(image - image.mean(axis=2, keepdims=True), axis=(0, 1)).mean())

    for seed in range(20):
        faded = TASKS["en"](PHOTO, np.random.default_rng(seed))
        assert colour(faded) < 0.95 * colour(PHOTO)


@pytest.mark.parametrize("task", ["en", "lol"])
def test_grey_stays_grey_where_there_is_no_cast(task: str) -> None:
    """Half the faded pictures, and slightly dark ones without noise, have no colour of their own;
    a cast of white balance can be told by the greys alone: it is one factor for each channel."""
    ramp = np.repeat(np.linspace(0.1, 0.9, 64, dtype=np.float32)[None, :, None], 8, 0)
    ramp = np.repeat(ramp, 3, 2)
    spread = [
        float(np.ptp(TASKS[task](ramp, np.random.default_rng(s)).mean(axis=0), axis=1).mean())
        for s in range(80)
    ]
    grey = sum(s < 0.5 / 255 for s in spread)
    assert 25 <= grey <= 55 if task == "en" else grey >= 2
    assert max(spread) > 5 / 255


def test_demosaicing_against_means_of_neighbours() -> None:
    rng = np.random.default_rng(0)
    clean = np.zeros((8, 8, 3), np.float32)
    raw = rng.random((8, 8)).astype(np.float32)
    ours = imaging.demosaic(raw, clean)
    # RGGB: at (2, 2) red is measured, green is the mean of 4 sides, blue of 4 corners.
    assert ours[2, 2, 0] == pytest.approx(raw[2, 2])
    assert ours[2, 2, 1] == pytest.approx(raw[[1, 3, 2, 2], [2, 2, 1, 3]].mean(), abs=1e-6)
    assert ours[2, 2, 2] == pytest.approx(raw[[1, 1, 3, 3], [1, 3, 1, 3]].mean(), abs=1e-6)
    assert ours[2, 3, 0] == pytest.approx(raw[2, [2, 4]].mean(), abs=1e-6)  # red left and right


def test_compositions_stack_in_the_order_of_a_camera() -> None:
    stages = recipes.compose(["noise", "haze"], PHOTO, np.random.default_rng(0))
    assert len(stages) == 3 and stages[0] is PHOTO
    haze = TASKS["haze"](PHOTO, np.random.default_rng(0))
    assert np.array_equal(stages[1], haze)  # haze is out there, noise comes in the sensor
    for wrong in (["noise", "noise"], ["none"]):
        with pytest.raises(ValueError, match="Name each degradation once"):
            recipes.compose(wrong, PHOTO, np.random.default_rng(0))


def test_paper_degradations() -> None:
    paper = {task: recipe.paper for task, recipe in recipes.RECIPES.items() if recipe.paper}
    assert set(paper) == {"noise", "sr"}
    grey = np.full((128, 128, 3), 0.5, np.float32)
    levels = {
        round(float((paper["noise"](grey, np.random.default_rng(s)) - grey).std())
              * 255 / 5) * 5 for s in range(20)
    }  # fmt: skip
    assert levels == {15, 25, 50}
    small = paper["sr"](PHOTO, np.random.default_rng(0))
    assert small.shape == PHOTO.shape


def test_contact_sheet() -> None:
    sheet = recipes.contact_sheet(PHOTO, draws=2)
    height, width = PHOTO.shape[0] + 4, PHOTO.shape[1] + 4
    assert sheet.shape == ((len(TASKS) + 1) * height, 3 * width, 3)
    assert np.array_equal(sheet[: PHOTO.shape[0], : PHOTO.shape[1]], np.rint(PHOTO * 255))


# --- frozen for scores -------------------------------------------------------------------------

PINNED = {
    "noise": (143.173, 160.331, 66.000),
    "blur": (143.477, 154.223, 79.667),
    "rain": (176.405, 186.892, 77.000),
    "haze": (202.086, 202.569, 194.000),
    "lol": (49.024, 54.146, 22.000),
    "sr": (143.473, 154.285, 83.000),
    "en": (159.496, 166.213, 104.333),
    "grain12": (143.292, 155.460, 85.000),
    "grain25": (143.141, 156.237, 96.000),
    "jpeg10": (143.896, 155.565, 92.667),
    "jpeg30": (143.663, 155.478, 78.000),
    "jpeg70": (143.491, 155.386, 82.000),
    "bands": (142.440, 154.430, 72.000),
    "saltpepper": (142.849, 156.851, 75.000),
}


@pytest.mark.parametrize("name", [*FROZEN, *KINDS])
def test_recipes_for_scores_stay_as_they_are(name: str) -> None:
    """Mean, mean square and one pixel of a draw, as recorded when the recipes were frozen."""
    recipe = {**FROZEN, **KINDS}[name]
    kept = PHOTO.copy()
    levels = recipe(PHOTO, np.random.default_rng(7)).astype(np.float64) * 255
    assert np.array_equal(PHOTO, kept)
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    found = levels.mean(), np.sqrt((levels**2).mean()), levels[64, 80].mean()
    np.testing.assert_allclose(found, PINNED[name], atol=0.02)
