"""Experiments on the tiny model against plain forward passes; tables, files and the command."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tiny_model import CLASSES

from instructir_core import Restorer, files, sheets
from instructir_core.cli import main
from instructir_core.evaluation import experiments, report, sets
from instructir_core.evaluation.experiments import LabelledSentence
from instructir_core.evaluation.published import PUBLISHED
from instructir_core.tasks import TASKS

SENTENCES = [
    LabelledSentence(t, "adult", f"{t} {word}") for t in CLASSES for word in ("a", "b", "c", "d")
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "CBSD68"
    folder.mkdir()
    for index, name in enumerate(("a", "b", "c")):
        pixels = data.coffee()[60 * index : 60 * index + 35, 200:250]
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def plain(restorer: Restorer, pixels: np.ndarray, text: str) -> np.ndarray:
    """The network's own forward pass of the mirrored picture, which knows no strips."""
    height, width = pixels.shape[:2]
    padding = [(0, -height % 4), (0, -width % 4), (0, 0)]
    image = torch.from_numpy(np.pad(pixels, padding, "reflect")).permute(2, 0, 1)[None]
    with torch.inference_mode():
        result = restorer.network(image, restorer.encode(text).embedding)
    return result[0].permute(1, 2, 0)[:height, :width].numpy()


# --- experiments -------------------------------------------------------------------------------


@pytest.mark.parametrize("upstream", [False, True])
def test_score(restorer: Restorer, photos: Path, upstream: bool) -> None:
    images = sets.synthetic(photos, "noise25")
    found = [row for row, _ in experiments.score(restorer, images, upstream=upstream)]
    assert [row.image for row in found] == ["a", "b", "c"]
    for row, whole in zip(found, images, strict=True):
        pair = sets.cropped(whole) if upstream else whole
        result = plain(restorer, pair.degraded, TASKS["noise"].prompt)
        assert result.max() > 1 or result.min() < 0  # so that clamping shows
        result = result if upstream else result.clip(0, 1)
        expected = peak_signal_noise_ratio(pair.clean, result, data_range=1)
        assert row.restored["psnr_float"] == pytest.approx(expected, abs=1e-4)
        rounded, target = (
            np.rint(a.clip(0, 1) * 255).astype(np.uint8) for a in (result, pair.clean)
        )
        expected = structural_similarity(
            target, rounded, channel_axis=-1, gaussian_weights=True, use_sample_covariance=False
        )
        assert row.restored["ssim_8bit"] == pytest.approx(expected, abs=1e-4)
        expected = peak_signal_noise_ratio(pair.clean, pair.degraded, data_range=1)
        assert row.input["psnr_float"] == pytest.approx(expected, abs=1e-4)
        assert (row.height, row.width) == ((32, 48) if upstream else (35, 50))
        assert row.protocol == ("upstream" if upstream else "whole")
        assert row.sentence == TASKS["noise"].prompt
    assert len(list(experiments.score(restorer, images, limit=2))) == 2
    again = experiments.score(restorer, images, lpips=lambda *_: 0.25, upstream=upstream)
    lpips = {"lpips": 0.25}
    assert [
        replace(row, input={**row.input, **lpips}, restored={**row.restored, **lpips})
        for row in found
    ] == [row for row, _ in again]


def test_whole_pictures_are_scored_as_they_are_restored(restorer: Restorer, photos: Path) -> None:
    images = sets.synthetic(photos, "noise25")
    row, shown = next(experiments.score(restorer, images))
    instruction = restorer.encode(TASKS["noise"].prompt)
    pair = next(iter(images))
    restored = restorer.restore(torch.from_numpy(pair.degraded), instruction).numpy()
    np.testing.assert_allclose(shown[1][1], restored, atol=1e-6)
    expected = peak_signal_noise_ratio(pair.clean, restored, data_range=1)
    assert row.restored["psnr_float"] == pytest.approx(expected, abs=1e-4)


