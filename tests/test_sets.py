"""Test sets from folders: the paper's noise, pairs by name, the layouts people download."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from instructir_core.evaluation import metrics, sets
from instructir_core.evaluation.published import NOISY_INPUT

ROOT = Path(__file__).parent.parent
SETS = Path(os.environ.get("INSTRUCTIR_TEST_SETS", ROOT.parent / "shared" / "data" / "test"))
"""Test sets are not shipped: put them beside the checkout in shared/data/test, or name a folder."""


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photo(height: int = 40, width: int = 50) -> np.ndarray:
    return data.coffee()[100 : 100 + height, 150 : 150 + width]


def mean_input_psnr(images: sets.ImageSet) -> float:
    return float(np.mean([metrics.psnr(p.degraded, p.clean) for p in map(sets.cropped, images)]))


# --- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "expected"), [(15, 24.8433), (25, 20.5419), (50, 15.0025)])
def test_noisy_cbsd68_is_the_papers(sigma: int, expected: float) -> None:
    folder = SETS / "CBSD68"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: put CBSD68 there, or set INSTRUCTIR_TEST_SETS to its folder")
    images = sets.synthetic(folder, f"noise{sigma}")
    assert images.count == 68
    assert mean_input_psnr(images) == pytest.approx(expected, abs=5e-5)
    if sigma == 15:
        assert expected == pytest.approx(NOISY_INPUT["CBSD68 sigma 15"], abs=5e-5)


# Recorded: NumPy's RandomState(0) on the whole picture, clipped, rounded to 8 bits, then cropped
# and scored by upstream's crop_img and pt_psnr.
@pytest.mark.parametrize(
    ("sigma", "expected", "first", "last"),
    [
        (15, 25.006372, (11, 0, 30), (184, 50, 198)),
        (25, 20.769355, (9, 0, 41), (196, 40, 219)),
        (50, 15.262578, (5, 0, 68), (228, 17, 255)),
    ],
)
def test_noise_recipe(
    tmp_path: Path, sigma: int, expected: float, first: tuple[int, ...], last: tuple[int, ...]
) -> None:
    y, x = np.mgrid[0:67, 0:101]
    pattern = np.stack([(x * 5 + y * 3) % 256, (x * y) % 256, (y * y // 4 + 7 * x) % 256], -1)
    save(tmp_path / "1.png", pattern.astype(np.uint8))
    (whole,) = sets.synthetic(tmp_path, f"noise{sigma}")
    assert whole.degraded.shape == whole.clean.shape == (67, 101, 3)
    pair = sets.cropped(whole)
    assert pair.degraded.shape == pair.clean.shape == (64, 96, 3)
    assert pair.degraded.dtype == pair.clean.dtype == np.float32
    assert metrics.psnr(pair.degraded, pair.clean) == pytest.approx(expected, abs=1e-4)
    levels = np.rint(pair.degraded * 255).astype(int)
    assert tuple(levels[0, 0]) == first and tuple(levels[-1, -1]) == last
    np.testing.assert_array_equal(np.rint(pair.clean * 255), pattern[1:65, 2:98])


# --- other recipes -----------------------------------------------------------------------------


def test_down_and_up_is_pillows_bicubic(tmp_path: Path) -> None:
    save(tmp_path / "1.png", photo(48, 64))
    (pair,) = sets.synthetic(tmp_path, "sr4")
    small = Image.fromarray(photo(48, 64)).resize((16, 12), Image.Resampling.BICUBIC)
    expected = np.asarray(small.resize((64, 48), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.rint(pair.degraded * 255), expected)


def test_task_recipes_depend_on_the_picture_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name, photo(48, 64))
    first, second = sets.synthetic(tmp_path, "rain")
    assert first.name == "a" and not np.array_equal(first.degraded, second.degraded)
    (tmp_path / "a.png").unlink()
    (alone,) = sets.synthetic(tmp_path, "rain")
    np.testing.assert_array_equal(alone.degraded, second.degraded)
    (cut,) = sets.synthetic(tmp_path, "rain", size=32)
    assert cut.clean.shape == (32, 32, 3)
    np.testing.assert_array_equal(np.rint(cut.clean * 255), photo(48, 64)[8:40, 16:48])


@pytest.mark.parametrize("recipe", ["sr1", "none", "fog", "noise-5", ""])
def test_unknown_recipes(recipe: str) -> None:
    with pytest.raises(ValueError, match=f"{recipe!r}; expected noise and its sigma"):
        sets.parse_recipe(recipe)


def test_too_small_a_picture(tmp_path: Path) -> None:
    save(tmp_path / "dot.png", photo(12, 40))
    (dot,) = sets.synthetic(tmp_path, "noise25")
    with pytest.raises(ValueError, match=r"dot: found 40 x 12 pixels; expected 16"):
        sets.cropped(dot)


# --- pairs -------------------------------------------------------------------------------------


def pairs_of(folder: Path) -> list[sets.Pair]:
    return list(sets.paired("set", "haze", [(folder / "in", folder / "out")]))


@pytest.mark.parametrize(("given", "wanted"), [("1", "1"), ("14_3", "14"), ("rain-2", "norain-2")])
def test_pairs_are_found_by_name(tmp_path: Path, given: str, wanted: str) -> None:
    save(tmp_path / "in" / f"{given}.png", photo(37, 50) // 2)
    save(tmp_path / "out" / f"{wanted}.png", photo(37, 50))
    save(tmp_path / "out" / "more.png", photo())
    (pair,) = pairs_of(tmp_path)
    assert pair.name == given and sets.cropped(pair).clean.shape == (32, 48, 3)
    np.testing.assert_array_equal(np.rint(pair.clean * 255), photo(37, 50))
    np.testing.assert_array_equal(np.rint(pair.degraded * 255), photo(37, 50) // 2)


def test_a_target_with_a_border_is_cut(tmp_path: Path) -> None:
    save(tmp_path / "out" / "14.png", photo(68, 84))
    save(tmp_path / "in" / "14_3.png", photo(68, 84)[10:-10, 10:-10])
    (pair,) = pairs_of(tmp_path)
    np.testing.assert_array_equal(pair.degraded, pair.clean)


def test_pairs_that_do_not_fit(tmp_path: Path) -> None:
    save(tmp_path / "in" / "1.png", photo(64, 48))
    save(tmp_path / "out" / "1.png", photo(48, 64))
    with pytest.raises(ValueError, match=r"1\.png: found 48 x 64 pixels, and 64 x 48 in"):
        pairs_of(tmp_path)
    save(tmp_path / "out" / "1.bmp", photo(48, 64))
    with pytest.raises(ValueError, match="another target of this name"):
        pairs_of(tmp_path)
    (tmp_path / "out" / "1.bmp").unlink()
    save(tmp_path / "in" / "15.png", photo())
    with pytest.raises(ValueError, match=r"15\.png: found no target"):
        pairs_of(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        sets.paired("set", "haze", [(tmp_path / "in", tmp_path / "nowhere")])
    with pytest.raises(ValueError, match="'fog' for set; expected one of noise"):
        sets.paired("set", "fog", [(tmp_path / "in", tmp_path / "in")])


# --- standard sets -----------------------------------------------------------------------------


def test_suite_finds_the_usual_layouts(tmp_path: Path) -> None:
    for folder in ("CBSD68", "denoising/urban100/HR", "real"):
        save(tmp_path / folder / "1.png", photo())
    for first, second in (
        ("Rain100L/rainy/rain-1.png", "Rain100L/gt/norain-1.png"),
        ("SOTS/outdoor/hazy/1_0.8_0.2.png", "SOTS/outdoor/gt/1.png"),
        ("SOTS/indoor/hazy/2_1.png", "SOTS/indoor/gt/2.png"),
        ("GOPRO_Large/test/S1/blur/1.png", "GOPRO_Large/test/S1/sharp/1.png"),
        ("GOPRO_Large/test/S2/blur/1.png", "GOPRO_Large/test/S2/sharp/1.png"),
        ("GOPRO_Large/train/S3/blur/1.png", "GOPRO_Large/train/S3/sharp/1.png"),
        ("lol_dataset/eval15/low/1.png", "lol_dataset/eval15/high/1.png"),
        ("lol_dataset/our485/low/2.png", "lol_dataset/our485/high/2.png"),
        ("fiveK/input/a.png", "fiveK/expertC/a.png"),
    ):
        save(tmp_path / first, photo())
        save(tmp_path / second, photo())
    (tmp_path / "Kodak24").mkdir()
    found, notes = sets.find_suite(tmp_path)
    assert [(s.name, s.task, s.count) for s in found] == [
        *((f"CBSD68 sigma {s}", "noise", 1) for s in (15, 25, 50)),
        *((f"Urban100 sigma {s}", "noise", 1) for s in (15, 25, 50)),
        ("Rain100L", "rain", 1),
        ("SOTS-outdoor", "haze", 1),
        ("SOTS-indoor", "haze", 1),
        ("GoPro", "blur", 2),
        ("LOL", "lol", 1),
        ("MIT5K", "en", 1),
    ]  # fmt: skip
    named = {s.name: [p.name for p in s] for s in found}
    assert named["SOTS-outdoor"] == ["1_0.8_0.2"] and named["LOL"] == ["1"]
    assert named["GoPro"] == ["S1/1", "S2/1"]
    assert "CBSD68: 1 pictures of 68, so its scores are not those of the whole set" in notes
    assert any(note.startswith("Kodak24: nothing to score") for note in notes)


def test_a_set_of_any_task_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        sets.Standard("Set5", "sr", 5, ("set5",), {"sr2": "x2", "sr4": "x4"}),
        sets.Standard("Faded", "en", 1, ("faded",)),
    )
    monkeypatch.setattr(sets, "SUITE", rows)
    for name in ("Set5/1.png", "faded/input/1.png", "faded/target/1.png"):
        save(tmp_path / name, photo())
    found, notes = sets.find_suite(tmp_path)
    assert [(s.name, s.task, s.count) for s in found] == [
        ("Set5 x2", "sr", 1), ("Set5 x4", "sr", 1), ("Faded", "en", 1),
    ]  # fmt: skip
    assert len(notes) == 1 and notes[0].startswith("Set5: 1 pictures of 5")
    (pair,) = found[0]
    np.testing.assert_array_equal(
        pair.degraded, next(iter(sets.synthetic(tmp_path / "Set5", "sr2"))).degraded
    )
    assert [sets.published_images(n) for n in ("Set5 x2", "Faded", "Set5")] == [5, 1, None]


def test_suite_without_outdoor_haze_takes_no_indoor_haze_for_it(tmp_path: Path) -> None:
    for name in ("hazy/2_1.png", "gt/2.png"):
        save(tmp_path / "SOTS" / "indoor" / name, photo())
    found, _ = sets.find_suite(tmp_path)
    assert [s.name for s in found] == ["SOTS-indoor"]


def test_suite_with_nothing_known(tmp_path: Path) -> None:
    save(tmp_path / "holiday" / "1.png", photo())
    with pytest.raises(ValueError, match="found none of CBSD68, Urban100"):
        sets.find_suite(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        sets.find_suite(tmp_path / "nowhere")
