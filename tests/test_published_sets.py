"""Readers of the published training sets, on tiny copies of the folders that downloads make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from instructir_core.cli import main
from instructir_core.training.published_sets import (
    DATASETS,
    Collection,
    clean_folder,
    find_datasets,
    read_dataset,
)


def make(folder: Path, names: Iterable[str], size: tuple[int, int] = (6, 4)) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    return folder


def shown(collection: Collection, folder: Path) -> list[tuple[str | None, str]]:
    def inner(path: Path | None) -> str | None:
        return None if path is None else path.relative_to(folder).as_posix()

    return [(inner(pair.degraded), str(inner(pair.clean))) for pair in collection.pairs]


PAIRED = [
    ("rain100l", "rainy/rain-1.png", "gt/norain-1.png"),
    ("rain100l", "rainy/rain-2.png", "rainy/norain-2.png"),
    ("rain100l", "rain-3.png", "norain-3.png"),
    ("rain100l", "rainy/rain-101.png", "norain/norain-101.png"),
    ("rain100l", "rain_data_train_Light/rain/norain-7x2.png",
     "rain_data_train_Light/norain/norain-7.png"),
    ("rain100l", "train/input/4.png", "train/target/4.png"),
    ("reside-outdoor", "hazy/0025_0.8_0.1.jpg", "clear/0025.jpg"),
    ("reside-outdoor", "OTS/haze/part1/0025_1_0.04.jpg", "OTS/gt/0025.png"),
    ("gopro", "train/GOPR0372_07_00/blur/000047.png", "train/GOPR0372_07_00/sharp/000047.png"),
    ("gopro", "GOPR0372_07_00/blur_gamma/000047.png", "GOPR0372_07_00/sharp/000047.png"),
    ("gopro", "train/input/GOPR0372_07_00-000047.png", "train/target/GOPR0372_07_00-000047.png"),
    ("lol", "our485/low/2.png", "our485/high/2.png"),
    ("lol", "low/2.png", "high/2.png"),
    ("mit5k", "input/a0001-jmac_DSC1459.png", "expertC/a0001-jmac_DSC1459.jpg"),
    ("mit5k", "train/input/0001.jpg", "train/target/0001.jpg"),
    ("mit5k", "input/JPG/480p/a4500.jpg", "expertC/JPG/480p/a4500.jpg"),
    ("bsd400", None, "100075.jpg"),
    ("bsd400", None, "BSDS500/data/images/test/100007.jpg"),
    ("wed", None, "00001.bmp"),
    ("wed", None, "pristine_images/00001.bmp"),
    ("div2k", None, "DIV2K_train_HR/0800.png"),
    ("div2k", None, "0001.png"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "degraded", "clean"), PAIRED)
def test_layouts(name: str, degraded: str | None, clean: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "set", [clean] if degraded is None else [clean, degraded])
    collection = read_dataset(name, folder)
    assert shown(collection, folder) == [(degraded, clean)]
    assert (collection.name, collection.task) == (name, DATASETS[name].task)
    assert f"found 1, published {DATASETS[name].published}" in collection.report


def test_every_dataset_is_tried() -> None:
    assert {name for name, _, _ in PAIRED} == set(DATASETS)


TESTS = [
    ("rain100l", ["rainy/rain-001.png", "rainy/norain-001.png"]),
    ("rain100l", ["rain_data_test_Light/rain/X2/norain-1x2.png",
                  "rain_data_test_Light/norain/norain-1.png"]),
    ("rain100l", [f"{role}/{n}.png" for n in range(1, 101) for role in ("input", "target")]),
    ("lol", ["eval15/low/1.png", "eval15/high/1.png"]),
    ("gopro", ["test/GOPR0384_11_00/blur/1.png", "test/GOPR0384_11_00/sharp/1.png"]),
    ("gopro", ["input/GOPR0384_11_00-000001.png", "target/GOPR0384_11_00-000001.png"]),
    ("reside-outdoor", ["SOTS/outdoor/hazy/0001_0.8_0.2.jpg", "SOTS/outdoor/gt/0001.png"]),
    ("reside-outdoor", ["ITS/hazy/1_1_0.9.png", "ITS/clear/1.png"]),
    ("div2k", ["DIV2K_valid_HR/0801.png"]),
    ("div2k", ["0801.png", "0900.png"]),
    ("mit5k", ["input/a4501-x.png", "expertC/a4501-x.png"]),
    ("mit5k", ["test/input/1.png", "test/target/1.png"]),
    ("bsd400", ["101085.png", "images/val/3096.jpg"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "files"), TESTS)
def test_test_parts_are_refused_and_left_out(name: str, files: list[str], tmp_path: Path) -> None:
    folder = make(tmp_path / "set", files)
    with pytest.raises(ValueError, match=rf"{len(files)} of parts that are not for training"):
        read_dataset(name, folder)
    if name == "rain100l" and "rain_data" not in files[0]:
        return  # these are told by the numbers of the whole, and nothing is beside them
    degraded, clean = next((d, c) for n, d, c in PAIRED if n == name)
    make(folder, [clean] if degraded is None else [degraded, clean])
    collection = read_dataset(name, folder)
    assert shown(collection, folder) == [(degraded, clean)]
    assert f"left out, not for training: {len(files)} ({min(files)[:4]}" in collection.report


@pytest.mark.parametrize(
    ("name", "part"), [("lol", "eval15"), ("gopro", "test"), ("rain100l", "test/Rain100L")]
)
def test_a_test_folder_given_itself(name: str, part: str, tmp_path: Path) -> None:
    folder = make(tmp_path / part, ["input/1.png", "target/1.png"])
    with pytest.raises(ValueError, match="not for training; expected its training part"):
        read_dataset(name, folder)


def test_padded_numbers_of_a_training_set_are_no_test_set(tmp_path: Path) -> None:
    numbers = [f"{n:03}" for n in range(1, 201)]
    names = [f"{kind}-{n}.png" for n in numbers for kind in ("rain", "norain")]
    assert len(read_dataset("rain100l", make(tmp_path / "Rain100L", names)).pairs) == 200


def test_faults_are_reported_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "our485"
    make(folder, [f"low/{n}.png" for n in range(1, 12)])
    make(folder, [f"high/{n}.png" for n in (1, 2, 3)])
    make(folder, ["high/2.png"], size=(6, 5))
    (folder / "low" / "3.png").write_bytes(b"no picture")
    make(folder, ["high/99.png", "else/1.png"])
    (folder / "notes.txt").write_text("not a picture")
    collection = read_dataset("lol", folder)
    assert shown(collection, folder) == [("low/1.png", "high/1.png")]
    lines = [line.strip() for line in collection.report.splitlines()]
    assert lines[0] == "lol (lol): 1 to train on; found 3, published 485"
    names = "low/10.png, low/11.png, low/4.png, low/5.png, low/6.png, ..."
    assert lines[2:] == [
        f"without a clean partner: 8 ({names})",
        "without a degraded partner: 1 (high/99.png)",
        "of another size than its partner: 1 (low/2.png)",
        "unreadable: 1 (low/3.png)",
        "ignored, of another kind: 1",
    ]


def test_a_camera_that_was_turned(tmp_path: Path) -> None:
    folder = make(tmp_path / "fivek", ["expertC/a0001.png"], size=(4, 6))
    (folder / "input").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(folder / "input" / "a0001.jpg", exif=exif)
    assert len(read_dataset("mit5k", folder).pairs) == 1


def test_both_versions_of_gopro(tmp_path: Path) -> None:
    names = [f"train/GOPR0372_07_00/{role}/1.png" for role in ("blur", "blur_gamma", "sharp")]
    collection = read_dataset("gopro", make(tmp_path / "gopro", names))
    assert shown(collection, tmp_path / "gopro") == [(names[0], names[2])]
    assert "ignored, of another kind: 1" in collection.report


def test_equal_names_in_two_scenes_are_not_mixed(tmp_path: Path) -> None:
    scenes = ("GOPR0372_07_00", "GOPR0374_11_00")
    names = [f"train/{s}/{role}/1.png" for s in scenes for role in ("blur", "sharp")]
    collection = read_dataset("gopro", make(tmp_path / "gopro", names))
    assert [(p.degraded.parts[-3], p.clean.parts[-3]) for p in collection.pairs if p.degraded] == [
        (scene, scene) for scene in scenes
    ]


def test_haze_is_drawn_at_random_and_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DATASETS["reside-outdoor"].drawn == 2000
    small = replace(DATASETS["reside-outdoor"], drawn=20)
    monkeypatch.setitem(DATASETS, "reside-outdoor", small)
    folder = make(tmp_path / "OTS", [f"clear/{n:04}.png" for n in range(10)])
    make(folder, [f"hazy/{n:04}_0.8_{b}.png" for n in range(10) for b in ("0.1", "0.2", "0.3")])
    first, second = (read_dataset("reside-outdoor", folder) for _ in range(2))
    assert first == second and len(set(first.pairs)) == 20
    assert list(first.pairs) == sorted(first.pairs, key=lambda pair: str(pair.degraded))
    assert {pair.clean.stem[:4] for pair in first.pairs} > {"0000", "0009"}
    assert "drawn at random, seed 0: 20 of 30" in first.report


def test_not_found_lists_the_layouts(tmp_path: Path) -> None:
    make(tmp_path / "set", ["a/1.png"])
    with pytest.raises(ValueError, match="found 1 pictures in no known layout") as caught:
        read_dataset("gopro", tmp_path / "set")
    assert "{scene}/blur/{name} with {scene}/sharp/{name}" in str(caught.value)
    with pytest.raises(ValueError, match="expected one of bsd400, wed"):
        read_dataset("imagenet", tmp_path)
    with pytest.raises(ValueError, match="found no such folder"):
        read_dataset("lol", tmp_path / "none")


def test_clean_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "holiday", ["b.png", "sub/a.jpg", ".hidden/c.png"])
    (folder / "broken.png").write_bytes(b"no picture")
    collection = clean_folder(folder, "rain")
    assert shown(collection, folder) == [(None, "b.png"), (None, "sub/a.jpg")]
    assert collection.task == "rain" and "unreadable: 1 (broken.png)" in collection.report
    with pytest.raises(ValueError, match="expected a task"):
        clean_folder(folder, "snow")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="none readable"):
        clean_folder(tmp_path / "empty", "rain")


def test_find_datasets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    make(root / "LOLdataset", ["our485/low/2.png", "our485/high/2.png", "eval15/low/1.png"])
    make(root / "DIV2K", ["DIV2K_train_HR/0001.png", "DIV2K_train_LR_bicubic/X2/0001x2.png"])
    make(root / "more" / "DIV2K_train_HR", ["0001.png", "0002.png"])
    make(root / "RESIDE", ["SOTS/hazy/0001_0.8_0.2.jpg", "SOTS/gt/0001.png"])
    make(root / "test" / "Rain100L", ["input/1.png", "target/1.png"])
    make(root / "holiday", ["low/2.png", "high/2.png"])  # no task is guessed from its folders
    found = find_datasets(root)
    assert {name: len(c.pairs) for name, c in found.items()} == {"lol": 1, "div2k": 2}
    assert list(found) == ["lol", "div2k"]
    assert "no known layout of reside-outdoor" in caplog.text
    assert main(["datasets", str(root)]) == 0
    printed = capsys.readouterr().out
    assert found["lol"].report in printed and "gopro (blur): not found. GOPRO" in printed
    assert main(["datasets", str(root / "none")]) == 1
