"""The published training sets, read from the folders that their downloads make.

What is read is the training part alone: test parts are recognised by the names of their folders
and files, left out, and named in the report. A data set's task is written in `DATASETS`, never
guessed from a path. Only the headers of pictures are opened here.
"""

from __future__ import annotations

import logging
import os
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..pictures import READABLE
from ..tasks import CLASSES

log = logging.getLogger(__name__)

_FIELDS = {"name": r"[^/]+", "scene": r"[^/]+", "n": r"\d+", "a": r"[^/_]+", "b": r"[^/_]+"}


@dataclass(frozen=True)
class FilePair:
    """A picture to learn from; where `degraded` is None, it is synthesised from `clean`."""

    degraded: Path | None
    clean: Path


@dataclass(frozen=True)
class Collection:
    """What was found of a data set, checked, in the order of its paths."""

    name: str
    task: str
    pairs: tuple[FilePair, ...]
    report: str
    """Several lines: found, missing, of differing size, unreadable, left out."""


@dataclass(frozen=True)
class Layout:
    """Where pictures lie, without suffix: `a|b` is either, `{n}` a number, `{name}` any name.

    Files are partners where the fields common to both patterns, and the folders above them, agree.
    """

    clean: str
    degraded: str | None = None

    def __str__(self) -> str:
        return f"{self.degraded} with {self.clean}" if self.degraded else self.clean


@dataclass(frozen=True)
class Dataset:
    """A published training set. Matching ignores case."""

    task: str
    published: int
    """Pairs, or pictures, in the published training part."""
    layouts: tuple[Layout, ...]
    folders: tuple[str, ...]
    """Usual names of its folder, letters and digits only."""
    source: str
    """Title and site of its homepage."""
    licence: str
    drawn: int | None = None
    """The paper trains on so many, drawn at random; None: on all."""
    left_out: frozenset[str] = frozenset({"test", "testing", "val", "valid", "validation", "eval"})
    """Words in the names of folders that hold other parts than the one to train on."""
    test_files: str | None = None
    """Pattern in the paths, without suffix, of test files that mixed folders would leak."""


_BSD68 = """
    101085 101087 102061 103070 105025 106024 108005 108070 108082 109053 119082 12084 123074
    126007 130026 134035 14037 143090 145086 147091 148026 148089 157055 159008 160068 16077
    163085 167062 167083 170057 175032 175043 182053 189080 19021 196073 197017 208001 210088
    21077 216081 219090 220075 223061 227092 229036 236037 24077 241004 241048 253027 253055
    260058 271035 285079 291000 295087 296007 296059 299086 300091 302008 304034 304074 306005
    3096 33039 351093
""".split()
_GOPRO_TEST = """
    0384_11_00 0384_11_05 0385_11_01 0396_11_00 0410_11_00 0854_11_00 0862_11_00 0868_11_00
    0869_11_00 0871_11_00 0881_11_01
""".split()
_TEST = Dataset.left_out

