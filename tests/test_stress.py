"""What strangers, kills and full disks do to it. ``make stress`` runs all of it, for most of an
hour; without the marker the same cases run in small numbers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instructir_core.cli import main

ROOT = Path(__file__).parent.parent
FUZZ = Path(__file__).parent / "fuzz.py"
WHOLE = {"pictures": 20_000, "data folders": 20_000, "sentences": 100_000,
         "command lines": 100_000, "weight files": 100_000}  # fmt: skip
BATCH = 10_000
"""Cases of one process."""
FORMATS = (".png", ".jpg", ".tif", ".jxl", ".exr", ".webp", ".avif")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
RUN = "import sys; from instructir_core.cli import main; sys.exit(main(sys.argv[1:]))"
posix = pytest.mark.skipif(os.name == "nt", reason="signals, limits and links of POSIX")


def arguments(weights: Path, source: object, out: Path, *more: object) -> list[str]:
    given = ["restore", source, "-o", out, "--model", weights, "--device", "cpu", "-i", "derain"]
    return [*map(str, given), *map(str, more)]


def process(code: str, given: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def photos(folder: Path, count: int, size: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.png")
    return folder


# --- fuzzing -----------------------------------------------------------------------------------


def fuzz(kind: str, count: int) -> dict[str, int]:
    """Run cases in processes of their own, one a core, and add up what they say."""
    total: dict[str, int] = {}
    started = time.monotonic()
    starts = [(first, min(BATCH, count - first)) for first in range(0, count, BATCH)]
    running: list[tuple[int, int, subprocess.Popen[str], float]] = []

    def end(first: int, number: int, one: subprocess.Popen[str], begun: float) -> None:
        try:
            out, errors = one.communicate(timeout=max(1, 300 + number - time.monotonic() + begun))
        except subprocess.TimeoutExpired:
            one.kill()
            out, errors = one.communicate()
            pytest.fail(f"{kind}: hangs at case {errors[-20:].strip()}")
        if one.returncode:
            pytest.fail(f"{kind}: status {one.returncode} at case {errors[-2000:]}")
        found = json.loads(out.splitlines()[-1])
        assert not found["failures"], f"{kind}: " + "\n".join(found["failures"])
        assert found["cases"] == number
        for key in ("cases", "result", "clear error"):
            total[key] = total.get(key, 0) + found.get(key, 0)
        total["slowest_ms"] = max(total.get("slowest_ms", 0), round(1000 * found["slowest"]))
        total["grown_mb"] = max(total.get("grown_mb", 0), found["grown_mb"])
        if number == BATCH:
            spent = time.monotonic() - started
            print(f"{kind}: {total['cases']} cases, {spent:.0f} s", flush=True)

    try:
        for first, number in starts:
            one = subprocess.Popen(
                [sys.executable, str(FUZZ), kind, str(first), str(number)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            running.append((first, number, one, time.monotonic()))
            if len(running) == CORES:
                end(*running.pop(0))
        while running:
            end(*running.pop(0))
    finally:
        for _, _, one, _ in running:
            one.kill()
    print(f"{kind}: {json.dumps(total)}, {time.monotonic() - started:.0f} s", flush=True)
    return total


@posix
@pytest.mark.parametrize("kind", WHOLE)
def test_some_hostile_inputs(kind: str) -> None:
    found = fuzz(kind, 150)
    assert found["cases"] == 150 and found["result"] > 0


@posix
@pytest.mark.stress
@pytest.mark.parametrize("kind", WHOLE)
def test_very_many_hostile_inputs(kind: str) -> None:
    assert fuzz(kind, WHOLE[kind])["cases"] == WHOLE[kind]


# --- kills, disks, memory ----------------------------------------------------------------------


@posix
@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.stress)])
def test_kill_and_resume(weights: Path, tmp_path: Path, rounds: int) -> None:
    """What promises ``--resume`` holds: nothing half-written, nothing done twice, nothing left."""
    folder, out = photos(tmp_path / "in", 40, 48), tmp_path / "out"
    rng = random.Random(rounds)
    for _ in range(rounds):
        one = process(RUN, arguments(weights, folder, out, "--resume"))
        begun = len(list(out.glob("*.png")))
        while one.poll() is None and len(list(out.glob("*.png"))) == begun:
            time.sleep(0.01)
        time.sleep(rng.random() / 10)
        one.kill()
        one.communicate()
        for path in out.glob("*.png"):
            with Image.open(path) as image:
                image.load()
    assert main(arguments(weights, folder, out, "--resume")) == 0
    whole = tmp_path / "whole"
    assert main(arguments(weights, folder, whole)) == 0
    for path in whole.glob("*.png"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    left = {p.name for p in out.iterdir()} - {p.name for p in whole.iterdir()}
    assert all(name == "manifest.jsonl" or name.endswith(".tmp") for name in left)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Any:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@posix
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jxl", ".exr", ".jpg"])
def test_full_disk(weights: Path, tmp_path: Path, suffix: str,
                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    source = photos(tmp_path / "in", 1, 200) / "0000.png"
    with small_disk(tmp_path / "disk", 40):
        out = tmp_path / "disk" / f"a{suffix}"
        out.write_bytes(b"before")
        assert main(arguments(weights, source, out)) == 1
        said = capsys.readouterr().err
        assert "error: " in said and str(out) in said, said
        assert [(p.name, p.read_bytes()) for p in out.parent.iterdir()] == [(out.name, b"before")]


@posix
def test_disk_that_is_read_only(weights: Path, tmp_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    source = photos(tmp_path / "in", 1) / "0000.png"
    with small_disk(tmp_path / "disk", 40):
        again = ["mount", "-o", "remount,ro", str(tmp_path / "disk")]
        subprocess.run(again, check=True, capture_output=True)
        for out in ("a.png", "new", "a.tif"):
            assert main(arguments(weights, source, tmp_path / "disk" / out)) == 1
            assert "Read-only" in (said := capsys.readouterr().err), said


MEMORY = """
import resource, sys
from instructir_core.cli import main
import numpy, torch, PIL.Image, tqdm
torch.set_num_threads(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "steps", [(8, 64), pytest.param(tuple(range(1, 61, 4)), marks=pytest.mark.stress)]
)
def test_too_little_memory(weights: Path, tmp_path: Path, steps: tuple[int, ...]) -> None:
    """The limit rises by MB, so that each large allocation fails once: told, and nothing left."""
    source = photos(tmp_path / "in", 1, 700) / "0000.png"
    states = set()
    for step in steps:
        out = tmp_path / f"out{step}"
        one = process(MEMORY, [str(step), *arguments(weights, source, out)])
        _, errors = one.communicate(timeout=300)
        states.add(one.returncode)
        if one.returncode == 0:
            assert [p.name for p in out.iterdir()] == ["0000.png"]
        else:
            assert not out.exists() or not list(out.iterdir()), (step, errors[-500:])
            assert one.returncode in (1, -signal.SIGABRT), (step, one.returncode, errors[-500:])
            assert "Traceback" not in errors, (step, errors[-2000:])
    assert states