def test_wording(restorer: Restorer, photos: Path) -> None:
    images = sets.synthetic(photos, "noise25")
    rows = list(experiments.wording(restorer, images, SENTENCES, count=3))
    assert len(rows) == 9 and rows == list(
        experiments.wording(restorer, images, SENTENCES, count=3)
    )
    used = [{row.sentence for row in rows if row.image == name} for name in "abc"]
    assert all(len(texts) == 3 and texts < {s.text for s in SENTENCES[:4]} for texts in used)
    first = next(iter(images))
    expected = peak_signal_noise_ratio(
        first.clean, plain(restorer, first.degraded, rows[0].sentence).clip(0, 1), data_range=1
    )
    assert rows[0].psnr_float == pytest.approx(expected, abs=1e-4)
    (summary,) = report.summarise(rows)["wording"]
    values = np.array([row.psnr_float for row in rows]).reshape(3, 3)
    assert summary["psnr_float_mean"] == pytest.approx(values.mean())
    assert summary["psnr_float_std"] == pytest.approx(values.std(axis=1).mean())
    assert summary["psnr_float_worst"] == pytest.approx(values.min(axis=1).mean())
    with pytest.raises(ValueError, match="Found 4 sentences for 'noise'; expected 5"):
        list(experiments.wording(restorer, images, SENTENCES, count=5))


def test_identity(restorer: Restorer, photos: Path) -> None:
    paths = sets.files(photos)
    rows = list(experiments.identity(restorer, paths, SENTENCES, count=2, size=24, limit=2))
    assert len(rows) == 2 * 2 * (1 + len(TASKS) + len(TASKS))
    kinds = {row.set for row in rows}
    assert {"clean, asked none", "rain degraded, asked none", "clean, asked rain"} < kinds
    assert "rain degraded, asked rain" not in kinds
    row = next(row for row in rows if row.set == "clean, asked haze")
    clean = np.asarray(Image.open(photos / "a.png"))[5:29, 13:37].astype(np.float32) / 255
    result = plain(restorer, clean, row.sentence).clip(0, 1)
    expected = peak_signal_noise_ratio(clean, result, data_range=1)
    assert row.psnr_float == pytest.approx(expected, abs=1e-4)


def test_chain_undoes_the_last_degradation_first(restorer: Restorer, photos: Path) -> None:
    paths = sets.files(photos)[:1]
    ((rows, shown),) = experiments.chain(restorer, paths, "sr2+noise25")
    assert [(row.link, row.task) for row in rows] == [(0, None), (1, "noise"), (2, "sr")]
    clean = np.asarray(Image.open(photos / "a.png")).astype(np.float32) / 255
    small = sets.down_up(clean, 2)
    degraded = sets.paper_noise(small, 25).astype(np.float32)
    np.testing.assert_allclose(shown[0][1], degraded, atol=1e-6)
    steps = [restorer.encode(TASKS[t].prompt) for t in ("noise", "sr")]
    expected = restorer.restore(torch.from_numpy(degraded), steps).numpy()
    np.testing.assert_allclose(shown[2][1], expected, atol=1e-4)
    for row, stage in ((rows[0], degraded), (rows[2], expected)):
        wanted = peak_signal_noise_ratio(np.rint(clean * 255), np.rint(stage * 255), data_range=255)
        assert row.psnr_8bit == pytest.approx(wanted, abs=1e-2)
    assert shown[3][0] == "target" and shown[0][0] == f"input {rows[0].psnr_float:.2f} dB"


def test_sentences(restorer: Restorer, tmp_path: Path) -> None:
    path = tmp_path / "s.tsv"
    task = restorer.encode("abc").task
    other = next(t for t in TASKS if t != task)
    path.write_text(f"# note\n\n{task}\tadult\tabc\n{other}\tchild\tabc\n{task}\tabc d\n", "utf-8")
    rows = experiments.read_sentences(path)
    assert rows == [(task, "abc"), (other, "abc"), (task, "abc d")]
    assert (other, task, "abc") in experiments.misread(restorer, rows)
    sentences = experiments.read_test_sentences(path)
    assert [s.speaker for s in sentences] == ["adult", "child", ""]
    read = list(experiments.read_all(restorer, sentences[:2]))
    classes, counts = report.confusion(read)
    assert classes == list(CLASSES) and counts.sum() == 2
    assert counts[classes.index(task), classes.index(task)] == 1
    assert counts[classes.index(other), classes.index(task)] == 1
    assert report.summarise(read)["sentences"]["speakers"] == {"adult": 1.0, "child": 0.0}
    with pytest.raises(ValueError, match="'fog' for 'x'; expected one of noise"):
        list(experiments.read_all(restorer, [LabelledSentence("fog", "", "x")]))


@pytest.mark.parametrize(
    ("content", "said"), [("noise\n", "line 1"), ("a\tb\tc\td\n", "line 1"), ("# x\n", "no sent")]
)
def test_bad_sentence_files(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "s.tsv"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=said):
        experiments.read_sentences(path)