DATASETS: dict[str, Dataset] = {
    "bsd400": Dataset(
        "noise", 400,
        # BSDS500 calls its own parts train, test and val; BSD68, the test set of denoisers, is
        # of val, and BSD400 is the other two.
        (Layout("{name}"), Layout("images/train|test/{name}")),
        ("bsd400", "cbsd400", "bsds400", "bsds500", "bsd500", "bsr"),
        "Berkeley Segmentation Data Set 500 (UC Berkeley Computer Vision Group)",
        "for non-commercial research and education",
        left_out=frozenset({"val"}),
        test_files=f"(^|/)({'|'.join(_BSD68)})$",
    ),
    "wed": Dataset(
        "noise", 4744,
        (Layout("{name}"), Layout("pristine_images/{name}")),
        ("wed", "waterlooed", "waterlooexplorationdatabase", "waterloo", "pristineimages",
         "explorationdatabaseandcode"),
        "Waterloo Exploration Database (University of Waterloo, Image and Vision Computing)",
        "free for research when cited; the photos remain their authors'",
    ),
    "rain100l": Dataset(
        "rain", 200,
        (
            Layout("norain|gt/norain-{n}", "rain|rainy/rain-{n}"),
            Layout("norain/norain-{n}", "rain/norain-{n}x2"),
            Layout("norain-{n}", "rain-{n}"),
            Layout("target/{name}", "input/{name}"),
        ),
        ("rain100l", "raintrainl", "raindatatrainlight", "rain200l"),
        "Joint Rain Detection and Removal (Peking University, STRUCT group)",
        "none stated; published for research",
    ),
    "reside-outdoor": Dataset(
        "haze", 72135,
        (
            Layout("clear|gt|original/{n}", "hazy|haze|synthetic/{n}_{a}_{b}"),
            Layout("clear|gt|original/{n}", "hazy|haze|synthetic/{scene}/{n}_{a}_{b}"),
        ),
        ("reside", "resideots", "resideoutdoor", "residebeta", "ots", "otsbeta", "otsalpha"),
        "RESIDE: realistic single image dehazing, outdoor training set (OTS)",
        "none stated; published for research",
        drawn=2000,
        left_out=_TEST | {"sots", "its", "hsts", "rtts", "indoor"},
    ),
    "gopro": Dataset(
        "blur", 2103,
        (
            Layout("{scene}/sharp/{name}", "{scene}/blur/{name}"),
            Layout("{scene}/sharp/{name}", "{scene}/blur_gamma/{name}"),
            Layout("sharp|target|groundtruth/{name}", "blur|input/{name}"),
        ),
        ("gopro", "goprolarge"),
        "GOPRO dataset (Seungjun Nah, Seoul National University)",
        "CC BY 4.0 by its homepage",
        test_files=f"GOPR({'|'.join(_GOPRO_TEST)})",
    ),
    "lol": Dataset(
        "lol", 485,
        (Layout("high|target/{name}", "low|input/{name}"),),
        ("lol", "lolv1", "loldataset", "our485"),
        "LOw-Light dataset, Deep Retinex Decomposition (Peking University)",
        "none stated; published for research",
    ),
    "div2k": Dataset(
        "sr", 800,
        (Layout("DIV2K_train_HR/{name}"), Layout("{name}")),
        ("div2k", "div2ktrainhr"),
        "DIV2K (ETH Zurich, NTIRE challenge on super-resolution)",
        "for academic research; the photos remain their owners'",
        test_files=r"(^|/)0(8(?!00)\d\d|900)$",
    ),
    "mit5k": Dataset(
        "en", 4500,
        (
            Layout("expertC|tiff16_c|c|target|gt/{name}", "input/{name}"),
            Layout("expertC/{a}/{b}/{name}", "input/{a}/{b}/{name}"),
        ),
        ("mit5k", "fivek", "mitadobefivek", "adobefivek", "adobe5k", "mitadobe5k",
         "fivekdataset"),
        "MIT-Adobe FiveK (MIT CSAIL)",
        "for research only (LicenseAdobe and LicenseAdobeMIT of the download)",
        drawn=1000,
        test_files=r"(^|/)a?(4[5-9]\d\d(?<!4500)|5000)(?!\d)[^/]*$",  # its last 500 are the test's
    ),
}  # fmt: skip


def read_dataset(name: str, folder: Path) -> Collection:
    """The training part of a data set of `DATASETS` in `folder`, or in any folder below it.

    Of the layouts, the one with most pairs is taken. Pairs whose sizes differ, and files whose
    headers cannot be read, are left out and reported. The same files give the same draw.

    Raises ValueError for an unknown name, for a folder that holds no such layout, and for one
    that is the test part.
    """
    if name not in DATASETS:
        raise ValueError(f"{name}: found no such data set; expected one of {', '.join(DATASETS)}.")
    dataset = DATASETS[name]
    if not folder.is_dir():
        raise ValueError(f"{folder}: found no such folder; expected the data set {name}.")
    if _words(folder.name) & dataset.left_out or _parent(folder) in dataset.left_out:
        raise ValueError(
            f"{folder}: found a part of {name} that is not for training; expected its training "
            f"part ({dataset.published} published). Choose that folder."
        )
    files, tests = _training_files(name, folder)
    found = max((_match(layout, folder, files) for layout in dataset.layouts), key=_pairs_found)
    if not found.pairs:
        raise ValueError(
            f"{folder}: found {len(files)} pictures in no known layout of {name}, and {len(tests)} "
            "of parts that are not for training; expected PNG, JPEG, WebP, TIFF or BMP files at "
            f"{'; or '.join(str(layout) for layout in dataset.layouts)}. Rename the folders so."
        )
    count = len(found.pairs)
    pairs = found.pairs
    if dataset.drawn is not None and count > dataset.drawn:
        pairs = sorted(random.Random(0).sample(pairs, dataset.drawn), key=_paths)
    good, faults = _check(pairs, folder)
    lines = [
        f"{name} ({dataset.task}): {len(good)} to train on; found {count}, "
        f"published {dataset.published}",
        f"  read as {found.layout} in {folder}",
    ]
    if len(pairs) < count:
        lines.append(f"  drawn at random, seed 0: {len(pairs)} of {count}")
    lines += _faults("without a clean partner", found.no_clean, folder)
    lines += _faults("without a degraded partner", found.no_degraded, folder)
    lines += faults
    lines += _faults("left out, not for training", tests, folder)
    if found.others:
        lines.append(f"  ignored, of another kind: {found.others}")
    return Collection(name, dataset.task, tuple(good), "\n".join(lines))


