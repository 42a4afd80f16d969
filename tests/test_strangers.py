"""Files of strangers: what was once let in, lost or stuck; each test failed before its mend."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from instructir_core import checkpoint, containers, deep, files, pictures, shallow, sheets
from instructir_core.batch import plan_files
from instructir_core.cli import main
from instructir_core.manifest import Manifest, read_lines
from instructir_core.pipeline import Restorer
from instructir_core.text import TransformersEncoder, check_sentence

ROOT = Path(__file__).parent.parent
posix = pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def picture(path: Path, size: tuple[int, int] = (12, 9), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path, **options)
    return path


def arguments(weights: Path, source: object, out: Path, *more: object) -> list[str]:
    given = ["restore", source, "-o", out, "--model", weights, "--device", "cpu", "-i", "derain"]
    return [*map(str, given), *map(str, more)]


# --- code and hangs ----------------------------------------------------------------------------


def test_code_in_an_encoder_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    auto = {"AutoConfig": "own.C", "AutoModel": "own.M", "AutoTokenizer": "own.T"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match=r"without code of its own"):
        TransformersEncoder(folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    "name", ["enc_cond.100000000.fc.weight", "middle_blks.99999999.beta", "encoders.0.7.gamma"]
)
def test_names_that_claim_many_blocks_end_at_once(weights: Path, tmp_path: Path, name: str) -> None:
    tensors = {f"network.{name}": torch.zeros(1)}
    loaded = checkpoint.load(weights)
    assert loaded.network is not None
    tensors |= {f"network.{k}": v.contiguous() for k, v in loaded.network.state_dict().items()}
    metadata = {"format": "instructir", "format_version": "1", "tasks": '["a"]', "network": "{}"}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=r"expected all of them from 0 on|do not fit"):
        checkpoint.load(tmp_path / "a.safetensors")
    assert time.perf_counter() - begun < 10


def test_metadata_that_claims_many_layers_ends_at_once(tmp_path: Path) -> None:
    config = {"kind": "hashed", "buckets": 6, "width": 4, "heads": 2, "layers": 100_000_000}
    metadata = {"format": "instructir", "format_version": "1", "tasks": '["a"]',
                "text_encoder": json.dumps(config)}  # fmt: skip
    save_file(
        {"text_encoder.table.weight": torch.zeros(6, 4)}, tmp_path / "a.safetensors", metadata
    )
    with pytest.raises(ValueError, match="100000000 layers in 1 tensors"):
        checkpoint.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("version", ["2.4.1", "2.6.0", "2.9.1+cu128", "unknown"])
def test_pt_files_need_a_safe_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    torch.save({"fc1.weight": torch.zeros(1)}, tmp_path / "a.pt")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ValueError, match=r"expected 2\.10 or newer.*safetensors"):
        checkpoint.load(tmp_path / "a.pt")


def test_tensors_of_no_size_or_of_strides_of_0(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    for name, value in (("huge", huge), ("sparse", torch.eye(3).to_sparse())):
        torch.save({"fc1.weight": value}, tmp_path / f"{name}.pt")
        with pytest.raises(ValueError, match="whose values are not all in the file"):
            checkpoint.load(tmp_path / f"{name}.pt")


@posix
def test_links_in_circles_end(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(".")
    jobs, refused = plan_files([str(tmp_path / "**" / "*.png")], tmp_path / "out")
    assert [s.name for s, _ in jobs] == ["a.png"] and not refused
    assert len(list(files.walk(tmp_path))) == 1


@posix
def test_pipes_and_links_to_nothing_are_told(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    picture(folder / "a.png")
    os.mkfifo(folder / "x.png")
    (folder / "self.png").symlink_to("self.png")
    (folder / "gone.png").symlink_to("nothing")
    assert main(arguments(weights, folder, tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert "1 pictures, 3 failed" in said.out and said.err.count("found a pipe, a device") == 3
    with pytest.raises(ValueError, match="found a pipe"):
        pictures.read(folder / "x.png")
    with pytest.raises(ValueError, match="found a pipe"):
        checkpoint.load(folder / "x.png")


# --- raw errors --------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"\x80\x02", b"\x80\x02}q\x00.", b"PK\x03\x04", b"\x80"])
def test_cut_off_pt_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pt: found"):
        checkpoint.load(tmp_path / "a.pt")


@pytest.mark.parametrize("tasks", ['"abc"', "[1, 2]", '["a", "a"]', '[["a"]]', "[]", "{}", "7",
                                   '["a\\u001b[2J"]', json.dumps(["x" * 100_000])])  # fmt: skip
def test_head_names_that_are_no_distinct_words(tmp_path: Path, tasks: str) -> None:
    metadata = {"format": "instructir", "format_version": "1", "tasks": tasks}
    save_file({"head.fc1.weight": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(ValueError, match="expected a list of different words") as caught:
        checkpoint.load(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 1000 and "\x1b" not in str(caught.value)


def test_long_metadata_makes_no_long_message(tmp_path: Path) -> None:
    for key in ("format_version", "network", "tasks", "text_encoder"):
        metadata = {"format": "instructir", "format_version": "1", "tasks": '["a"]',
                    "network": "{}", "text_encoder": "{}"}  # fmt: skip
        metadata[key] = json.dumps({"k" * 100_000: 1})
        tensors = {"text_encoder.table.weight": torch.zeros(2, 2), "head.x": torch.zeros(1)}
        save_file(tensors, tmp_path / "a.safetensors", metadata)
        with pytest.raises(ValueError) as caught:
            checkpoint.load(tmp_path / "a.safetensors")
        assert len(str(caught.value)) < 1200


def test_manifest_lines_of_others(tmp_path: Path) -> None:
    odd = [{"source": [[1]], "status": "ok", "settings": {}}, [1], "x", None]
    text = "\n".join(map(json.dumps, odd)) + "\n" + "[" * 100_000 + "\n\xff\n"
    (tmp_path / "manifest.jsonl").write_text(text, "latin-1")
    (tmp_path / "manifest-1.jsonl").mkdir()
    assert len(list(read_lines(tmp_path / "manifest.jsonl"))) == 1
    assert not Manifest(tmp_path, {}).is_finished(tmp_path / "a", tmp_path / "b")


def test_a_manifest_that_cannot_be_written(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = picture(tmp_path / "a.png")
    (tmp_path / "out" / "manifest.jsonl").mkdir(parents=True)
    assert main(arguments(weights, source, tmp_path / "out", "--resume")) == 1
    assert "expected a file that lines can be added to" in capsys.readouterr().err


@pytest.mark.parametrize("plan", ["0x0", "-3x5", "4", "ax1", "99999999x99999999", "5x-0"])
def test_plan_of_no_size(weights: Path, capsys: pytest.CaptureFixture[str], plan: str) -> None:
    assert main(["models", "info", str(weights), f"--plan={plan}"]) == 1
    assert "expected a size such as" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta:x", "cpu:x"])
def test_devices_that_are_not_there(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    given = arguments(weights, picture(tmp_path / "a.png"), tmp_path / "out")
    given[given.index("cpu")] = device
    assert main(given) == 1
    assert "expected one that is here" in capsys.readouterr().err


def test_half_characters() -> None:
    with pytest.raises(ValueError, match="half a character at position 7"):
        check_sentence("remove \ud83d noise")


def test_restorer_takes_plain_tensors_alone(weights: Path) -> None:
    restorer = Restorer.from_pretrained(weights)
    image, embedding = torch.zeros(8, 8, 3), torch.zeros(1, 256)
    embedding[0, 0] = 1
    for strength in (None, "1", float("nan")):
        with pytest.raises(ValueError, match="strength is"):
            restorer.restore(image, embedding, strength=strength)  # type: ignore[arg-type]
    for wrong in (
        np.zeros((8, 8)),
        torch.zeros(8, 8).to_sparse(),
        torch.zeros(8, 8, device="meta"),
    ):
        with pytest.raises(ValueError, match="a mask of"):
            restorer.restore(image, embedding, mask=wrong)
    for wrong in (image.numpy(), image.to_sparse(), image.to("meta")):
        with pytest.raises(ValueError, match="images of"):
            restorer.restore(wrong, embedding)
    with pytest.raises(ValueError, match="an embedding of"):
        restorer.restore(image, embedding.to("meta"))


EARLY = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["instructir", "models", "list"]
from instructir_core.__main__ import main
sys.exit(main())
"""