# --- tables and files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "sets", "psnr", "ssim"),
    [
        (v, ("Rain100L", "SOTS-outdoor", "CBSD68 sigma 25", "GoPro", "LOL"), p, s)
        for v, p, s in (("5D w/o text", 27.84, 0.884), ("5D", 29.55, 0.907), ("6D", 29.55, 0.908),
                        ("7D", 29.50, 0.907))
    ] + [
        (v, ("Rain100L", "SOTS-outdoor", *(f"CBSD68 sigma {n}" for n in (15, 25, 50))), p, s)
        for v, p, s in (("3D", 32.43, 0.913), ("3D w/o text", 30.65, 0.900))
    ],
)  # fmt: skip
def test_published_scores_have_the_published_averages(
    variant: str, sets: tuple[str, ...], psnr: float, ssim: float
) -> None:
    scores = [PUBLISHED[name][variant] for name in sets]
    assert np.mean([p for p, _ in scores]) == pytest.approx(psnr, abs=0.011)
    assert np.mean([s for _, s in scores]) == pytest.approx(ssim, abs=0.0011)


def score_row(name: str, psnr: float, ssim: float) -> report.Row:
    kinds = [f"{m}_{k}" for k in ("float", "8bit", "y", "y_swapped") for m in ("psnr", "ssim")]
    given = dict.fromkeys(kinds, 20.0)
    restored = {kind: psnr if "psnr" in kind else ssim for kind in kinds}
    return report.Row(
        "score", name, "noise", "1", protocol="upstream", input=given, restored=restored
    )


def test_gap_to_the_paper() -> None:
    rows = [score_row("CBSD68 sigma 25", 30.0, 0.8), score_row("CBSD68 sigma 25", 32.0, 0.9)]
    summary = report.summarise(rows)
    assert summary["score"][0]["gain_psnr_8bit"] == pytest.approx(11)
    (gap,) = [row for row in summary["published"] if row["variant"] == "7D"]
    assert gap["psnr_gap"] == pytest.approx(31 - 31.37)
    assert gap["ssim_gap"] == pytest.approx(0.85 - 0.887)
    text = report.tables(summary)
    assert "31.37 -0.37" in text and "0.887 -0.037" in text
    assert "of 2 pictures; published of 68" in text
    line = report.score_line(summary["score"][0])
    assert all(part in line for part in ("CBSD68 sigma 25", "31.00", "+11.00", "0.850"))
    assert not report.tables(report.summarise([score_row("mine", 30.0, 0.8)]))
    whole = report.summarise([replace(row, protocol="whole") for row in rows])
    assert not whole["published"] and "--upstream" in report.tables(whole)


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report.Report(tmp_path / "out", {"model": "tiny"})
    assert not list((tmp_path / "out").iterdir())  # results of an earlier run stay until the first
    row = score_row("mine", 30.0, 0.8)
    found.add([replace(row, input={**row.input, "psnr_float": float("inf")})])
    found.save()
    content = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert content["provenance"] == {"model": "tiny"}
    assert content["rows"][0]["input_psnr_float"] is None  # JSON knows no infinity
    assert "gain_psnr_float" not in content["summary"]["score"][0]
    before = (tmp_path / "out" / "results.csv").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    found.add([score_row("other", 30.0, 0.8)])
    with pytest.raises(OSError, match="No space left"):
        found.save()
    assert (tmp_path / "out" / "results.csv").read_bytes() == before
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"results.csv", "results.json"}


def test_sheet_shows_pictures_under_their_captions() -> None:
    pixels = [np.full((30, 200, 3), 60 * n, np.uint8) for n in range(3)]
    row = list(zip(("input 1.00 dB", "restored 2.00 dB", "target"), pixels, strict=True))
    sheet = sheets.captioned("a set", [row, row])
    assert sheet.dtype == np.uint8
    for column, picture in enumerate(pixels):
        x = 8 + 208 * column
        where = (sheet[:, x : x + 200].reshape(len(sheet), -1) == picture[0, 0, 0]).all(axis=1)
        assert where.sum() == 60
        caption = sheet[np.flatnonzero(where)[0] - 28 : np.flatnonzero(where)[0], x : x + 200]
        assert (caption < 100).any()


