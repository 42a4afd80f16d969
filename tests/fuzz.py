"""Hostile and odd inputs by the thousand: ``python tests/fuzz.py KIND FIRST COUNT``.

Each case is drawn from its number, so a failing one can be run again alone. What is allowed is a
result or a clear error: a plain ValueError or OSError, short, in bounded time. The process prints
one JSON line at the end; it is started by `test_stress`, which also sees it crash or hang.
"""
# ruff: noqa: E402 - the environment comes before what reads it

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np
import torch
from PIL import Image
from tiny_model import CLASSES, tiny_parts

from instructir_core import Restorer, arguments, checkpoint, cli, pictures
from instructir_core.batch import plan_files
from instructir_core.containers import PNG, join_png
from instructir_core.manifest import Manifest, read_lines
from instructir_core.model import InstructIR, NetworkConfig
from instructir_core.text import InstructionReader
from instructir_core.training import corpus
from instructir_core.training.published_sets import find_datasets

SECONDS = 60
"""Longest that a case may take; a busy machine takes some for the first import of a library."""
GROWTH = 600 * 2**20
"""Most bytes that the process may grow by over all its cases."""
LONGEST = 6000
"""Most characters of an error."""

Case = Callable[[random.Random], None]


class Late(BaseException):
    """No Exception, which the code under test may catch."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, taken out, put in or cut off."""
    wrong = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = rng.randrange(len(wrong) + 1)
        action = rng.randrange(6)
        if action == 0 and wrong:
            wrong[min(at, len(wrong) - 1)] = rng.randrange(256)
        elif action == 1:
            wrong[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
        elif action == 2:
            wrong[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
        elif action == 3:
            del wrong[at : at + rng.randrange(1, 200)]
        elif action == 4:
            other = rng.randrange(len(wrong) + 1)
            wrong[at:at] = wrong[other : other + rng.randrange(100)]
        elif rng.random() < 0.3:
            del wrong[at:]
    return bytes(wrong)


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    simple = [
        None, True, -1, 0, 1e308, 10**30, "", "x", "a\x1b[2J", "é图", [], {}, "layers", 2**31,
    ]  # fmt: skip
    if depth < 3 and rng.random() < 0.3:
        return [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    if depth < 3 and rng.random() < 0.3:
        return {str(junk(rng, 3)): junk(rng, depth + 1) for _ in range(rng.randrange(4))}
    return rng.choice(simple)


# --- weight files ------------------------------------------------------------------------------


def weight_files(place: Path) -> Case:
    _, head, encoder = tiny_parts()
    network = InstructIR(NetworkConfig(4, (1,), 1, (1,)))  # the cases' time goes with its blocks
    whole = place / "whole.safetensors"
    checkpoint.save(whole, network, head, CLASSES, encoder, {"name": "tiny"})
    ours = whole.read_bytes()
    size = int.from_bytes(ours[:8], "little")
    header = json.loads(ours[8 : 8 + size])
    files = []
    for content in (network.state_dict(), {"params": head.state_dict()}):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=new)
            files.append(buffer.getvalue())
    path = place / "case"

    def case(rng: random.Random) -> None:
        kind = rng.randrange(4)
        if kind == 0:
            data = mutated(ours, rng)
        elif kind == 1:  # a header that says something else
            changed = json.loads(json.dumps(header))
            for _ in range(rng.randrange(1, 4)):
                key = rng.choice(list(changed))
                if key == "__metadata__":
                    name = rng.choice(list(changed[key]))
                    changed[key][name] = json.dumps(junk(rng))
                elif rng.random() < 0.5:
                    number = rng.choice(("100000000", "7", "-1", "00", "9" * 30))
                    parts = [number if p.isdigit() else p for p in key.split(".")]
                    changed[".".join(parts)] = changed.pop(key)
                else:
                    changed[key][rng.choice(("shape", "dtype"))] = rng.choice(
                        ([2**40], [0], [1] * 40, "F16", "I64", "BOOL", junk(rng))
                    )
            text = json.dumps(changed).encode()
            data = struct.pack("<Q", len(text)) + text + ours[8 + size :]
        elif kind == 2:
            data = mutated(rng.choice(files), rng)
        else:
            data = rng.choice((
                rng.randbytes(rng.randrange(60)), b"\x80\x02" + rng.randbytes(rng.randrange(40)),
                pickle.dumps(junk(rng)), b"PK\x03\x04" + rng.randbytes(40),
            ))  # fmt: skip
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rng.choice((checkpoint.load, checkpoint.load_network, checkpoint.load_head))(path)

    return case


# --- sentences ---------------------------------------------------------------------------------


def sentences(place: Path) -> Case:
    network, head, encoder = tiny_parts()
    restorer = Restorer(network, InstructionReader(encoder, head, CLASSES, "tiny"), "tiny")
    ranges = [(32, 127), (0, 32), (0x80, 0x250), (0x300, 0x370), (0x590, 0x700), (0x900, 0xE00),
              (0x200B, 0x2070), (0x3040, 0xA000), (0xAC00, 0xD7A0), (0xD800, 0xE000),
              (0xFE00, 0xFFFF), (0x1F300, 0x1FA00), (0xE0000, 0xE0080)]  # fmt: skip
    words = "remove the noise, rain blur haze too dark 去除噪声 entferne débruite عکس".split()

    def case(rng: random.Random) -> None:
        parts = []
        for _ in range(rng.choice((0, 1, 2, 5, 20))):
            if rng.random() < 0.4:
                parts.append(rng.choice(words))
            else:
                low, high = rng.choice(ranges)
                length = rng.choice((1, 3, 10, 10, 40, 300))
                parts.append("".join(chr(rng.randrange(low, high)) for _ in range(length)))
        text = rng.choice(("", " ", "\n", "\u200d")).join(parts)
        if rng.random() < 0.001:
            text *= 1000
        given: Any = rng.choice((None, 7, b"x", [text])) if rng.random() < 0.01 else text
        read = restorer.encode(given)
        assert abs(float(read.embedding.norm()) - 1) < 1e-4
        assert abs(sum(read.probabilities.values()) - 1) < 1e-4 and str(read)

    return case


# --- command lines -----------------------------------------------------------------------------


def command_lines(place: Path) -> Case:
    network, head, encoder = tiny_parts()
    checkpoint.save(place / "tiny.safetensors", network, head, CLASSES, encoder, {"name": "tiny"})
    (place / "photos").mkdir()
    Image.new("RGB", (6, 5), "red").save(place / "photos" / "a.png")
    (place / "photos" / "bad.png").write_bytes(b"no picture")
    (place / "empty").mkdir()
    (place / "list.tsv").write_text("noise\tme\tremove the noise\nx\n")
    os.chdir(place)
    commands = [["restore"], ["models", "list"], ["models", "info"], ["models", "convert"],
                ["models", "download"], ["corpus"], ["train"], ["datasets"], ["degradations"],
                ["evaluate"], ["nothing"], []]  # fmt: skip
    options = """-i -o --model --head --text-encoder --device --strength --tile-size --recursive
        --resume --compare --metadata --half --plan --free --seed --exclude --preset --skip --init
        --no-text --steps --minutes --stages --shares --precision --suite --pairs --clean
        --held-out --identity --sentences --phrasings --limit --size --out --help""".split()
    values = ["photos/a.png", "photos", "empty", "tiny.safetensors", "list.tsv", "nowhere", "out",
              "out.v2", "x.png", "x.gif", "", "-1", "0", "1", "0.5", "nan", "inf", "1e400",
              "99999999999999999999", "cpu", "cuda:99", "meta", "8x8", "0x0", "derain", "去除噪声",
              "\ud83d", "a\0b", "*", "**", "[", "photos/[a]*.png", "~", "..", "/", "/dev/null",
              "noise25", "noise=1", "0:8:1", "none", "7d", "mini", "no-location", "a" * 5000,
              "%s%n", "$(x)", "\u202e", "--", "=", "tiny"]  # fmt: skip

    # What is the same for every line is made once: the parser, and the corpus, which takes seconds.
    parser = arguments.make_parser(cli._COMMANDS)
    cli.make_parser = lambda _: parser
    load = corpus.load_corpus
    drawn = functools.cache(lambda: load(0, per_pattern=1))
    corpus.load_corpus = lambda *_, **__: drawn()  # type: ignore[assignment]

    def draw(rng: random.Random) -> list[str]:
        given = list(rng.choice(commands))
        if given == ["restore"] and rng.random() < 0.5:
            given += ["photos/a.png", "-i", "derain", "-o", "out", "--model", "tiny.safetensors"]
            given += ["--device", "cpu"]
        for _ in range(rng.randrange(7)):
            given.append(rng.choice(options if rng.random() < 0.5 else values))
        return given

    def is_endless(given: list[str]) -> bool:
        """The whole disk is no test, nor is training."""
        walks = {"/", "..", "**", "*", "~"} & set(given) and given[0] in ("datasets", "evaluate")
        return bool(walks) or (given[:1] == ["train"] and bool({"photos", "empty"} & set(given)))

    def case(rng: random.Random) -> None:
        given = draw(rng)
        while is_endless(given):
            given = draw(rng)
        out = io.TextIOWrapper(io.BytesIO(), "ascii")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                status = cli.main(given)
            except SystemExit as exc:
                status = exc.code  # type: ignore[assignment]
        assert status in (0, 1, 2), (given, status)
        said = out.detach().getvalue()
        assert b"Traceback" not in said, (given, said[-600:])
        for name in os.listdir(place):
            if name not in ("photos", "empty", "tiny.safetensors", "list.tsv"):
                target = place / name
                shutil.rmtree(target) if target.is_dir() else target.unlink()
        for name in {*os.listdir("photos")} - {"a.png", "bad.png"}:
            assert f"photos/{name}" in given, (given, name)  # it was told to write there
            (place / "photos" / name).unlink()
        assert sorted(os.listdir("photos")) == ["a.png", "bad.png"], given

    return case


# --- pictures ----------------------------------------------------------------------------------


def mended(data: bytes) -> bytes:
    """A PNG's checksums made right again, so that the decoder sees what was changed."""
    chunks, at = [], len(PNG)
    while data.startswith(PNG) and at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        chunks.append((name, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return join_png(chunks) if chunks else data


def picture_files(place: Path) -> Case:
    rng = np.random.default_rng(0)
    wholes: list[tuple[str, bytes]] = []
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    frames = [Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)) for _ in range(3)]
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", ".avif"):
        for several in (False, True):
            buffer = io.BytesIO()
            more: dict[str, Any] = {"exif": exif} if suffix != ".bmp" else {}
            if several and suffix in (".png", ".webp", ".tif", ".avif"):
                more |= {"save_all": True, "append_images": frames[1:]}
            frames[0].save(buffer, pictures.FORMATS[suffix], **more)
            wholes.append((suffix, buffer.getvalue()))
    for mode, suffix in (("P", ".png"), ("L", ".tif"), ("1", ".png"), ("CMYK", ".jpg"),
                         ("CMYK", ".tif"), ("LA", ".png"), ("L", ".jpg")):  # fmt: skip
        buffer = io.BytesIO()
        frames[0].convert(mode).save(buffer, pictures.FORMATS[suffix])
        wholes.append((suffix, buffer.getvalue()))
    deep = pictures.Picture(rng.random((12, 10, 3), np.float32), rng.random((12, 10), np.float32),
                            bits=16)  # fmt: skip
    for suffix in (".png", ".tif", ".jxl", ".exr"):
        pictures.write(place / f"a{suffix}", deep)
        wholes.append((suffix, (place / f"a{suffix}").read_bytes()))
    suffixes = sorted({s for s, _ in wholes})

    def case(rng: random.Random) -> None:
        suffix, data = rng.choice(wholes)
        path = place / f"case{suffix if rng.random() < 0.9 else rng.choice(suffixes)}"
        data = mutated(data, rng)
        path.write_bytes(mended(data) if rng.random() < 0.5 else data)
        try:
            found = []
            for page in pictures.pages(path):
                assert np.isfinite(page.pixels).all()
                shown = page.for_network()
                assert shown.min() >= 0 and shown.max() <= 1 and np.isfinite(shown).all()
                found.append(page.restored(shown).with_metadata("no-location"))
                if page.pixels.size > 1 << 22 or len(found) > 9:
                    break
            if found and found[0].pixels.size < 1 << 20 and rng.random() < 0.3:
                other = place / f"other{rng.choice(suffixes)}"
                pictures.write_pages(other, found)
                assert pictures.read(other).pixels.shape == found[0].pixels.shape
        finally:
            path.unlink()

    return case


# --- data folders ------------------------------------------------------------------------------


def data_folders(place: Path) -> Case:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    good = buffer.getvalue()
    words = """a.png b.JPG ._a.png .hidden.png album.jpg x.tif [1].png manifest.jsonl notes.txt
        *.png -o.png rain.png norain-1.png rainy_image_dataset Rain200L GOPRO train input target
        BSD400 LOL low high %s""".split()
    names = [*words, "é 图.png", "\udcff.png", "a" * 200 + ".png", "a\nb.png"]

    def case(rng: random.Random) -> None:
        root = Path(tempfile.mkdtemp(dir=place))
        folders = [root]
        for _ in range(rng.randrange(1, 14)):
            path = rng.choice(folders) / rng.choice(names)
            action = rng.randrange(9)
            if not os.path.lexists(path):
                if action < 4:
                    path.write_bytes(rng.choice((good, b"", b"junk", b'{"source": [1]}\n[[[')))
                elif action < 6:
                    path.mkdir()
                    folders.append(path)
                elif action == 6:
                    path.symlink_to(rng.choice((".", "..", path.name, "nowhere", str(root))))
                elif action == 7:
                    os.mkfifo(path)
                else:
                    path.symlink_to(rng.choice(folders), target_is_directory=True)
        try:
            pattern = rng.choice(("", "*", "**", "**/*.png", "*/*.png", "[", "**/**/*.*", "x.tif"))
            with contextlib.redirect_stderr(io.StringIO()) as said:
                jobs, refused = plan_files([str(root / pattern)], root / "out", rng.random() < 0.5)
                assert said.getvalue().count("error: ") == refused
            assert all(source.is_file() for source, _ in jobs)
            assert len({target for _, target in jobs}) == len(jobs)
            manifest = Manifest(root, {})
            assert not any(manifest.is_finished(*job) for job in jobs)
            for path in root.rglob("*.jsonl"):
                if path.is_file():
                    list(read_lines(path))
            find_datasets(root)
        finally:
            shutil.rmtree(root)

    return case


KINDS: dict[str, Callable[[Path], Case]] = {
    "weight files": weight_files,
    "sentences": sentences,
    "command lines": command_lines,
    "pictures": picture_files,
    "data folders": data_folders,
}


def run(kind: str, first: int, count: int, place: Path) -> dict[str, Any]:
    """Run the cases and tell what happened to them."""

    def late(*_: object) -> None:
        raise Late(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    torch.set_num_threads(1)
    case = KINDS[kind](place)
    outcome: Counter[str] = Counter()
    failures: list[str] = []
    slowest, low = 0.0, 0
    for number in range(first, first + count):
        if number == first + min(200, count // 2):
            low = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(number, end="\r", file=sys.stderr, flush=True)
        begun = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            case(random.Random(f"{kind} {number}"))
            outcome["result"] += 1
        except (ValueError, OSError) as exc:
            signal.setitimer(signal.ITIMER_REAL, 0)
            outcome["clear error"] += 1
            plain = type(exc) in (ValueError, OSError, FileNotFoundError)
            # An error of a library has no remedy in it, a sentence of ours ends with one.
            if not plain or len(str(exc)) > LONGEST or not str(exc).rstrip().endswith("."):
                failures.append(f"case {number}: {type(exc).__name__}: {str(exc)[:500]!r}")
        except (Exception, Late):
            failures.append(f"case {number}: {traceback.format_exc()[-1500:]}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.perf_counter() - begun)
        if len(failures) > 20:
            break
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - low) * 1024
    if grown > GROWTH:
        failures.append(f"memory grew by {grown / 1e6:.0f} MB")
    return {
        "kind": kind, "cases": sum(outcome.values()), **outcome, "slowest": round(slowest, 3),
        "grown_mb": round(grown / 1e6), "failures": failures,
    }  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        here = os.getcwd()
        result = run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(folder))
        os.chdir(here)
    print(json.dumps(result))
