"""Many pictures: which to restore and where to, this process's share, and what has been done.

    for done in restore_files(restorer, plan_files(["holiday"], Path("out"))[0], instruction):
        print(done.target, done.error or "restored")

Processes need not talk to each other. Each plans the same sorted list, takes every nth file of
it, and notes what it finished in a manifest of its own, which a later run reads to go on.
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import memory, pictures
from .files import append_line, walk
from .instruction import Instruction
from .masks import fill_hidden
from .memory import Plan
from .pipeline import Restorer

Job = tuple[Path, Path]
"""The source and the target of one picture."""

_OTHER_PICTURES = frozenset(
    ".gif .jp2 .j2k .psd .tga .ppm .pgm .pnm .ico .svg .pdf .dng .hdr .dds".split()
)
"""Suffixes that say that a picture is wanted, in a format that is not written."""


# --- which files -------------------------------------------------------------------------------


def plan_files(
    inputs: Sequence[str], output: Path, recursive: bool = False
) -> tuple[list[Job], int]:
    """(source, target) of every picture, and how many inputs were refused (said on stderr).

    ``recursive`` also takes the sub-folders of folders, and keeps them below ``output``; hidden
    ones, and the output itself, are passed over.

    Raises ValueError when nothing is left, or two sources would write the same target.
    """
    places, refused = _find(inputs, output, recursive)
    if not places:
        raise ValueError("Found no picture to restore. Check the inputs.")
    to_file = _is_one_file(output, len(places), recursive)
    jobs: list[Job] = []
    owners: dict[Path, Path] = {}
    originals = {p.resolve() for p in places}
    for source, inner in places.items():
        target = output if to_file else output / inner
        resolved = target.resolve()
        if resolved in originals:
            print(
                f"error: {source}: the result would overwrite an input; expected another place. "
                "Choose another output.", file=sys.stderr,
            )  # fmt: skip
            refused += 1
            continue
        if resolved in owners:
            raise ValueError(
                f"{target}: found two inputs of this name, {owners[resolved]} and {source}; "
                "expected one. Restore them into different folders."
            )
        owners[resolved] = source
        jobs.append((source, target))
    return jobs, refused


def _find(inputs: Sequence[str], output: Path, recursive: bool) -> tuple[dict[Path, Path], int]:
    """Every source with its place in the output folder, and how many inputs were refused."""
    places: dict[Path, Path] = {}
    refused = 0
    for given in inputs:
        path = Path(given)
        found = [path]
        if path.is_dir():
            found = _in_tree(path, output) if recursive else sorted(path.iterdir())
        elif not os.path.lexists(path):
            found = _matching(given)
        if found != [path]:
            # ._a.jpg is what macOS keeps about a.jpg on other file systems.
            found = [
                p for p in found
                if p.suffix.lower() in pictures.READABLE
                and not p.name.startswith("._") and not p.is_dir()
            ]  # fmt: skip
        if not found:
            print(
                f"error: {given}: found no pictures there; expected a file, a folder or a glob "
                f"of {', '.join(sorted(pictures.READABLE))}. Check the path.", file=sys.stderr,
            )  # fmt: skip
            refused += 1
        for source in found:
            if not source.is_file():
                print(
                    f"error: {source}: found a pipe, a device or a link to nothing; expected a "
                    "file. Leave it out, or copy the picture there.", file=sys.stderr,
                )  # fmt: skip
                refused += 1
                continue
            inner = source.relative_to(path) if recursive and path.is_dir() else Path(source.name)
            places.setdefault(source, inner)
    return places, refused


def _is_one_file(output: Path, count: int, recursive: bool) -> bool:
    """Whether the output is a picture's name, not a folder; ValueError where it cannot be."""
    if output.is_dir():
        return False
    suffix = output.suffix.lower()
    if suffix in _OTHER_PICTURES and count == 1:
        raise ValueError(
            f"{output}: found the suffix {output.suffix!r}; expected one of "
            f"{', '.join(pictures.FORMATS)}, or a folder. Rename the output."
        )
    to_file = suffix in pictures.FORMATS
    if to_file and (count > 1 or recursive):
        raise ValueError(
            f"{output}: found one file for {count} pictures; expected a folder. Leave the "
            "suffix out."
        )
    return to_file


def _in_tree(root: Path, output: Path) -> list[Path]:
    """All files below ``root``, without hidden ones and those of an output that lies in it."""
    output = output.resolve()
    found: list[Path] = []
    for parent, folders, files in os.walk(root):
        folder = Path(parent)
        folders[:] = [
            f for f in folders if not f.startswith(".") and (folder / f).resolve() != output
        ]
        found += [folder / file for file in files if not file.startswith(".")]
    return sorted(found)


