"""Trees of pictures: killed and resumed runs, and the manifest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instructir_core import files
from instructir_core.batch import plan_files
from instructir_core.cli import main
from instructir_core.manifest import Manifest, read_lines, stamps

ROOT = Path(__file__).parent.parent
NAMES = ["a.png", "b.png", "day/a.png", "day/one/c.png", "day/two/c.png", "é 图.png"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in (*NAMES, ".cache/thumb.png"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(path)
    (tmp_path / "tree" / "notes.txt").write_text("left alone")
    return tmp_path / "tree"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def arguments(weights: Path, tree: Path, out: Path, *more: object) -> list[str]:
    given = ["restore", tree, "-o", out, "--model", weights, "--device", "cpu", "--recursive"]
    return [*map(str, given), "-i", "derain", *map(str, more)]


def lines(out: Path) -> list[dict[str, Any]]:
    return [line for path in sorted(out.glob("*.jsonl")) for line in read_lines(path)]


def results(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*.png")}


def start(code: str, given: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *given], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_tree_and_manifest(weights: Path, tree: Path, tmp_path: Path) -> None:
    out = tree / "out"  # inside of the input: a second run must not restore its results
    for _ in range(2):
        assert main(arguments(weights, tree, out)) == 0
        assert sorted(results(out)) == sorted(NAMES)
    entries = lines(out)
    assert Counter(line["target"] for line in entries) == dict.fromkeys(NAMES, 2)
    line = next(line for line in entries if line["target"] == "day/one/c.png")
    source = tree / "day" / "one" / "c.png"
    assert line["source"] == str(source) and line["source_bytes"] == source.stat().st_size
    assert (line["status"], line["width"], line["height"]) == ("ok", 12, 9)
    assert (line["model"], line["version"], line["device"]) == ("tiny", "7", "cpu")
    assert line["seconds"] >= 0
    assert line["settings"]["instructions"] == ["derain"]
    assert line["settings"]["weights_sha256"] == files.sha256(weights)
    # Each picture is what restoring it alone gives.
    alone = tmp_path / "alone.png"
    given = ["restore", source, "-i", "derain", "-o", alone, "--model", weights, "--device", "cpu"]
    assert main([*map(str, given)]) == 0
    assert alone.read_bytes() == (out / "day" / "one" / "c.png").read_bytes()


def test_killed_and_resumed(
    weights: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    code = """
import os, sys
from instructir_core import batch, pictures
from instructir_core.cli import main
write, count = pictures.write_atomically, 0
def dying(target, data):
    global count
    count += 1
    if count == 4:
        (target.parent / ".half.tmp").write_bytes(data[:20])
        os._exit(9)
    write(target, data)
