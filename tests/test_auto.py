"""restore -i auto, --guard and sheet, by a diagnosis that measures noise and darkness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import CLASSES, tiny_parts

from instructir_core import Restorer, checkpoint, pictures
from instructir_core.cli import main
from instructir_core.diagnose import Diagnosis, Judge
from instructir_core.manifest import read_lines
from instructir_core.suggest import spread
from instructir_core.tasks import TASKS

NOISE, DARK = TASKS["noise"].prompt, TASKS["lol"].prompt


def measure(_: Diagnosis, image: torch.Tensor) -> dict[str, float]:
    """Noise by how neighbours differ, darkness by the mean."""
    step = float((image[:, 1:] - image[:, :-1]).abs().mean())
    found = {"noise": min(1.0, 8 * step), "lol": max(0.0, 1 - 4 * float(image.mean()))}
    return {task: found.get(task, 0.02) for task in TASKS}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Diagnosis, "severities", measure)
    network, head, encoder = tiny_parts()
    path = tmp_path / "model" / "tiny.safetensors"
    path.parent.mkdir()
    diagnosis = Judge()
    checkpoint.save(path, network, head, CLASSES, encoder, {"name": "tiny"}, diagnosis=diagnosis)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A noisy picture, a dark one, one that is both, and one that is neither."""
    rng, folder = np.random.default_rng(0), tmp_path / "in"
    folder.mkdir()
    for name, level, noise in (
        ("noisy", 128, 60), ("dark", 20, 0), ("both", 40, 30), ("fine", 150, 0)
    ):  # fmt: skip
        pixels = level + rng.integers(-noise, noise + 1, (40, 50, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def run(model: Path, *arguments: object) -> int:
    return main([*map(str, arguments), "--model", str(model), "--device", "cpu"])


def entries(out: Path) -> dict[str, dict[str, Any]]:
    return {line["target"]: line for line in read_lines(out / "manifest.jsonl")}


def same(first: Path, second: Path) -> bool:
    return bool(np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second))))