def test_from_python_it_takes_three_lines(
    restorer: Restorer, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = experiments.evaluate(
        restorer, experiments.Evaluation(sets=[sets.synthetic(photos, "noise25")])
    )
    assert [row.test for row in found.rows] == ["score"] * 3
    assert "CBSD68 noise25" in capsys.readouterr().out


# --- the command -------------------------------------------------------------------------------


def run(weights: Path, *arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--model", str(weights), "--device", "cpu"])


def test_everything_with_one_command(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("input", "target"):
        folder = tmp_path / "Rain12" / name
        folder.mkdir(parents=True)
        Image.fromarray(data.coffee()[:33, :48]).save(folder / "1.png")
    sentences = tmp_path / "s.tsv"
    sentences.write_text("".join("\t".join(s) + "\n" for s in SENTENCES), "utf-8")
    out = tmp_path / "results"
    arguments = [
        "--suite", tmp_path, "--clean", photos, "sr2", "rain+noise25", "--identity", photos,
        "--sentences", sentences, "--phrasings", 2, "--limit", 2, "--size", 32, "--out", out,
    ]  # fmt: skip
    assert run(weights, *arguments, "--upstream") == 0
    printed = capsys.readouterr().out
    parts = ("CBSD68 sigma 15", "Rain12", "CBSD68 sr2", "Beside the paper", "published: 24.8433",
             "Wording", "Identity", "Chains", "sentences read right")  # fmt: skip
    assert not [part for part in parts if part not in printed]
    content = json.loads((out / "results.json").read_text("utf-8"))
    assert content["provenance"]["sha256"] == files.sha256(weights)
    settings = {"limit": 2, "size": 32, "phrasings": 2, "upstream": True}
    assert content["provenance"]["settings"] == settings
    assert [s["images"] for s in content["summary"]["score"]] == [2, 2, 2, 1, 2]
    with open(out / "results.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(content["rows"])
    assert {r["test"] for r in rows} == {"score", "wording", "identity", "chain", "sentences"}
    assert {p.name for p in out.glob("*.png")} == {
        *(f"sheet-cbsd68-sigma-{s}.png" for s in (15, 25, 50)),
        "sheet-rain12.png", "sheet-cbsd68-sr2.png", "sheet-cbsd68-rain-noise25.png",
    }  # fmt: skip
    first = (out / "results.csv").read_bytes()
    assert run(weights, *arguments, "--upstream") == 0
    assert (out / "results.csv").read_bytes() == first
    capsys.readouterr()
    assert run(weights, *arguments) == 0
    printed = capsys.readouterr().out
    assert "Beside the paper" not in printed and "--upstream" in printed
    assert (out / "results.csv").read_bytes() != first


def test_phrasings_of_the_corpus(weights: Path, photos: Path) -> None:
    assert run(weights, "--clean", photos, "noise25", "--phrasings", 10, "--limit", 1) == 0


def test_held_out(weights: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "defgh":
        Image.open(photos / "a.png").save(photos / f"{name}.png")
    assert run(weights, "--held-out", photos, "--skip", "a.png", "--limit", 1) == 0
    printed = capsys.readouterr().out
    assert "held-out sr" in printed and "held-out clean, none" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to evaluate"),
        (("--suite", "nowhere"), "nowhere: found no such folder"),
        (("--clean", "here"), "found no recipe"),
        (("--clean", "{photos}", "noise25+fog"), "'fog'"),
        (("--pairs", "fog", "a", "b"), "'fog'"),
        (("--identity", "nowhere"), "nowhere: found no such folder"),
        (("--sentences", "nowhere.tsv"), "nowhere.tsv"),
        (("--clean", "{photos}", "noise25", "--limit", 0), "--limit is 0; expected 1"),
        (("--clean", "{photos}", "sr2", "noise5", "sr2"), "two sets called CBSD68 sr2"),
        (("--identity", "{photos}", "--phrasings", 9999), "sentences for 'noise'; expected 9999"),
        (("--clean", "{photos}", "rain", "--phrasings", 9999), "sentences for 'rain'"),
    ],
)
def test_what_is_wrong_is_said_before_loading(
    tmp_path: Path,
    photos: Path,
    arguments: tuple[object, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = tuple(str(a).replace("{photos}", str(photos)) for a in arguments)
    assert run(tmp_path / "no-such.safetensors", *arguments) == 1
    assert said in capsys.readouterr().err


def test_out_that_cannot_be_written_is_said_first(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert run(weights, "--clean", photos, "noise25", "--out", tmp_path / "file" / "out") == 1
    captured = capsys.readouterr()
    assert "could not be written to" in captured.err and "CBSD68" not in captured.out
