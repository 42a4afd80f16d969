"""What an evaluation found, as tables to read, files to keep and pictures to look at."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .. import __version__, sheets
from ..files import sha256, write_atomically
from ..pipeline import Restorer
from ..tasks import CLASSES
from .metrics import CONVENTIONS, Pixels
from .published import NOISY_INPUT, PUBLISHED, VARIANTS
from .sets import published_images


@dataclass(frozen=True)
class Row:
    """One measurement. What its experiment knows nothing of is None or empty."""

    test: str
    """Which experiment: score, wording, identity, chain, artefacts or sentences."""
    set: str
    task: str | None = None
    image: str = ""
    sentence: str | None = None
    read_as: str | None = None
    """The task that was read in the sentence."""
    speaker: str | None = None
    protocol: str | None = None
    """`WHOLE` or `UPSTREAM`."""
    height: int | None = None
    width: int | None = None
    link: int | None = None
    """Of a chain: how many instructions were carried out."""
    psnr_float: float | None = None
    psnr_8bit: float | None = None
    value: float | None = None
    """Of an artefact, in its ``unit``: levels of 255 or times, dB or share."""
    unit: str | None = None
    input: Mapping[str, float] = field(default_factory=dict)
    """Scores of `metrics.CONVENTIONS`, of what was given and of what came out."""
    restored: Mapping[str, float] = field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        """What is known, flat, as files hold it: ``input_psnr_float`` and so on."""
        flat: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Mapping):
                flat |= {f"{name}_{score}": number for score, number in value.items()}
            elif value is not None:
                flat[name] = value
        return flat


Captioned = list[tuple[str, Pixels]]
"""Captions and (H, W, 3) pictures to look at beside a row."""
WHOLE, UPSTREAM = "whole", "upstream"
"""How a row was scored: as people get a picture, or as upstream's own code scores it."""
Summary = dict[str, Any]

# --- numbers -----------------------------------------------------------------------------------


def summarise(rows: Sequence[Row]) -> Summary:
    """Every table's numbers: a list of rows for each experiment, and the confusion matrix."""

    def of(test: str, *keys: str) -> dict[tuple[Any, ...], list[Row]]:
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            if row.test == test:
                groups.setdefault(tuple(getattr(row, k) for k in keys), []).append(row)
        return groups

    summary: Summary = {
        "score": [summarise_scores(group) for group in of("score", "set").values()],
        "wording": [_wording(group) for group in of("wording", "set").values()],
        "identity": [
            {"set": name, "measurements": len(group), **_mean_and_least(group)}
            for (name,), group in of("identity", "set").items()
        ],
        "chain": [
            {
                "set": name,
                "link": link,
                "task": group[0].task or "",
                "images": len(group),
                **_mean_and_least(group),
            }
            for (name, link), group in of("chain", "set", "link").items()
        ],
    }
    summary["artefacts"] = [_artefact(group) for group in of("artefacts", "set").values()]
    summary["published"] = beside_published(summary["score"])
    sentences = [row for row in rows if row.test == "sentences"]
    if sentences:
        classes, counts = confusion(sentences)
        speakers = {
            speaker: _share_read(group) for (speaker,), group in of("sentences", "speaker").items()
        }
        summary["sentences"] = {
            "read_right": _share_read(sentences),
            "sentences": len(sentences),
            "speakers": speakers,
            "classes": classes,
            "confusion": counts.tolist(),
        }
    return summary


def summarise_scores(rows: Sequence[Row]) -> Summary:
    """The means of one set's rows, and what restoring gained."""
    first = rows[0]
    means = {
        f"{stage}_{name}": float(np.mean([getattr(row, stage)[name] for row in rows]))
        for stage in ("input", "restored")
        for name in getattr(first, stage)
    }
    gains = {
        f"gain_{name}": means[f"restored_{name}"] - means[f"input_{name}"]
        for name in CONVENTIONS
        if name.startswith("psnr") and math.isfinite(means.get(f"input_{name}", math.inf))
    }
    if "gain_psnr_float" in gains:
        each = [row.restored["psnr_float"] - row.input["psnr_float"] for row in rows]
        gains["gain_psnr_float_least"] = float(min(each))
    told = {"set": first.set, "task": first.task, "protocol": first.protocol}
    return {**told, "images": len(rows), **means, **gains}


