"""Training's kinds of noise, each told by what makes it that kind."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from skimage import data

from instructir_core.evaluation.degradations import KINDS
from instructir_core.training import imaging, noise

PHOTO = (data.astronaut()[:128, 128:288] / 255).astype(np.float32)
GREY = np.full((192, 192, 3), 0.5, np.float32)
KINDS_TRAINED = [kind for _, kind in noise.NOISES]
Kind = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def residue(kind: Kind, seed: int, clean: np.ndarray = GREY) -> np.ndarray:
    """What a kind adds, in levels of 255."""
    return (kind(clean, np.random.default_rng(seed)) - clean).astype(np.float64) * 255


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("kind", KINDS_TRAINED, ids=lambda k: k.__name__)
def test_pure_seeded_and_in_range(kind: Kind) -> None:
    kept = PHOTO.copy()
    one, two = (kind(PHOTO, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(PHOTO, kept) and np.array_equal(one, two)
    assert not np.array_equal(one, kind(PHOTO, np.random.default_rng(4)))
    assert one.shape == PHOTO.shape and one.dtype == np.float32
    assert one.min() >= 0 and one.max() <= 1
    np.testing.assert_allclose(one * 255, np.rint(one * 255), atol=1e-4)
    small = kind(PHOTO[:33, :41], np.random.default_rng(0))
    assert small.shape == (33, 41, 3)


def test_shares_sum_to_one_and_every_kind_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(share for share, _ in noise.NOISES) == pytest.approx(1)
    drawn: list[str] = []

    def note(name: str) -> Kind:
        def kind(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            drawn.append(name)
            return image

        return kind

    kinds = tuple((share, note(kind.__name__)) for share, kind in noise.NOISES)
    monkeypatch.setattr(noise, "NOISES", kinds)
    for seed in range(400):
        noise.noise(GREY, np.random.default_rng(seed))
    for share, kind in zip((s for s, _ in kinds), KINDS_TRAINED, strict=True):
        assert drawn.count(kind.__name__) == pytest.approx(400 * share, abs=30), kind.__name__


def test_white_noise_has_the_papers_levels_most_often_and_no_pattern() -> None:
    found = [residue(noise.white_noise, s) for s in range(60)]
    sigmas = [r.std() for r in found]
    assert min(sigmas) < 12 and 45 < max(sigmas) < 60
    for sigma in (15, 25, 50):
        assert sum(abs(s - sigma) < 1.5 for s in sigmas) >= 6  # clipping takes a little
    assert max(abs(correlation(r[:, :-1], r[:, 1:])) for r in found) < 0.02


def test_camera_noise_goes_from_hardly_seen_to_strong() -> None:
    sigmas = np.array([residue(noise.camera_noise, s).std() for s in range(60)])
    assert sigmas.min() < 1.5 and sigmas.max() > 10
    assert 2 < np.median(sigmas) < 8


def test_camera_noise_is_blotched_and_stronger_in_red_and_blue() -> None:
    found = [residue(noise.camera_noise, s) for s in range(30)]
    neighbours = np.array([correlation(r[:, :-1], r[:, 1:]) for r in found])
    assert np.mean(neighbours > 0.15) > 0.5  # demosaicing and the camera's smoothing
    channels = np.array([r.std(axis=(0, 1)) for r in found])
    assert np.mean(channels[:, 0] > channels[:, 1]) > 0.7  # white balance and colour matrix
    assert np.mean(channels[:, 2] > channels[:, 1]) > 0.7


def test_camera_noise_grows_with_light_in_the_sensor_and_leaves_edges() -> None:
    for seed in range(6):
        clean = np.repeat(PHOTO[None], 12, axis=0)
        noisy = [noise.camera_noise(PHOTO, np.random.default_rng((seed, i))) for i in range(12)]
        bias = np.mean(noisy - clean, axis=0) * 255
        # No blur: what is left of the mean of many is noise, and a little clipping and JPEG.
        assert np.abs(bias).mean() < 4


def test_photons_scatter_by_the_root_of_their_number() -> None:
    for seed in range(6):
        dim, bright = (
            residue(noise.photon_noise, seed, np.full_like(GREY, level)).std()
            for level in (0.15, 0.6)
        )
        assert bright / dim == pytest.approx(2.0, rel=0.12)


@pytest.mark.parametrize("amount", [12, 25])
def test_grain_for_scores_is_one_soft_field_of_the_strength_it_says(amount: int) -> None:
    found = residue(KINDS[f"grain{amount}"], 0)
    np.testing.assert_allclose(found, found.mean(axis=2, keepdims=True).repeat(3, 2), atol=1e-3)
    assert found.std() == pytest.approx(amount, rel=0.03)  # 0.5 + 2 * 0.25 = 1 in mid-grey
    dark = residue(KINDS[f"grain{amount}"], 0, np.full_like(GREY, 0.1)).std()
    assert dark < 0.75 * found.std()
    # White noise has a quarter of its power in the upper half of both axes; a blur takes it.
    power = np.abs(np.fft.fft2(found[..., 0])) ** 2
    fine = power[48:144, 48:144].sum() / power.sum()
    assert fine < 0.03


def test_grain_is_one_field_for_all_channels_strongest_in_mid_tones() -> None:
    for seed in range(12):
        found = residue(noise.grain, seed)
        assert correlation(found[..., 0], found[..., 2]) > 0.9
        assert residue(noise.grain, seed, np.full_like(GREY, 0.05)).std() < found.std()


def test_blotches_are_coloured_and_coarse() -> None:
    for seed in range(8):
        found = residue(noise.blotches, seed)
        chroma = found - found.mean(axis=2, keepdims=True)
        assert correlation(chroma[:, :-1], chroma[:, 1:]) > 0.3
        assert abs((found @ imaging.LUMA).mean()) < 1.0


def test_bands_are_rows_or_columns() -> None:
    kinds = []
    for seed in range(24):
        found = residue(noise.bands, seed)
        across = found.mean(axis=1).std(), found.mean(axis=0).std()
        kinds.append(across[0] > across[1])
        assert max(across) > 4 * min(across)
    assert 12 <= sum(kinds) < 24
    rows = residue(KINDS["bands"], 1)
    np.testing.assert_allclose(rows, rows[:, :1, :1].repeat(192, 1).repeat(3, 2), atol=1e-3)
    assert rows[:, 0, 0].std() == pytest.approx(6, rel=0.15)


def test_salt_and_pepper_are_black_and_white_points() -> None:
    shares = []
    for seed in range(30):
        noisy = noise.salt_and_pepper(GREY, np.random.default_rng(seed))
        hit = np.abs(noisy - 0.5) > 0.4
        assert set(np.unique(np.rint(noisy[hit] * 255))) <= {0, 255}
        np.testing.assert_allclose(noisy[~hit], 128 / 255, atol=1e-6)
        shares.append(hit.mean())
    assert min(shares) < 0.01 and max(shares) > 0.08
    scored = KINDS["saltpepper"](GREY, np.random.default_rng(0))
    assert (scored == 0).mean() == pytest.approx(0.025, abs=0.004)
    assert (scored == 1).mean() == pytest.approx(0.025, abs=0.004)
    assert np.array_equal(scored[..., 0], scored[..., 1])


def test_jpeg_for_scores_is_pillows() -> None:
    pixels = np.rint(PHOTO * 255).astype(np.uint8)
    for quality in (10, 30, 70):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        ours = KINDS[f"jpeg{quality}"](PHOTO, np.random.default_rng(0))
        np.testing.assert_array_equal(np.rint(ours * 255), np.asarray(Image.open(file)))


def steps_at_every_eighth(image: np.ndarray, offset: int) -> float:
    """How much larger horizontal steps are where blocks of 8 px meet, if they begin at offset."""
    steps = np.abs(np.diff(image.mean(axis=2), axis=1)).mean(axis=0)
    meeting = (np.arange(len(steps)) + 1 - offset) % 8 == 0
    return float(steps[meeting].mean() / steps[~meeting].mean())


def test_blocks_of_files_begin_where_the_corner_says() -> None:
    soft = imaging.soften(PHOTO, 1.5)
    for left in (0, 3):
        coarse = imaging.compress(soft, 10, corner=(5, left))
        assert coarse.shape == soft.shape
        found = [steps_at_every_eighth(coarse, offset) for offset in range(8)]
        assert int(np.argmax(found)) == (8 - left) % 8 and max(found) > 1.3
    assert steps_at_every_eighth(soft, 0) < 1.2


def test_files_are_compressed_from_hardly_to_badly() -> None:
    found = np.array([residue(noise.file_artefacts, s, PHOTO).std() for s in range(40)])
    assert found.min() < 6 and found.max() > 14
    webp = imaging.compress(PHOTO, 20, "WEBP", method=1)
    jpeg = imaging.compress(PHOTO, 20)
    assert webp.shape == jpeg.shape and not np.array_equal(webp, jpeg)
