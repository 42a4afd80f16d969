"""The bundled model, as shipped: what it reads, restores, and leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from tiny_model import DATA

from instructir_core import Restorer, official, pictures
from instructir_core.evaluation import experiments
from instructir_core.tasks import OFFICIAL_TASKS, TASKS
from instructir_core.training.recipes import RECIPES

ROOT = Path(__file__).parent.parent
INPUTS = ROOT / "example_workflows" / "inputs"
SENTENCES = experiments.read_sentences(DATA / "test_sentences.tsv")


@pytest.fixture(scope="module")
def mini() -> Restorer:
    return Restorer.from_pretrained("mini", device="cpu")


def test_file() -> None:
    files = [p for p in official.MINI_FILE.parent.iterdir() if p.is_file()]
    # 7 MB in all, of which half a megabyte is kept for what looks at pictures.
    assert sum(p.stat().st_size for p in files) <= 7_000_000
    with safe_open(official.MINI_FILE, "pt") as file:
        assert {str(file.get_tensor(k).dtype) for k in file.keys()} == {"torch.float16"}  # noqa: SIM118
        provenance = json.loads(file.metadata()["provenance"])
    assert provenance["name"] == "mini" and provenance["steps"] > 500


# What was measured on these weights, less about one sentence in fifty. Wanted are 0.97 in English,
# 0.94 in Chinese and 0.9 elsewhere: the card says what misses by how much.
READ = {
    "test_sentences": 0.94, "test_sentences_zh": 0.92, "test_sentences_zh-Hant": 0.94,
    "test_sentences_ja": 0.91, "test_sentences_ko": 0.95, "test_sentences_de": 0.93,
    "test_sentences_fr": 0.92, "test_sentences_es": 0.95, "test_sentences_pt": 0.92,
    "test_sentences_ru": 0.88,
}  # fmt: skip
"""Files of one-task sentences that no training saw -> the share that is read right at least."""


@pytest.mark.parametrize("name", READ)
def test_reads_sentences_it_never_saw(mini: Restorer, name: str) -> None:
    assert mini.reader is not None
    # A task that was added since is none that these weights can know.
    rows = experiments.read_sentences(DATA / f"{name}.tsv")
    sentences = [(task, text) for task, text in rows if task in mini.reader.tasks]
    wrong = experiments.misread(mini, sentences)
    assert len(wrong) <= (1.0 - READ[name]) * len(sentences), wrong
    parts = [mini.read(text) for _, text in sentences]
    assert sum(len(p) == 1 for p in parts) >= 0.95 * len(parts)


OTHER_WAYS = {
    "negation_sentences": 0.87, "negation_sentences_zh": 0.75,
    "opposite_sentences": 0.71, "opposite_sentences_zh": 0.71,
    "two_step_sentences": 0.91, "two_step_sentences_zh": 0.87,
}  # fmt: skip
"""What not to do, the opposite of a task, two tasks in their order; wanted are 0.9."""


@pytest.mark.parametrize("name", OTHER_WAYS)
def test_reads_what_people_say_in_other_ways(mini: Restorer, name: str) -> None:
    rows = experiments.read_sentences(DATA / f"{name}.tsv")
    read = [(tasks, ",".join(part.task for part in mini.read(text)), text) for tasks, text in rows]
    wrong = [row for row in read if row[0] != row[1]]
    assert len(wrong) <= (1.0 - OTHER_WAYS[name]) * len(rows), wrong


def test_reads_both_tasks_of_a_sentence(mini: Restorer) -> None:
    rows = experiments.read_sentences(DATA / "two_task_sentences.tsv")
    found = [(set(tasks.split(",")), {part.task for part in mini.read(t)}) for tasks, t in rows]
    assert sum(read == wanted for wanted, read in found) >= 0.9 * len(rows)


def test_says_when_it_does_not_know_the_language(mini: Restorer) -> None:
    lines = (DATA / "other_languages.tsv").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    for language in dict.fromkeys(language for language, _ in rows):
        read = [mini.encode(text) for code, text in rows if code == language]
        said = [i for i in read if i.asks_nothing and "It reads English" in (i.advice or "")]
        assert len(said) >= 0.8 * len(read), language
    for name in READ:
        known = experiments.read_sentences(DATA / f"{name}.tsv")
        assert sum(bool(mini.encode(text).languages) for _, text in known) <= 0.04 * len(known)


@pytest.mark.parametrize("name", ["dark.png", "hazy.png", "rainy.png", "noisy.png"])
def test_sentences_that_ask_for_nothing_leave_the_picture(mini: Restorer, name: str) -> None:
    pixels = pictures.read(INPUTS / name).pixels[100:228, 200:328]
    image = torch.from_numpy(pixels)
    instructions = [mini.encode(text) for task, text in SENTENCES if task == "none"]
    read = [i for i in instructions if i.probabilities["none"] > 0.9]
    assert len(read) >= 0.8 * len(instructions)
    assert all(mini.restore(image, instruction) is image for instruction in read)
    if name == "noisy.png":
        return  # under a bare embedding the network itself denoises: see the card
    results = [experiments.network_output(mini, pixels, instruction) for instruction in read[::4]]
    found = [peak_signal_noise_ratio(pixels, result, data_range=1.0) for result in results]
    assert np.median(found) >= 40


def test_noise_is_removed(mini: Restorer) -> None:
    clean = np.full((96, 96, 3), 0.5, np.float32)
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape), 0, 1)
    noisy = noisy.astype(np.float32)
    result = mini.restore(torch.from_numpy(noisy), mini.encode("too grainy")).numpy()
    before = peak_signal_noise_ratio(clean, noisy, data_range=1.0)
    assert peak_signal_noise_ratio(clean, result, data_range=1.0) > before + 10


@pytest.mark.parametrize("task", OFFICIAL_TASKS)
def test_a_size_that_is_no_multiple_of_16_is_restored_as_well(mini: Restorer, task: str) -> None:
    """The black border that such sizes used to get cost 8 dB under haze and 5 in colour."""
    clean = np.ascontiguousarray(data.coffee()[10:390, 100:480]).astype(np.float32) / 255
    degraded = RECIPES[task].degrade(clean, np.random.default_rng(3))
    instruction = mini.encode(TASKS[task].prompt)
    found = []
    for size in (368, 380):
        result = mini.restore(torch.from_numpy(degraded[:size, :size]), instruction).numpy()
        found.append(peak_signal_noise_ratio(clean[:368, :368], result[:368, :368], data_range=1.0))
    assert abs(found[0] - found[1]) < 0.5


def test_each_sentence_does_its_own_task(mini: Restorer) -> None:
    dark = torch.from_numpy(pictures.read(INPUTS / "dark.png").pixels)
    brightened = mini.restore(dark, mini.encode("too dark, fix it"))
    denoised = mini.restore(dark, mini.encode("remove the noise"))
    assert brightened.mean() > 1.5 * dark.mean()
    assert abs(denoised.mean() - dark.mean()) < 0.02
