"""Reading pictures: what is looked at, what severity means, files, and a short training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_model import fill, tiny_parts

from instructir_core import Restorer, checkpoint
from instructir_core.cli import main
from instructir_core.diagnose import Diagnosis, DiagnosisConfig, look, severity
from instructir_core.tasks import CLASSES, TASKS
from instructir_core.training import diagnosis_samples as samples
from instructir_core.training import diagnosis_training as training
from instructir_core.training.imaging import quantize
from instructir_core.training.recipes import RECIPES

SMALL = DiagnosisConfig(widths=(4, 8, 8, 8), hidden=8)


def small() -> Diagnosis:
    return fill(Diagnosis(SMALL))  # type: ignore[return-value]


def noise(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(height).rand(height, width, 3).astype("f4"))


def photo(seed: int, height: int = 200, width: int = 260) -> np.ndarray:
    """A picture with edges and slopes, of 8 bits."""
    rng = np.random.RandomState(seed)
    coarse = Image.fromarray(rng.randint(0, 256, (7, 9, 3), np.uint8))
    slopes = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 255.0
    edges = np.kron(rng.rand(5, 5, 3), np.ones((height // 5, width // 5, 1)))
    return np.rint((0.6 * slopes + 0.4 * edges) * 255).astype(np.uint8)


# --- the network -------------------------------------------------------------------------------


def test_it_is_half_a_megabyte_at_most() -> None:
    assert sum(p.numel() for p in Diagnosis().parameters()) <= 250_000


@pytest.mark.parametrize("size", [(16, 16), (17, 400), (400, 17), (95, 97), (96, 96), (301, 500)])
def test_any_size_gives_every_task(size: tuple[int, int]) -> None:
    picture = noise(*size)
    kept = picture.clone()
    found = small().severities(picture)
    assert [*found] == [*TASKS]
    assert all(0.0 <= value <= 1.0 for value in found.values())
    assert found == small().severities(picture) and torch.equal(picture, kept)
    # A view of the same values in other strides is the same picture.
    turned = picture.transpose(0, 1).contiguous().transpose(0, 1)
    assert found == pytest.approx(small().severities(turned), abs=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (15, 900), (0, 40)])
def test_too_small_to_tell_is_nothing(size: tuple[int, int]) -> None:
    assert small().severities(torch.ones(*size, 3)) == dict.fromkeys(TASKS, 0.0)


def test_bad_pictures_are_refused() -> None:
    for bad in (noise(20, 20)[..., :2], noise(20, 20)[None], noise(20, 20).byte()):
        with pytest.raises(ValueError, match="expected"):
            small().severities(bad)
    with pytest.raises(ValueError, match="tensor"):
        small().severities(noise(20, 20).numpy())  # type: ignore[arg-type]
    broken = noise(40, 40)
    broken[3, 3, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        small().severities(broken)


def test_crops_are_the_picture_itself_on_the_blocks_of_jpeg() -> None:
    picture = noise(500, 700)
    picture[:250] *= 0.1
    seen = look(picture)
    assert seen.view.shape == (3, 128, 128) and seen.crops.shape == (6, 3, 96, 96)
    whole = picture.permute(2, 0, 1)
    places = []
    for crop in seen.crops:
        corner = (whole[:, :405, :605] == crop[:, :1, :1]).all(0).nonzero().tolist()
        places += [(y, x) for y, x in corner if torch.equal(whole[:, y : y + 96, x : x + 96], crop)]
    assert len(places) == 6 and all(y % 8 == x % 8 == 0 for y, x in places)
    # From the flattest to the busiest.
    assert places[0][0] < 250 - 96 and places[-1][0] >= 250


def test_the_view_is_the_mean_of_what_it_covers() -> None:
    picture = noise(256, 384)
    blocks = picture.reshape(128, 2, 128, 3, 3).mean((1, 3)).permute(2, 0, 1)
    assert torch.allclose(look(picture).view, blocks, atol=1e-6)


# --- files -------------------------------------------------------------------------------------


def saved(path: Path, diagnosis: Diagnosis | None, *, half: bool = False) -> Path:
    network, head, encoder = tiny_parts()
    dtype = torch.float16 if half else None
    checkpoint.save(
        path, network, head, CLASSES, encoder, {"name": "tiny"}, dtype=dtype, diagnosis=diagnosis
    )
    return path


def test_it_goes_through_a_file(tmp_path: Path) -> None:
    diagnosis = small()
    diagnosis.config = replace(SMALL, thresholds=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    restorer = Restorer.from_pretrained(saved(tmp_path / "a.safetensors", diagnosis), device="cpu")
    picture = noise(120, 130)
    assert restorer.diagnosis is not None
    assert restorer.diagnosis.severities(picture) == diagnosis.severities(picture)
    assert restorer.diagnosis.thresholds == dict(
        zip(TASKS, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), strict=True)
    )
    halved = checkpoint.load_diagnosis(saved(tmp_path / "b.safetensors", diagnosis, half=True))
    assert halved.severities(picture) == pytest.approx(diagnosis.severities(picture), abs=5e-3)


def test_files_without_one_load_and_say_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", None)
    assert Restorer.from_pretrained(path, device="cpu").diagnosis is None
    with pytest.raises(ValueError, match="no diagnosis"):
        checkpoint.load_diagnosis(path)


def test_convert_puts_one_in_and_keeps_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, alone = saved(tmp_path / "model.safetensors", None), tmp_path / "alone.safetensors"
    checkpoint.save(alone, None, None, CLASSES, None, {}, diagnosis=small())
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    convert = ["models", "convert"]
    assert main([*convert, str(model), str(out), "--diagnosis", str(alone)]) == 0
    assert main([*convert, str(out), str(again)]) == 0
    picture = noise(100, 100)
    expected = small().severities(picture)
    for path in (out, again):
        assert checkpoint.load_diagnosis(path).severities(picture) == expected
        loaded = checkpoint.load(path)
        assert loaded.network is not None and loaded.head is not None
    bad = [*convert, str(model), str(tmp_path / "x.safetensors"), "--diagnosis", str(model)]
    assert main(bad) == 1 and "no diagnosis" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def change(path: Path, **metadata: object) -> None:
    """Rewrite a file under another config of its diagnosis."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        known = dict(file.metadata())
    config = {**json.loads(known["diagnosis"]), **metadata}
    save_file(tensors, path, {**known, "diagnosis": json.dumps(config)})