def _artefact(rows: Sequence[Row]) -> Summary:
    unit, values = rows[0].unit, [row.value or 0.0 for row in rows]
    worst = min(values) if unit in ("dB", "share") else max(values)
    return {
        "set": rows[0].set, "images": len(rows), "mean": float(np.mean(values)),
        "worst": float(worst), "unit": unit,
    }  # fmt: skip


def beside_published(scores: Sequence[Summary]) -> list[Summary]:
    """The paper's score of every variant on the sets scored as upstream does, and the gap to it."""
    rows = []
    for ours in (score for score in scores if score["protocol"] == UPSTREAM):
        for variant in VARIANTS:
            if variant not in PUBLISHED.get(ours["set"], {}):
                continue
            psnr, ssim = PUBLISHED[ours["set"]][variant]
            rows.append(
                {
                    "set": ours["set"],
                    "variant": variant,
                    "images": ours["images"],
                    "published_images": published_images(ours["set"]),
                    "psnr": psnr,
                    "psnr_gap": ours["restored_psnr_float"] - psnr,
                    "ssim": ssim,
                    "ssim_gap": None if ssim is None else ours["restored_ssim_float"] - ssim,
                }
            )
    return rows


def _wording(rows: Sequence[Row]) -> Summary:
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    summary: Summary = {
        "set": rows[0].set,
        "images": len(by_image),
        "phrasings": len(rows) // len(by_image),
        "read_right": _share_read(rows),
    }
    for name in ("psnr_float", "psnr_8bit"):
        values = [[getattr(row, name) for row in group] for group in by_image.values()]
        summary[f"{name}_mean"] = float(np.mean([np.mean(v) for v in values]))
        summary[f"{name}_std"] = float(np.mean([np.std(v) for v in values]))
        summary[f"{name}_worst"] = float(np.mean([np.min(v) for v in values]))
    return summary


def _mean_and_least(rows: Sequence[Row]) -> Summary:
    return {
        f"{name}_{label}": float(reduce([getattr(row, name) for row in rows]))
        for name in ("psnr_float", "psnr_8bit")
        for label, reduce in (("mean", np.mean), ("least", np.min))
    }


def _share_read(rows: Sequence[Row]) -> float:
    return sum(row.task == row.read_as for row in rows) / len(rows)