@posix
def test_ctrl_c_while_it_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "stopped; nothing half-written is left behind\n"


# --- downloads and conversion ------------------------------------------------------------------


def test_convert_makes_new_files_only(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(ValueError, match="expected a new one"):
        checkpoint.convert(weights, out)
    assert out.read_bytes() == b"mine"


# --- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPE"])
def test_other_names_of_jpegs(weights: Path, tmp_path: Path, suffix: str) -> None:
    picture(tmp_path / "in" / f"a{suffix}", format="JPEG")
    assert main(arguments(weights, tmp_path / "in", tmp_path / "out")) == 0
    with Image.open(tmp_path / "out" / f"a{suffix}") as image:
        assert image.format == "JPEG"


def test_a_suffix_that_is_not_written_is_refused_before_the_work(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in ("a.gif", "a", "a.ppm"):
        picture(tmp_path / "a.png").rename(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr(Restorer, "restore", lambda *_, **__: pytest.fail("too late"))
            assert main(arguments(weights, tmp_path / name, tmp_path / "out")) == 1
        assert "expected one of .png" in capsys.readouterr().err


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_tiffs_one_byte_short(tmp_path: Path, compression: str | None) -> None:
    whole = picture(tmp_path / "a.tif", (64, 64), compression=compression).read_bytes()
    order = "<" if whole[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", whole, 4)
    (count,) = struct.unpack_from(order + "H", whole, start)
    end = start + 2 + 12 * count + 4
    # The directory first, so that pixels end the file.
    with Image.open(tmp_path / "a.tif") as image:
        (offset,), (size,) = image.tag_v2[273], image.tag_v2[279]  # type: ignore[attr-defined]
    moved = whole + whole[offset : offset + size]
    folder = bytearray(moved)
    for at in range(start + 2, end - 4, 12):
        if struct.unpack_from(order + "H", folder, at)[0] == 273:
            struct.pack_into(order + "HI", folder, at + 2, 4, 1)
            struct.pack_into(order + "I", folder, at + 8, len(whole))
    (tmp_path / "b.tif").write_bytes(folder)
    np.testing.assert_array_equal(
        pictures.read(tmp_path / "b.tif").pixels, pictures.read(tmp_path / "a.tif").pixels
    )
    (tmp_path / "b.tif").write_bytes(folder[:-1])
    with pytest.raises(ValueError, match="cut-off"):
        pictures.read(tmp_path / "b.tif")


def test_tiff_values_lie_in_0_to_1_and_icc_may_be_of_any_type(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.full((4, 4, 3), 65535, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", bitspersample=16)
    assert pictures.read(tmp_path / "a.tif").pixels.max() <= 1
    for kind in (1, 2, 7):
        tags = [(34675, kind, 3, b"abc" if kind != 2 else "ab\0", True)]
        tifffile.imwrite(tmp_path / "b.tif", values, photometric="rgb", extratags=tags)
        assert pictures.read(tmp_path / "b.tif").pixels.shape == (4, 4, 3)


@pytest.mark.parametrize("bits", [8, 16])
def test_all_pages_of_a_tiff(weights: Path, tmp_path: Path, bits: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    rng = np.random.default_rng(0)
    shapes = [(9, 12, 3), (5, 7, 3), (6, 6)]
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in" / "a.tif") as writer:
        for shape in shapes:
            dtype = np.uint8 if bits == 8 else np.uint16
            values = rng.integers(0, 1 << bits, shape, dtype)
            writer.write(values, photometric="rgb" if len(shape) > 2 else "minisblack",
                         software="before", metadata=None)  # fmt: skip
    assert main(arguments(weights, tmp_path / "in", tmp_path / "out", "--strength", 0)) == 0
    with (
        tifffile.TiffFile(tmp_path / "out" / "a.tif") as after,
        tifffile.TiffFile(tmp_path / "in" / "a.tif") as before,
    ):
        assert [page.shape for page in after.pages] == shapes
        for one, other in zip(after.pages, before.pages, strict=True):
            np.testing.assert_array_equal(one.asarray(), other.asarray())
            assert one.tags["Software"].value == "before"


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif"])
def test_all_frames_of_an_animation(weights: Path, tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), c) for c in ("red", "blue", "lime")]
    source = tmp_path / "in" / f"a{suffix}"
    source.parent.mkdir()
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(
        source, save_all=True, append_images=frames[1:], duration=[100, 200, 300], **options
    )
    assert main(arguments(weights, tmp_path / "in", tmp_path / "out", "--strength", 0)) == 0
    with Image.open(tmp_path / "out" / f"a{suffix}") as after:
        assert after.n_frames == 3  # type: ignore[attr-defined]
        durations = []
        for number, frame in enumerate(frames):
            after.seek(number)
            after.load()
            durations.append(round(after.info["duration"]))
            gap = np.asarray(after.convert("RGB")).astype(int) - np.asarray(frame)
            assert np.abs(gap).max() <= (8 if suffix == ".avif" else 0)
        assert durations == [100, 200, 300]


def test_an_animation_into_one_picture_is_told(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (16, 16), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    assert main(arguments(weights, tmp_path / "a.webp", tmp_path / "b.jpg")) == 0
    assert "only the first of its pages or frames" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(16, 12, 3), (16, 16, 4), (7, 300, 3), (600, 20)])
def test_frames_of_a_jpeg_xl_are_told(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...]
) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    frames = np.full((3, *shape), 200, np.uint8)
    for name, pixels in (("one", frames[0]), ("three", frames)):
        for boxes in (False, True):
            data = imagecodecs.jpegxl_encode(pixels, lossless=True, usecontainer=boxes)
            (tmp_path / "a.jxl").write_bytes(data)  # some are shorter than 128 bytes
            given = arguments(weights, tmp_path / "a.jxl", tmp_path / "out", "--strength", 0)
            assert main(given) == 0
            assert ("only the last is read" in capsys.readouterr().out) == (name == "three")
    assert pictures.read(tmp_path / "out" / "a.jxl").pixels.shape[:2] == shape[:2]


@pytest.mark.parametrize("kind", ["float32", "float16", "int16", "uint32"])
def test_tiffs_of_values_that_are_no_steps_are_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.array([[[-1, 0, 7]] * 4] * 4).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    assert main(arguments(weights, tmp_path / "a.tif", tmp_path / "out")) == 1
    assert "expected unsigned grey or RGB of at most 16 bits" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_location_is_told_and_left_out(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 30.0)})
    source = picture(tmp_path / "a.jpg", exif=exif)
    assert main(arguments(weights, source, tmp_path / "b.jpg")) == 0
    assert "--metadata no-location" in capsys.readouterr().out
    given = arguments(weights, source, tmp_path / "c.jpg", "--metadata", "no-location")
    assert main(given) == 0
    assert "tell where" not in capsys.readouterr().out
    with Image.open(tmp_path / "b.jpg") as b, Image.open(tmp_path / "c.jpg") as c:
        assert b.getexif().get_ifd(0x8825) and not c.getexif().get_ifd(0x8825)


# --- reported wrong ----------------------------------------------------------------------------


def test_a_console_that_is_not_utf8(weights: Path, tmp_path: Path) -> None:
    source = picture(tmp_path / "图é.png")
    code = "import sys; from instructir_core.cli import main; sys.exit(main(sys.argv[1:]))"
    given = arguments(weights, source, tmp_path / "out", "-i", "去除噪声")
    done = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"1 pictures, 0 failed" in done.stdout and (tmp_path / "out" / "图é.png").is_file()


def test_captions_have_a_font_or_the_tasks_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sheets.font_for("remove the noise", 22) is not None
    monkeypatch.setattr(sheets, "_FONTS", ())
    assert sheets.font_for("去除噪声", 22) is None
    rows = [(np.zeros((9, 400, 3), np.uint8),) * 2]
    instead = sheets.before_after(rows, [("去除噪声", "(noise)")])
    np.testing.assert_array_equal(instead, sheets.before_after(rows, [("图像", "(noise)")]))
    assert not np.array_equal(instead, sheets.before_after(rows, [("图像", "(rain)")]))


def test_sheets_are_as_many_as_needed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for n in range(5):
        picture(tmp_path / "in" / f"{n}.png", (8, 40))
    monkeypatch.setattr(sheets, "_SHEET", 100)
    given = arguments(weights, tmp_path / "in", tmp_path / "out", "--compare", tmp_path / "s.jpg")
    assert main(given) == 0
    names = sorted(p.name for p in tmp_path.glob("s*.jpg"))
    assert names == ["s-2.jpg", "s-3.jpg", "s.jpg"]
    assert sheets.shrink(np.zeros((70000, 3, 3)), 640).shape[0] == 4000
    # And where a sheet cannot be written, the pictures still count.
    (tmp_path / "s.png").mkdir()
    given = arguments(weights, tmp_path / "in", tmp_path / "out", "--compare", tmp_path / "s.png")
    assert main(given) == 1
    assert "5 pictures, 1 failed" in capsys.readouterr().out


@posix
def test_names_that_mislead(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos [2020]"
    picture(folder / "a.png")
    picture(folder / "b.jpg")
    (folder / "._a.png").write_bytes(b"\0\5\x16\7")
    picture(folder / "album.jpg" / "inner.png")
    out = tmp_path / "out.v2"
    assert main(arguments(weights, folder, out)) == 0
    assert "2 pictures, 0 failed" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.jpg"]
    jobs, _ = plan_files([str(folder / "*.png")], out)
    assert [s.name for s, _ in jobs] == ["a.png"]
    jobs, _ = plan_files([str(folder / "**" / "*.png")], out)
    assert [s.name for s, _ in jobs] == ["a.png", "inner.png"]
    # A single picture into a folder with a dot; a format that is not written is still told.
    assert main(arguments(weights, folder / "a.png", tmp_path / "single.v3")) == 0
    assert (tmp_path / "single.v3" / "a.png").is_file()
    assert main(arguments(weights, folder / "a.png", tmp_path / "x.gif")) == 1
    assert "found the suffix '.gif'" in capsys.readouterr().err


@pytest.mark.parametrize("size", [0, -1, 7])
def test_tile_sizes(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    source = picture(tmp_path / "a.png")
    assert main(arguments(weights, source, tmp_path / "out", f"--tile-size={size}")) == 1
    assert f"tile_size is {size}; expected at least" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- batches -----------------------------------------------------------------------------------

SLOW = """
import signal, sys, time, os
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and this under nohup, where such a run is to go on
from instructir_core import files, pictures
fsync = os.fsync
def slow(number):
    print("writing", flush=True)
    time.sleep(3)
    fsync(number)
os.fsync = slow
from instructir_core.__main__ import main
sys.exit(main())
"""


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_during_a_write_leaves_no_part(weights: Path, tmp_path: Path, name: str) -> None:
    source, out = picture(tmp_path / "a.png"), tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments(weights, source, out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    while "writing" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "nothing half-written is left behind" in errors
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 9 bytes")])
def test_memory_that_ends_costs_one_picture(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], error: Exception,
) -> None:  # fmt: skip
    for n in range(3):
        picture(tmp_path / "in" / f"{n}.png")
    write = pictures.write_pages

    def fails(path: Path, *given: Any) -> list[str]:
        if path.name == "1.png":
            raise error
        return write(path, *given)

    monkeypatch.setattr(pictures, "write_pages", fails)
    assert main(arguments(weights, tmp_path / "in", tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert "3 pictures, 1 failed" in said.out
    assert "1.png: found too little free memory" in said.err and "damaged" not in said.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "2.png"]

    def fails_early(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, "_read", fails_early)
    assert main(arguments(weights, tmp_path / "in", tmp_path / "out")) == 1
    assert "safetensors: found too little free memory" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".webp", ".avif", ".tif", ".jxl", ".exr"])
def test_a_decoder_that_lacks_memory_blames_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix in (".webp", ".avif"):
        Image.new("RGB", (16, 8), "teal").save(path)
        owner: Any = type(Image.open(path))
        name = "load"
    else:
        pictures.write(path, pictures.Picture(np.full((8, 16, 3), 0.25, np.float32)))
        owner, name = deep, "_decoded"
    whole, decode = pictures.read(path).pixels, getattr(owner, name)
    failures = 1

    def fails(*given: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise containers.cut_off("decoder error")
        return decode(*given)

    monkeypatch.setattr(owner, name, fails)
    assert np.array_equal(pictures.read(path).pixels, whole)
    failures = 2
    with pytest.raises(ValueError, match="damaged"):
        pictures.read(path)
    failures = 2
    for module in (deep, shallow):
        monkeypatch.setattr(module, "ROOM", 1 << 55)
    with pytest.raises(OSError, match="too little free memory"):
        pictures.read(path)


def test_pages_after_a_failure_come_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [pictures.Picture(np.full((4, 5, 3), n / 255, np.float32)) for n in range(4)]
    pictures.write_pages(tmp_path / "a.tif", pages)
    decode, calls = deep._decoded, 0

    def fails_third(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise containers.cut_off("ZLib error")
        return decode(*given)

    monkeypatch.setattr(deep, "_decoded", fails_third)
    found = [round(255 * float(p.pixels[0, 0, 0])) for p in pictures.pages(tmp_path / "a.tif")]
    assert found == [0, 1, 2, 3] and calls == 3 + 4


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (60, 80), (33, 77), (256, 512), (700, 300)])
def test_the_pixels_that_a_header_says(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    pixels = np.random.default_rng(0).random((height, width, 3), np.float32)
    pictures.write(tmp_path / "a.jxl", pictures.Picture(pixels))
    most, moves = containers.jxl_header((tmp_path / "a.jxl").read_bytes())
    assert height * width <= most <= 2 * height**2 + 7 * height * width and not moves
    image = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
    for number, options in enumerate(
        [{"quality": 80}, {"lossless": True}, {"icc_profile": bytes(200)}]
    ):
        image.save(tmp_path / f"{number}.webp", **options)
        data = (tmp_path / f"{number}.webp").read_bytes()
        assert data[12:16] == (b"VP8 ", b"VP8L", b"VP8X")[number]
        assert shallow._webp_pixels(data) == height * width


def test_two_runs_into_one_folder(weights: Path, tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / "in" / f"{n}.png")
    code = "import sys; from instructir_core.cli import main; sys.exit(main(sys.argv[1:]))"
    given = arguments(weights, tmp_path / "in", tmp_path / "out", "--resume")
    runs = [subprocess.Popen([sys.executable, "-c", code, *given], cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(2)]  # fmt: skip
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [*(f"{n}.png" for n in range(6)), "manifest.jsonl"]
    for line in read_lines(tmp_path / "out" / "manifest.jsonl"):
        assert line["status"] == "ok"
    assert main(arguments(weights, tmp_path / "in", tmp_path / "alone")) == 0
    for n in range(6):
        name = f"{n}.png"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_the_pack_needs_none_of_the_extra_libraries() -> None:
    """What nodes use runs on Pillow and NumPy; only the command line reads and writes files."""
    code = """
import sys
for name in "OpenImageIO pillow_heif imagecodecs tifffile tqdm accelerate scipy".split():
    sys.modules[name] = None
sys.path[:0] = ["tests"]
import pathlib, tempfile, numpy as np, pytest
from fake_host import FakeHost, import_pack
with pytest.MonkeyPatch.context() as patch:
    import_pack(patch, FakeHost(pathlib.Path(tempfile.mkdtemp())))
import instructir_core
from instructir_core import pictures, checkpoint, official, pipeline, text
place = pathlib.Path(tempfile.mkdtemp())
for suffix in (".png", ".jpg", ".webp", ".bmp"):
    pictures.write(place / f"a{suffix}", pictures.Picture(np.full((5, 4, 3), 0.5, np.float32)))
    assert pictures.read(place / f"a{suffix}").pixels.shape == (5, 4, 3)
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_brief_is_one_short_printable_line() -> None:
    assert (
        files.brief("a\n b\x1b[2J\ud800" + "x" * 1000, 30) == r"a b\x1b[2J\ud800" + "x" * 13 + "…"
    )


# --- all of it together ------------------------------------------------------------------------


def odd_folder(folder: Path) -> tuple[set[str], set[str]]:
    """Sixty odd files: the names of those to be restored, and of those to be told of."""
    good, bad = set(), set()
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8))

    def put(name: str, data: bytes, restored: bool) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        (good if restored else bad).add(name)

    def made(image: Image.Image, kind: str, **options: Any) -> bytes:
        place = folder.parent / "made"
        image.save(place, kind, **options)
        return place.read_bytes()

    for suffix in (".png", ".jpg", ".jpe", ".jfif", ".JPEG", ".webp", ".tif", ".TIFF", ".bmp",
                   ".avif"):  # fmt: skip
        kind = pictures.FORMATS[suffix.lower()]
        whole = made(small, kind)
        put(f"whole{suffix}", whole, True)
        put(f"half{suffix}", whole[: len(whole) // 2], False)
        put(f"empty{suffix}", b"", False)
    for suffix in (".jxl", ".exr"):
        deep = pictures.Picture(np.float32(np.asarray(small)) / 255, bits=16)
        pictures.write(folder / f"deep{suffix}", deep)
        good.add(f"deep{suffix}")
        put(f"cut{suffix}", (folder / f"deep{suffix}").read_bytes()[:-40], False)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        put(f"mode {mode.replace(';', '')}.png", made(small.convert(mode), "PNG"), True)
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp"):
        put(f"tiny{suffix}", made(small.crop((0, 0, 1, 1)), pictures.FORMATS[suffix]), True)
    put("cmyk.jpg", made(small.convert("CMYK"), "JPEG"), True)
    put("cmyk.tif", made(small.convert("CMYK"), "TIFF"), True)
    put("pages.tif", made(small, "TIFF", save_all=True, append_images=[small]), True)
    put("moving.webp", made(small, "WEBP", save_all=True, append_images=[small.rotate(90)]), True)
    put("moving.png", made(small, "PNG", save_all=True, append_images=[small.rotate(90)]), True)
    whole = made(small, "PNG")
    put("other name.jpg", whole, True)  # told by content
    put("bad chunk.png", whole[:33] + b"\0\0\0\1tEXt!\0\0\0\0" + whole[33:], True)
    chunks, _ = containers._png_chunks(whole)
    long = (b"tEXt", b"prompt\0" + bytes(range(32, 127)) * 12_000)
    put("long text.png", containers.join_png([chunks[0], long, *chunks[1:]]), True)
    size = (12).to_bytes(4, "big") + (8000).to_bytes(4, "big")
    tall = (b"IHDR", size + chunks[0][1][8:])
    put("one row of many.png", containers.join_png([tall, *chunks[1:]]), False)
    put("one byte short.tif", made(small, "TIFF", compression="tiff_lzw")[:-1], False)
    pictures.write(folder / "small.jxl", pictures.Picture(np.full((8, 8, 3), 0.5, np.float32)))
    good.add("small.jxl")
    put("gif.png", made(small, "GIF"), False)
    put("text.png", b"hello", False)
    put("web page.jpg", b"<html>404</html>", False)
    put("float.tif", made(small.convert("F"), "TIFF"), False)
    put("lab.tif", made(Image.new("LAB", (4, 4)), "TIFF"), False)
    put("raw.tif", made(small, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), False)
    put("a\nb é 图 [x].png", whole, True)
    for name in ("pipe.png", "self.png", "gone.jpg"):
        bad.add(name)
    os.mkfifo(folder / "pipe.png")
    (folder / "self.png").symlink_to("self.png")
    (folder / "gone.jpg").symlink_to("nothing")
    # And what is neither: no line, no count.
    (folder / "album.jpg").mkdir()
    (folder / "._whole.png").write_bytes(b"\0\5\x16\7")
    (folder / "notes.txt").write_text("no picture")
    return good, bad


@posix
def test_a_folder_of_sixty_odd_files(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    good, bad = odd_folder(tmp_path / "in")
    assert len(good) + len(bad) >= 60
    assert main(arguments(weights, tmp_path / "in", tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert {p.name for p in (tmp_path / "out").iterdir()} == good
    links = 3  # refused before they count as pictures
    total = len(good) + len(bad) - links
    assert f"{total} pictures, {len(bad)} failed" in said.out
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(bad)
    for name in bad:
        assert sum(f"/{name}: found" in line for line in errors) == 1, (name, errors)
    for name in good:
        read = list(pictures.pages(tmp_path / "out" / name))
        assert len(read) == (2 if name.startswith(("pages", "moving")) else 1)