def test_each_picture_gets_what_it_needs(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ["restore", folder, "-i", "auto", "-o", out, "--recursive", "--guard", "off"]
    assert run(model, *given) == 0
    printed = capsys.readouterr().out
    assert f"noisy.png: strong noise; nothing else found -> {NOISE}" in printed
    assert f"both.png: noise, a little dark; nothing else found -> {NOISE}, then {DARK}" in printed
    assert "fine.png: nothing found -> left as it is" in printed
    lines = entries(out)
    assert {name: line["chosen"] for name, line in lines.items()} == {
        "noisy.png": [NOISE], "dark.png": [DARK], "both.png": [NOISE, DARK], "fine.png": []
    }  # fmt: skip
    assert lines["fine.png"]["found"] == "nothing found"
    assert lines["both.png"]["settings"]["instructions"] == ["auto"]
    assert all(line["status"] == "ok" and "guard" not in line for line in lines.values())
    # Each is what saying it would have given; nothing found gives the same pixels.
    assert same(out / "fine.png", folder / "fine.png")
    alone = tmp_path / "alone.png"
    sentences = ["-i", NOISE, "-i", DARK]
    assert run(model, "restore", folder / "both.png", *sentences, "-o", alone) == 0
    assert same(alone, out / "both.png")
    # A later run knows what is done, but not under other words.
    capsys.readouterr()
    assert run(model, *given, "--resume") == 0
    assert "4 pictures, 4 were finished before" in capsys.readouterr().out
    given[3] = NOISE
    assert run(model, *given, "--resume") == 0
    assert "4 pictures, 0 failed" in capsys.readouterr().out


def test_of_several_pages_the_first_tells(model: Path, folder: Path, tmp_path: Path) -> None:
    pages = [pictures.read(folder / f"{name}.png") for name in ("noisy", "fine")]
    source, out = tmp_path / "pages.tif", tmp_path / "out.tif"
    pictures.write_pages(source, pages)
    assert run(model, "restore", source, "-i", "auto", "-o", out) == 0
    restorer = Restorer.from_pretrained(model, device="cpu")
    for page, made in zip(pages, pictures.pages(out), strict=True):
        expected = restorer.restore(torch.from_numpy(page.pixels), restorer.encode(NOISE))
        assert np.abs(made.pixels - expected.numpy()).max() <= 0.51 / 255


def test_what_would_do_harm_is_said_or_left(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # The tiny model reads sentences at random: here each is read as what it says.
    encode = Restorer.encode
    monkeypatch.setattr(Restorer, "read", lambda self, text: (_as(encode(self, text), "noise"),))
    out = tmp_path / "warned"
    given = ["restore", folder / "fine.png", "-i", NOISE, "--recursive"]
    assert run(model, *given, "-o", out, "--guard", "warn") == 0
    words = f"This picture shows no noise: {NOISE!r} may do harm."
    assert f"warning: fine.png: {words}" in capsys.readouterr().out
    line = entries(out)["fine.png"]
    assert line["guard"][0] == words and "guard" not in line["settings"]
    assert not same(out / "fine.png", folder / "fine.png")
    skipped = tmp_path / "skipped"
    assert run(model, *given, "-o", skipped, "--guard", "skip") == 0
    assert "was left out" in capsys.readouterr().out
    assert same(skipped / "fine.png", folder / "fine.png")
    assert entries(skipped)["fine.png"]["settings"]["guard"] == "skip"
    off = tmp_path / "off"
    assert run(model, *given, "-o", off, "--guard", "off") == 0
    assert same(off / "fine.png", out / "fine.png") and "guard" not in entries(off)["fine.png"]
    assert "warning" not in capsys.readouterr().out


def _as(instruction: Any, task: str) -> Any:
    object.__setattr__(instruction, "task", task)
    object.__setattr__(instruction, "probabilities", {task: 1.0})
    return instruction


def test_what_got_worse_is_undone(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    restore = Restorer.restore

    def spoiled(self: Restorer, images: torch.Tensor, asked: Any, **options: Any) -> torch.Tensor:
        result = restore(self, images, asked, **options).clone()
        result[..., ::2, :] = 1.0 - result[..., ::2, :]
        return result

    encode = Restorer.encode
    monkeypatch.setattr(Restorer, "read", lambda self, text: (_as(encode(self, text), "lol"),))
    monkeypatch.setattr(Restorer, "restore", spoiled)
    out = tmp_path / "out"
    given = ["restore", folder / "dark.png", "-i", DARK, "--recursive"]
    assert run(model, *given, "-o", out, "--guard", "warn") == 0
    assert "warning: dark.png: Got worse: noise rose from 0.0 to 1.0." in capsys.readouterr().out
    assert not same(out / "dark.png", folder / "dark.png")
    assert run(model, *given, "-o", out, "--guard", "skip") == 0
    assert same(out / "dark.png", folder / "dark.png")


def test_what_cannot_be_is_said_before_any_work(
    model: Path, weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(weights, "restore", folder, "-i", "auto", "-o", out) == 1
    assert "The model 'tiny' has no diagnosis" in capsys.readouterr().err
    assert run(model, "restore", folder, "-i", "auto", "-i", NOISE, "-o", out) == 1
    assert "--instruction auto: found sentences beside it" in capsys.readouterr().err
    assert not out.exists()


def test_sheet(
    model: Path, weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = folder / "noisy.png", tmp_path / "new" / "sheet.png"
    given = photo.read_bytes()
    assert run(model, "sheet", photo, "-o", out) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2:] == ["strong noise; nothing else found", str(out)]
    assert (np.asarray(Image.open(out)) == (0, 140, 60)).all(-1).any()  # the frame
    assert run(weights, "sheet", photo, "-o", out, "--size", 32) == 0
    assert "has no diagnosis: judge by eye" in capsys.readouterr().out
    for arguments, message in (
        ([photo, "-o", photo], "expected a picture file that is none of the inputs"),
        ([photo, "-o", tmp_path / "sheet.gif"], "expected a picture file"),
        ([photo, "-o", out, "--size", "3"], "--size is 3; expected 16 pixels or more"),
        ([tmp_path / "none.png", "-o", out], "none.png"),
        ([tmp_path / "clip.mp4", "-o", out], "found the video"),
    ):
        before = out.read_bytes()
        assert run(model, "sheet", *arguments) == 1
        assert message in capsys.readouterr().err
        assert out.read_bytes() == before and photo.read_bytes() == given


def test_videos(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    av = pytest.importorskip("av")
    from instructir_core.stills import stills

    source, out = tmp_path / "clip.mkv", tmp_path / "out"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv444p"
        for number in range(20):
            level = np.full((32, 48, 3), 10 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(level, "rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    looked = stills(source)
    assert tuple(looked.shape) == (5, 32, 48, 3)
    levels = [10 * place for place in spread(20)]
    assert (255 * looked.mean((1, 2, 3)) - torch.tensor(levels)).abs().max() < 12
    given = ["restore", source, "-o", out, "--recursive"]
    assert run(model, *given, "-i", "auto") == 0
    line = entries(out)["clip.mkv"]
    assert line["chosen"] == [] and line["found"] == "nothing found (5 frames)"
    encode = Restorer.encode
    monkeypatch.setattr(Restorer, "read", lambda self, text: (_as(encode(self, text), "noise"),))
    assert run(model, *given, "-i", NOISE, "--guard", "skip") == 0
    assert "This picture shows no noise" in entries(out)["clip.mkv"]["guard"][0]
    assert (stills(out / "clip.mkv") - looked).abs().max() <= 1.5 / 255
    capsys.readouterr()
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(source.read_bytes()[:300])
    assert run(model, "restore", broken, "-i", "auto", "-o", out, "--recursive") == 1
    assert "broken.mkv: found" in capsys.readouterr().err
