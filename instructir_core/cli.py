"""The command line: a door to restoring and models. `arguments` parses it, and `workshop` holds
the commands that train and score."""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from os import environ
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import checkpoint, memory, official, pictures, sheets, video
from .arguments import AUTO, make_parser
from .batch import Done, plan_files, restore_files
from .files import lacks_memory, sha256
from .instruction import Instruction
from .manifest import Job, Manifest
from .pipeline import Restorer, best_device
from .tasks import TASK_WORDS
from .tiles import check_tiles
from .workshop import WORKSHOP, load

_FAILURES = (OSError, ValueError)
_NO_ROOM = "found too little free memory; expected enough for the model. Close other programs."
_SHEET_WIDTH = 640
"""Pixels of each picture on a before/after sheet."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 1 when anything failed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that is not UTF-8 stops nothing
            stream.reconfigure(errors="backslashreplace")
    try:
        options = make_parser(_COMMANDS).parse_args(arguments)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        return int(options.run(options))
    except _FAILURES as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as exc:
        if not lacks_memory(exc):
            raise
        print(f"error: {_NO_ROOM}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left behind", file=sys.stderr)
        return 1


# --- restore -----------------------------------------------------------------------------------


def _restore(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    _check_options(options)
    jobs, failed = plan_files(options.inputs, options.output, options.recursive)
    if options.compare is not None:
        sheets.check_place(options.compare, [source for source, _ in jobs])
    # With --ray this process reads the sentence, and others restore.
    restorer = load(options, options.device if options.ray is None else "cpu")
    manifest = None
    if options.recursive or options.resume or options.ray is not None:
        manifest = _manifest(options)
    instructions = _instructions(options, restorer)
    planned = len(jobs)
    if manifest is not None and options.resume:
        jobs = [job for job in jobs if not manifest.is_finished(*job)]
    rows: list[tuple[sheets.Bytes, sheets.Bytes]] = []
    clips = any(source.suffix.lower() in video.FORMATS for source, _ in jobs)
    frames = tqdm(unit="frame", disable=not clips, position=1 if len(jobs) > 1 else 0, leave=False)
    found = _found(options, restorer, jobs, instructions, manifest, partial(_advance, frames))
    said: set[str] = set()
    placed = 0
    for done in tqdm(found, unit="picture", total=len(jobs), disable=len(jobs) < 2):
        _tell(done, options.tile_size, said)
        failed += done.error is not None
        placed += done.has_location
        if options.compare is not None and done.restored is not None:
            small = [sheets.shrink(p.for_network(), _SHEET_WIDTH) for p in done.restored[:2]]
            rows.append((small[0], small[1]))
    frames.close()
    if placed:
        print(
            f"{placed} results tell where they were taken, as their sources do; "
            "--metadata no-location leaves that out"
        )
    if options.compare is not None and rows:
        failed += _write_sheets(options.compare, rows, instructions)
    finished = f", {planned - len(jobs)} were finished before" if planned > len(jobs) else ""
    print(
        f"{planned} pictures{finished}, {failed} failed, {time.perf_counter() - started:.1f} s "
        "in all"
    )
    return 1 if failed else 0


def _instructions(options: argparse.Namespace, restorer: Restorer) -> list[Instruction]:
    """What the sentences ask for, which is said; none where each picture gets its own."""
    if AUTO in options.instruction:
        from .suggest import checked

        checked(restorer.diagnosis, restorer.name)
        return []
    instructions = [part for text in options.instruction for part in restorer.read(text)]
    for number, instruction in enumerate(instructions, 1):
        print(f"{number}. {instruction}" if len(instructions) > 1 else instruction)
        if instruction.advice:
            print(f"  {instruction.advice}")
    return instructions


def _found(
    options: argparse.Namespace,
    restorer: Restorer,
    jobs: Sequence[Job],
    instructions: Sequence[Instruction],
    manifest: Manifest | None,
    frames: video.Progress,
) -> Iterator[Done]:
    """What becomes of each file, restored here or in a cluster."""
    names = ("strength", "tile_size", "metadata", "steady", "resume", "guard")
    settings = {name: getattr(options, name) for name in names}
    settings["auto"] = AUTO in options.instruction
    if options.ray is None:
        return restore_files(
            restorer, jobs, instructions, manifest=manifest, frames=frames, **settings
        )
    from . import cluster

    assert manifest is not None
    return cluster.restore_files(
        jobs, instructions, manifest=manifest, address=options.ray, model=options.model,
        head=options.head, text_encoder=options.text_encoder, device=options.device,
        cores=options.cores, **settings,
    )  # fmt: skip


def _check_options(options: argparse.Namespace) -> None:
    if environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):
        raise ValueError(
            f"Found WORLD_SIZE={environ['WORLD_SIZE']} in the environment; expected one "
            "process. Start one with --ray, which gives pictures to as many workers as there is "
            "room for."
        )
    if options.compare is not None and options.ray is not None:
        raise ValueError("--compare: found --ray, whose pictures others hold. Leave one out.")
    if AUTO in options.instruction and len(options.instruction) > 1:
        raise ValueError(
            f"--instruction {AUTO}: found sentences beside it; expected it alone. Leave out one or "
            "the other."
        )
    if not 0.0 <= options.strength <= 1.0:
        raise ValueError(f"--strength is {options.strength}; expected 0 (unchanged) to 1.")
    if options.tile_size is not None:
        check_tiles(options.tile_size, None)


def _advance(bar: tqdm[Any], done: int, total: int) -> None:
    """One more frame; the first of this run starts a video."""
    if done <= bar.n or not bar.n:
        bar.reset(total or None)
    bar.update(done - bar.n)


def _tell(done: Done, tile_size: int | None, said: set[str]) -> None:
    """The lines about one file."""
    if "found" in done.details:
        chosen = ", then ".join(done.details["chosen"]) or "left as it is"
        tqdm.write(f"{done.source.name}: {done.details['found']} -> {chosen}")
    tqdm.write(done.line(tile_size), file=sys.stderr if done.error else None)
    for word in done.details.get("guard", ()):
        tqdm.write(f"warning: {done.source.name}: {word}")
    for word in done.notes:
        # What a format cannot hold is said once, what a file lacks for each.
        if word not in said:
            tqdm.write(f"note: {done.source.name}: {word}")
        said |= {word} if word.startswith(done.target.suffix.lower()) else set()


def _manifest(options: argparse.Namespace) -> Manifest:
    one_file = {*pictures.FORMATS, *video.FORMATS}
    if options.output.suffix.lower() in one_file and not options.output.is_dir():
        raise ValueError(
            f"{options.output}: found one file; expected a folder for the pictures and their "
            "manifest. Leave the suffix out."
        )
    settings = {
        "instructions": options.instruction,
        "weights_sha256": sha256(official.named_path(options.model)),
        "head_sha256": sha256(options.head) if options.head else None,
        "text_encoder": str(options.text_encoder.absolute()) if options.text_encoder else None,
        "strength": options.strength,
        "tile_size": options.tile_size,
    }
    if options.metadata != "all":
        settings["metadata"] = options.metadata
    if options.steady:  # absent otherwise, so that manifests of earlier versions still count
        settings["steady"] = True
    if options.guard == "skip":  # the others say something, and change nothing
        settings["guard"] = "skip"
    return Manifest(options.output, settings)


def _write_sheets(
    path: Path, rows: Sequence[tuple[sheets.Bytes, sheets.Bytes]], given: Sequence[Instruction]
) -> int:
    """Write the before/after sheets and say so; returns 1 where that failed, else 0."""
    captions = [(i.text, f"({TASK_WORDS.get(i.task, i.task)})") for i in given]
    try:
        for number, sheet in enumerate(sheets.before_after_sheets(rows, captions), 1):
            place = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            sheets.write(place, sheet)
            print(f"before/after sheet: {place}")
    except _FAILURES as exc:  # the pictures are there all the same
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


def _sheet(options: argparse.Namespace) -> int:
    from .trials import check_size, write_sheet

    check_size(options.size)
    sheets.check_place(options.output, [options.photo], "--output")
    print(write_sheet(load(options, options.device), options.photo, options.output, options.size))
    print(options.output)
    return 0


# --- models ------------------------------------------------------------------------------------


def _list(_: argparse.Namespace) -> int:
    size = official.MINI_FILE.stat().st_size / 1e6 if official.MINI_FILE.is_file() else 0.0
    print(f"mini  bundled, {size:.1f} MB, seven tasks and none: {official.MINI_FILE}")
    folder = official.default_folder()
    there = official.official_is_here()
    state = f"in {folder}" if there else "not downloaded; run: instructir models download 7d"
    print(f"7d    official (ECCV 2024), 63 MB and a 35 MB sentence encoder: {state}")
    return 0


def _download(_: argparse.Namespace) -> int:
    with tqdm(desc="7d", unit="B", unit_scale=True) as bar:

        def report(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        path = official.fetch_official(progress=report)
    print(path)
    return 0


def _convert(options: argparse.Namespace) -> int:
    path = checkpoint.convert(
        options.network,
        options.out,
        head_path=options.head,
        reader_path=options.reader,
        diagnosis_path=options.diagnosis,
        half=options.half,
        version=options.version,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, sha256 {sha256(path)}")
    return 0


def _info(options: argparse.Namespace) -> int:
    if options.model == "7d" and not official.official_is_here():
        raise OSError("7d: not on this computer. Run: instructir models download 7d")
    loaded = official.load_named(options.model)
    assert loaded.network is not None
    parameters = sum(p.numel() for p in loaded.network.parameters())
    print(f"model         {loaded.name}")
    print(f"network       {parameters:,} parameters, {loaded.network.config}")
    print(f"head          {', '.join(loaded.tasks) if loaded.head else 'none in this file'}")
    print(f"text encoder  {type(loaded.text_encoder).__name__ if loaded.text_encoder else 'none'}")
    print(f"diagnosis     {'in this file' if loaded.diagnosis else 'none in this file'}")
    for key, value in loaded.provenance.items():
        print(f"{key:13} {value}")
    if options.plan:
        try:
            width, height = (int(n) for n in options.plan.lower().split("x"))
            if not 0 < width * height <= pictures.MAX_PIXELS or width < 1:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"--plan {options.plan}: expected a size such as 4096x4096, of at most "
                f"{pictures.MAX_PIXELS} pixels."
            ) from None
        if options.free is not None and not 0 < options.free < 1e6:
            raise ValueError(f"--free {options.free}: expected gigabytes, such as 8.")
        restorer = Restorer(loaded.network, device=best_device())
        free = memory.free_memory(restorer.device)
        free = int(options.free * 1e9) if options.free is not None else free
        print(f"plan          {restorer.plan(height, width, free=free)}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from .export import export

    instruction = export(
        options.out, options.instruction, model=options.model, head=options.head,
        text_encoder=options.text_encoder, half=options.half,
    )  # fmt: skip
    print(instruction)
    if instruction.advice:
        print(f"  {instruction.advice}")
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


_COMMANDS = {
    "restore": _restore,
    "sheet": _sheet,
    "list": _list,
    "download": _download,
    "convert": _convert,
    "info": _info,
    "export": _export,
    **WORKSHOP,
}
