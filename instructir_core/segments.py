"""What is finished of a video: encoded segments of it beside the result, until that is whole.

    parts = Parts(target, key, resume=True)  # of an earlier run of the same key, or none
    with parts.segment() as segment:
        segment.add(packet)
        segment.finish(frames=100, state=None)

A segment is ``0000.packets``, the encoded bytes, and ``0000.json``, which tells them apart and is
written last: without it a segment counts for nothing.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from .files import hidden_name, write_atomically

if TYPE_CHECKING:
    import av


class Coded(NamedTuple):
    """One packet of video; times are counted in the encoder's unit."""

    data: bytes
    pts: int
    dts: int
    duration: int
    keyframe: bool


class Parts:
    """The finished segments of one result, in a hidden folder beside it."""

    def __init__(self, target: Path, key: Mapping[str, Any], *, resume: bool) -> None:
        """``key`` is all that the segments depend on; others' are removed, as without ``resume``.

        Raises OSError where the folder cannot be written.
        """
        self.folder = hidden_name(target, "parts")
        text = json.dumps(key, sort_keys=True).encode()
        place = self.folder / "key.json"
        if not resume or not place.is_file() or place.read_bytes() != text:
            self.discard()
            write_atomically(place, text)
        self.count, self.frames, self.state = 0, 0, None
        while (index := self._place("json")).is_file():
            found = json.loads(index.read_bytes())
            self.frames, self.state = self.frames + found["frames"], found["state"]
            self.count += 1

    def _place(self, suffix: str, number: int | None = None) -> Path:
        return self.folder / f"{self.count if number is None else number:04}.{suffix}"

    @contextmanager
    def segment(self) -> Iterator[Segment]:
        """The next one. Unless it is finished, it counts for nothing."""
        with self.writing():
            file = open(self._place("packets"), "wb")  # noqa: SIM115
        try:
            yield Segment(self, file)
        finally:
            with suppress(OSError):
                file.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say where it is that nothing can be written."""
        try:
            yield
        except OSError as exc:
            raise OSError(
                f"{self.folder}: could not be written ({exc.strerror or exc}); expected a folder "
                "that you may write to, with space free. Free some, or choose another output."
            ) from exc

    def packets(self) -> Iterator[Coded]:
        """Those of all segments, in the order in which they are decoded."""
        indices = (json.loads(self._place("json", n).read_bytes()) for n in range(self.count))
        shown = array("q", (one[1] for index in indices for one in index["packets"]))
        dts = iter(_decoding_times(shown))
        for number in range(self.count):
            index = json.loads(self._place("json", number).read_bytes())
            with open(self._place("packets", number), "rb") as file:
                for size, pts, duration, keyframe in index["packets"]:
                    yield Coded(file.read(size), pts, next(dts), duration, keyframe)

    def discard(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Segment:
    """One that is being written."""

    def __init__(self, parts: Parts, file: IO[bytes]) -> None:
        self.parts, self.file = parts, file
        self.packets: list[tuple[int, int, int, bool]] = []

    def add(self, packet: av.Packet) -> None:
        """Append what the encoder gave."""
        data = bytes(packet)
        with self.parts.writing():
            self.file.write(data)
        assert packet.pts is not None
        self.packets.append((len(data), packet.pts, packet.duration or 0, packet.is_keyframe))

    def finish(self, frames: int, state: object) -> None:
        """All of its ``frames`` are in; ``state`` is what the next goes on with, as JSON."""
        with self.parts.writing():
            self.file.flush()
            os.fsync(self.file.fileno())
        index = {"frames": frames, "state": state, "packets": self.packets}
        write_atomically(self.parts._place("json"), json.dumps(index).encode())
        self.parts.count += 1
        self.parts.frames += frames
        self.parts.state = state


def _decoding_times(shown: Sequence[int]) -> Iterator[int]:
    """When to decode packets that are shown at these times: in order, and none too late.

    Encoders say so too, but of one segment, and where frames come unevenly two may overlap.
    """
    times = array("q", sorted(shown))
    if any(a == b for a, b in itertools.pairwise(times)):
        return iter(shown)  # hidden frames, of encoders that do not change the order
    delay = max((i - bisect.bisect_left(times, t) for i, t in enumerate(shown)), default=0)
    step = times[1] - times[0] if len(times) > 1 else 1
    return (times[i - delay] if i >= delay else times[0] - (delay - i) * step
            for i in range(len(times)))  # fmt: skip
