"""Many pictures: which to restore, and where to.

for done in restore_files(restorer, plan_files(["holiday"], Path("out"))[0], instruction):
    print(done.target, done.error or "restored")
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import memory, pictures, video
from .files import memory_told, walk
from .guard import Guard
from .instruction import Instruction
from .manifest import Job, Manifest, stamps
from .masks import fill_hidden
from .memory import Plan
from .pipeline import Restorer
from .stills import stills

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
    refused, others = 0, Counter[str]()
    for given in inputs:
        path = Path(given)
        found = [path]
        if path.is_dir():
            found = _in_tree(path, output) if recursive else sorted(path.iterdir())
        elif not os.path.lexists(path):
            found = _matching(given)
        if found != [path]:
            # ._a.jpg is what macOS keeps about a.jpg on other file systems.
            files = [p for p in found if not p.name.startswith("._") and not p.is_dir()]
            found = [p for p in files if p.suffix.lower() in {*pictures.READABLE, *video.FORMATS}]
            others.update(
                p.suffix.lower() or "without a suffix"
                for p in {*files}.difference(found)
                if not p.name.startswith(".")
            )
        if not found:
            print(
                f"error: {given}: found no pictures there; expected a file, a folder or a glob "
                f"of {', '.join(sorted({*pictures.READABLE, *video.FORMATS}))}. Check the path.",
                file=sys.stderr,
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
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        print(f"left out, as of no format that is read: {kinds}", file=sys.stderr)
    return places, refused


def _is_one_file(output: Path, count: int, recursive: bool) -> bool:
    """Whether the output is a picture's name, not a folder; ValueError where it cannot be."""
    if output.is_dir():
        return False
    suffix, known = output.suffix.lower(), [*pictures.FORMATS, *video.FORMATS]
    if suffix in _OTHER_PICTURES and count == 1:
        raise ValueError(
            f"{output}: found the suffix {output.suffix!r}; expected one of "
            f"{', '.join(known)}, or a folder. Rename the output."
        )
    to_file = suffix in known
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
    details: Mapping[str, Any]
    """What the manifest tells: model, device, seconds, and by ``status`` what else."""
    restored: tuple[pictures.Picture, pictures.Picture, Plan] | None = None
    """As `restore_file` returns, or None: a video, one restored elsewhere, or an ``error``."""
    error: str | None = None
    clip: video.Clip | None = None
    """As `video.restore_video` returns, for a video."""
    notes: tuple[str, ...] = ()
    """What is not in the result."""
    has_location: bool = False
    """The result tells where it was taken."""

    def line(self, tile_size: int | None) -> str:
        """What became of it in one line; ``tile_size`` is what was asked for."""
        if self.error is not None:
            return f"error: {self.error}"
        found = self.details
        start = f"{self.source.name} -> {self.target}: {found['width']} x {found['height']}, "
        took = f"{found['seconds']:.1f} s"
        if self.clip is not None:
            return f"{start}{self.clip.say(found['seconds'])} on {found['device']}"
        note = "" if found["exact"] else f", not exact: tiles of {found['tile']} px"
        if not found["exact"] and tile_size is None:
            note += ", because memory was short"
        return f"{start}{took} on {found['device']}{note}"