def clean_folder(folder: Path, task: str) -> Collection:
    """Every picture below a folder of clean photos, to be degraded for one task, or for `none`.

    Raises ValueError for an unknown task, and when there is no readable picture.
    """
    if task not in CLASSES:
        raise ValueError(f"{task}: expected a task, one of {', '.join(CLASSES)}.")
    files = list(_pictures(folder))
    good, faults = _check([FilePair(None, path) for path in files], folder)
    if not good:
        raise ValueError(
            f"{folder}: found {len(files)} pictures, none readable; expected clean photos as PNG, "
            "JPEG, WebP, TIFF or BMP. Check the path."
        )
    head = f"{folder.name} ({task}): {len(good)} clean photos in {folder}"
    return Collection(folder.name, task, tuple(good), "\n".join([head, *faults]))


def find_datasets(root: Path) -> dict[str, Collection]:
    """Every data set of `DATASETS` in or below `root`, in that order, by its usual folder names.

    Of two copies of one, that with more pairs is taken. A folder of a usual name that holds no
    training part is logged as a warning. Raises ValueError when `root` is no folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: found no such folder; expected one that holds data sets.")
    names = {usual: name for name, dataset in DATASETS.items() for usual in dataset.folders}
    found: dict[str, Collection] = {}
    for parent, folders, _ in os.walk(root, followlinks=True):
        folder = Path(parent)
        name = names.get(re.sub(r"[^a-z0-9]", "", folder.name.lower()))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not _words(f) & _TEST)
        if name is None:
            continue
        try:
            collection = read_dataset(name, folder)
        except ValueError as exc:
            log.warning("%s", exc)
            continue
        folders.clear()
        if name not in found or len(collection.pairs) > len(found[name].pairs):
            found[name] = collection
    return {name: found[name] for name in DATASETS if name in found}


def _parent(folder: Path) -> str:
    return folder.resolve().parent.name.lower()


def _words(name: str) -> set[str]:
    """The words of a folder's name, in lower case: RainTestL and rain_data_test hold "test"."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def _pictures(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and Path(file).suffix.lower() in READABLE:
                yield Path(parent, file)


def _training_files(name: str, folder: Path) -> tuple[list[Path], list[Path]]:
    """All pictures below `folder`: those that may be trained on, and those of other parts."""
    dataset = DATASETS[name]
    pattern = re.compile(dataset.test_files or r"(?!)", re.IGNORECASE)
    training: list[Path] = []
    others: list[Path] = []
    for path in _pictures(folder):
        inner = path.relative_to(folder)
        test = any(_words(part) & dataset.left_out for part in inner.parent.parts)
        test = test or pattern.search(inner.with_suffix("").as_posix()) is not None
        (others if test else training).append(path)
    if name == "rain100l" and _is_rain100l_test(training):
        training, others = [], training + others
    return training, others


