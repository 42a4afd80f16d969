"""Reading pictures: what is looked at and asked, what severity means, files, a short training."""

from __future__ import annotations

import json
import logging
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
from instructir_core.diagnose import Diagnosis, Judge, JudgeConfig, fingerprint, look, severity
from instructir_core.measures import change_statistics
from instructir_core.tasks import CLASSES, TASKS
from instructir_core.training import diagnosis_samples as samples
from instructir_core.training import diagnosis_training as training
from instructir_core.training.imaging import quantize
from instructir_core.training.recipes import RECIPES

SMALL = JudgeConfig(hidden=8)


def judge() -> Judge:
    """One of random weights and sentences."""
    made = fill(Judge(SMALL))
    sentences = np.random.RandomState(1).normal(0, 0.06, (len(TASKS), 256))
    made.sentences.copy_(torch.from_numpy(sentences))  # type: ignore[operator]
    return made  # type: ignore[return-value]


def small() -> Diagnosis:
    return Diagnosis(judge(), tiny_parts()[0])


def noise(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(height).rand(height, width, 3).astype("f4"))


def photo(seed: int, height: int = 200, width: int = 260) -> np.ndarray:
    """A picture with edges and slopes, of 8 bits."""
    rng = np.random.RandomState(seed)
    coarse = Image.fromarray(rng.randint(0, 256, (7, 9, 3), np.uint8))
    slopes = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / 255.0
    edges = np.kron(rng.rand(5, 5, 3), np.ones((height // 5, width // 5, 1)))
    return np.rint((0.6 * slopes + 0.4 * edges) * 255).astype(np.uint8)


# --- reading -----------------------------------------------------------------------------------


def test_it_is_half_a_megabyte_at_most() -> None:
    assert sum(p.numel() for p in Judge().state_dict().values()) <= 50_000


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
    assert seen.view.shape == (3, 128, 128) and seen.crops.shape == (2, 3, 80, 80)
    whole = picture.permute(2, 0, 1)
    places = []
    for crop in seen.crops:
        corner = (whole[:, :421, :621] == crop[:, :1, :1]).all(0).nonzero().tolist()
        places += [(y, x) for y, x in corner if torch.equal(whole[:, y : y + 80, x : x + 80], crop)]
    assert len(places) == 2 and all(y % 8 == x % 8 == 0 for y, x in places)
    # A calm one and a busy one.
    assert places[0][0] < 250 - 80 and places[1][0] >= 250


def test_the_view_is_the_mean_of_what_it_covers() -> None:
    picture = noise(256, 384)
    blocks = picture.reshape(128, 2, 128, 3, 3).mean((1, 3)).permute(2, 0, 1)
    assert torch.allclose(look(picture).view, blocks, atol=1e-6)


def test_each_sentence_is_carried_out_where_its_damage_shows() -> None:
    diagnosis, asked = small(), []
    network = diagnosis.network

    def listen(module: object, given: tuple[torch.Tensor, torch.Tensor]) -> None:
        asked.extend(zip(*given, strict=True))

    network.register_forward_pre_hook(listen)
    seen = look(noise(300, 400))
    features = diagnosis.features(seen)
    scene = torch.nn.functional.avg_pool2d(seen.view[None], 2)[0]
    calm, busy = seen.crops
    expected = [
        ("haze", scene), ("lol", scene), ("en", scene),
        ("noise", calm), ("blur", busy), ("rain", calm), ("rain", busy), ("sr", busy),
    ]  # fmt: skip
    assert len(asked) == len(expected)
    for number, ((picture, sentence), (task, wanted)) in enumerate(
        zip([*asked], expected, strict=True)
    ):
        assert torch.equal(picture, wanted)
        assert torch.equal(sentence, diagnosis.judge.sentences[[*TASKS].index(task)])
        after = network(wanted[None], sentence[None]).clamp(0, 1)
        found = change_statistics(wanted[None], after)[0]
        part = features[number * len(found) : (number + 1) * len(found)]
        torch.testing.assert_close(part, found, atol=1e-3, rtol=1e-3)


def test_changes_are_told_apart() -> None:
    """By what stands first of each: how much, coarse, fine; then light and colour."""
    before = torch.full((1, 3, 64, 64), 0.4)
    grain = 0.05 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    changes = (torch.zeros(1), torch.full((1,), 0.1), grain)
    none, even, fine = (change_statistics(before, before + change)[0] for change in changes)
    assert none[0] == pytest.approx(-7.0) and none.isfinite().all()
    assert even[0] == pytest.approx(-2.0, abs=1e-3) == even[1] and even[2] == pytest.approx(-7.0)
    assert even[12] == pytest.approx(0.4, abs=1e-4)  # brighter by a tenth
    assert fine[0] == pytest.approx(float(grain.square().mean().log10()), abs=1e-3)
    assert fine[1] < fine[0] - 1.0 and abs(float(fine[12])) < 0.01
    richer = before.clone()
    richer[:, 0] += 0.1
    assert change_statistics(before, richer)[0][13] == pytest.approx(0.4, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_reads_through_a_network_of_another_precision(dtype: torch.dtype) -> None:
    diagnosis, exact = small(), small().severities(noise(120, 130))
    diagnosis.network.to(dtype)
    found = diagnosis.severities(noise(120, 130))
    assert found == pytest.approx(exact, abs=0.1)


# --- files -------------------------------------------------------------------------------------


def saved(path: Path, diagnosis: Judge | None, *, half: bool = False) -> Path:
    network, head, encoder = tiny_parts()
    dtype = torch.float16 if half else None
    checkpoint.save(
        path, network, head, CLASSES, encoder, {"name": "tiny"}, dtype=dtype, diagnosis=diagnosis
    )
    return path


def test_it_goes_through_a_file(tmp_path: Path) -> None:
    made, limits = judge(), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    made.config = replace(SMALL, thresholds=limits)
    restorer = Restorer.from_pretrained(saved(tmp_path / "a.safetensors", made), device="cpu")
    picture = noise(120, 130)
    assert restorer.diagnosis is not None
    assert restorer.diagnosis.severities(picture) == small().severities(picture)
    assert restorer.diagnosis.thresholds == dict(zip(TASKS, limits, strict=True))
    halved = saved(tmp_path / "b.safetensors", made, half=True)
    found = Restorer.from_pretrained(halved, device="cpu").diagnosis
    assert found is not None
    assert found.severities(picture) == pytest.approx(small().severities(picture), abs=2e-2)


def test_files_without_one_load_and_say_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", None)
    assert Restorer.from_pretrained(path, device="cpu").diagnosis is None
    with pytest.raises(ValueError, match="no diagnosis"):
        checkpoint.load_diagnosis(path)


def test_a_diagnosis_of_an_earlier_kind_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "a.safetensors", judge())
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        known = dict(file.metadata())
    tensors = {key: value for key, value in tensors.items() if not key.startswith("diagnosis.")}
    tensors["diagnosis.judge.0.weight"] = torch.zeros(4, 4)
    earlier = {"tasks": [*TASKS], "thresholds": [0.3] * 7, "widths": [16, 32], "hidden": 96}
    save_file(tensors, path, {**known, "diagnosis": json.dumps(earlier)})
    restorer = Restorer.from_pretrained(path, device="cpu")
    assert restorer.diagnosis is None and restorer.reader is not None
    assert "of an earlier kind, which is left out" in caplog.text


def test_a_network_it_was_not_fitted_to_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, network = judge(), tiny_parts()[0]
    made.config = replace(SMALL, network=fingerprint(network))
    for half in (False, True):
        restorer = Restorer.from_pretrained(
            saved(tmp_path / f"{half}.safetensors", made, half=half), device="cpu"
        )
        assert fingerprint(restorer.network) == made.config.network and not caplog.records
    with torch.no_grad():
        network.intro.bias += 0.1
    other = replace(SMALL, network=fingerprint(network))
    assert other.network != made.config.network
    made.config = other
    path = saved(tmp_path / "other.safetensors", made)
    with caplog.at_level(logging.WARNING):
        found = Restorer.from_pretrained(path, device="cpu").diagnosis
    assert "fitted to another network" in caplog.text
    assert found is not None and [*found.severities(noise(40, 40))] == [*TASKS]


def test_convert_puts_one_in_and_keeps_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, alone = saved(tmp_path / "model.safetensors", None), tmp_path / "alone.safetensors"
    checkpoint.save(alone, None, None, CLASSES, None, {}, diagnosis=judge())
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    convert = ["models", "convert"]
    assert main([*convert, str(model), str(out), "--diagnosis", str(alone)]) == 0
    assert main([*convert, str(out), str(again)]) == 0
    expected = judge().state_dict()
    for path in (out, again):
        found = checkpoint.load_diagnosis(path).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
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
        {"hidden": 10**9},
        {"hidden": -1},
        {"hidden": 9},
        {"hidden": True},
        {"embedding_width": 64},
        {"network": 7},
        {"tasks": ["noise"]},
        {"tasks": ["x", *[*TASKS][1:]]},
        {"thresholds": [0.1] * 6},
        {"thresholds": [2.0] * 7},
        {"absent": [0.1] * 6},
        {"absent": [-0.1] * 7},
        {"thresholds": [float("nan")] * 7},
        {"colour": 1},
    ],
    ids=str,
)
def test_files_that_lie_are_refused(tmp_path: Path, lie: dict[str, object]) -> None:
    path = saved(tmp_path / "a.safetensors", judge())
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


def test_a_short_training_fits_any_network_to_the_same_samples(
    photos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, store = tmp_path / "made" / "diagnosis.safetensors", tmp_path / "samples.safetensors"
    command = ["train-diagnosis", str(out), "--photos", str(photos), "--samples", "24"]
    command += ["--model", str(weights)]
    assert main([*command, "--store", str(store)]) == 0 and str(out) in capsys.readouterr().out
    loaded = checkpoint.load(out)
    assert loaded.network is None and loaded.diagnosis is not None
    assert loaded.provenance["diagnosis"]["samples"] == 24
    assert all(0.1 <= t <= 0.91 for t in loaded.diagnosis.config.thresholds)
    restorer = Restorer.from_pretrained(weights, device="cpu")
    assert loaded.diagnosis.config.network == fingerprint(restorer.network)
    expected = restorer.encode(TASKS["rain"].prompt).embedding[0]
    assert torch.equal(loaded.diagnosis.sentences[[*TASKS].index("rain")], expected)
    # The samples that were kept are the same that are made.
    again, plain = tmp_path / "again.safetensors", tmp_path / "plain.safetensors"
    for path, more in ((again, ["--store", str(store)]), (plain, [])):
        assert main([command[0], str(path), *command[2:], *more]) == 0
        found = checkpoint.load_diagnosis(path).state_dict()
        for name, value in loaded.diagnosis.state_dict().items():
            assert torch.equal(found[name], value), name
    capsys.readouterr()
    for bad, said in (
        ([command[0], str(tmp_path / "x.bin"), *command[2:]], "ending in .safetensors"),
        ([*command, "--photos", str(tmp_path / "no")], "found no such folder"),
        ([*command, "--samples", "3"], "expected 16 or more"),
        ([*command, "--store", str(weights)], "expected those of an earlier"),
    ):
        assert main(bad) == 1 and said in capsys.readouterr().err


def test_what_tells_is_learned() -> None:
    """Severities that lie plainly in the features, at a scale of their own each."""
    rng = np.random.RandomState(0)
    severities = torch.from_numpy(rng.rand(200, 7).astype("f4")) * (torch.rand(200, 7) < 0.4)
    made = Judge()
    features = torch.full((200, made.usual.shape[1]), 3.0)
    features[:, 7:14] = torch.from_numpy(rng.rand(200, 7).astype("f4")) * 100
    features[:, :7] = 5.0 - 0.1 * severities
    training.learn(made, features, severities, 0)
    read = made(features).sigmoid()
    assert (read - severities).abs().mean() < 0.4 * severities.mean()
    assert not made.training and not any(p.requires_grad for p in made.parameters())


def test_thresholds_lie_just_above_clean_pictures() -> None:
    severities = torch.zeros(40, 7)
    severities[20:, 0] = 0.6
    read = torch.full((40, 7), 0.02)
    read[:20, 0], read[20:, 0] = 0.11, 0.31
    read[38, 0], read[39, 0] = 0.05, 0.01
    found = training.calibrate(SMALL, read, severities)
    first, *others = found.thresholds
    assert 0.11 < first < 0.115
    assert all(other >= 0.1 for other in others)
    # Three of a hundred may be missed: 0.57 of the way from the first of twenty to the second.
    assert found.absent[0] == pytest.approx(0.01 + 0.57 * 0.04, abs=6e-4)
    assert all(other <= limit for other, limit in zip(found.absent, found.thresholds, strict=True))


def test_a_diagnosis_alone_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "alone.safetensors"
    checkpoint.save(path, None, None, CLASSES, None, {}, diagnosis=judge())
    with pytest.raises(ValueError, match="alone"):
        Restorer.from_pretrained(path, device="cpu")
