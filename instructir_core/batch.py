"""Many pictures: which to restore and where to, this process's share, and what has been done.

    for done in restore_files(restorer, plan_files(["holiday"], Path("out"))[0], instruction):
        print(done.target, done.error or "restored")

Processes need not talk to each other. Each plans the same sorted list, takes every nth file of
it, and notes what it finished in a manifest of its own, which a later run reads to go on.
"""

from __future__ import annotations

import glob
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
from .files import append_line
from .instruction import Instruction
from .masks import fill_hidden
from .memory import Plan
from .pipeline import Restorer

Job = tuple[Path, Path]
"""The source and the target of one picture."""


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
    """Every source with its place in the output folder, and how many inputs held none."""
    places: dict[Path, Path] = {}
    refused = 0
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = _in_tree(path, output) if recursive else sorted(path.iterdir())
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(p) for p in glob.glob(given, recursive=True))
        if not path.is_file():
            found = [p for p in found if p.suffix.lower() in pictures.READABLE]
        if not found:
            print(
                f"error: {given}: found no pictures there; expected a file, a folder or a glob "
                f"of {', '.join(sorted(pictures.READABLE))}. Check the path.", file=sys.stderr,
            )  # fmt: skip
            refused += 1
        for source in found:
            inner = source.relative_to(path) if recursive and path.is_dir() else Path(source.name)
            places.setdefault(source, inner)
    return places, refused


def _is_one_file(output: Path, count: int, recursive: bool) -> bool:
    """Whether the output is a picture's name, not a folder; ValueError where it cannot be."""
    to_file = output.suffix.lower() in pictures.FORMATS and not output.is_dir()
    if output.suffix and not to_file and not output.is_dir() and count == 1:
        raise ValueError(
            f"{output}: found the suffix {output.suffix!r}; expected one of "
            f"{', '.join(pictures.FORMATS)}, or a folder. Rename the output."
        )
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
) -> tuple[pictures.Picture, pictures.Picture, Plan]:
    """Read, restore and write one picture; alpha, grey, depth and ICC profile are kept.

    Colours that transparency hides are kept too, and change nothing of what is seen. Returns the
    picture before and after, and the plan that was carried out. Raises OSError, ValueError and
    `torch.OutOfMemoryError` as `pictures.read`, `Restorer.restore` and `pictures.write` do.
    """
    before = pictures.read(source)
    pixels, hidden = torch.from_numpy(before.pixels), None
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
        restored = torch.where(hidden, torch.from_numpy(before.pixels), restored)
    after = replace(before, pixels=restored.numpy())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OSError(
            f"{target.parent}: could not be created ({exc.strerror}); expected a folder that you "
            "may write to. Choose another output."
        ) from exc
    pictures.write(target, after)
    return before, after, plan


def restore_files(
    restorer: Restorer,
    jobs: Iterable[Job],
    instructions: Instruction | Sequence[Instruction],
    *,
    strength: float = 1.0,
    tile_size: int | None = None,
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
                restorer, source, target, instructions, strength=strength, tile_size=tile_size
            )
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
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _identity(line: Mapping[str, Any]) -> tuple[Any, ...]:
    keys = "source source_bytes source_changed target target_bytes target_changed".split()
    return tuple(line.get(key) for key in keys)
