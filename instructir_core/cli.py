"""The command line: ``restore``, ``models``, ``train`` and ``evaluate``."""

from __future__ import annotations

import argparse
import glob
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from . import bounded, checkpoint
from . import image as pictures
from .pipeline import Restorer, best_device
from .text import Instruction

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

    train = commands.add_parser("train", help="train network and sentence reader on clean photos")
    train.add_argument("photos", type=Path, help="folder of clean photos")
    train.add_argument("out", type=Path, help="folder of the run; a run found there is resumed")
    train.add_argument("--minutes", type=float, default=100.0, help="length of the network's part")
    train.add_argument("--steps", type=int, help="length in steps instead, which repeats exactly")
    train.add_argument("--sentence-steps", type=int, default=3000)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="photos to leave out")
    train.add_argument("--teacher", type=Path, help="folder of a sentence model to distil")
    train.add_argument("--exclude", type=Path, nargs="*", default=[], help="test sentences")
    train.add_argument("--device")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="score a model on test sets")
    _model_options(evaluate)
    evaluate.add_argument("--noise", type=Path, help="clean images, noised at sigma 15, 25, 50")
    evaluate.add_argument(
        "--pairs", nargs=3, action="append", default=[], metavar=("TASK", "INPUTS", "TARGETS")
    )
    evaluate.add_argument("--held-out", type=Path, help="the photos of training: its held-out part")
    evaluate.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="as in training")
    evaluate.add_argument("--sentences", type=Path, help="tab-separated: task, sentence")
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
    jobs, failed = plan_files(options.inputs, options.output)
    if options.compare is not None:
        _check_sheet(options.compare, [source for source, _ in jobs])
    restorer = _load(options)
    instructions = [restorer.encode(text) for text in options.instruction]
    for instruction in instructions:
        print(instruction)
        if instruction.advice:
            print(f"  {instruction.advice}")
    rows = []
    for source, target in tqdm(jobs, unit="picture", disable=len(jobs) < 2):
        try:
            begun = time.perf_counter()
            before, after = restore_file(restorer, source, target, instructions, options)
            height, width = after.pixels.shape[:2]
            tqdm.write(
                f"{source.name} -> {target}: {width} x {height}, "
                f"{time.perf_counter() - begun:.1f} s on {restorer.device}"
            )
            if options.compare is not None:
                rows.append((_thumbnail(before), _thumbnail(after)))
        except (*_FAILURES, torch.OutOfMemoryError) as exc:
            tqdm.write(f"error: {exc}", file=sys.stderr)
            failed += 1
    if options.compare is not None and rows:
        _write_sheet(options.compare, rows, [i.text for i in instructions])
        print(f"before/after sheet: {options.compare}")
    print(f"{len(jobs)} pictures, {failed} failed, {time.perf_counter() - started:.1f} s in all")
    return 1 if failed else 0


def plan_files(inputs: Sequence[str], output: Path) -> tuple[list[tuple[Path, Path]], int]:
    """(source, target) of every picture, and how many inputs were refused (said on stderr).

    Raises ValueError when nothing is left, or two sources would write the same target.
    """
    sources: list[Path] = []
    refused = 0
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in pictures.READABLE)
        elif path.exists():
            found = [path]
        else:
            matches = sorted(Path(p) for p in glob.glob(given, recursive=True))
            found = [p for p in matches if p.suffix.lower() in pictures.READABLE]
        if not found:
            print(
                f"error: {given}: found no pictures there; expected a file, a folder or a glob "
                f"of {', '.join(sorted(pictures.READABLE))}. Check the path.", file=sys.stderr,
            )  # fmt: skip
            refused += 1
        sources += [p for p in found if p not in sources]
    if not sources:
        raise ValueError("Found no picture to restore. Check the inputs.")
    to_file = output.suffix.lower() in pictures.FORMATS and not output.is_dir()
    if output.suffix and not to_file and not output.is_dir() and len(sources) == 1:
        raise ValueError(
            f"{output}: found the suffix {output.suffix!r}; expected one of "
            f"{', '.join(pictures.FORMATS)}, or a folder. Rename the output."
        )
    if to_file and len(sources) > 1:
        raise ValueError(
            f"{output}: found one file for {len(sources)} pictures; expected a folder. Leave the "
            "suffix out."
        )
    jobs: list[tuple[Path, Path]] = []
    owners: dict[Path, Path] = {}
    originals = {p.resolve() for p in sources}
    for source in sources:
        target = output if to_file else output / source.name
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