def confusion(rows: Sequence[Row]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """(classes, counts) of sentences: a row for each task, a column for each reading."""
    classes = [*CLASSES]
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for row in rows:
        counts[classes.index(row.task or ""), classes.index(row.read_as or "")] += 1
    return classes, counts


# --- tables ------------------------------------------------------------------------------------

_SCORED = {
    True: "float: the unclamped output on a crop to multiples of 16, as InstructIR's code "
    "scores it",
    False: "float: the whole picture, clamped, not rounded",
}


def score_header(*, upstream: bool) -> str:
    """What stands above the lines of `score_line`."""
    return (
        f"{_SCORED[upstream]}; 8-bit: clamped and rounded, as most\n"
        "papers do; Y: luma of the 8-bit picture, swapped: as InstructIR's code computes it\n"
        f"{'':<22}{'':>7}{'PSNR, float':>27}{'':>7}{'PSNR restored':>26}{'SSIM':>9}"
        f"{'SSIM restored':>22}\n"
        f"{'set':<22}{'images':>7}{'input':>9}{'restored':>10}{'gain':>8}{'worst':>7}"
        f"{'8-bit':>9}{'Y':>8}{'Y swap.':>9}{'input':>9}{'float':>8}{'8-bit':>7}{'Y':>7}"
    )


def score_line(score: Summary) -> str:
    """One line under `score_header`."""
    gain, worst = score.get("gain_psnr_float"), score.get("gain_psnr_float_least")
    text = (
        f"{score['set']:<22}{score['images']:>7}"
        f"{score['input_psnr_float']:>9.2f}{score['restored_psnr_float']:>10.2f}"
        f"{'' if gain is None else format(gain, '+.2f'):>8}"
        f"{'' if worst is None else format(worst, '+.1f'):>7}"
        f"{score['restored_psnr_8bit']:>9.2f}{score['restored_psnr_y']:>8.2f}"
        f"{score['restored_psnr_y_swapped']:>9.2f}{score['input_ssim_float']:>9.3f}"
        f"{score['restored_ssim_float']:>8.3f}{score['restored_ssim_8bit']:>7.3f}"
        f"{score['restored_ssim_y']:>7.3f}"
    )
    if "restored_lpips" in score:
        text += f"  LPIPS {score['input_lpips']:.3f} -> {score['restored_lpips']:.3f}"
    return text


def tables(summary: Summary) -> str:
    """All but the score table, as text; empty where an experiment was not run."""
    parts = [
        _published_table(summary),
        _list_table(
            "Wording: PSNR, float, over phrasings; std and worst of each picture, then the mean",
            summary["wording"],
            {"images": "d", "phrasings": "d", "psnr_float_mean": ".2f", "psnr_float_std": ".2f",
             "psnr_float_worst": ".2f", "psnr_8bit_mean": ".2f", "read_right": ".1%"},
        ),
        _list_table(
            "Identity: PSNR of the result to the input, where nothing should change",
            summary["identity"],
            {"measurements": "d", "psnr_float_mean": ".2f", "psnr_float_least": ".2f",
             "psnr_8bit_mean": ".2f", "psnr_8bit_least": ".2f"},
        ),
        _list_table(
            "Chains: PSNR after each instruction, from the degradation added last to the first",
            summary["chain"],
            {"link": "d", "task": "", "images": "d", "psnr_float_mean": ".2f",
             "psnr_float_least": ".2f", "psnr_8bit_mean": ".2f"},
        ),
        _list_table(
            "Artefacts: what restoring adds or takes (worst: least of dB and share, else most)",
            summary["artefacts"],
            {"images": "d", "mean": ".2f", "worst": ".2f", "unit": ""},
        ),
        _confusion_table(summary.get("sentences")),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


_HINT = "The paper scores crops to multiples of 16, unclamped: --upstream sets ours beside it."


def _published_table(summary: Summary) -> str:
    published = summary["published"]
    if not published:
        known_sets = [s["set"] for s in summary["score"] if s["set"] in PUBLISHED]
        return _HINT if known_sets else ""
    lines = ["Beside the paper: published score, and ours less it (PSNR and SSIM, float, RGB)"]
    lines.append(f"{'set':<22}{'':<6}{'ours':>7}" + "".join(f"{v:>15}" for v in VARIANTS))
    for ours in summary["score"]:
        known = {row["variant"]: row for row in published if row["set"] == ours["set"]}
        if not known:
            continue
        for name, digits in (("psnr", 2), ("ssim", 3)):
            cells = []
            for variant in VARIANTS:
                row = known.get(variant, {})
                there = row.get(name) is not None
                cells.append(f"{row[name]:.{digits}f} {row[f'{name}_gap']:+.{digits}f}"
                             if there else "-")  # fmt: skip
            label = ours["set"] if name == "psnr" else ""
            value = f"{ours[f'restored_{name}_float']:.{digits}f}"
            lines.append(f"{label:<22}{name.upper():<6}{value:>7}" + "".join(
                f"{cell:>15}" for cell in cells))  # fmt: skip
        expected = next(iter(known.values()))["published_images"]
        if ours["set"] in NOISY_INPUT:
            found, theirs = ours["input_psnr_float"], NOISY_INPUT[ours["set"]]
            lines.append(f"{'':<22}PSNR of the input: {found:.4f}; published: {theirs:.4f}")
        if ours["images"] != expected:
            lines.append(f"{'':<22}of {ours['images']} pictures; published of {expected}")
    return "\n".join(lines)


def _list_table(title: str, rows: Sequence[Summary], columns: Mapping[str, str]) -> str:
    if not rows:
        return ""
    width = max(len(row["set"]) for row in rows) + 2
    lines = [title, f"{'':<{width}}" + "".join(f"{c.replace('psnr_', ''):>14}" for c in columns)]
    for row in rows:
        cells = [format(row[name], spec) for name, spec in columns.items()]
        lines.append(f"{row['set']:<{width}}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _confusion_table(sentences: Summary | None) -> str:
    if sentences is None:
        return ""
    classes, counts = sentences["classes"], sentences["confusion"]
    lines = ["Sentences: what is asked (rows) and what is read (columns)"]
    lines.append(f"{'':<8}" + "".join(f"{c:>7}" for c in classes) + f"{'right':>9}")
    for index, (name, row) in enumerate(zip(classes, counts, strict=True)):
        share = f"{row[index] / sum(row):.1%}" if sum(row) else "-"
        lines.append(f"{name:<8}" + "".join(f"{n or '.':>7}" for n in row) + f"{share:>9}")
    for speaker, share in sentences["speakers"].items():
        if speaker:
            lines.append(f"{speaker}: {share:.1%}")
    lines.append(f"sentences read right: {sentences['read_right']:.1%} of {sentences['sentences']}")
    return "\n".join(lines)


# --- files -------------------------------------------------------------------------------------


class Report:
    """Collects rows and pictures; with a folder, keeps them there after every `save`.

    ``results.csv`` holds every row, ``results.json`` also the summary and where it came from, and
    ``sheet-<set>.png`` up to `SHEET_ROWS` pictures of each set. Each file appears whole or not at
    all. Raises OSError at once if the folder cannot be written to.
    """

    def __init__(self, folder: Path | None, provenance: Mapping[str, Any]) -> None:
        self.folder, self.provenance = folder, dict(provenance)
        self.rows: list[Row] = []
        self.shown: dict[str, list[Captioned]] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as exc:
                raise OSError(
                    f"{folder}: could not be written to ({exc.strerror or exc}); expected a folder "
                    "for the results. Choose another."
                ) from exc

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows."""
        self.rows += rows

    def show(self, name: str, shown: Captioned, index: int, count: int) -> None:
        """Keep small copies for the sheet of a set if this is one of its evenly spread rows."""
        sheet = self.shown.setdefault(name, [])
        if self.folder and len(sheet) < SHEET_ROWS and index % max(1, count // SHEET_ROWS) == 0:
            sheet.append(
                [(caption, sheets.shrink(pixels, _SHEET_WIDTH)) for caption, pixels in shown]
            )

    @property
    def text(self) -> str:
        """The tables of what was collected so far, but for that of the scores."""
        return tables(summarise(self.rows))

    def save(self) -> None:
        """Write what was collected so far, if there is a folder."""
        if self.folder is None:
            return
        flat = [row.columns() for row in self.rows]
        columns = list(dict.fromkeys(key for row in flat for key in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        write_atomically(self.folder / "results.csv", text.getvalue().encode())
        result = {
            "provenance": self.provenance,
            "conventions": CONVENTIONS,
            "summary": summarise(self.rows),
            "rows": flat,
        }
        content = json.dumps(_finite(result), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(self.folder / "results.json", content.encode())
        for name, rows in self.shown.items():
            if rows:
                slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
                sheets.write(self.folder / f"sheet-{slug}.png", sheets.captioned(name, rows))


SHEET_ROWS = 4
_SHEET_WIDTH = 480


def _finite(value: Any) -> Any:
    """JSON has no infinity (equal pictures have that PSNR): it becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance(restorer: Restorer, weights: Path, **settings: Any) -> dict[str, Any]:
    """What the numbers came from: the model, its file's hash, versions, device and settings."""
    device = str(restorer.device)
    if restorer.device.type == "cuda":
        device += f", {torch.cuda.get_device_name(restorer.device)}"
    return {
        "model": restorer.name,
        "version": restorer.version,
        "file": weights.name,
        "sha256": sha256(weights),
        "tasks": list(restorer.reader.tasks) if restorer.reader else [],
        "device": device,
        "dtype": str(restorer.dtype).removeprefix("torch."),
        "instructir": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "settings": settings,
    }
