"""What the command line takes: every command with its options and their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .guard import MODES
from .metadata import METADATA

AUTO = "auto"
"""In the place of a sentence: what each picture needs."""
Command = Callable[[argparse.Namespace], int]
"""Carries out what was asked for, and returns the exit status."""


def make_parser(run: Mapping[str, Command]) -> argparse.ArgumentParser:
    """All of it; ``run`` of what it parses carries out the command."""
    parser = argparse.ArgumentParser(
        prog="instructir", description="Restore photos by plain-language instructions."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    restore = commands.add_parser("restore", help="restore files, folders or globs")
    restore.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder or glob")
    restore.add_argument(
        "-i", "--instruction", action="append", required=True, metavar="SENTENCE",
        help="what to restore, or auto: what each picture needs; repeat to apply several in order",
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
    restore.add_argument(
        "--metadata", choices=METADATA, default="all",
        help="what of EXIF, XMP, IPTC and text goes along; default: all",
    )  # fmt: skip
    restore.add_argument(
        "--steady", action="store_true", help="videos: haze, light and colour do not pulse"
    )
    restore.add_argument(
        "--guard", choices=MODES, default="off",
        help="say (warn) or undo (skip) what a picture does not show or suffers from",
    )  # fmt: skip
    restore.add_argument("--compare", type=Path, metavar="SHEET", help="before/after picture")
    restore.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS",
        help="restore on a Ray cluster: host:port, auto, or nothing to start one here",
    )  # fmt: skip
    restore.add_argument(
        "--cores", type=int, metavar="N", help="with --ray: cores of a worker without a GPU"
    )
    restore.set_defaults(run=run["restore"])

    sheet = commands.add_parser("sheet", help="one picture under every instruction, side by side")
    sheet.add_argument("photo", type=Path, metavar="PHOTO")
    sheet.add_argument("-o", "--output", type=Path, required=True, metavar="SHEET")
    sheet.add_argument(
        "--size", type=int, default=512, metavar="PIXELS",
        help="shrink to this longer side first, which takes seconds; 0 keeps the size",
    )  # fmt: skip
    _model_options(sheet)
    sheet.set_defaults(run=run["sheet"])

    models = commands.add_parser("models", help="list, download, convert or describe models")
    actions = models.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="models known by name").set_defaults(run=run["list"])
    download = actions.add_parser("download", help="fetch the official model once")
    download.add_argument("model", choices=["7d"])
    download.set_defaults(run=run["download"])
    convert = actions.add_parser("convert", help="make one .safetensors of several files")
    convert.add_argument("network", type=Path)
    convert.add_argument("out", type=Path)
    convert.add_argument("--head", type=Path, help="lm_instructir-7d.pt")
    convert.add_argument(
        "--reader", type=Path, metavar="FILE",
        help="a file whose sentence encoder and head take the place of the network file's",
    )  # fmt: skip
    convert.add_argument(
        "--diagnosis", type=Path, metavar="FILE",
        help="a file whose reading of pictures takes the place of the network file's",
    )  # fmt: skip
    convert.add_argument("--half", action="store_true", help="store as float16")
    convert.add_argument("--version", help="of the weights, for manifests and `models info`")
    convert.set_defaults(run=run["convert"])
    info = actions.add_parser("info", help="what a weight file holds")
    info.add_argument("model", help="mini, 7d or a path")
    info.add_argument("--plan", metavar="WxH", help="how a picture of this size would be restored")
    info.add_argument("--free", type=float, metavar="GB", help="memory to plan with; default: now")
    info.set_defaults(run=run["info"])

    exporting = commands.add_parser("export", help="a model under one sentence as an ONNX file")
    exporting.add_argument("out", type=Path, metavar="OUT.onnx")
    exporting.add_argument("-i", "--instruction", required=True, metavar="SENTENCE")
    exporting.add_argument("--model", default="mini", help="mini (bundled), 7d or a path")
    exporting.add_argument("--head", type=Path, help="head for a network file that has none")
    exporting.add_argument("--text-encoder", type=Path, help="folder of its sentence encoder")
    exporting.add_argument("--half", action="store_true", help="float16, half the size")
    exporting.set_defaults(run=run["export"])

    corpus = commands.add_parser("corpus", help="write the instruction corpus as one table")
    corpus.add_argument("out", type=Path, metavar="OUT.tsv")
    corpus.add_argument("--seed", type=int, default=0)
    corpus.add_argument("--exclude", type=Path, nargs="*", default=[], help="test sentences")
    corpus.set_defaults(run=run["corpus"])

    reader = commands.add_parser(
        "train-reader", help="train the sentence encoder and the head alone"
    )
    reader.add_argument("out", type=Path, metavar="OUT.safetensors", help="--init, reading anew")
    reader.add_argument("--init", default="mini", metavar="MODEL", help="mini or a weight file")
    reader.add_argument("--steps", type=int, default=7000, help="batches of 64 sentences")
    reader.add_argument("--learning-rate", type=float, default=2e-3)
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument(
        "--splits", nargs="*", default=["train", "test"], help="parts of the corpus to train on"
    )
    reader.add_argument("--teacher", type=Path, help="folder of a sentence model to distil")
    reader.add_argument("--exclude", type=Path, nargs="*", default=[], help="test sentences")
    reader.set_defaults(run=run["train-reader"])

    diagnosis = commands.add_parser(
        "train-diagnosis", help="train what reads from a picture what it needs"
    )
    diagnosis.add_argument("out", type=Path, metavar="OUT.safetensors")
    diagnosis.add_argument(
        "--model", default="mini", help="mini, 7d or a path: the network whose changes it reads"
    )
    diagnosis.add_argument("--photos", type=Path, required=True, help="clean photos")
    _photo_options(diagnosis)
    diagnosis.add_argument("--samples", type=int, default=3000, help="how many to learn from")
    diagnosis.add_argument(
        "--store", type=Path, metavar="FILE.safetensors",
        help="samples to use again for other networks: made where it is not there",
    )  # fmt: skip
    diagnosis.add_argument("--seed", type=int, default=0)
    diagnosis.set_defaults(run=run["train-diagnosis"])

    train = commands.add_parser(
        "train", help="train on data sets or clean photos; also under `accelerate launch`"
    )
    train.add_argument("out", type=Path, help="folder of the run; a run found there is resumed")
    train.add_argument("--preset", default="mini", help="3d, 5d, 6d, 7d or mini (default)")
    train.add_argument("--photos", type=Path, help="clean photos, degraded on the fly")
    train.add_argument("--data", type=Path, help="folder of the standard data sets")
    _photo_options(train)
    train.add_argument("--init", metavar="MODEL", help="start from mini, 7d or a weight file")
    train.add_argument("--head", type=Path, help="head for an --init that has none")
    train.add_argument("--text-encoder", type=Path, help="folder of a frozen sentence encoder")
    train.add_argument("--no-text", action="store_true", help="ablation: nothing steers")
    train.add_argument("--steps", type=int, help="length in steps, which repeats exactly")
    train.add_argument("--minutes", type=float, help="length by the clock instead")
    train.add_argument("--learning-rate", type=float)
    train.add_argument("--stages", help="share:crop:batch,... such as 0:96:16,0.6:160:6")
    train.add_argument(
        "--scenes", help="crop:batch,... for haze, low light and colour, such as 192:4,256:2"
    )
    train.add_argument("--loss", choices=["l1", "log"])
    train.add_argument("--decay", type=float, help="share of the run in which the rate falls")
    train.add_argument("--head-rate", type=float, help="of the learning rate; 0 keeps the head")
    train.add_argument("--every", type=int, help="steps between saves")
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
    train.set_defaults(run=run["train"])

    datasets = commands.add_parser("datasets", help="check the published training sets")
    datasets.add_argument("root", type=Path, help="folder that holds their folders")
    datasets.set_defaults(run=run["datasets"])

    sheet = commands.add_parser("degradations", help="contact sheet of the training degradations")
    sheet.add_argument("photo", type=Path)
    sheet.add_argument("sheet", type=Path, help="picture to write")
    sheet.add_argument("--seed", type=int, default=0)
    sheet.set_defaults(run=run["degradations"])

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
    evaluate.add_argument("--hold-out", nargs="*", default=[], metavar="NAME", help="likewise")
    evaluate.add_argument(
        "--identity", type=Path, metavar="FOLDER",
        help="clean pictures: is what needs no change left alone?",
    )  # fmt: skip
    evaluate.add_argument(
        "--artefacts", type=Path, action="append", default=[], metavar="FOLDER",
        help="clean pictures: what does restoring add that nobody asked for?",
    )  # fmt: skip
    evaluate.add_argument("--graphics", type=Path, help="likewise, with --suggest")
    evaluate.add_argument(
        "--suggest", type=int, nargs="?", const=12, metavar="N",
        help="is what a picture needs suggested? of the sets, --identity, and N pictures a task "
        "of --held-out under fresh degradations; nothing else is measured",
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
    evaluate.set_defaults(run=run["evaluate"])
    return parser


def _photo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="photos to leave out")
    parser.add_argument(
        "--hold-out", nargs="*", default=[], metavar="NAME",
        help="photos to keep for scoring, beside every sixteenth",
    )  # fmt: skip
    parser.add_argument(
        "--graphics", type=Path, help="pictures that are only to be left as they are"
    )


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="mini", help="mini (bundled), 7d (official) or a path")
    parser.add_argument("--head", type=Path, help="head for a network file that has none")
    parser.add_argument("--text-encoder", type=Path, help="folder of its sentence encoder")
    parser.add_argument("--device", help="cpu, cuda, mps; default: the GPU when there is one")


def changed_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of training that the arguments of `train` name otherwise than its preset."""
    names = (
        "steps", "minutes", "learning_rate", "sentence_steps", "precision", "seed", "loss", "decay",
        "head_rate", "every",
    )  # fmt: skip
    changes = {name: given[name] for name in names if given[name] is not None}
    if "minutes" in changes:
        changes.setdefault("steps", None)
    if given["stages"] is not None:
        from .training.presets import Stage

        try:
            parts = [part.split(":") for part in given["stages"].split(",")]
            changes["stages"] = tuple(Stage(float(a), int(b), int(c)) for a, b, c in parts)
        except ValueError:
            raise ValueError(
                f"--stages {given['stages']}: expected share:crop:batch, comma-separated, such as "
                "0:96:16,0.6:160:6."
            ) from None
    if given["scenes"] is not None:
        try:
            views = [part.split(":") for part in given["scenes"].split(",")]
            changes["scenes"] = tuple((int(a), int(b)) for a, b in views)
        except ValueError:
            raise ValueError(
                f"--scenes {given['scenes']}: expected crop:batch, comma-separated, such as "
                "192:4,256:2."
            ) from None
    if given["shares"] is not None:
        try:
            pairs = [part.split("=") for part in given["shares"].split(",")]
            changes["shares"] = {task: float(share) for task, share in pairs}
        except ValueError:
            raise ValueError(
                f"--shares {given['shares']}: expected task=share, comma-separated, such as "
                "noise=0.5,rain=0.5."
            ) from None
    return {**changes, "text": not given["no_text"]}