def _is_rain100l_test(files: Sequence[Path]) -> bool:
    """Whether these are the 100 test pairs.

    They are numbered 001 to 100, the training pairs 1 to 200; and lists of training files that
    name rain-001 to rain-100 have gone round, so that networks were trained on the test set.
    """
    numbers = {m[1] for path in files if (m := re.fullmatch(r"(?:no|)(?:rain-)?(\d+)(?:x2)?",
                                                            path.stem, re.IGNORECASE))}  # fmt: skip
    values = {int(number) for number in numbers}
    if not values or max(values) > 100:
        return False
    return any(number.startswith("0") for number in numbers) or values == set(range(1, 101))


@dataclass(frozen=True)
class _Match:
    layout: Layout
    pairs: list[FilePair]
    no_clean: list[Path]
    no_degraded: list[Path]
    others: int


def _pairs_found(match: _Match) -> int:
    return len(match.pairs)


def _match(layout: Layout, folder: Path, files: Sequence[Path]) -> _Match:
    """FilePair the files by one layout, in the order of their paths."""
    clean_pattern, degraded_pattern = _pattern(layout.clean), _pattern(layout.degraded or "")
    fields = sorted(clean_pattern.groupindex.keys() & degraded_pattern.groupindex.keys())
    clean: dict[tuple[str, ...], Path] = {}
    degraded: list[tuple[tuple[str, ...], Path]] = []
    pairs: list[FilePair] = []
    others = 0
    for path in files:
        inner = path.relative_to(folder).with_suffix("").as_posix()
        if match := clean_pattern.fullmatch(inner):
            if layout.degraded is None:
                pairs.append(FilePair(None, path))
            else:
                clean.setdefault(tuple(match[f] for f in fields), path)
        elif layout.degraded is not None and (match := degraded_pattern.fullmatch(inner)):
            degraded.append((tuple(match[f] for f in fields), path))
        else:
            others += 1
    pairs += [FilePair(path, clean[key]) for key, path in degraded if key in clean]
    no_clean = [path for key, path in degraded if key not in clean]
    used = {key for key, _ in degraded}
    no_degraded = [path for key, path in clean.items() if key not in used]
    return _Match(layout, pairs, no_clean, no_degraded, others)


def _pattern(layout: str) -> re.Pattern[str]:
    """The regular expression of one side of a layout, on paths of "/" without suffix."""
    parts = []
    for part in layout.split("/"):
        part = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{_FIELDS[m[1]]})", part)
        parts.append(f"(?:{part})" if "|" in part else part)
    # A folder of nothing but pictures has no name to know it by: there, and only there, the
    # pictures must lie in the given folder itself, or other folders' would be taken too.
    above = "(?P<above>)" if layout == "{name}" else "(?P<above>(?:.*/)?)"
    return re.compile(above + "/".join(parts), re.IGNORECASE)


def _paths(pair: FilePair) -> tuple[Path, Path]:
    return (pair.degraded or pair.clean, pair.clean)


def _check(pairs: Sequence[FilePair], folder: Path) -> tuple[list[FilePair], list[str]]:
    """The pairs that can be used, and lines of the report about the others."""
    sizes: dict[Path, tuple[int, int] | None] = {}  # a clean picture may have many partners
    good, unreadable, mismatched = [], [], []
    for pair in pairs:
        both = [path for path in (pair.degraded, pair.clean) if path is not None]
        for path in both:
            if path not in sizes:
                sizes[path] = _size(path)
                if sizes[path] is None:
                    unreadable.append(path)
        found = [size for path in both if (size := sizes[path]) is not None]
        if len(found) < len(both):
            continue
        if len(set(found)) > 1:
            mismatched.append(_paths(pair)[0])
            continue
        good.append(pair)
    lines = _faults("of another size than its partner", mismatched, folder)
    return good, lines + _faults("unreadable", unreadable, folder)


def _size(path: Path) -> tuple[int, int] | None:
    """(width, height) as shown, by the header alone; None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decoded
            with Image.open(path) as image:
                width, height = image.size
                # Cameras write JPEG turned; to look in a PNG would decode its pixels.
                turned = image.format == "JPEG" and image.getexif().get(0x0112, 1) in range(5, 9)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)


def _faults(what: str, paths: Sequence[Path], folder: Path, shown: int = 5) -> list[str]:
    if not paths:
        return []
    names = [path.relative_to(folder).as_posix() for path in paths[:shown]]
    more = ", ..." if len(paths) > shown else ""
    return [f"  {what}: {len(paths)} ({', '.join(names)}{more})"]
