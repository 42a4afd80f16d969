"""The command line's workshop: the corpus, training and scoring; `cli` is its front door."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import official, pictures, sheets
from .arguments import Command, changed_settings
from .files import brief, lacks_memory
from .pipeline import Restorer
from .text import TransformersEncoder

if TYPE_CHECKING:
    from .evaluation.sets import ImageSet


def load(options: argparse.Namespace, device: str | None) -> Restorer:
    """The model that was asked for; ValueError for a device that is not here."""
    try:
        return Restorer.from_pretrained(
            options.model, head=options.head, text_encoder=options.text_encoder, device=device
        )
    except (RuntimeError, AssertionError) as exc:  # PyTorch's to an unknown or missing device
        if lacks_memory(exc):
            raise
        raise ValueError(
            f"--device {options.device}: {brief(exc)}; expected one that is here, such as cpu. "
            "Leave it out to take the best."
        ) from exc


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


def _train_diagnosis(options: argparse.Namespace) -> int:
    try:
        from .training.diagnosis_samples import collect
        from .training.diagnosis_training import train_diagnosis
    except ImportError as exc:
        raise ValueError(_needs(exc)) from exc
    if options.samples < 16:
        raise ValueError(f"--samples is {options.samples}; expected 16 or more.")
    _check_folders(options.photos, options.graphics)
    training, held = collect(options.photos, options.skip, options.hold_out, options.graphics)
    restorer = Restorer.from_pretrained(options.model, device="cpu")
    path = train_diagnosis(
        training, held, restorer, options.out, seed=options.seed, samples=options.samples,
        store=options.store,
    )  # fmt: skip
    print(f"{path}\nShip it with: instructir models convert --half NETWORK OUT --diagnosis {path}")
    return 0


def _needs(exc: ImportError) -> str:
    return (
        f"Training needs the package {exc.name}, which restoring does not. Install it with: "
        'pip install "instructir[torch,train]"'
    )


def _check_folders(*folders: Path | None) -> None:
    for folder in folders:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder}: found no such folder; expected one of pictures.")


def _train(options: argparse.Namespace) -> int:
    from .evaluation.experiments import read_sentences

    try:
        from .training.presets import PRESETS
        from .training.samples import collect_sources
        from .training.trainer import train
    except ImportError as exc:
        raise ValueError(_needs(exc)) from exc
    if options.preset not in PRESETS:
        raise ValueError(f"--preset {options.preset}: expected one of {', '.join(PRESETS)}.")
    _check_folders(options.photos, options.data)
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
    if options.suggest:
        return _evaluate_suggestions(options, sets)
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
    restorer = load(options, options.device)
    source = provenance(restorer, official.named_path(options.model), **kept)
    evaluate(restorer, evaluation, Report(options.out, source), lpips=options.lpips)
    return 0


def _evaluate_suggestions(options: argparse.Namespace, sets: list[ImageSet]) -> int:
    from .evaluation.diagnosis import evaluate_suggestions
    from .evaluation.report import Report, provenance
    from .evaluation.sets import files
    from .training.diagnosis_samples import collect

    held = None
    if options.held_out:
        photos = options.held_out, options.skip, options.hold_out, options.graphics
        held = collect(*photos)[1]
    unchanged = files(options.identity) if options.identity else ()
    if not (sets or held or unchanged):
        raise ValueError(
            "Found nothing to diagnose; expected --held-out, --identity, --suite, --pairs or "
            "--clean. See: instructir evaluate --help"
        )
    restorer = load(options, options.device)
    source = provenance(restorer, official.named_path(options.model), suggest=options.suggest)
    evaluate_suggestions(
        restorer, sets, held, unchanged=unchanged, count=options.suggest, limit=options.limit,
        report=Report(options.out, source),
    )  # fmt: skip
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
    if options.held_out and not options.suggest:
        sets += held_out(options.held_out, options.skip, options.hold_out)
    return sets, chains


WORKSHOP: dict[str, Command] = {
    "corpus": _corpus,
    "train-reader": _train_reader,
    "train-diagnosis": _train_diagnosis,
    "train": _train,
    "datasets": _datasets,
    "degradations": _contact_sheet,
    "evaluate": _evaluate,
}
"""What `arguments.make_parser` runs, by name."""
