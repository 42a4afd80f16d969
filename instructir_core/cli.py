"""The command line: a door to restoring, models, training and scoring. `arguments` parses it."""

from __future__ import annotations

import argparse
import io
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from . import checkpoint, memory, official, pictures, sheets, video
from .arguments import changed_settings, make_parser
from .batch import Done, plan_files, restore_files
from .files import brief, lacks_memory, sha256
from .instruction import Instruction
from .manifest import Manifest, Share
from .pipeline import Restorer, best_device
from .tasks import TASK_WORDS
from .text import TransformersEncoder
from .tiles import check_tiles

if TYPE_CHECKING:
    from .evaluation.sets import ImageSet

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


def _load(options: argparse.Namespace) -> Restorer:
    try:
        return Restorer.from_pretrained(
            options.model,
            head=options.head,
            text_encoder=options.text_encoder,
            device=options.device,
        )
    except (RuntimeError, AssertionError) as exc:  # PyTorch's to an unknown or missing device
        if lacks_memory(exc):
            raise
        raise ValueError(
            f"--device {options.device}: {brief(exc)}; expected one that is here, such as cpu. "
            "Leave it out to take the best."
        ) from exc


# --- restore -----------------------------------------------------------------------------------


def _restore(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    _check_numbers(options)
    share = Share.of_environment()
    jobs, failed = plan_files(options.inputs, options.output, options.recursive)
    if options.compare is not None:
        sheets.check_place(options.compare, [source for source, _ in jobs], share.processes)
    options.device = share.device(options.device)
    restorer = _load(options)
    manifest = None
    if options.recursive or options.resume or share.processes > 1:
        manifest = _manifest(options, share)
    instructions = [part for text in options.instruction for part in restorer.read(text)]
    for number, instruction in enumerate(instructions, 1):
        print(f"{number}. {instruction}" if len(instructions) > 1 else instruction)
        if instruction.advice:
            print(f"  {instruction.advice}")
    jobs = [*share.take(jobs)]
    planned = len(jobs)
    if manifest is not None and options.resume:
        jobs = [job for job in jobs if not manifest.is_finished(*job)]
    rows: list[tuple[sheets.Bytes, sheets.Bytes]] = []
    clips = any(source.suffix.lower() in video.FORMATS for source, _ in jobs)
    frames = tqdm(unit="frame", disable=not clips, position=1 if len(jobs) > 1 else 0, leave=False)
    found = restore_files(
        restorer, jobs, instructions, strength=options.strength, tile_size=options.tile_size,
        metadata=options.metadata, manifest=manifest, steady=options.steady,
        frames=partial(_advance, frames),
    )  # fmt: skip
    said: set[str] = set()
    placed = 0
    for done in tqdm(found, unit="picture", total=len(jobs), disable=len(jobs) < 2):
        _tell(done, restorer, options.tile_size, said)
        failed += done.error is not None
        if done.restored is None:
            continue
        before, after, _ = done.restored
        placed += after.metadata.has_location
        if options.compare is not None:
            small = [sheets.shrink(p.for_network(), _SHEET_WIDTH) for p in (before, after)]
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
    part = f" (process {share.rank} of {share.processes})" if share.processes > 1 else ""
    print(
        f"{planned} pictures{finished}, {failed} failed, "
        f"{time.perf_counter() - started:.1f} s in all{part}"
    )
    # Launchers stop every process as soon as one fails, which one bad picture is no reason for:
    # there the manifest and the lines above tell.
    return 1 if failed and share.processes == 1 else 0


def _check_numbers(options: argparse.Namespace) -> None:
    if not 0.0 <= options.strength <= 1.0:
        raise ValueError(f"--strength is {options.strength}; expected 0 (unchanged) to 1.")
    if options.tile_size is not None:
        check_tiles(options.tile_size, None)


def _advance(bar: tqdm[Any], done: int, total: int) -> None:
    """One more frame; the first starts a video."""
    if done == 1:
        bar.reset(total or None)
    bar.update(1)


def _tell(done: Done, restorer: Restorer, tile_size: int | None, said: set[str]) -> None:
    """The lines about one file."""
    tqdm.write(done.line(restorer.device, tile_size), file=sys.stderr if done.error else None)
    for word in done.restored[1].notes if done.restored is not None else ():
        # What a format cannot hold is said once, what a file lacks for each.
        if word not in said:
            tqdm.write(f"note: {done.source.name}: {word}")
        said |= {word} if word.startswith(done.target.suffix.lower()) else set()


def _manifest(options: argparse.Namespace, share: Share) -> Manifest:
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
    return Manifest(options.output, settings, share)


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
        half=options.half,
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


# --- train and evaluate ------------------------------------------------------------------------


def _corpus(options: argparse.Namespace) -> int:
    from .evaluation.experiments import read_sentences
    from .training.corpus import card, load_corpus, write_tsv

    excluded = [text for path in options.exclude for _, text in read_sentences(path)]
    corpus = load_corpus(options.seed, excluded=excluded)
    write_tsv(options.out, corpus)
    print(card(corpus))
    return 0


def _train_reader(options: argparse.Namespace) -> int:
    from .evaluation.experiments import read_sentences
    from .training.corpus import SPLITS, load_corpus
    from .training.sentence_training import train_reader

    if unknown := set(options.splits) - set(SPLITS):
        raise ValueError(f"--splits {', '.join(unknown)}: expected some of {', '.join(SPLITS)}.")
    excluded = [text for path in options.exclude for _, text in read_sentences(path)]
    whole = load_corpus(options.seed, excluded=excluded)
    corpus = [s for s in whole if s.split in options.splits]
    init = official.load_named(options.init)
    path = train_reader(
        init, options.out, corpus, seed=options.seed, steps=options.steps,
        learning_rate=options.learning_rate, teacher=options.teacher,
    )  # fmt: skip
    print(f"{path}\nShip it with: instructir models convert --half NETWORK OUT --reader {path}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from .evaluation.experiments import read_sentences

    try:
        from .training.presets import PRESETS
        from .training.samples import collect_sources
        from .training.trainer import train
    except ImportError as exc:
        raise ValueError(
            f"Training needs the package {exc.name}, which restoring does not. Install it with: "
            'pip install "instructir[torch,train]"'
        ) from exc
    if options.preset not in PRESETS:
        raise ValueError(f"--preset {options.preset}: expected one of {', '.join(PRESETS)}.")
    for folder in (options.photos, options.data):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder}: found no such folder; expected one of pictures.")
    if options.photos is None and options.data is None:
        raise ValueError("Found neither --photos nor --data; expected a folder to train on.")
    config = replace(PRESETS[options.preset], **changed_settings(vars(options)))
    training, held = collect_sources(
        list(config.shares), options.photos, options.data, options.skip,
        hold_out=options.hold_out, graphics=options.graphics,
    )  # fmt: skip
    init = official.load_named(options.init, head=options.head) if options.init else None
    encoder = None
    if options.text_encoder is not None:
        encoder = TransformersEncoder(options.text_encoder)
    elif init is not None and isinstance(init.text_encoder, TransformersEncoder):
        encoder = init.text_encoder
    excluded = [text for path in options.exclude for _, text in read_sentences(path)]
    train(
        training, held, options.out, config, init=init, text_encoder=encoder,
        teacher=options.teacher, excluded=excluded, device=options.device, workers=options.workers,
    )  # fmt: skip
    return 0


def _datasets(options: argparse.Namespace) -> int:
    from .training.published_sets import DATASETS, find_datasets

    found = find_datasets(options.root)
    for collection in found.values():
        print(collection.report)
    for name, dataset in DATASETS.items():
        if name not in found:
            print(f"{name} ({dataset.task}): not found. {dataset.source}; {dataset.licence}")
    return 0


def _contact_sheet(options: argparse.Namespace) -> int:
    from .training.recipes import contact_sheet

    photo = pictures.read(options.photo).pixels
    y, x = (max(0, n - 256) // 2 for n in photo.shape[:2])
    sheet = contact_sheet(photo[y : y + 256, x : x + 256], options.seed)
    sheets.write(options.sheet, sheet)
    print(options.sheet)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from .evaluation.experiments import Evaluation, evaluate, read_test_sentences
    from .evaluation.report import Report, provenance
    from .evaluation.sets import files

    kept = {name: getattr(options, name) for name in ("limit", "size", "phrasings", "upstream")}
    for name, least in (("limit", 1), ("size", 1), ("phrasings", 0)):
        value = kept[name]
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}; expected {least} or more.")
    sets, chains = _test_sets(options)
    evaluation = Evaluation(
        sets=sets,
        chains=chains,
        unchanged=files(options.identity) if options.identity else (),
        sentences=read_test_sentences(options.sentences) if options.sentences else (),
        flawed=[files(folder) for folder in options.artefacts],
        **kept,
    )
    if evaluation.is_empty:
        raise ValueError(
            "Found nothing to evaluate; expected --suite, --pairs, --clean, --held-out, "
            "--identity, --artefacts or --sentences. See: instructir evaluate --help"
        )
    restorer = _load(options)
    source = provenance(restorer, official.named_path(options.model), **kept)
    evaluate(restorer, evaluation, Report(options.out, source), lpips=options.lpips)
    return 0


def _test_sets(
    options: argparse.Namespace,
) -> tuple[list[ImageSet], list[tuple[list[Path], str]]]:
    """The sets to score, and the chains to run as (clean pictures, recipes joined by +)."""
    from .evaluation.sets import files, find_suite, held_out, paired, synthetic

    sets: list[ImageSet] = []
    chains = []
    if options.suite:
        sets, notes = find_suite(options.suite)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    for task, inputs, targets in options.pairs:
        folders = [(Path(inputs), Path(targets))]
        sets.append(paired(f"{Path(inputs).parent.name} {task}", task, folders))
    for folder, *recipes in options.clean:
        if not recipes:
            raise ValueError(f"--clean {folder}: found no recipe; expected one such as noise25.")
        for recipe in recipes:
            if "+" in recipe:
                chains.append((files(Path(folder)), recipe))
            else:
                sets.append(synthetic(Path(folder), recipe, size=options.size))
    if options.held_out:
        sets += held_out(options.held_out, options.skip, options.hold_out)
    return sets, chains


_COMMANDS = {
    "restore": _restore,
    "list": _list,
    "download": _download,
    "convert": _convert,
    "info": _info,
    "export": _export,
    "corpus": _corpus,
    "train-reader": _train_reader,
    "train": _train,
    "datasets": _datasets,
    "degradations": _contact_sheet,
    "evaluate": _evaluate,
}
