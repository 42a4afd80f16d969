"""Scores against scikit-image, and the data protocols re-derived."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data, metrics

from instructir_core import Restorer, evaluate


def test_psnr_against_scikit_image() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 20, 30, 3)).astype(np.float32)
    expected = metrics.peak_signal_noise_ratio(a, b, data_range=1.0)
    assert evaluate.psnr(a, b) == pytest.approx(expected, abs=1e-5)
    assert evaluate.psnr(a, a) == float("inf")
    with pytest.raises(ValueError, match="equal ones"):
        evaluate.psnr(a, b[:-1])


def test_noise_protocol(tmp_path: Path) -> None:
    photo = data.coffee()[:100, :150]
    Image.fromarray(photo).save(tmp_path / "1.png")
    ((noisy, clean),) = evaluate.noisy_set(tmp_path, 25)
    drawn = np.random.RandomState(0).normal(0, 25, photo.shape)
    expected = np.clip(photo + drawn, 0, 255).round()[2:98, 3:147]
    np.testing.assert_array_equal(np.rint(noisy * 255), expected)
    np.testing.assert_array_equal(np.rint(clean * 255), photo[2:98, 3:147])


def test_pairs_are_found_by_name_and_bordered_targets_cut(tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    target = data.coffee()[:60, :80]
    Image.fromarray(target).save(tmp_path / "out" / "14.png")
    Image.fromarray(target[10:-10, 10:-10]).save(tmp_path / "in" / "14_3.png")
    ((before, after),) = evaluate.paired_set(tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(before, after)
    Image.fromarray(target).save(tmp_path / "in" / "15.png")
    with pytest.raises(ValueError, match=r"15\.png: found no target"):
        list(evaluate.paired_set(tmp_path / "in", tmp_path / "out"))


def test_score_and_misread(restorer: Restorer, tmp_path: Path) -> None:
    clean = np.full((16, 16, 3), 0.5, np.float32)
    before, _, count = evaluate.score(restorer, iter([(clean + 0.1, clean)]), "x", "t")
    assert before == pytest.approx(20, abs=1e-4) and count == 1
    task = restorer.encode("abc").task
    (tmp_path / "s.tsv").write_text(f"# note\n{task}\tadult\tabc\nzebra\tchild\tabc\n")
    rows = evaluate.read_sentences(tmp_path / "s.tsv")
    assert rows == [(task, "abc"), ("zebra", "abc")]
    assert evaluate.misread(restorer, rows) == [("zebra", task, "abc")]
