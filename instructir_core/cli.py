"""The command line: restoring, models, and all that training and scoring need."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from . import bounded, checkpoint
from . import image as pictures
from .batch import Manifest, Share, plan_files
from .bounded import Plan
from .masks import fill_hidden
from .pipeline import Restorer, best_device
from .text import NO_TASK, TASKS, Instruction, TransformersEncoder

if TYPE_CHECKING:
    from .testsets import ImageSet

_FAILURES = (OSError, ValueError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 1 when anything failed."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return int(options.run(options))
    except _FAILURES as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left behind", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="instructir", description="Restore photos by plain-language instructions."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    restore = commands.add_parser("restore", help="restore files, folders or globs")
    restore.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder or glob")
    restore.add_argument(
        "-i", "--instruction", action="append", required=True, metavar="SENTENCE",
        help="what to restore; repeat to apply several in order",
    )  # fmt: skip
    restore.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT",
        help="a file (for one input), or a folder where names are kept",
    )  # fmt: skip
    _model_options(restore)
    restore.add_argument("--strength", type=float, default=1.0, help="0 keeps, 1 restores")
    restore.add_argument("--tile-size", type=int, help="work in tiles of this many pixels")
    restore.add_argument("--recursive", action="store_true", help="take and keep sub-folders too")
    restore.add_argument("--resume", action="store_true", help="skip what an earlier run finished")
    restore.add_argument("--compare", type=Path, metavar="SHEET", help="before/after picture")
    restore.set_defaults(run=_restore)

    models = commands.add_parser("models", help="list, download, convert or describe models")
    actions = models.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="models known by name").set_defaults(run=_list)
    download = actions.add_parser("download", help="fetch the official model once")
    download.add_argument("model", choices=["7d"])
    download.set_defaults(run=_download)
    convert = actions.add_parser("convert", help="make one .safetensors of upstream's .pt files")
    convert.add_argument("network", type=Path)
    convert.add_argument("out", type=Path)
    convert.add_argument("--head", type=Path, help="lm_instructir-7d.pt")
    convert.add_argument("--half", action="store_true", help="store as float16")
    convert.set_defaults(run=_convert)
    info = actions.add_parser("info", help="what a weight file holds")
    info.add_argument("model", help="mini, 7d or a path")
    info.add_argument("--plan", metavar="WxH", help="how a picture of this size would be restored")
    info.add_argument("--free", type=float, metavar="GB", help="memory to plan with; default: now")
    info.set_defaults(run=_info)

    exporting = commands.add_parser("export", help="a model under one sentence as an ONNX file")
    exporting.add_argument("out", type=Path, metavar="OUT.onnx")
    exporting.add_argument("-i", "--instruction", required=True, metavar="SENTENCE")
    exporting.add_argument("--model", default="mini", help="mini (bundled), 7d or a path")
    exporting.add_argument("--head", type=Path, help="head for a network file that has none")
    exporting.add_argument("--text-encoder", type=Path, help="folder of its sentence encoder")
    exporting.add_argument("--half", action="store_true", help="float16, half the size")
    exporting.set_defaults(run=_export)

    corpus = commands.add_parser("corpus", help="write the instruction corpus as one table")
    corpus.add_argument("out", type=Path, metavar="OUT.tsv")
    corpus.add_argument("--seed", type=int, default=0)
    corpus.add_argument("--exclude", type=Path, nargs="*", default=[], help="test sentences")
    corpus.set_defaults(run=_corpus)

    train = commands.add_parser(
        "train", help="train on data sets or clean photos; also under `accelerate launch`"
    )
    train.add_argument("out", type=Path, help="folder of the run; a run found there is resumed")
    train.add_argument("--preset", default="mini", help="3d, 5d, 6d, 7d or mini (default)")
    train.add_argument("--photos", type=Path, help="clean photos, degraded on the fly")
    train.add_argument("--data", type=Path, help="folder of the standard data sets")
    train.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="photos to leave out")
    train.add_argument("--init", metavar="MODEL", help="start from mini, 7d or a weight file")
    train.add_argument("--head", type=Path, help="head for an --init that has none")
    train.add_argument("--text-encoder", type=Path, help="folder of a frozen sentence encoder")
    train.add_argument("--no-text", action="store_true", help="ablation: nothing steers")
    train.add_argument("--steps", type=int, help="length in steps, which repeats exactly")
    train.add_argument("--minutes", type=float, help="length by the clock instead")
    train.add_argument("--learning-rate", type=float)
    train.add_argument("--stages", help="share:crop:batch,... such as 0:96:16,0.6:160:6")
    train.add_argument("--shares", help="task=share,... instead of the preset's")
    train.add_argument(
        "--sentence-steps", type=int, help="length of the encoder's training; 0 keeps --init's"
    )
    train.add_argument("--precision", choices=["no", "bf16", "fp16"])
    train.add_argument("--seed", type=int)
    train.add_argument("--teacher", type=Path, help="folder of a sentence model to distil")
    train.add_argument("--exclude", type=Path, nargs="*", default=[], help="test sentences")
    train.add_argument("--device")
    train.add_argument("--workers", type=int, default=1, help="processes that prepare batches")
    train.set_defaults(run=_train)

    datasets = commands.add_parser("datasets", help="check the published training sets")
    datasets.add_argument("root", type=Path, help="folder that holds their folders")
    datasets.set_defaults(run=_datasets)

    sheet = commands.add_parser("degradations", help="contact sheet of the training degradations")
    sheet.add_argument("photo", type=Path)
    sheet.add_argument("sheet", type=Path, help="picture to write")
    sheet.add_argument("--seed", type=int, default=0)
    sheet.set_defaults(run=_contact_sheet)

    evaluate = commands.add_parser("evaluate", help="score a model on test sets")
    _model_options(evaluate)
    evaluate.add_argument("--suite", type=Path, metavar="FOLDER", help="every standard set in it")
    evaluate.add_argument(
        "--pairs", nargs=3, action="append", default=[], metavar=("TASK", "INPUTS", "TARGETS")
    )
    evaluate.add_argument(
        "--clean", nargs="+", action="append", default=[], metavar=("FOLDER", "RECIPE"),
        help="clean pictures to degrade: noise25, sr4, a task's name, or several in a chain as "
        "noise25+lol",
    )  # fmt: skip
    evaluate.add_argument("--held-out", type=Path, help="the photos of training: its held-out part")
    evaluate.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="as in training")
    evaluate.add_argument(
        "--identity", type=Path, metavar="FOLDER",
        help="clean pictures: is what needs no change left alone?",
    )  # fmt: skip
    evaluate.add_argument("--sentences", type=Path, help="tab-separated: task, speaker, sentence")
    evaluate.add_argument(
        "--phrasings", type=int, default=0, metavar="N",
        help="restore each picture under N sentences of --sentences or the corpus, too",
    )  # fmt: skip
    evaluate.add_argument(
        "--upstream", action="store_true",
        help="score as the paper's tables: crops to multiples of 16, unclamped",
    )  # fmt: skip
    evaluate.add_argument("--lpips", action="store_true", help="LPIPS too; needs pip install lpips")
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N of each set")
    evaluate.add_argument("--size", type=int, metavar="PIXELS", help="cut clean pictures to this")
    evaluate.add_argument("--out", type=Path, help="folder for results.csv, results.json, sheets")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="mini", help="mini (bundled), 7d (official) or a path")
    parser.add_argument("--head", type=Path, help="head for a network file that has none")
    parser.add_argument("--text-encoder", type=Path, help="folder of its sentence encoder")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the GPU when there is one")


def _load(options: argparse.Namespace) -> Restorer:
    try:
        return Restorer.from_pretrained(
            options.model, options.head, options.text_encoder, device=options.device
        )
    except RuntimeError as exc:  # PyTorch's answer to an unknown or missing device
        raise ValueError(f"--device {options.device}: {str(exc).splitlines()[0]}") from exc


# --- restore -----------------------------------------------------------------------------------


def _restore(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    if not 0.0 <= options.strength <= 1.0:
        raise ValueError(f"--strength is {options.strength}; expected 0 (unchanged) to 1.")
    share = Share.of_environment()
    jobs, failed = plan_files(options.inputs, options.output, options.recursive)
    if options.compare is not None:
        if share.processes > 1:
            raise ValueError(
                f"--compare: found {share.processes} processes; expected one, which sees every "
                "picture. Leave it out."
            )
        _check_sheet(options.compare, [source for source, _ in jobs])
    options.device = share.device(options.device)
    restorer = _load(options)
    manifest = None
    if options.recursive or options.resume or share.processes > 1:
        manifest = _manifest(options, share)
    instructions = [restorer.encode(text) for text in options.instruction]
    for instruction in instructions:
        print(instruction)
        if instruction.advice:
            print(f"  {instruction.advice}")
    jobs = [*share.take(jobs)]
    planned = len(jobs)
    if manifest is not None and options.resume:
        jobs = [job for job in jobs if not manifest.is_finished(*job)]
    rows = []
    for source, target in tqdm(jobs, unit="picture", disable=len(jobs) < 2):
        begun = time.perf_counter()
        details: dict[str, Any] = {"model": restorer.name, "device": str(restorer.device)}
        try:
            before, after, plan = restore_file(restorer, source, target, instructions, options)
            height, width = after.pixels.shape[:2]
            details |= {"status": "ok", "width": width, "height": height, "exact": plan.exact}
            note = "" if plan.exact else f", not exact: tiles of {plan.tile} px"
            if not plan.exact and options.tile_size is None:
                note += ", because memory was short"
            tqdm.write(
                f"{source.name} -> {target}: {width} x {height}, "
                f"{time.perf_counter() - begun:.1f} s on {restorer.device}{note}"
            )
            if options.compare is not None:
                rows.append((_thumbnail(before), _thumbnail(after)))
        except (*_FAILURES, torch.OutOfMemoryError) as exc:
            tqdm.write(f"error: {exc}", file=sys.stderr)
            details |= {"status": "error", "message": str(exc)}
            failed += 1
        if manifest is not None:
            details["seconds"] = round(time.perf_counter() - begun, 3)
            manifest.add(source, target, **details)
    if options.compare is not None and rows:
        _write_sheet(options.compare, rows, [i.text for i in instructions])
        print(f"before/after sheet: {options.compare}")
    finished = f", {planned - len(jobs)} were finished before" if planned > len(jobs) else ""
    part = f" (process {share.rank} of {share.processes})" if share.processes > 1 else ""
    print(
        f"{planned} pictures{finished}, {failed} failed, "
        f"{time.perf_counter() - started:.1f} s in all{part}"
    )
    # Launchers stop every process as soon as one fails, which one bad picture is no reason for:
    # there the manifest and the lines above tell.
    return 1 if failed and share.processes == 1 else 0


def _manifest(options: argparse.Namespace, share: Share) -> Manifest:
    if options.output.suffix.lower() in pictures.FORMATS and not options.output.is_dir():
        raise ValueError(
            f"{options.output}: found one file; expected a folder for the pictures and their "
            "manifest. Leave the suffix out."
        )
    named = {"mini": checkpoint.MINI, "7d": checkpoint.default_folder() / checkpoint.OFFICIAL_NAME}
    weights = named[options.model] if options.model in named else Path(options.model)
    settings = {
        "instructions": options.instruction,
        "weights_sha256": checkpoint.sha256(weights),
        "head_sha256": checkpoint.sha256(options.head) if options.head else None,
        "text_encoder": str(options.text_encoder.absolute()) if options.text_encoder else None,
        "strength": options.strength,
        "tile_size": options.tile_size,
    }
    return Manifest(options.output, settings, share)


def restore_file(
    restorer: Restorer,
    source: Path,
    target: Path,
    instructions: Sequence[Instruction],
    options: argparse.Namespace,
) -> tuple[pictures.Picture, pictures.Picture, Plan]:
    """Read, restore and write one picture; alpha, grey, depth and ICC profile are kept.

    Colours that transparency hides are kept too, and change nothing of what is seen. The plan is
    the one that was carried out.
    """
    before = pictures.read(source)
    pixels, hidden = torch.from_numpy(before.pixels), None
    if before.alpha is not None:
        alpha = torch.from_numpy(before.alpha)
        hidden = (alpha == 0)[..., None]
        pixels = fill_hidden(pixels, alpha)
    height, width = before.pixels.shape[:2]
    free = bounded.free_memory(restorer.device)
    restored, plan = bounded.with_smaller_pieces(
        lambda plan: restorer.restore(pixels, instructions, options.strength, plan=plan),
        restorer.plan(height, width, free, options.tile_size),
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


def _check_sheet(sheet: Path, sources: Sequence[Path]) -> None:
    if sheet.suffix.lower() not in pictures.FORMATS or sheet.resolve() in {
        s.resolve() for s in sources
    }:
        raise ValueError(
            f"--compare {sheet}: expected a picture file that is none of the inputs, such as "
            "sheet.png. Rename it."
        )


def _thumbnail(picture: pictures.Picture, width: int = 640) -> Image.Image:
    image = Image.fromarray(np.rint(np.clip(picture.pixels, 0, 1) * 255).astype(np.uint8))
    height = max(1, round(width * image.height / image.width))
    # Small pictures keep their own pixels: enlarging would hide what was done.
    if image.width <= width:
        return image
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _write_sheet(
    path: Path, rows: Sequence[tuple[Image.Image, Image.Image]], sentences: Sequence[str]
) -> None:
    """Before and after side by side, one row per picture, and the sentences below."""
    gap = 8
    font = ImageFont.load_default(22)
    lines = [f"“{sentence}”" for sentence in sentences]
    width = max(a.width + b.width + gap for a, b in rows)
    height = sum(max(a.height, b.height) + gap for a, b in rows)
    sheet = Image.new("RGB", (width, height + 32 * len(lines) + gap), "white")
    y = 0
    for before, after in rows:
        sheet.paste(before, (0, y))
        sheet.paste(after, (before.width + gap, y))
        y += max(before.height, after.height) + gap
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((width // 2, y + 32 * number), line, "black", font, anchor="ma")
    pixels = np.asarray(sheet, np.float32) / np.float32(255)
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.write(path, pictures.Picture(pixels))


# --- models ------------------------------------------------------------------------------------


def _list(_: argparse.Namespace) -> int:
    size = checkpoint.MINI.stat().st_size / 1e6 if checkpoint.MINI.is_file() else 0.0
    print(f"mini  bundled, {size:.1f} MB, seven tasks and none: {checkpoint.MINI}")
    folder = checkpoint.default_folder()
    there = checkpoint.official_is_here()
    state = f"in {folder}" if there else "not downloaded; run: instructir models download 7d"
    print(f"7d    official (ECCV 2024), 63 MB and a 35 MB sentence encoder: {state}")
    return 0


def _download(_: argparse.Namespace) -> int:
    with tqdm(desc="7d", unit="B", unit_scale=True) as bar:

        def report(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        path = checkpoint.fetch_official(progress=report)
    print(path)
    return 0


def _convert(options: argparse.Namespace) -> int:
    path = checkpoint.convert(options.network, options.out, options.head, options.half)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, sha256 {checkpoint.sha256(path)}")
    return 0


def _info(options: argparse.Namespace) -> int:
    if options.model == "7d" and not checkpoint.official_is_here():
        raise OSError("7d: not on this computer. Run: instructir models download 7d")
    loaded = checkpoint.load_named(options.model)
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
        except ValueError:
            raise ValueError(f"--plan {options.plan}: expected a size such as 4096x4096.") from None
        restorer = Restorer(loaded.network, device=best_device())
        free = bounded.free_memory(restorer.device)
        free = int(options.free * 1e9) if options.free is not None else free
        print(f"plan          {restorer.plan(height, width, free)}")
    return 0


# --- train and evaluate ------------------------------------------------------------------------


def _corpus(options: argparse.Namespace) -> int:
    from .evaluate import read_sentences
    from .training import instructions as sentences

    excluded = [text for path in options.exclude for _, text in read_sentences(path)]
    corpus = sentences.load_corpus(options.seed, excluded=excluded)
    sentences.write_tsv(options.out, corpus)
    print(sentences.card(corpus))
    return 0


def _train(options: argparse.Namespace) -> int:
    from .evaluate import read_sentences

    try:
        from .training.dataset import collect_sources
        from .training.trainer import PRESETS, train
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
    config = replace(PRESETS[options.preset], **_changes(options))
    training, held = collect_sources(
        list(config.shares), options.photos, options.data, options.skip
    )
    init = checkpoint.load_named(options.init, options.head) if options.init else None
    encoder = None
    if options.text_encoder is not None:
        encoder = TransformersEncoder(options.text_encoder)
    elif init is not None and isinstance(init.text_encoder, TransformersEncoder):
        encoder = init.text_encoder
    excluded = [text for path in options.exclude for _, text in read_sentences(path)]
    train(
        training, held, options.out, config, init, encoder, options.teacher, excluded,
        options.device, options.workers,
    )  # fmt: skip
    return 0


def _datasets(options: argparse.Namespace) -> int:
    from .training.datasets import DATASETS, find_datasets

    found = find_datasets(options.root)
    for collection in found.values():
        print(collection.report)
    for name, dataset in DATASETS.items():
        if name not in found:
            print(f"{name} ({dataset.task}): not found. {dataset.source}; {dataset.licence}")
    return 0


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says otherwise than the preset."""
    names = ("steps", "minutes", "learning_rate", "sentence_steps", "precision", "seed")
    changes = {n: getattr(options, n) for n in names if getattr(options, n) is not None}
    if "minutes" in changes:
        changes.setdefault("steps", None)
    if options.stages is not None:
        try:
            stages = [part.split(":") for part in options.stages.split(",")]
            changes["stages"] = tuple((float(a), int(b), int(c)) for a, b, c in stages)
        except ValueError:
            raise ValueError(
                f"--stages {options.stages}: expected share:crop:batch, comma-separated, such as "
                "0:96:16,0.6:160:6."
            ) from None
    if options.shares is not None:
        try:
            pairs = [part.split("=") for part in options.shares.split(",")]
            changes["shares"] = {task: float(share) for task, share in pairs}
        except ValueError:
            raise ValueError(
                f"--shares {options.shares}: expected task=share, comma-separated, such as "
                "noise=0.5,rain=0.5."
            ) from None
    return {**changes, "text": not options.no_text}