def _matching(pattern: str) -> list[Path]:
    """The files of a glob. ``**`` goes into every folder once, whatever links there are."""
    base, parts = Path(), Path(pattern).parts
    # Folders that are there are meant by name, which may hold brackets.
    while parts and parts[0] != "**" and (base / parts[0]).is_dir():
        base, parts = base / parts[0], parts[1:]
    before = parts[: parts.index("**")] if "**" in parts else parts
    starts = glob.glob(os.path.join(glob.escape(str(base)), *before))
    if len(before) == len(parts):
        return sorted(Path(p) for p in starts)
    rest = parts[len(before) :]
    found = set()
    for start in starts:
        for folder, folders, files in walk(Path(start)):
            folders[:] = [f for f in folders if not f.startswith(".")]
            for file in files:
                inner = (folder / file).relative_to(start).parts
                if not file.startswith(".") and _fits(inner, rest):
                    found.add(folder / file)
    return sorted(found)


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    fits = bool(parts) and fnmatch.fnmatch(parts[0], pattern[0])
    return fits and _fits(parts[1:], pattern[1:])


# --- restoring them ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What became of one picture."""

    source: Path
    target: Path
    seconds: float
    restored: tuple[pictures.Picture, pictures.Picture, Plan] | None
    """As `restore_file` returns, or None: then ``error`` says why."""
    error: str | None = None


def restore_file(
    restorer: Restorer,
    source: Path,
    target: Path,
    instructions: Instruction | Sequence[Instruction],
    *,
    strength: float = 1.0,
    tile_size: int | None = None,
    metadata: str = "all",
) -> tuple[pictures.Picture, pictures.Picture, Plan]:
    """Read, restore and write one file, all pages of it where the format has pages.

    Alpha, grey, depth, ICC profile and, of the metadata, what ``metadata`` says are kept. Returns
    the first page before and after, whose notes say what is not in the result, and the plan that
    was carried out for it. Raises OSError, ValueError and `torch.OutOfMemoryError` as
    `pictures.pages`, `Restorer.restore` and `pictures.write_pages` do.
    """
    pictures.check_suffix(target)
    source_pages = pictures.pages(source)
    firsts: list[tuple[pictures.Picture, Plan]] = []

    def restored() -> Iterator[pictures.Picture]:
        for before in source_pages:
            after, plan = _restore_page(restorer, before, instructions, strength, tile_size)
            if not firsts:
                firsts.append((before, plan))
            yield after.with_metadata(metadata)

    results = restored()
    first = next(results)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OSError(
            f"{target.parent}: could not be created ({exc.strerror}); expected a folder that you "
            "may write to. Choose another output."
        ) from exc
    lost = pictures.write_pages(target, itertools.chain([first], results))
    notes = list(first.notes)
    if not pictures.holds_all(target, first):
        try:
            more = next(source_pages, None) is not None
        except (OSError, ValueError):
            more = True
        if more:
            notes.append("only the first of its pages or frames is in the result")
    if lost:
        notes.append(f"{target.suffix.lower()} cannot hold {', '.join(lost)}")
    before, plan = firsts[0]
    return before, replace(first, notes=tuple(notes)), plan


def _restore_page(
    restorer: Restorer,
    before: pictures.Picture,
    instructions: Instruction | Sequence[Instruction],
    strength: float,
    tile_size: int | None,
) -> tuple[pictures.Picture, Plan]:
    """One page restored, and how; colours that transparency hides are kept, and change nothing."""
    shown = torch.from_numpy(before.for_network())
    pixels, hidden = shown, None
    if before.alpha is not None:
        alpha = torch.from_numpy(before.alpha)
        hidden = (alpha == 0)[..., None]
        pixels = fill_hidden(pixels, alpha)
    height, width = before.pixels.shape[:2]
    free = memory.free_memory(restorer.device)
    restored, plan = memory.with_smaller_pieces(
        lambda plan: restorer.restore(pixels, instructions, strength=strength, plan=plan),
        restorer.plan(height, width, free=free, tile_size=tile_size),
    )
    restored = restored.cpu()
    if hidden is not None:
        restored = torch.where(hidden, shown, restored)
    return before.restored(restored.numpy()), plan


def restore_files(
    restorer: Restorer,
    jobs: Iterable[Job],
    instructions: Instruction | Sequence[Instruction],
    *,
    strength: float = 1.0,
    tile_size: int | None = None,
    metadata: str = "all",
    manifest: Manifest | None = None,
) -> Iterator[Done]:
    """`restore_file` for each job; of a bad one the error is told, and the rest goes on.

    Each is noted in the ``manifest``, where there is one, before it is told. Raises OSError when
    that cannot be written.
    """
    for source, target in jobs:
        begun = time.perf_counter()
        restored, error = None, None
        details: dict[str, Any] = {"model": restorer.name, "device": str(restorer.device)}
        try:
            restored = restore_file(
                restorer, source, target, instructions,
                strength=strength, tile_size=tile_size, metadata=metadata,
            )  # fmt: skip
            plan = restored[2]
            details |= {"status": "ok", "width": plan.width, "height": plan.height}
            details["exact"] = plan.exact
        except (OSError, ValueError, torch.OutOfMemoryError) as exc:
            error = str(exc)
            details |= {"status": "error", "message": error}
        seconds = time.perf_counter() - begun
        if manifest is not None:
            manifest.add(source, target, **details, seconds=round(seconds, 3))
        yield Done(source, target, seconds, restored, error)


