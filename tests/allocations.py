"""Memory that ends at each allocation in turn: ``allocations.py SUFFIX LEAST STEP RUN``, or at
limits of ``STEP`` MB, twice as much and so on: ``allocations.py SUFFIX 0 STEP -COUNT``.

Restores a picture by the command line, in a child of its own for each allocation of ``LEAST`` bytes
or more (each ``STEP``-th of them) and lets that one fail, and the ``RUN`` after it. Needs
`fail_alloc.c`, preloaded. What is allowed is the same picture as ever, or one plain error that says
that memory lacks, and nothing half-written; and that a library of `ENDS` ends the process, if it
leaves no part under the picture's name. PNG is restored at full strength; the others at none, where
the network would take the same allocations again. Prints one JSON line.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import OpenImageIO  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageCms  # noqa: E402
from tiny_model import CLASSES, tiny_parts  # noqa: E402

from instructir_core import checkpoint, pictures  # noqa: E402
from instructir_core.cli import main  # noqa: E402

NEVER = 2**62
SECONDS = 60
ENDS = {"_safetensors_rust": (".",), "libavif": (".avif",), "libOpenImageIO": (".jxl", ".exr")}
"""Libraries that end the process for want of memory, and in which formats (`.`: in all)."""
PAGE = 4096
"""Bytes; smaller pieces are cut from what a process has, and no system refuses them one by one.
Where they do fail, PyTorch ends the process, too."""
_FRAME = re.compile(r"^(/\S+)\([^)]*\)\[0x", re.M)
_SYSTEM = re.compile(r"fail_alloc|libc\.|libstdc|libgcc|libpthread|ld-linux|libpython")
BLAMES = re.compile("damaged|cut-off|tampered|written wrongly|Get the file|no readable")


def culprit(said: str) -> str:
    """The library in which a process was ended, as `fail_alloc.c` told."""
    names = (Path(name).name for name in _FRAME.findall(said))
    return next((re.split("[-.]", n)[0] for n in names if not _SYSTEM.search(n)), "nobody")


def same(path: Path, whole: pictures.Picture) -> bool:
    """Whether it is the same picture: of smaller pieces, in the last digits only."""
    read = pictures.read(path)
    gap = float(np.abs(read.pixels - whole.pixels).max())
    return (
        gap < 0.02
        and read.icc == whole.icc
        and bool(read.metadata.exif) == bool(whole.metadata.exif)
    )


def found(
    status: int, out: Path, said: str, whole: pictures.Picture, suffix: str
) -> tuple[str, str]:
    """What came of a case, and what is wrong with it, if anything."""
    left = sorted(p.name for p in out.iterdir()) if out.exists() else []
    if os.WIFSIGNALED(status) or _FRAME.search(said):  # by a signal, or a library called exit
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
        library = culprit(said)
        kind = f"ended by {name} in {library}"
        bad = [n for n in left if not n.endswith(".tmp") and not same(out / n, whole)]
        if name == "SIGALRM":
            return kind, "hangs"
        if not suffix.startswith(ENDS.get(library, ())):
            return kind, "ends in a library that is not among the known"
        return kind, f"leaves {bad}" if bad else ""
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return "result", "" if len(left) == 1 and same(out / left[0], whole) else f"leaves {left}"
    if left:
        return "error", f"leaves {left}"
    if "Traceback" in said or "error: " not in said:
        return "error", "raises"
    told = said[said.index("error: ") :]
    if BLAMES.search(said) or "memory" not in told:
        return "error", "does not say that memory lacks"
    return "clear error", ""


def prepare(suffix: str, place: Path, width: int) -> tuple[list[str], Path]:
    """A picture, a model and what the command line is told; and where the result comes."""
    network, head, encoder = tiny_parts()
    model, source, out = place / "tiny.safetensors", place / f"a{suffix}", place / "out"
    checkpoint.save(model, network, head, CLASSES, encoder, {"name": "tiny"})
    pixels = np.random.default_rng(0).random((width * 3 // 4, width, 3), np.float32)
    bits = 16 if suffix in (".jxl", ".exr") else 8
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (9, 9)).save(place / "told.jpg", exif=exif, icc_profile=icc, dpi=(90, 90))
    told = pictures.read(place / "told.jpg")
    picture = pictures.Picture(pixels, bits=bits, icc=told.icc, metadata=told.metadata)
    pictures.write(source, picture)
    given = ["restore", source, "-o", out, "--model", model, "--device", "cpu", "-i", "derain"]
    return [*map(str, given)], out / source.name


def one(
    arguments: list[str], said: Path, hurt: Callable[[], None], heal: Callable[[], None]
) -> int:
    """The status of a child that is hurt before it runs the command line, and healed after it."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    signal.alarm(SECONDS)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    status = 3
    try:
        hurt()
        status = main(arguments)
        heal()
    except BaseException:
        heal()
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def limit(space: int) -> None:
    """Allow so many more bytes of addresses, or as many as before the first call."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + space if space else most, most))


def run(suffix: str, least: int, step: int, length: int, place: Path) -> dict[str, object]:
    """All cases, counted; with a ``length`` below 0, of ``-length`` limits, a ``step`` MB apart."""
    if least < PAGE:
        ENDS["libtorch_cpu"] = (".",)
    if length < 0:
        ENDS["nobody"] = (".jxl",)  # seen once; without memory it cannot be told in which library
    torch.set_num_threads(1)
    OpenImageIO.attribute("exr_threads", -1)  # a child has none of its parent's threads
    library = ctypes.CDLL(None)
    library.fail_allocations.argtypes = [ctypes.c_size_t, ctypes.c_long, ctypes.c_long]
    library.allocations_seen.restype = ctypes.c_long
    fail = library.fail_allocations
    arguments, target = prepare(suffix, place, 80 if length >= 0 else 800)
    arguments += [] if suffix == ".png" and length >= 0 else ["--strength", "0"]
    files = {path: path.read_bytes() for path in place.iterdir()}
    assert main(arguments) == 0  # and what is imported when it is needed is there
    whole = pictures.read(target)
    fail(least, NEVER, NEVER)
    assert main(arguments) == 0
    number = library.allocations_seen()
    cases: dict[int, tuple[Callable[[], None], Callable[[], None]]] = {
        at: (partial(fail, least, at, min(at + length, NEVER)), partial(fail, least, NEVER, NEVER))
        for at in range(0, number, step)
    }
    if length < 0:
        number = -length
        cases = {
            n: (partial(limit, n * step << 20), partial(limit, 0)) for n in range(1, number + 1)
        }
    counts: Counter[str] = Counter()
    failures: list[str] = []
    said = place / "said"
    begun = time.perf_counter()
    gc.freeze()  # else a child's collection copies all that it shares with its parent
    for at, (hurt, heal) in cases.items():
        shutil.rmtree(target.parent, ignore_errors=True)
        status = one(arguments, said, hurt, heal)
        text = said.read_text("utf-8", "replace")
        kind, wrong = found(status, target.parent, text, whole, suffix)
        counts[kind] += 1
        if wrong:
            failures.append(f"case {at}: {wrong}: {text[-3000:]}")
    assert files == {path: path.read_bytes() for path in files}
    seconds = round(time.perf_counter() - begun)
    return {"cases": sum(counts.values()), **counts, "of": number, "seconds": seconds,
            "failures": failures}  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        result = run(sys.argv[1], *map(int, sys.argv[2:5]), Path(folder))  # type: ignore[arg-type]
    print(json.dumps(result))
