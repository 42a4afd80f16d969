"""What has been done: a line for each picture, which a later run reads to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .files import append_line

Job = tuple[Path, Path]
"""The source and the target of one picture."""


class Manifest:
    """What was done to each picture, one JSON object a line, in the output folder.

    Lines are only ever appended, and reach the disk one by one: a killed run loses the last at
    most. ``manifest-0.jsonl`` and so on, of processes of earlier versions, are read too.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Read what is there. ``settings`` is all that the pixels of a result depend on."""
        self.path, self.folder = folder / "manifest.jsonl", folder
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
            return _identity(self._names(source, target) | stamps(source, target)) in self._finished
        except OSError:
            return False

    def add(self, source: Path, target: Path, **details: Any) -> None:
        """Append a line, with ``status`` "ok" and `stamps`, or "error", among the details.

        Raises OSError.
        """
        line = {"settings": self.settings, **details, **self._names(source, target)}
        # surrogatepass: file names need not be UTF-8, and are read back as they were.
        text = json.dumps(line, ensure_ascii=False)
        append_line(self.path, text.encode("utf-8", "surrogatepass"))

    def _names(self, source: Path, target: Path) -> dict[str, Any]:
        name = target.relative_to(self.folder).as_posix()
        return {"source": str(source.absolute()), "target": name}


def stamps(source: Path, target: Path) -> dict[str, Any]:
    """By which both are known to be what they were; to be taken where the target was written.

    Another machine may not see a new file for half a minute. Raises OSError.
    """
    before, after = source.stat(), target.stat()
    return {
        "source_bytes": before.st_size,
        "source_changed": before.st_mtime_ns,
        "target_bytes": after.st_size,
        "target_changed": after.st_mtime_ns,
    }


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