@pytest.mark.parametrize(
    "lie",
    [
        {"widths": [10**9, 8, 8, 8]},
        {"widths": [1024, 1024, 1024, 1024]},
        {"widths": [4] * 40},
        {"widths": []},
        {"widths": 7},
        {"hidden": -1},
        {"hidden": 9},
        {"hidden": True},
        {"view": 10**8},
        {"crop": 8},
        {"tasks": ["noise"]},
        {"tasks": ["x", *[*TASKS][1:]]},
        {"thresholds": [0.1] * 6},
        {"thresholds": [2.0] * 7},
        {"thresholds": [float("nan")] * 7},
        {"colour": 1},
    ],
    ids=str,
)
def test_files_that_lie_are_refused(tmp_path: Path, lie: dict[str, object]) -> None:
    path = saved(tmp_path / "a.safetensors", small())
    change(path, **lie)
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        checkpoint.load(path)


# --- what severity means -----------------------------------------------------------------------


def test_severity_is_measured() -> None:
    assert [severity(p) for p in (float("inf"), 45.0, 40.0, 27.5, 15.0, 5.0)] == [
        0,
        0,
        0,
        0.5,
        1,
        1,
    ]
    # 12 of 255 off everywhere: 20 log10(255 / 12) = 26.55 dB.
    clean = np.full((64, 64, 3), 100 / 255, np.float32)
    off = np.full((64, 64, 3), 112 / 255, np.float32)
    assert severity(samples._psnr(clean, off)) == pytest.approx((40 - 26.547) / 25, abs=1e-4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(8):
        Image.fromarray(photo(number)).save(folder / f"{number}.png")
    return folder


def test_a_sample_says_what_was_done_to_it(photos: Path) -> None:
    sources = samples.collect(photos)[0]
    seen: set[int] = set()
    for number in range(60):
        sample = samples.draw_sample(sources, np.random.default_rng(number))
        assert sample.picture.dtype == np.float32 and sample.picture.shape == sample.clean.shape
        assert np.allclose(sample.picture * 255, np.rint(sample.picture * 255), atol=1e-3)
        wrong = {task for task, value in sample.severities.items() if value > 0}
        assert wrong <= set(sample.tasks) and [*sample.severities] == [*TASKS]
        assert [*sample.tasks] == [task for task in RECIPES if task in sample.tasks]
        seen.add(len(sample.tasks))
        if len(sample.tasks) == 1:
            error = np.mean((sample.picture.astype("f8") - sample.clean) ** 2)
            psnr = 10 * np.log10(1 / error) if error else np.inf
            assert sample.severities[sample.tasks[0]] == pytest.approx(severity(psnr), abs=1e-6)
        if not sample.tasks:
            assert np.array_equal(sample.picture, sample.clean)
    assert seen == {0, 1, 2}
    again = samples.draw_sample(sources, np.random.default_rng(59))
    assert np.array_equal(again.picture, sample.picture)


def test_what_files_do_is_done_to_the_clean_picture_too() -> None:
    picture = quantize(photo(3) / 255.0)
    saved_alike = 0
    for seed in range(40):
        kept = samples._file(np.random.default_rng(seed))(picture)
        assert np.array_equal(kept, samples._file(np.random.default_rng(seed))(picture))
        saved_alike += kept.shape == picture.shape and np.array_equal(kept, picture)
    assert 5 < saved_alike < 30


@pytest.mark.parametrize("make", [samples.night, samples.shallow_focus])
def test_clean_pictures_stay_pictures(make: object) -> None:
    picture = quantize(photo(4) / 255.0)
    for seed in range(5):
        made = make(picture, np.random.default_rng(seed))  # type: ignore[operator]
        assert made.shape == picture.shape and made.min() >= 0 and made.max() <= 1
    if make is samples.night:
        assert made.mean() < 0.75 * picture.mean() and made.max() > 0.6 * picture.max()
    else:
        same = np.abs(made - picture).max(axis=2) < 0.02
        assert 0.2 < same.mean() < 0.95


# --- training ----------------------------------------------------------------------------------


def test_a_short_training_learns_and_its_file_loads(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "diagnosis.safetensors"
    command = ["train-diagnosis", str(out), "--photos", str(photos), "--samples", "40"]
    assert main(command) == 0 and str(out) in capsys.readouterr().out
    loaded = checkpoint.load(out)
    assert loaded.network is None and loaded.diagnosis is not None
    assert loaded.provenance["diagnosis"]["samples"] == 40
    assert all(0.05 <= t <= 0.91 for t in loaded.diagnosis.thresholds.values())
    assert main([command[0], str(tmp_path / "x.bin"), *command[2:]]) == 1
    assert main([*command[:2], "--photos", str(tmp_path / "no")]) == 1
    assert main([*command, "--minutes", "0"]) == 1


def test_the_loss_falls_and_what_is_wrong_is_told(photos: Path) -> None:
    sources = samples.collect(photos)[0]
    lessons = samples.make_lessons(sources, 0, 64, SMALL)
    torch.manual_seed(0)
    diagnosis = Diagnosis(SMALL)
    before = (training.answer(diagnosis.eval(), lessons) - lessons.severities).abs().mean()
    losses = training.learn(diagnosis, lessons, 0, steps=150, learning_rate=5e-3)
    after = (training.answer(diagnosis, lessons) - lessons.severities).abs().mean()
    assert len(losses) == 150 and np.mean(losses[-20:]) < 0.6 * np.mean(losses[:10])
    assert after < 0.5 * before
    assert not diagnosis.training and not any(p.requires_grad for p in diagnosis.parameters())


def test_thresholds_lie_just_above_clean_pictures() -> None:
    severities = torch.zeros(40, 7)
    severities[20:, 0] = 0.6
    read = torch.full((40, 7), 0.02)
    read[:20, 0], read[20:, 0] = 0.11, 0.31
    lessons = samples.Lessons(*(torch.zeros(40, 1) for _ in range(4)), severities)
    first, *others = training.calibrate(read, lessons)
    assert 0.11 < first < 0.115
    assert all(other >= 0.05 for other in others)


def test_a_diagnosis_alone_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "alone.safetensors"
    checkpoint.save(path, None, None, CLASSES, None, {}, diagnosis=small())
    with pytest.raises(ValueError, match="alone"):
        Restorer.from_pretrained(path, device="cpu")