def _contact_sheet(options: argparse.Namespace) -> int:
    from .training.degradations import contact_sheet

    photo = pictures.read(options.photo).pixels
    y, x = (max(0, n - 256) // 2 for n in photo.shape[:2])
    sheet = contact_sheet(photo[y : y + 256, x : x + 256], options.seed)
    pictures.write(options.sheet, pictures.Picture(sheet))
    print(options.sheet)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from . import evaluate, metrics, report, testsets

    limit, size, phrasings = options.limit, options.size, options.phrasings
    for name, value, least in (("limit", limit, 1), ("size", size, 1), ("phrasings", phrasings, 0)):
        if value is not None and value < least:
            raise ValueError(f"--{name} is {value}; expected {least} or more.")
    # Everything that can be wrong is looked at before anything that takes long.
    sets, chains = _test_sets(options)
    unchanged = testsets.files(options.identity) if options.identity else []
    given = evaluate.read_test_sentences(options.sentences) if options.sentences else []
    if not (sets or chains or unchanged or given):
        raise ValueError(
            "Found nothing to evaluate; expected --suite, --pairs, --clean, --held-out, "
            "--identity or --sentences. See: instructir evaluate --help"
        )
    sentences = given
    if not given and (phrasings or unchanged):
        from .training.instructions import load_corpus

        sentences = [
            evaluate.Sentence(s.task, s.speaker, s.text) for s in load_corpus(split="test")
        ]
    count = phrasings or (evaluate.IDENTITY_SENTENCES if unchanged else 0)
    asked = {images.task for images in sets if phrasings and images.sentence is None}
    for task in (*TASKS, NO_TASK) if unchanged else asked:
        evaluate.phrasings(sentences, task, count, task)
    restorer = _load(options)
    lpips = metrics.lpips(restorer.device) if options.lpips else None
    source = report.provenance(
        restorer, checkpoint.named_path(options.model), limit=limit, size=size,
        phrasings=phrasings, upstream=options.upstream,
    )  # fmt: skip
    found = report.Report(options.out, source)

    for row in evaluate.read_all(restorer, given):
        found.add([row])
        if row["task"] != row["read_as"]:
            print(f"  read {row['read_as']} instead of {row['task']}: {row['sentence']}")
    if sets:
        print(report.score_header(upstream=options.upstream))
    for images in sets:
        rows: list[evaluate.Row] = []
        for row, shown in evaluate.score(restorer, images, limit, lpips, upstream=options.upstream):
            found.show(images.name, shown, len(rows), min(images.count, limit or images.count))
            rows.append(row)
        found.add(rows)
        print(report.score_line(report.summarise_scores(rows)), flush=True)
        if phrasings and images.sentence is None:
            found.add(evaluate.wording(restorer, images, sentences, phrasings, limit))
        found.save()
    for paths, composition in chains:
        links = evaluate.chain(restorer, paths, composition, size, limit)
        for index, (steps, shown) in enumerate(links):
            found.show(steps[0]["set"], shown, index, min(len(paths), limit or len(paths)))
            found.add(steps)
        found.save()
    if unchanged:
        found.add(evaluate.identity(restorer, unchanged, sentences, count, size, limit))
    found.save()
    if text := report.tables(report.summarise(found.rows)):
        print(f"\n{text}" if sets else text)
    return 0


def _test_sets(
    options: argparse.Namespace,
) -> tuple[list[ImageSet], list[tuple[list[Path], str]]]:
    """The sets to score, and the chains to run as (clean pictures, recipes joined by +)."""
    from . import testsets

    sets: list[ImageSet] = []
    chains = []
    if options.suite:
        sets, notes = testsets.find_suite(options.suite)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    for task, inputs, targets in options.pairs:
        folders = [(Path(inputs), Path(targets))]
        sets.append(testsets.paired(f"{Path(inputs).parent.name} {task}", task, folders))
    for folder, *recipes in options.clean:
        if not recipes:
            raise ValueError(f"--clean {folder}: found no recipe; expected one such as noise25.")
        for recipe in recipes:
            if "+" in recipe:
                for part in recipe.split("+"):
                    testsets.parse_recipe(part)
                chains.append((testsets.files(Path(folder)), recipe))
            else:
                sets.append(testsets.synthetic(Path(folder), recipe, size=options.size))
    if options.held_out:
        sets += testsets.held_out(options.held_out, options.skip)
    names = [s.name for s in sets] + [f"{paths[0].parent.name} {text}" for paths, text in chains]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"Found two sets called {', '.join(twice)}; expected different names, which tell them "
            "apart in the results. Rename a folder, or evaluate one at a time."
        )
    return sets, chains


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