class Choice:
    """What is carried out on one file: what was asked for, or with ``auto`` what it needs; and
    whether that did it good, see `guard`."""

    def __init__(
        self,
        restorer: Restorer,
        instructions: Instruction | Sequence[Instruction],
        *,
        auto: bool = False,
        guard: str = "off",
    ) -> None:
        several = [instructions] if isinstance(instructions, Instruction) else [*instructions]
        self.restorer, self.instructions, self.auto, self.mode = restorer, several, auto, guard
        self.guard = Guard(None)
        self.details: dict[str, Any] = {}
        """For the manifest: ``found``, ``chosen``, and what the ``guard`` said."""

    @property
    def looks(self) -> bool:
        """Whether it looks at the pictures at all."""
        return self.auto or (self.mode != "off" and self.restorer.diagnosis is not None)

    def before(self, frames: torch.Tensor) -> list[Instruction]:
        """(B, H, W, 3) of one page, or some of a video -> what to carry out."""
        if self.auto and "found" not in self.details:  # of several pages, the first one tells
            found = self.restorer.suggest(frames)
            self.instructions = [*found.instructions]
            self.details |= {"found": found.report, "chosen": [*found.sentences]}
        self.guard = Guard(self.restorer.diagnosis, self.mode)
        asked = self.guard.before(frames[len(frames) // 2], self.instructions)
        self._note()
        return asked

    def after(self, restored: torch.Tensor) -> bool:
        """(H, W, 3) of the same, restored -> whether it may stand."""
        stands = self.guard.after(restored)
        self._note()
        return stands

    def _note(self) -> None:
        said = [*self.details.get("guard", ()), *self.guard.notes]
        if said:
            self.details["guard"] = [*dict.fromkeys(said)]


def restore_file(
    restorer: Restorer,
    source: Path,
    target: Path,
    instructions: Instruction | Sequence[Instruction] | Choice,
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
    choice = instructions if isinstance(instructions, Choice) else Choice(restorer, instructions)
    pictures.check_suffix(target)
    source_pages = pictures.pages(source)
    firsts: list[tuple[pictures.Picture, Plan]] = []

    def restored() -> Iterator[pictures.Picture]:
        for before in source_pages:
            after, plan = _restore_page(restorer, before, choice, strength, tile_size)
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
    choice: Choice,
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
    instructions = choice.before(pixels[None])
    free = memory.free_memory(restorer.device)
    restored, plan = memory.with_smaller_pieces(
        lambda plan: restorer.restore(pixels, instructions, strength=strength, plan=plan),
        restorer.plan(height, width, free=free, tile_size=tile_size),
    )
    restored = restored.cpu()
    if not choice.after(restored):
        restored = pixels
    if hidden is not None:
        restored = torch.where(hidden, shown, restored)
    return before.restored(restored.numpy()), plan


def _restore_video(restorer: Restorer, job: Job, choice: Choice, **settings: Any) -> video.Clip:
    """As `video.restore_video`, for what a few frames need; unchanged where they got worse."""
    source, target = job
    asked = choice.before(stills(source)) if choice.looks else choice.instructions
    clip = video.restore_video(restorer, source, target, asked, **settings)
    if choice.looks and not choice.after(stills(target, 1)[0]):
        clip = video.restore_video(restorer, source, target, [], **settings)
    return clip


def restore_job(
    restorer: Restorer,
    job: Job,
    instructions: Instruction | Sequence[Instruction],
    *,
    strength: float = 1.0,
    tile_size: int | None = None,
    metadata: str = "all",
    steady: bool = False,
    resume: bool = False,
    auto: bool = False,
    guard: str = "off",
    frames: video.Progress | None = None,
) -> Done:
    """`restore_file`, or for a video `video.restore_video`, without an error: that is told.

    With ``auto`` what `Restorer.suggest` says of each takes the place of the instructions, and
    ``guard`` is one of `guard.MODES`. Of a video a few frames are looked at.
    """
    source, target = job
    guard = guard if strength else "off"
    choice = Choice(restorer, instructions, auto=auto, guard=guard)
    begun = time.perf_counter()
    restored, clip, error = None, None, None
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = {
        "model": restorer.name, "version": restorer.version, "device": str(restorer.device),
    }  # fmt: skip
    try:
        with memory_told(source):
            if source.suffix.lower() in video.FORMATS:
                clip = _restore_video(
                    restorer, job, choice, strength=strength,
                    tile_size=tile_size, steady=steady, resume=resume, progress=frames,
                )  # fmt: skip
                details |= {"status": "ok", "width": clip.width, "height": clip.height}
                details["frames"] = clip.frames
            else:
                restored = restore_file(
                    restorer, source, target, choice,
                    strength=strength, tile_size=tile_size, metadata=metadata,
                )  # fmt: skip
                plan, notes = restored[2], restored[1].notes
                details |= {"status": "ok", "width": plan.width, "height": plan.height}
                details |= (
                    {"exact": plan.exact} if plan.exact else {"exact": False, "tile": plan.tile}
                )
        details |= stamps(source, target)
    except (OSError, ValueError, torch.OutOfMemoryError) as exc:
        restored, clip, error = None, None, str(exc)
        details |= {"status": "error", "message": error}
    details |= choice.details
    details["seconds"] = round(time.perf_counter() - begun, 3)
    placed = restored is not None and restored[1].metadata.has_location
    return Done(source, target, details, restored, error, clip, notes, placed)


def restore_files(
    restorer: Restorer,
    jobs: Iterable[Job],
    instructions: Instruction | Sequence[Instruction],
    *,
    manifest: Manifest | None = None,
    **settings: Any,
) -> Iterator[Done]:
    """`restore_job` for each job with its ``settings``; of a bad one the error is told.

    Each is noted in the ``manifest``, where there is one, before it is told. Raises OSError when
    that cannot be written.
    """
    for job in jobs:
        done = restore_job(restorer, job, instructions, **settings)
        if manifest is not None:
            manifest.add(*job, **done.details)
        yield done
