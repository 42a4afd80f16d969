"""Samples, and a training run of a few steps, stopped and resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from tiny_model import DATA, TINY

from instructir_core import checkpoint
from instructir_core.evaluation.degradations import held_out_pairs
from instructir_core.model import InstructIR
from instructir_core.tasks import CLASSES, TASKS
from instructir_core.text import HashedEncoderConfig
from instructir_core.training.corpus import load_corpus
from instructir_core.training.presets import MINI_NETWORK, PRESETS, Stage, TrainingConfig
from instructir_core.training.published_sets import FilePair
from instructir_core.training.recipes import RECIPES
from instructir_core.training.run import LEAST_SCENE_ERROR, Pace, Run, sample_loss
from instructir_core.training.samples import (
    Batches,
    Pictures,
    Source,
    collect_sources,
    draw_pair,
    photo_files,
    split_held_out,
)
from instructir_core.training.sentence_training import train_sentences
from instructir_core.training.trainer import Views, train


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(("astronaut", "coffee", "chelsea", "rocket", "cat", "retina")):
        if hasattr(data, name):
            pixels = getattr(data, name)()[: 200 + index, :220]
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_photos_are_split_and_skipped(photos: Path, tmp_path: Path) -> None:
    everything = photo_files(photos)
    training, held = split_held_out(everything)
    assert held == [everything[5]] and training == everything[:5]
    assert len(photo_files(photos, ["0.png"])) == len(everything) - 1
    training, held = split_held_out(everything, also=["1.png"])
    assert held == [everything[1], everything[5]] and len(training) == len(everything) - 2
    with pytest.raises(ValueError, match=r"no photo none\.png to hold out"):
        split_held_out(everything, also=["none.png"])
    with pytest.raises(ValueError, match=r"no none\.png to skip"):
        photo_files(photos, ["none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found no pictures"):
        photo_files(tmp_path / "empty")


def test_pictures_are_kept_up_to_a_limit(photos: Path) -> None:
    paths = photo_files(photos)
    store = Pictures(limit=300_000)
    whole = store.read(paths[0])
    assert store.read(paths[0]) is whole
    assert store.read(paths[0], 0.6).shape == (120, 132, 3)
    for path in paths:
        store.read(path)
    assert store.bytes <= 300_000 and store.read(paths[0]) is not whole


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seven data sets in the folders that their downloads unpack to, a few tiny files each."""
    root = tmp_path_factory.mktemp("data")
    layout = {
        "BSD400": ("a", "b"),
        "Rain100L": ("norain/norain-1", "rain/rain-1"),
        "OTS": ("clear/0025", "hazy/0025_0.8_0.1"),
        "GoPro/train": ("SCENE/sharp/000001", "SCENE/blur/000001"),
        "LOL/our485": ("high/1", "low/1"),
        "DIV2K/DIV2K_train_HR": ("0001", "0002"),
        "FiveK": ("expertC/a0001", "input/a0001"),
    }
    photo = data.astronaut()[60:124, 200:272]
    for folder, (clean, degraded) in layout.items():
        for name, pixels in ((clean, photo), (degraded, photo // 2 + 20)):
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


@pytest.mark.parametrize("task", TASKS)
def test_pairs(photos: Path, task: str) -> None:
    training, _ = collect_sources([task], photos)
    store, changed = Pictures(), 0
    for seed in range(40):
        degraded, clean = draw_pair(training[task], store, 48, np.random.default_rng(seed))
        assert degraded.shape == clean.shape == (48, 48, 3)
        changed += not np.array_equal(degraded, clean)
        plain, target = draw_pair(training[task], store, 48, np.random.default_rng(seed), True)
        assert not np.array_equal(plain, target)
    assert changed == 40 if not RECIPES[task].clean_share else 40 > changed >= 24


def test_pairs_of_files_are_cut_at_the_same_place(tmp_path: Path) -> None:
    dark, bright = tmp_path / "low.png", tmp_path / "high.png"
    pixels = np.random.default_rng(0).integers(100, 200, (80, 90, 3), np.uint8)
    Image.fromarray(pixels).save(bright)
    Image.fromarray(pixels - 90).save(dark)
    source = Source("lol", (FilePair(dark, bright),))
    for seed in range(8):
        degraded, clean = draw_pair(source, Pictures(), 32, np.random.default_rng(seed))
        np.testing.assert_allclose(clean - degraded, 90 / 255, atol=1e-6)


def test_colour_is_learned_from_recoloured_photos_but_scored_on_true_ones(tmp_path: Path) -> None:
    brick = np.array([190, 110, 80], np.uint8)
    for name, colour in (("brick", brick), ("grey", np.full(3, 110, np.uint8))):
        Image.fromarray(np.tile(colour, (200, 200, 1))).save(tmp_path / f"{name}.png")
    found = {}
    for name in ("brick", "grey"):
        source = Source("en", (FilePair(None, tmp_path / f"{name}.png"),), RECIPES["en"].degrade)
        for plain in (False, True):
            rngs = (np.random.default_rng(seed) for seed in range(40))
            # Where no even sky is drawn.
            targets = [draw_pair(source, Pictures(), 32, rng, plain)[1][-1, -1] for rng in rngs]
            found[name, plain] = np.array(targets)
    as_it_is = np.abs(found["brick", False] - brick / np.float32(255)).max(1) < 1e-6
    assert 8 <= as_it_is.sum() <= 24
    assert np.abs(found["brick", True] - brick / np.float32(255)).max() < 1e-6
    grey = found["grey", False]
    assert np.ptp(grey, axis=1).max() < 1e-6 and np.ptp(grey[:, 0]) > 0.02


def test_graphics_are_only_left_as_they_are(photos: Path, tmp_path: Path) -> None:
    for index in range(6):
        Image.new("RGB", (80, 80), (200, 30, 40 * index)).save(tmp_path / f"{index}.png")
    training, _ = collect_sources(["sr"], photos, graphics=tmp_path)
    assert [p.name for p in training["sr"].graphics] == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "4.png",
    ]
    flat = 0
    for seed in range(300):
        degraded, clean = draw_pair(training["sr"], Pictures(), 32, np.random.default_rng(seed))
        if np.ptp(clean.reshape(-1, 3), axis=0).max() < 0.01 and clean[0, 0, 0] > 0.7:
            assert np.array_equal(degraded, clean) and clean[0, 0, 2] < 0.7  # the sixth is held out
            flat += 1
    assert 1 <= flat <= 25  # 0.35 of 6 % of the samples


def test_whole_scenes_show_skies_in_their_share(tmp_path: Path) -> None:
    """Of a picture half smooth, half busy, crops of haze show both halves alike, others do not."""
    pixels = np.random.default_rng(0).integers(90, 200, (400, 400, 3), np.uint8)
    pixels[:200] = 150
    Image.fromarray(pixels).save(tmp_path / "a.png")
    smooth = {}
    for task in ("haze", "noise"):
        source = Source(task, (FilePair(None, tmp_path / "a.png"),), RECIPES[task].degrade)
        store = Pictures()
        rngs = (np.random.default_rng(seed) for seed in range(120))
        drawn = [draw_pair(source, store, 48, rng, True)[1] for rng in rngs]
        smooth[task] = np.mean([np.abs(clean - 150 / 255) < 0.01 for clean in drawn])
    assert smooth["haze"] > 0.4 and smooth["noise"] < 0.85 * smooth["haze"]


def batches(photos: Path, rank: int = 0, world: int = 1) -> Batches:
    training, _ = collect_sources(CLASSES, photos)
    bank = {c: torch.full((2, 4), float(i)) for i, c in enumerate(CLASSES)}
    shares = dict.fromkeys(CLASSES, 1.0)
    return Batches(
        training,
        shares,
        CLASSES,
        bank,
        size=32,
        batch=3 * len(CLASSES),
        seed=0,
        rank=rank,
        world=world,
    )


def test_batches_depend_on_seed_and_number_alone(photos: Path) -> None:
    first, again = batches(photos), batches(photos)
    for a, b in zip(first[7], again[7], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[7][0], first[8][0])
    degraded, clean, vectors, classes = first[7]
    assert torch.equal(vectors[:, 0].long(), classes)  # each sentence asks for its sample's task
    assert torch.bincount(classes).tolist() == [3] * len(CLASSES)
    nothing = classes == CLASSES.index("none")
    assert torch.equal(degraded[nothing], clean[nothing])


def test_processes_share_a_batch(photos: Path) -> None:
    whole = batches(photos)[3]
    for rank in range(2):
        for a, b in zip(batches(photos, rank, 2)[3], whole, strict=True):
            assert torch.equal(a, b[rank::2])


def test_held_out_draws_repeat(photos: Path) -> None:
    known = photo_files(photos)
    one = list(held_out_pairs(known, "blur"))
    two = list(held_out_pairs(known, "blur"))
    assert len(one) == 2 * len(known)
    assert [name for name, _, _ in one] == [f"{p.stem} {d}" for p in known for d in (0, 1)]
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


def test_sentences_are_learnt() -> None:
    corpus = [s for s in load_corpus(per_pattern=4, languages=["en"]) if not s.handwritten]
    corpus = [s for s in corpus if s.task in ("noise", "rain", "none")][::2]
    encoder, head = train_sentences(
        corpus,
        0,
        200,
        48,
        learning_rate=6e-3,
        config=HashedEncoderConfig(512, 16, 2, 1),
        embedding_width=32,
    )
    with torch.no_grad():
        _, logits = head(encoder.encode([s.text for s in corpus]))
    right = sum(CLASSES[int(i)] == s.task for i, s in zip(logits.argmax(1), corpus, strict=True))
    assert right > 0.8 * len(corpus)


def tiny_config(**changes: Any) -> TrainingConfig:
    config = replace(
        PRESETS["mini"], network=TINY, steps=6, stages=(Stage(0.0, 32, 4), Stage(0.5, 48, 2)),
        sentence_steps=2, sentences=20, every=2, precision="no",
    )  # fmt: skip
    return replace(config, **changes)


def network_of(path: Path) -> dict[str, torch.Tensor]:
    network = checkpoint.load(path).network
    assert network is not None
    return network.state_dict()


SCRIPT = str(DATA.parent / "train_tiny.py")
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(DATA.parent.parent), str(DATA.parent)]),
    "OMP_NUM_THREADS": "1",
}