pictures.write_atomically = dying
main(sys.argv[1:])
"""
    process = start(code, arguments(weights, tree, out))
    assert (process.communicate(timeout=120), process.returncode)[1] == 9
    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert len(done) == len(lines(out)) == 3
    # As if the third line had been cut off: its picture is restored again, and no line is lost.
    manifest = out / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-30])
    assert main(arguments(weights, tree, out, "--resume")) == 0
    assert "6 pictures, 2 were finished before, 0 failed" in capsys.readouterr().out
    assert sum(path.stat().st_mtime_ns == changed for path, changed in done.items()) == 2
    assert {line["target"] for line in lines(out)} == set(NAMES)
    assert main(arguments(weights, tree, whole)) == 0
    assert results(out) == results(whole)
    # Now there is nothing left to do.
    assert main(arguments(weights, tree, out, "--resume")) == 0
    assert "6 pictures, 6 were finished before" in capsys.readouterr().out


def test_what_makes_a_picture_unfinished(
    weights: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def finished(*more: object) -> int:
        capsys.readouterr()
        assert main(arguments(weights, tree, out, "--resume", *more)) == 0
        words = capsys.readouterr().out.rpartition("6 pictures, ")[2].split()
        return int(words[0]) if "finished" in words else 0

    assert [finished(), finished()] == [0, 6]
    Image.new("RGB", (5, 5)).save(tree / "a.png")  # another source
    (out / "b.png").unlink()  # no target
    (out / "day" / "a.png").write_bytes(b"")  # another target
    assert [finished(), finished()] == [3, 6]
    assert finished("--strength", "0.5") == 0
    assert finished("-i", "denoise") == 0
    # Each run replaced the targets: those of the first settings are there no more.
    assert finished() == 0


def test_recursive_plan(tree: Path, tmp_path: Path) -> None:
    jobs, refused = plan_files([str(tree)], tmp_path / "out", recursive=True)
    assert not refused and [s.relative_to(tree).as_posix() for s, _ in jobs] == sorted(NAMES)
    assert all(t.relative_to(tmp_path / "out") == s.relative_to(tree) for s, t in jobs)
    assert len(plan_files([str(tree)], tmp_path / "out")[0]) == 3  # the old way: one level
    other = tmp_path / "other"
    (other / "day").mkdir(parents=True)
    (other / "day" / "a.png").write_bytes(b"another picture")
    with pytest.raises(ValueError, match="two inputs of this name"):
        plan_files([str(tree), str(tree / "day" / "one"), str(other)], tmp_path / "out", True)
    with pytest.raises(ValueError, match="expected a folder"):
        plan_files([str(tree / "day" / "one")], tmp_path / "x.png", recursive=True)


def test_manifests_of_earlier_versions_count(
    weights: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their processes wrote one file each."""
    out = tmp_path / "out"
    assert main(arguments(weights, tree, out)) == 0
    entries = (out / "manifest.jsonl").read_text("utf-8").splitlines(keepends=True)
    (out / "manifest.jsonl").unlink()
    for rank in (0, 1):
        (out / f"manifest-{rank}.jsonl").write_text("".join(entries[rank::2]), "utf-8")
    assert main(arguments(weights, tree, out, "--resume")) == 0
    assert "6 pictures, 6 were finished before, 0 failed" in capsys.readouterr().out
    assert not (out / "manifest.jsonl").exists()


def test_errors_say_what_to_do(
    weights: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    one = ["restore", str(tree / "a.png"), "-i", "derain", "--model", str(weights), "--resume"]
    assert main([*one, "-o", str(tmp_path / "x.png")]) == 1
    assert "expected a folder for the pictures and their manifest" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(arguments(weights, tree, tmp_path / "out")) == 1
    assert "Found WORLD_SIZE=2" in (said := capsys.readouterr().err) and "--ray" in said
    monkeypatch.setenv("WORLD_SIZE", "1")
    given = arguments(weights, tree, tmp_path / "out", "--compare", tmp_path / "s.png", "--ray")
    assert main(given) == 1
    assert "--compare: found --ray" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "x.png").exists()


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    source, target = tmp_path / name, tmp_path / "out" / name
    try:
        for path in (source, target):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
    except OSError:
        pytest.skip("this file system knows only names in Unicode")
    found = stamps(source, target)
    Manifest(tmp_path / "out", {}).add(source, target, status="ok", **found)
    assert Manifest(tmp_path / "out", {}).is_finished(source, target)
    assert not Manifest(tmp_path / "out", {"strength": 1}).is_finished(source, target)


def test_files_of_other_formats_are_counted_not_dropped_in_silence(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "day" / "loop.GIF").write_bytes(b"GIF89a")
    (tree / "day" / "two.gif").write_bytes(b"GIF89a")
    (tree / "day" / ".hidden.gif").write_bytes(b"GIF89a")
    (tree / "README").write_text("of no suffix")
    jobs, refused = plan_files([str(tree)], tmp_path / "out", recursive=True)
    assert (len(jobs), refused) == (len(NAMES), 0)
    assert capsys.readouterr().err == (
        "left out, as of no format that is read: 2 .gif, 1 .txt, 1 without a suffix\n"
    )
