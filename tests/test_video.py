"""Video files: what is restored, and that all the rest is kept."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from instructir_core import Restorer, cli
from instructir_core import video as clips
from instructir_core.planes import Layout
from instructir_core.segments import _decoding_times

av = pytest.importorskip("av", reason="av is not installed: no video files to test")

RATE = 24
WIDTH, HEIGHT = 64, 48
KINDS = [
    (".mp4", "libx264", "yuv420p", "aac"),
    (".mov", "libx264", "yuv422p10le", "aac"),
    (".mp4", "libx265", "yuv420p10le", "aac"),
    (".mov", "prores_ks", "yuv422p10le", "pcm_s16le"),
    (".webm", "libvpx-vp9", "yuv420p", "libopus"),
    (".webm", "libsvtav1", "yuv420p10le", "libopus"),
    (".mkv", "libx264", "yuv444p", "flac"),
    (".mkv", "ffv1", "yuv420p", "libopus"),
]
"""Container, codec, pixel format, sound."""


def make(
    path: Path,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    sound: str | None = "aac",
    *,
    times: list[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rotation: int = 0,
    tags: tuple[int, int, int, int] = (1, 1, 1, 1),
    fields: bool = False,
) -> Path:
    """A clip of a moving gradient; ``times`` in milliseconds, ``tags`` of range and colour."""
    width, height = size
    with av.open(str(path), "w", format=clips.FORMATS[path.suffix]) as out:
        stream = out.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.time_base = Fraction(1, 1000 if times else RATE)
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        if codec in ("libx264", "libx265"):
            context.options = {"crf": "4"}
        if fields:
            context.options = {"x264-params": "tff=1"}
        if rotation:
            stream.set_display_rotation(rotation)
        voice = out.add_stream(sound, rate=48000, layout="mono") if sound else None
        times = times or list(range(RATE // 2))
        for number, time in enumerate(times):
            columns, rows = np.meshgrid(np.arange(width), np.arange(height))
            rgb = np.stack([3 * columns, 4 * rows, 2 * columns + rows], -1) + 5 * number
            frame = av.VideoFrame.from_ndarray((40 + rgb % 160).astype(np.uint8), "rgb24")
            frame = frame.reformat(format=pixel_format, dst_colorspace=tags[1])
            frame.color_range, frame.colorspace, frame.color_primaries, frame.color_trc = tags
            frame.pts, frame.time_base = time, context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if voice is not None:
            for start in range(0, 24000, 1000):
                wave = 8000 * np.sin(np.arange(start, start + 1000) / 20)
                layout = {"libopus": "s16", "pcm_s16le": "s16", "flac": "s16"}.get(
                    sound or "", "fltp"
                )
                data = wave.astype(np.int16) if layout == "s16" else (wave / 32768).astype("f4")
                part = av.AudioFrame.from_ndarray(data[None], format=layout, layout="mono")
                part.rate, part.pts, part.time_base = 48000, start, Fraction(1, 48000)
                out.mux(voice.encode(part))
            out.mux(voice.encode(None))
    return path


def contents(path: Path) -> dict[str, Any]:
    """What a player gets to see and hear, and what is said about it."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [*file.decode(stream)]
        found: dict[str, Any] = {
            "times": [float(f.time) for f in frames],
            "frames": [[plane.numpy() for plane in Layout.of(f, path).read(f)] for f in frames],
            "format": frames[0].format.name,
            "codec": stream.codec_context.codec.canonical_name,
            "rate": stream.average_rate,
            "turned": frames[0].rotation,
            "tags": [
                int(getattr(frames[0], f"color{n}"))
                for n in ("_range", "space", "_primaries", "_trc")
            ],
            "metadata": file.metadata.get("title"),
        }
    with av.open(str(path)) as file:
        packets = [*file.demux(audio=0)] if file.streams.audio else []
        found["sound"] = [(float(p.pts * p.time_base), bytes(p)) for p in packets if p.size]
    return found


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that clips of half a second have three."""
    monkeypatch.setattr(clips, "SEGMENT_FRAMES", (5, 5))


@pytest.mark.parametrize(("suffix", "codec", "pixel_format", "sound"), KINDS)
def test_everything_else_is_kept(
    restorer: Restorer, tmp_path: Path, suffix: str, codec: str, pixel_format: str, sound: str
) -> None:
    source = make(tmp_path / f"in{suffix}", codec, pixel_format, sound)
    instruction = restorer.encode("remove the noise")
    content = source.read_bytes()
    done = clips.restore_video(
        restorer, source, tmp_path / "new" / f"out{suffix}", instruction, strength=0.0
    )
    assert source.read_bytes() == content
    before, after = contents(source), contents(tmp_path / "new" / f"out{suffix}")
    assert (done.width, done.height, done.frames) == (WIDTH, HEIGHT, len(before["frames"]))
    assert done.left_out == ()
    assert len(after["frames"]) == 12
    for name in ("format", "codec", "rate", "tags"):
        assert after[name] == before[name], name
    np.testing.assert_allclose(after["times"], before["times"], atol=6e-4)
    assert [data for _, data in after["sound"]] == [data for _, data in before["sound"]] != []
    np.testing.assert_allclose(
        [t for t, _ in after["sound"]], [t for t, _ in before["sound"]], atol=1e-3
    )
    # At strength 0 only the encoder's own rounding is left.
    bits = 10 if "10" in pixel_format else 8
    for old, new in zip(before["frames"], after["frames"], strict=True):
        for a, b in zip(old, new, strict=True):
            assert np.abs(a - b).mean() < 1.5 * 2 ** (bits - 8)
    assert [p.name for p in (tmp_path / "new").iterdir()] == [f"out{suffix}"]


def test_frames_are_what_restore_gives(restorer: Restorer, tmp_path: Path) -> None:
    """In ffv1, which loses nothing, against a conversion by hand."""
    source = make(tmp_path / "in.mkv", "ffv1", "yuv444p", None)
    instruction = restorer.encode("remove the noise")
    clips.restore_video(restorer, source, tmp_path / "out.mkv", instruction)
    before, after = contents(source)["frames"], contents(tmp_path / "out.mkv")["frames"]

    def rgb(planes: list[np.ndarray]) -> np.ndarray:
        y, u, v = (planes[0] - 16) / 219, (planes[1] - 128) / 224, (planes[2] - 128) / 224
        red, blue = y + 1.5748 * v, y + 1.8556 * u
        return np.stack([red, y - 0.1873 * u - 0.4681 * v, blue], -1)

    for old, new in zip(before, after, strict=True):
        picture = np.clip(rgb(old), 0, 1).astype(np.float32)
        wanted = restorer.restore(torch.from_numpy(picture), instruction).numpy()
        change = rgb(new) - rgb(old)
        np.testing.assert_allclose(change, wanted - picture, atol=0.008)
        assert np.abs(wanted - picture).max() > 0.05


def test_changing_frame_rate_rotation_and_colour_tags(restorer: Restorer, tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 216, 333, 1000]
    instruction = restorer.encode("remove the noise")
    for suffix, turned, tags in (
        (".mp4", 90, (1, 1, 1, 1)),
        (".mov", 180, (2, 6, 6, 6)),
        (".mkv", 270, (1, 9, 9, 14)),
    ):
        source = make(tmp_path / f"in{suffix}", times=times, rotation=turned, tags=tags)
        out = tmp_path / f"out{suffix}"
        clips.restore_video(restorer, source, out, instruction, strength=0.0)
        before, after = contents(source), contents(out)
        np.testing.assert_allclose(np.diff(after["times"]), np.diff(times) / 1000, atol=1.1e-3)
        assert after["turned"] == before["turned"] != 0
        assert after["tags"] == before["tags"] == list(tags)


def test_what_cannot_be_kept_is_refused(restorer: Restorer, tmp_path: Path) -> None:
    instruction = restorer.encode("remove the noise")
    good = make(tmp_path / "good.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with av.open(str(tmp_path / "sound.mkv"), "w", format="matroska") as out:
        voice = out.add_stream("pcm_s16le", rate=48000, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), "s16", "mono")
        part.rate, part.pts, part.time_base = 48000, 0, Fraction(1, 48000)
        out.mux(voice.encode(part))
        out.mux(voice.encode(None))
    long = make(tmp_path / "long.mkv", times=[*range(0, 6000, 250)])
    (tmp_path / "cut.mkv").write_bytes(long.read_bytes()[: long.stat().st_size // 2])
    make(tmp_path / "fields.mkv", fields=True)
    make(tmp_path / "hdr.mkv", "libx265", "yuv420p10le", tags=(1, 9, 9, 16))
    make(tmp_path / "other.mkv", "mpeg4", "yuv420p")
    for name, target, words in (
        ("text.mp4", "o.mp4", "expected a complete file"),
        ("cut.mp4", "o.mp4", "expected a complete file"),
        ("cut.mkv", "o.mkv", "cut off"),
        ("fields.mkv", "o.mkv", "interlaced"),
        ("sound.mkv", "o.mkv", "found 0 video streams"),
        ("hdr.mkv", "o.mkv", "high dynamic range"),
        ("other.mkv", "o.mkv", "codec mpeg4"),
        ("good.mp4", "o.mkv", "same suffix"),
        ("good.mp4", "good.mp4", "overwrite"),
    ):
        with pytest.raises(ValueError, match=words):
            clips.restore_video(restorer, tmp_path / name, tmp_path / target, instruction)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("o.", "."))]


def stopped(restorer: Restorer, source: Path, target: Path, at: int, **more: Any) -> list[int]:
    """Restore a video as far as a frame, then stop as Ctrl-C does; the frames that were told."""
    told = []

    def stop(done: int, _: int) -> None:
        told.append(done)
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clips.restore_video(
            restorer, source, target, restorer.encode("remove the noise"), progress=stop, **more
        )
    return told


def test_stopped_in_its_first_segment_leaves_nothing(
    restorer: Restorer, tmp_path: Path, short_segments: None
) -> None:
    source = make(tmp_path / "in.mp4")
    old = tmp_path / "out.mp4"
    old.write_bytes(b"an earlier result")
    assert stopped(restorer, source, old, 3) == [1, 2, 3]
    assert old.read_bytes() == b"an earlier result"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize(("suffix", "codec", "pixel_format", "sound"), KINDS)
def test_goes_on_after_its_last_segment(
    restorer: Restorer, tmp_path: Path, short_segments: None,
    suffix: str, codec: str, pixel_format: str, sound: str,
) -> None:  # fmt: skip
    """To the same file as without a stop, with uneven times, and averages that are carried."""
    times = [0, 40, 80, 200, 216, 233, 1000, 1040, 1050, 1400, 1440, 1480]
    source = make(tmp_path / f"in{suffix}", codec, pixel_format, sound, times=times)
    if suffix == ".mp4":
        source = make(source, codec, pixel_format, sound, times=times, rotation=90)
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    instruction = restorer.encode("remove the noise")
    clips.restore_video(restorer, source, whole, instruction, steady=True)
    assert stopped(restorer, source, out, 8, steady=True, resume=True) == [*range(1, 9)]
    assert not out.exists()
    assert stopped(restorer, source, out, 12, steady=True, resume=True) == [*range(6, 13)]
    told = []
    done = clips.restore_video(
        restorer, source, out, instruction, steady=True, resume=True,
        progress=lambda number, _: told.append(number),
    )  # fmt: skip
    assert told == [11, 12] and (done.frames, done.before) == (12, 10)
    before, after = contents(whole), contents(out)
    for one, other in zip(before.pop("frames"), after.pop("frames"), strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert after == before and before["sound"]
    np.testing.assert_allclose(np.diff(after["times"]), np.diff(times) / 1000, atol=1.1e-3)
    assert len(list(tmp_path.iterdir())) == 3


def test_segments_of_something_else_do_not_count(
    restorer: Restorer, tmp_path: Path, short_segments: None
) -> None:
    source, out = make(tmp_path / "in.mkv"), tmp_path / "out.mkv"
    stopped(restorer, source, out, 8)
    assert len(list(tmp_path.iterdir())) == 2  # kept, though nobody spoke of resuming
    assert stopped(restorer, source, out, 12, resume=True)[0] == 6
    for change in ({"strength": 0.5}, {"steady": True}, {"resume": False}):
        settings = {"resume": True, **change}
        assert stopped(restorer, source, out, 12, **settings)[0] == 1
    # A segment whose last step is missing, and one that is damaged in the middle of a write.
    (folder,) = tmp_path.glob(".*.parts")
    assert sorted(p.name for p in folder.iterdir())[:2] == ["0000.json", "0000.packets"]
    (folder / "0001.json").unlink()
    assert stopped(restorer, source, out, 12, resume=True)[0] == 6
    make(source, times=[*range(0, 6000, 250)])
    assert stopped(restorer, source, out, 12, resume=True)[0] == 1
    # A video that is at fault itself is not gone on with.
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(ValueError, match="cut off"):
        clips.restore_video(restorer, source, out, restorer.encode("derain"), resume=True)
    assert not list(tmp_path.glob(".*"))


def test_command_line_goes_on(
    weights: Path, tmp_path: Path, short_segments: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make(tmp_path / "in.mp4")
    arguments = ["restore", str(tmp_path / "in.mp4"), "-i", "remove the noise", "--resume"]
    arguments += ["-o", str(tmp_path / "out"), "--model", str(weights), "--device", "cpu"]

    def stop(_: object, done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli, "_advance", stop)
        assert cli.main(arguments) == 1
    assert "nothing half-written" in capsys.readouterr().err
    assert cli.main(arguments) == 0
    assert "12 frames (5 of them before)" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["in.mp4", "manifest.jsonl"]


@pytest.mark.parametrize(
    "shown", [[0, 1, 2], [0, 40, 20, 10, 30, 99, 50], [7], [], [0, 2, 1, 5, 9, 8, 7, 6]]
)
def test_packets_are_decoded_in_order_and_in_time(shown: list[int]) -> None:
    times = [*_decoding_times(shown)]
    assert times == sorted(set(times)) and len(times) == len(shown)
    assert all(early <= late for early, late in zip(times, shown, strict=True))
    if shown == sorted(shown):
        assert times == shown


def test_command_line_takes_videos_and_pictures(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make(folder / "clip.mp4")
    (folder / "bad.mkv").write_text("no video")
    Image.new("RGB", (40, 30), (90, 80, 70)).save(folder / "photo.png")
    out = tmp_path / "out"
    arguments = ["restore", str(folder), "-i", "remove the noise", "-o", str(out), "--recursive"]
    arguments += ["--model", str(weights), "--device", "cpu", "--steady"]
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert "bad.mkv" in said.err and "3 pictures, 1 failed" in said.out
    assert "64 x 48, 12 frames" in said.out and "frames per second" in said.out
    assert sorted(p.name for p in out.iterdir()) == ["clip.mp4", "manifest.jsonl", "photo.png"]
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {line["target"]: line.get("frames") for line in lines if line["status"] == "ok"} == {
        "clip.mp4": 12, "photo.png": None,
    }  # fmt: skip
    (folder / "bad.mkv").unlink()
    assert cli.main([*arguments, "--resume"]) == 0
    assert "2 were finished before" in capsys.readouterr().out
    sheet = ["--compare", str(tmp_path / "sheet.png")]
    assert cli.main([*arguments, *sheet]) == 1
    assert "expected pictures" in capsys.readouterr().err


def test_missing_package_is_named(
    restorer: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path / "in.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OSError, match=r'pip install "instructir\[video\]"'):
        clips.restore_video(
            restorer, source, tmp_path / "out.mp4", restorer.encode("remove the noise")
        )


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """Peak of a process over 1 and over 3 seconds of 320 x 240."""
    code = (
        "import resource, sys; sys.path[:0] = ['tests']; from pathlib import Path\n"
        "from tiny_model import CLASSES, tiny_parts; from instructir_core import Restorer\n"
        "from instructir_core.text import InstructionReader\n"
        "from instructir_core.video import restore_video; import torch; torch.set_num_threads(1)\n"
        "network, head, encoder = tiny_parts()\n"
        "r = Restorer(network, InstructionReader(encoder, head, CLASSES, 'tiny'), 'tiny')\n"
        "restore_video(r, Path(sys.argv[1]), Path(sys.argv[2]), r.encode('noise'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for seconds in (3, 9):
        times = [*itertools.islice(itertools.count(0, 42), seconds * RATE)]
        source = make(tmp_path / f"{seconds}.mp4", times=times, size=(160, 120))
        target = tmp_path / f"out-{seconds}.mp4"
        result = subprocess.run(
            [sys.executable, "-c", code, str(source), str(target)],
            capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        peaks.append(int(result.stdout.split()[-1]) / 1024)
        assert len(contents(target)["frames"]) == seconds * RATE
    # 144 frames more are 4 MiB as they are decoded and 33 MiB as RGB floats.
    assert peaks[1] - peaks[0] < 12, peaks
