"""The command line, run in this process on the tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from instructir_core import Restorer, pictures
from instructir_core.cli import main
from instructir_core.pictures import Picture
from instructir_core.tasks import CLASSES, TASKS


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(weights: Path, *arguments: object) -> int:
    return main(["restore", *map(str, arguments), "--model", str(weights), "--device", "cpu"])


def test_one_file(
    weights: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "out.png", tmp_path / "sheets" / "sheet.png"
    given = photo.read_bytes()
    assert run(weights, photo, "-i", "remove the rain", "-o", out, "--compare", sheet) == 0
    restorer = Restorer.from_pretrained(weights, device="cpu")
    instruction = restorer.encode("remove the rain")
    expected = restorer.restore(torch.from_numpy(pictures.read(photo).pixels), instruction)
    assert np.array_equal(np.asarray(Image.open(out)), np.rint(expected.numpy() * 255))
    printed = capsys.readouterr().out
    for part in (instruction.task, f"{instruction.probabilities[instruction.task]:.0%}", "41 x 30"):
        assert part in printed
    assert photo.read_bytes() == given
    # Both pictures side by side, unchanged, with room for the sentence below.
    both = np.asarray(Image.open(sheet))
    assert np.array_equal(both[:30, :41], np.asarray(Image.open(photo)))
    assert np.array_equal(both[:30, 49:90], np.asarray(Image.open(out)))
    assert (both[38:] < 128).any()


def test_instructions_in_order_and_strength(weights: Path, photo: Path, tmp_path: Path) -> None:
    assert run(weights, photo, "-i", "a b", "-i", "c d", "-o", tmp_path / "ab.png") == 0
    assert run(weights, photo, "-i", "a b", "-o", tmp_path / "none.png", "--strength", 0) == 0
    assert np.array_equal(Image.open(tmp_path / "none.png"), Image.open(photo))
    restorer = Restorer.from_pretrained(weights, device="cpu")
    steps = [restorer.encode("a b"), restorer.encode("c d")]
    expected = restorer.restore(torch.from_numpy(pictures.read(photo).pixels), steps).numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "ab.png")), np.rint(expected * 255))


def test_folder_glob_and_a_bad_file(
    weights: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.open(photo).save(folder / name)
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("left alone")
    assert run(weights, folder, "-i", "derain", "-o", tmp_path / "out") == 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.png", "b.jpg", "c.webp"}
    assert "bad.png: found content" in capsys.readouterr().err
    assert run(weights, folder / "*.jpg", "-i", "derain", "-o", tmp_path / "glob") == 0
    assert [p.name for p in (tmp_path / "glob").iterdir()] == ["b.jpg"]


def test_what_is_kept(weights: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (9, 8, 3)).astype(np.float32) / np.float32(65535)
    alpha = rng.integers(0, 65536, (9, 8)).astype(np.float32) / np.float32(65535)
    deep = Picture(pixels, alpha, bits=16, icc=b"profile")
    pictures.write(tmp_path / "deep.png", deep)
    Image.new("L", (8, 9), 77).save(tmp_path / "grey.png")
    inputs = (tmp_path / "deep.png", tmp_path / "grey.png")
    assert run(weights, *inputs, "-i", "derain", "-o", tmp_path / "out") == 0
    after = pictures.read(tmp_path / "out" / "deep.png")
    assert after.bits == 16 and after.icc == deep.icc
    assert after.alpha is not None and np.array_equal(after.alpha, alpha)
    assert pictures.read(tmp_path / "out" / "grey.png").grey


def test_inputs_are_never_overwritten(
    weights: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = photo.read_bytes()
    assert run(weights, photo, "-i", "derain", "-o", photo) == 1
    assert run(weights, photo, "-i", "derain", "-o", tmp_path) == 1
    assert "would overwrite an input" in capsys.readouterr().err
    os.symlink(photo, tmp_path / "link.png")
    assert run(weights, photo, "-i", "derain", "-o", tmp_path / "link.png") == 1
    out = tmp_path / "out.png"
    assert run(weights, photo, "-i", "derain", "-o", out, "--compare", photo) == 1
    assert photo.read_bytes() == given and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PHOTO", "-i", " ", "-o", "x.png"], "instruction is empty"),
        (["none.png", "-i", "derain", "-o", "x.png"], "found no pictures there"),
        (["PHOTO", "-i", "derain", "-o", "x.gif"], "suffix '.gif'"),
        (["PHOTO", "-i", "derain", "-o", "x.png", "--strength", "2"], "--strength is 2"),
        (["PHOTO", "-i", "derain", "-o", "PHOTO/x.png"], "folder"),
        (["PHOTO", "-i", "derain", "-o", "x.png", "--device", "nonsense"], "--device nonsense"),
        (["PHOTO", "-i", "derain", "-o", "x.png", "--tile-size", "3"], "tile_size is 3"),
    ],
)
def test_errors_say_what_to_do(
    weights: Path, photo: Path, tmp_path: Path, arguments: list[str], message: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    filled = [a.replace("PHOTO", str(photo)) for a in arguments]
    # A --device given in the arguments comes after, and wins.
    assert main(["restore", "--model", str(weights), "--device", "cpu", *filled]) == 1
    assert message in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == before


def test_two_inputs_of_one_name(
    weights: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    Image.open(photo).save(tmp_path / "other" / "photo.png")
    both = (photo, tmp_path / "other" / "photo.png")
    assert run(weights, *both, "-i", "derain", "-o", tmp_path / "out") == 1
    assert "two inputs of this name" in capsys.readouterr().err
    assert run(weights, *both, "-i", "derain", "-o", tmp_path / "one.png") == 1
    assert "one file for 2 pictures" in capsys.readouterr().err


def test_models(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("INSTRUCTIR_HOME", str(tmp_path / "home"))
    assert main(["models", "list"]) == 0
    printed = capsys.readouterr().out
    assert "mini" in printed and "instructir models download 7d" in printed
    assert main(["models", "info", str(weights)]) == 0
    printed = capsys.readouterr().out
    assert "tiny" in printed and ", ".join(CLASSES) in printed
    out = tmp_path / "half.safetensors"
    assert main(["models", "convert", str(weights), str(out), "--half"]) == 0
    assert out.stat().st_size < weights.stat().st_size
    assert main(["models", "info", str(weights), "--plan", "6000x4000"]) == 0
    assert "6000 x 4000: exact, in strips of" in capsys.readouterr().out
    tight = ["models", "info", str(weights), "--plan", "6000x4000", "--free", "0.1"]
    assert main(tight) == 0
    assert "approximate tiles of" in capsys.readouterr().out
    assert main(["models", "info", str(weights), "--plan", "big"]) == 1
    assert "expected a size such as 4096x4096" in capsys.readouterr().err
    assert main(["models", "info", "7d"]) == 1
    assert "models download 7d" in capsys.readouterr().err
    assert main(["models", "info", str(tmp_path / "none.pt")]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--photos", "none"], "found no such folder"),
        ([], "neither --photos nor --data"),
        (["--photos", ".", "--preset", "9d"], "--preset 9d: expected one of 3d, 5d, 6d, 7d, mini"),
        (["--photos", ".", "--stages", "0:96"], "expected share:crop:batch"),
        (["--photos", ".", "--shares", "noise"], "expected task=share"),
        (["--data", "."], "no training pictures for noise"),
    ],
)
def test_train_refuses(
    options: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(tmp_path / "run"), *options]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, sheet = tmp_path / "photo.png", tmp_path / "sheet.png"
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(photo)
    assert main(["degradations", str(photo), str(sheet)]) == 0
    assert Image.open(sheet).size == (6 * 54, (len(TASKS) + 1) * 44)


def test_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "instructir_core", "--help"], capture_output=True, text=True,
        cwd=Path(__file__).parent.parent, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0 and "evaluate" in result.stdout
