"""Degradations: pure and seeded, and each one's physics checked by an independent route."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import color, data, metrics

from instructir_core.training import degradations, recipes

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


def test_gaussian_noise_has_the_sigma_it_says() -> None:
    grey = np.full((200, 200, 3), 0.5, np.float32)
    found = [TASKS["noise"](grey, np.random.default_rng(s)).std() * 255 for s in range(60)]
    assert 3 < min(found) < 20 and 45 < max(found) < 60
    for sigma in (15, 25, 50):  # the published levels are drawn more often than any other
        assert sum(abs(f - sigma) < 1.0 for f in found) >= 3  # clipping takes a little


def test_srgb_curve_against_scikit_image() -> None:
    values = np.linspace(0, 1, 768, dtype=np.float32).reshape(16, 16, 3)
    # XYZ of scikit-image is linear light times a matrix, whose Y row sums to 1.
    linear = color.rgb2xyz(values)[..., 1]
    ours = degradations.to_linear(values) @ np.array([0.212671, 0.715160, 0.072169])
    np.testing.assert_allclose(ours, linear, atol=2e-6)
    np.testing.assert_allclose(
        degradations.to_srgb(degradations.to_linear(values)), values, atol=2e-6
    )


@pytest.mark.parametrize("kernel", ["_motion_kernel", "_disc_kernel"])
@pytest.mark.parametrize("seed", range(5))
def test_blur_kernels_keep_brightness_and_place(kernel: str, seed: int) -> None:
    weights = getattr(degradations, kernel)(np.random.default_rng(seed))
    assert weights.shape[0] == weights.shape[1] and weights.shape[0] % 2 == 1
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1, abs=1e-5)


def test_convolution_against_scipy() -> None:
    kernel = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    ours = degradations._convolve(PHOTO, kernel)
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


def test_haze_lies_over_everything_or_over_what_is_far() -> None:
    black = np.zeros((64, 64, 3), np.float32)
    nearest, farthest = [], []
    for seed in range(40):
        light = TASKS["haze"](black, np.random.default_rng(seed))  # A (1 - t)
        nearest.append(light.min())
        farthest.append(light.max())
        share = light[light.min(axis=2) > 0.2]
        if len(share):  # one t for all channels
            assert np.ptp(share[:, 0] / share[:, 1]) < 0.04
    clear = sum(n < 0.01 for n in nearest)
    assert 8 <= clear <= 24 and max(nearest) > 0.2
    assert min(farthest) > 0.1


def test_low_light_is_at_least_a_stop_darker() -> None:
    for seed in range(8):
        dark = TASKS["lol"](PHOTO, np.random.default_rng(seed))
        ratio = degradations.to_linear(dark).mean() / degradations.to_linear(PHOTO).mean()
        assert 0.01 < ratio < 0.5


def test_low_resolution_loses_fine_detail() -> None:
    checker = np.indices((96, 96)).sum(0)[..., None] % 2 * np.ones(3, np.float32)
    for seed in range(8):
        low = TASKS["sr"](checker.astype(np.float32), np.random.default_rng(seed))
        assert low.std() < 0.35 * checker.std()


def test_faded_colours_are_less_saturated() -> None:
    for seed in range(8):
        faded = TASKS["en"](PHOTO, np.random.default_rng(seed))
        assert np.ptp(faded, axis=2).mean() < np.ptp(PHOTO, axis=2).mean()


def test_camera_noise_is_coloured_by_demosaicing() -> None:
    grey = np.full((256, 256, 3), 0.5, np.float32)

    def neighbours(kind: str) -> list[float]:
        """Correlation of the noise with the pixel to the right, for many draws."""
        found = []
        for seed in range(12):
            noise = getattr(degradations, kind)(grey, np.random.default_rng(seed)) - grey
            found.append(float(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]))
        return found

    assert max(map(abs, neighbours("gaussian_noise"))) < 0.02
    camera = neighbours("camera_noise")
    assert max(camera) > 0.2 and min(camera) < 0.05  # about half go through demosaicing


def test_demosaicing_against_means_of_neighbours() -> None:
    rng = np.random.default_rng(0)
    clean = np.zeros((8, 8, 3), np.float32)
    raw = rng.random((8, 8)).astype(np.float32)
    ours = degradations._demosaic(raw, clean)
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