@pytest.fixture(scope="session")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets allocations fail."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, and Linux's C library")
    library = tmp_path_factory.mktemp("library") / "fail_alloc.so"
    source = Path(__file__).parent / "fail_alloc.c"
    options = ["-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(source)]
    done = subprocess.run([compiler, *options], capture_output=True, text=True, check=False)
    if "features.h" in done.stderr or "__libc_" in done.stderr:
        pytest.skip("needs Linux's usual C library")
    assert done.returncode == 0, done.stderr
    return library


ONE, ALL = 0, 1 << 60
each = [pytest.param(suffix, 4096, 1, ONE, marks=pytest.mark.stress) for suffix in FORMATS]
rest = [pytest.param(s, 65536, 1, ALL, marks=pytest.mark.stress) for s in (".png", ".tif")]
small = pytest.param(".png", 1, 101, ONE, marks=pytest.mark.stress)


@pytest.mark.parametrize(
    "suffix, least, step, following",
    [(".png", 4096, 40, ONE), (".tif", 65536, 2, ALL), *each, *rest, small],
)
def test_memory_that_ends_at_each_allocation(
    failing: Path, suffix: str, least: int, step: int, following: int
) -> None:
    """While loading, reading a sentence, reading, restoring and writing; see `allocations`."""
    found = lacking(failing, suffix, least, step, following)
    assert found["cases"] == -(-found["of"] // step) and found["clear error"] > 0


@pytest.mark.parametrize(
    "suffix, step, count",
    [(".webp", 6, 4), *(pytest.param(s, 4, 20, marks=pytest.mark.stress) for s in FORMATS)],
)
def test_memory_that_is_limited(failing: Path, suffix: str, step: int, count: int) -> None:
    """To 4 MB more than the model takes, 8 MB and so on, for a picture of half a million pixels."""
    found = lacking(failing, suffix, 0, step, -count)
    assert found["cases"] == count and found["clear error"] > 0


def lacking(failing: Path, *given: object) -> dict[str, Any]:
    """Run `allocations.py`; what it counted, once nothing in it failed."""
    words = [*map(str, given)]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "allocations.py"), *words],
        capture_output=True, text=True, timeout=2000, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LD_PRELOAD": str(failing),
             "MALLOC_MMAP_THRESHOLD_": str(1 << 17), "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    failures = found.pop("failures")
    print(f"allocations {' '.join(words)}: {json.dumps(found)}", flush=True)
    assert not failures, "\n".join(failures)
    return found


SILENT = """
import socket, sys
def denied(*_, **__):
    raise AssertionError("a socket was asked for")
class Denied(socket.socket):
    __init__ = denied
socket.socket, socket.create_connection, socket.getaddrinfo = Denied, denied, denied
from instructir_core.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_no_socket_is_asked_for(weights: Path, tmp_path: Path) -> None:
    folder = photos(tmp_path / "in", 2)
    for model in (weights, "mini"):
        given = arguments(weights, folder, tmp_path / "out", "-i", "remove the noise")
        given[given.index(str(weights))] = str(model)
        one = process(SILENT, given)
        out, errors = one.communicate(timeout=300)
        assert one.returncode == 0, errors
        assert "2 pictures, 0 failed" in out


FLAT = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
torch.set_num_threads(1)
from instructir_core.batch import restore_file
from instructir_core.pipeline import Restorer
weights, folder, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
restorer = Restorer.from_pretrained(weights)
sizes = []
suffixes = ".png .jpg .webp .tif .jxl .exr .avif .bmp".split()
Image.new("RGB", (64, 48), "teal").save(folder / "in.png")
for number in range(count):
    out = folder / f"out{suffixes[number % len(suffixes)]}"
    restore_file(restorer, folder / "in.png", out, restorer.encode(f"remove the rain {number}"))
    used = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    sizes.append(used / 2**20)
print(max(sizes[count // 5 : count // 2]), max(sizes[count // 2 :]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.stress)])
def test_memory_stays_flat(weights: Path, tmp_path: Path, count: int) -> None:
    one = process(FLAT, [str(weights), str(tmp_path), str(count)])
    out, errors = one.communicate(timeout=3000)
    assert one.returncode == 0, errors
    before, after = map(float, out.split())
    print(f"{count} pictures and sentences: {before:.0f} MB, then {after:.0f} MB")
    assert after < before + 25