def restore_file(
    restorer: Restorer,
    source: Path,
    target: Path,
    instructions: Sequence[Instruction],
    options: argparse.Namespace,
) -> tuple[pictures.Picture, pictures.Picture]:
    """Read, restore and write one picture; alpha, grey, depth and ICC profile are kept."""
    before = pictures.read(source)
    restored = restorer.restore(
        torch.from_numpy(before.pixels), instructions, options.strength, tile_size=options.tile_size
    )
    after = replace(before, pixels=restored.cpu().numpy())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OSError(
            f"{target.parent}: could not be created ({exc.strerror}); expected a folder that you "
            "may write to. Choose another output."
        ) from exc
    pictures.write(target, after)
    return before, after


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


def _train(options: argparse.Namespace) -> int:
    from .evaluate import read_sentences
    from .training.trainer import TrainingConfig, train  # needs SciPy, which restoring does not

    if not options.photos.is_dir():
        raise ValueError(f"{options.photos}: found no such folder; expected one of clean photos.")
    config = TrainingConfig(
        steps=options.steps,
        minutes=options.minutes,
        seed=options.seed,
        sentence_steps=options.sentence_steps,
    )
    excluded = [text for path in options.exclude for _, text in read_sentences(path)]
    path = train(
        options.photos, options.out, config, options.skip, options.teacher, excluded, options.device
    )
    print(f"{path}\nShip it with: instructir models convert --half {path} NAME.safetensors")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from . import evaluate

    restorer = _load(options)
    print(f"{'set':<24}{'images':>7}{'input':>9}{'restored':>10}{'gain':>8}")

    def row(label: str, scores: tuple[float, float, int]) -> None:
        before, after, count = scores
        if before == float("inf"):  # identity: there is no error to gain on
            print(f"{label:<24}{count:>7}{'':>9}{after:>10.2f}", flush=True)
            return
        gain = after - before
        print(f"{label:<24}{count:>7}{before:>9.2f}{after:>10.2f}{gain:>+8.2f}", flush=True)

    if options.noise:
        for sigma in (15, 25, 50):
            pairs = evaluate.noisy_set(options.noise, sigma)
            label = f"{options.noise.name} sigma {sigma}"
            row(label, evaluate.score(restorer, pairs, evaluate.PROMPTS["noise"], label))
    for task, inputs, targets in options.pairs:
        if task not in evaluate.PROMPTS:
            raise ValueError(f"--pairs {task}: expected one of {', '.join(evaluate.PROMPTS)}.")
        pairs = evaluate.paired_set(Path(inputs), Path(targets))
        label = f"{Path(inputs).parent.name} {task}"
        row(label, evaluate.score(restorer, pairs, evaluate.PROMPTS[task], label))
    if options.held_out:
        from .training.dataset import held_out_pairs, load_photos, split_photos
        from .training.degradations import TASKS

        held = split_photos(load_photos(options.held_out, options.skip))[1]
        for task in TASKS:
            pairs = held_out_pairs(held, task)
            row(f"held-out {task}", evaluate.score(restorer, pairs, evaluate.PROMPTS[task], task))
        pairs = ((clean, clean) for _, clean in held_out_pairs(held, "noise"))
        row("held-out clean, none", evaluate.score(restorer, pairs, "add a cat", "none"))
    if options.sentences:
        sentences = evaluate.read_sentences(options.sentences)
        wrong = evaluate.misread(restorer, sentences)
        for task, found, text in wrong:
            print(f"  read {found} instead of {task}: {text}")
        share = 1 - len(wrong) / len(sentences)
        print(f"sentences read right: {share:.1%} of {len(sentences)}")
    return 0