# --- whose share -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """This process among those that work on one list, as torchrun and `accelerate launch` say."""

    rank: int = 0
    """0 to ``processes`` - 1."""
    processes: int = 1
    on_this_machine: int = 0
    """Its number among the processes of its own machine."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Share:
        """Read RANK, WORLD_SIZE and LOCAL_RANK; without them this process is alone.

        Raises ValueError when one of RANK and WORLD_SIZE is missing, or they make no sense.
        """
        given = {
            name: environment[name]
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
            if name in environment
        }
        if not given.keys() & {"RANK", "WORLD_SIZE"}:
            return cls()
        try:
            rank, processes = int(given["RANK"]), int(given["WORLD_SIZE"])
            local = int(given["LOCAL_RANK"]) if "LOCAL_RANK" in given else 0
        except (KeyError, ValueError):
            rank = processes = local = -1
        if not 0 <= rank < processes or not 0 <= local <= rank:
            found = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ValueError(
                f"Found {found} in the environment; expected WORLD_SIZE processes of RANK 0 to "
                "WORLD_SIZE - 1. Start with torchrun or accelerate launch, or unset them."
            )
        return cls(rank, processes, local)

    def take(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Every nth file: neighbours are often of one size, so the shares take equally long."""
        return jobs[self.rank :: self.processes]

    def device(self, asked: str | None) -> str | None:
        """The GPU of this process, where neither another device nor a certain GPU is asked for."""
        if self.processes == 1 or asked not in (None, "cuda") or not torch.cuda.is_available():
            return asked
        return f"cuda:{self.on_this_machine % torch.cuda.device_count()}"


# --- what has been done ------------------------------------------------------------------------


class Manifest:
    """What was done to each picture, one JSON object a line, in the output folder.

    One file for each process: ``manifest.jsonl``, or ``manifest-0.jsonl`` and so on. Lines are
    only ever appended, and reach the disk one by one: a killed run loses the last at most.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], share: Share) -> None:
        """Read what is there. ``settings`` is all that the pixels of a result depend on."""
        name = "manifest.jsonl" if share.processes == 1 else f"manifest-{share.rank}.jsonl"
        self.path, self.folder = folder / name, folder
        self.settings = json.loads(json.dumps(settings))  # as it will read back
        self._finished = {
            _identity(line)
            for path in sorted(folder.glob("manifest*.jsonl"))
            if path.is_file()
            for line in read_lines(path)
            if line.get("status") == "ok" and line.get("settings") == self.settings
        }

    def is_finished(self, source: Path, target: Path) -> bool:
        """Whether the target is the result of the source as it is now, by these settings.

        Both are told by size and time of change, so a target that another run has replaced does
        not count. A target is never half-written: it is moved into its place when complete.
        """
        try:
            return _identity(self._files(source, target)) in self._finished
        except OSError:
            return False

    def add(self, source: Path, target: Path, **details: Any) -> None:
        """Append a line, with ``status`` "ok" or "error" among the details. Raises OSError."""
        line = {"settings": self.settings, **details}
        try:
            line |= self._files(source, target)
        except OSError:  # of a failure, whatever is there
            line |= {"source": str(source.absolute()), "target": self._name(target)}
        # surrogatepass: file names need not be UTF-8, and are read back as they were.
        text = json.dumps(line, ensure_ascii=False)
        append_line(self.path, text.encode("utf-8", "surrogatepass"))

    def _files(self, source: Path, target: Path) -> dict[str, Any]:
        before, after = source.stat(), target.stat()
        return {
            "source": str(source.absolute()),
            "source_bytes": before.st_size,
            "source_changed": before.st_mtime_ns,
            "target": self._name(target),
            "target_bytes": after.st_size,
            "target_changed": after.st_mtime_ns,
        }

    def _name(self, target: Path) -> str:
        return target.relative_to(self.folder).as_posix()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of one manifest file, without lines that a killed run left incomplete."""
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            yield entry


def _identity(line: Mapping[str, Any]) -> tuple[Any, ...]:
    keys = "source source_bytes source_changed target target_bytes target_changed".split()
    values = [line.get(key) for key in keys]
    # Others wrote here too, perhaps: what cannot be compared is no picture of ours.
    return tuple(value if isinstance(value, (str, int)) else None for value in values)
