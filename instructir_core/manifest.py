"""Several processes on one list of pictures: whose share is whose, and what has been done.

Processes need not talk to each other. Each plans the same sorted list, takes every nth file of
it, and notes what it finished in a manifest of its own, which a later run reads to go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

import torch

from .files import append_line

Job = tuple[Path, Path]
"""The source and the target of one picture."""


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
    def of_environment(cls, environment: Mapping[str, str] = environ) -> Share:
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