def run_tiny(*arguments: str | Path) -> None:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_learn_what_one_does(photos: Path, tmp_path: Path) -> None:
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run_tiny(*launch, SCRIPT, "--photos", photos, tmp_path / "two")
    run_tiny(SCRIPT, "--photos", photos, tmp_path / "one")
    one, two = (checkpoint.load(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    assert one.network is not None and two.network is not None
    for name, value in one.network.state_dict().items():
        torch.testing.assert_close(two.network.state_dict()[name], value, atol=1e-5, rtol=0)
    assert (one.provenance["processes"], two.provenance["processes"]) == (1, 2)


def test_killed_7d_run_ends_with_the_same_weights(data_sets: Path, tmp_path: Path) -> None:
    command = (SCRIPT, "--preset", "7d", "--data", data_sets)
    run_tiny(*command, tmp_path / "whole")
    parts = tmp_path / "parts"
    run = subprocess.Popen([sys.executable, *map(str, command), str(parts)], env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while not (parts / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    state = torch.load(parts / "state.pt", weights_only=True)
    assert 0 < state["done"] < 30 and not (parts / "model.safetensors").exists()
    run_tiny(*command, parts)
    whole, resumed = (network_of(f / "model.safetensors") for f in (tmp_path / "whole", parts))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert (parts / "samples.jpg").stat().st_size > 1000
    assert "rain" in (parts / "log.txt").read_text()
    assert list((parts / "tensorboard").iterdir())
    training, held = collect_sources([*TASKS], data=data_sets)
    with pytest.raises(ValueError, match="another output folder"):
        train(training, held, parts, tiny_config(), device="cpu", workers=0)


def test_ablation_without_text(photos: Path, tmp_path: Path) -> None:
    config = tiny_config(text=False, steps=2)
    training, held = collect_sources(list(config.shares), photos)
    path = train(training, held, tmp_path, config, device="cpu", workers=0)
    loaded = checkpoint.load(path)
    assert loaded.head is None and loaded.network is not None
    full = InstructIR(TINY).state_dict()
    assert loaded.network.state_dict().keys() == full.keys()  # the same backbone


def test_starts_from_weights(photos: Path, tmp_path: Path, weights: Path) -> None:
    config = tiny_config(steps=1, learning_rate=0.0, stages=(Stage(0.0, 32, 4),))
    training, held = collect_sources(list(config.shares), photos)
    init = checkpoint.load(weights)
    path = train(training, held, tmp_path, config, init=init, device="cpu", workers=0)
    for name, value in network_of(weights).items():
        torch.testing.assert_close(network_of(path)[name], value, atol=1e-7, rtol=0)
    with pytest.raises(ValueError, match="Choose the preset"):
        train(
            training, held, tmp_path, replace(config, network=MINI_NETWORK), init=init, device="cpu"
        )


SCENES = [task for task, recipe in RECIPES.items() if recipe.whole_scene]


def scene_config(**changes: Any) -> TrainingConfig:
    return tiny_config(stages=(Stage(0.0, 32, 6),), scenes=((48, 4), (64, 2)), **changes)


def test_scenes_go_into_views_of_their_own_beside_the_crops(photos: Path) -> None:
    config = scene_config()
    training, _ = collect_sources(list(config.shares), photos)
    bank = {c: torch.full((2, 4), float(i)) for i, c in enumerate(CLASSES)}
    views = Views(training, config, config.stages[0], CLASSES, bank)
    sizes = set()
    for step in range(8):
        near, far = views[step]
        assert near[0].shape == (6, 3, 32, 32)
        sizes.add(tuple(far[0].shape))
        assert not {CLASSES[i] for i in near[3]} & set(SCENES)
        assert {CLASSES[i] for i in far[3]} <= {*SCENES, "none"}
    assert sizes == {(4, 3, 48, 48), (2, 3, 64, 64)}
    for one, two in zip(
        views[5], Views(training, config, config.stages[0], CLASSES, bank)[5], strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_loss_of_a_sample_is_its_own() -> None:
    clean = torch.rand(3, 3, 8, 8)
    off = clean + torch.tensor([0.3, 0.03, 0.0])[:, None, None, None]
    torch.testing.assert_close(sample_loss(off, clean, "l1"), torch.tensor([0.3, 0.03, 0.0]))
    first, second, third = sample_loss(off, clean, "log").tolist()
    assert first - second == pytest.approx(0.05 * np.log(100), rel=0.03)  # 20 dB
    assert second - third == pytest.approx(0.05 * np.log(9e-4 / 3e-5), rel=0.03)  # 45 dB at most
    _, second, third = sample_loss(off, clean, "log", LEAST_SCENE_ERROR).tolist()
    assert second - third == pytest.approx(0.05 * np.log(1.9), rel=0.03)  # 30 dB at most


def test_scenes_weigh_by_their_share_not_their_number() -> None:
    shares = {"noise": 0.4, "sr": 0.3, "haze": 0.2, "en": 0.1, "none": 0.2}
    assert TrainingConfig(shares).part_shares == [1.0]
    apart = TrainingConfig(shares, scenes=((160, 2),)).part_shares
    assert apart == pytest.approx([0.7, 0.3])


def test_the_rate_warms_up_stays_and_falls_at_the_end() -> None:
    run = Run.__new__(Run)
    run.seconds = 0.0
    for decay, expected in (
        (0.2, {50: 0.255, 400: 1.0, 799: 1.0, 900: 0.5, 999: 0.001}),
        (1.0, {400: 0.655, 500: 0.5, 999: 0.001}),
    ):
        run.config = tiny_config(steps=1000, decay=decay)
        for run.done, factor in expected.items():
            assert run.factor == pytest.approx(factor, abs=0.002)


def test_the_pace_of_both_sides_is_told(photos: Path, tmp_path: Path, weights: Path) -> None:
    pace = Pace(crops=30, waited=0.5, learned=10.0)
    assert pace.tell() == (3.0, 60.0) and pace == Pace()
    config = tiny_config(steps=25, stages=(Stage(0.0, 32, 2),), sentence_steps=0, every=1000)
    config = replace(config, shares={"noise": 1.0})
    training, held = collect_sources(["noise"], photos)
    train(training, held, tmp_path, config, init=checkpoint.load(weights), device="cpu", workers=0)
    events = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").rglob("*tfevents*"))
    assert b"crops_learned" in events and b"crops_made" in events


def test_a_head_that_is_kept_keeps_its_embeddings(
    photos: Path, tmp_path: Path, weights: Path
) -> None:
    init = checkpoint.load(weights)
    assert init.head is not None
    before = {name: value.clone() for name, value in init.head.state_dict().items()}
    config = scene_config(steps=2, head_rate=0.0, loss="log", sentence_steps=0)
    training, held = collect_sources(list(config.shares), photos)
    head = checkpoint.load(
        train(training, held, tmp_path, config, init=init, device="cpu", workers=0)
    ).head
    assert head is not None
    for name, value in head.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)
    network = network_of(tmp_path / "model.safetensors")
    assert any(not torch.equal(network[n], v) for n, v in network_of(weights).items())


def test_legs_of_constant_rate_add_up(photos: Path, tmp_path: Path, weights: Path) -> None:
    """A run stopped before its rate falls, and made longer, is the longer run from the start."""
    training, held = collect_sources(["noise", "haze"], photos)
    init = checkpoint.load(weights)

    def leg(folder: str, steps: int) -> dict[str, torch.Tensor]:
        config = scene_config(
            steps=steps, decay=0.25, sentence_steps=0, shares={"noise": 1.0, "haze": 1.0}, every=3
        )
        return network_of(
            train(training, held, tmp_path / folder, config, init=init, device="cpu", workers=0)
        )

    whole = leg("whole", 8)
    leg("parts", 4)
    shutil.copy(tmp_path / "parts" / "stable.pt", tmp_path / "parts" / "state.pt")
    (tmp_path / "parts" / "stable.pt").unlink()
    resumed = leg("parts", 8)
    for name, value in whole.items():
        torch.testing.assert_close(value, resumed[name], atol=0, rtol=0)
    with pytest.raises(ValueError, match="another output folder"):
        leg("parts", 16)  # its rate has fallen


def test_refuses_an_unknown_loss(photos: Path, tmp_path: Path) -> None:
    training, held = collect_sources(["noise"], photos)
    with pytest.raises(ValueError, match="'l2'; expected l1 or log"):
        train(training, held, tmp_path, tiny_config(loss="l2", shares={"noise": 1.0}))


def test_refuses_what_it_cannot_train(photos: Path, tmp_path: Path) -> None:
    training, held = collect_sources(["noise"], photos)
    with pytest.raises(ValueError, match=r"no training pictures for blur"):
        train(training, held, tmp_path, tiny_config())
