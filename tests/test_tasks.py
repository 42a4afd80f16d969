"""The table of tasks: complete, and ready for an eighth."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tiny_model import DATA

from instructir_core.tasks import CLASSES, NO_TASK, OFFICIAL_TASKS, TASK_WORDS, TASKS
from instructir_core.training.corpus import load_corpus
from instructir_core.training.presets import PRESETS
from instructir_core.training.recipes import RECIPES

ROOT = DATA.parent.parent


def test_every_task_is_complete() -> None:
    assert set(RECIPES) == set(TASKS)
    assert list(TASK_WORDS) == list(CLASSES) == [*TASKS, NO_TASK]
    assert set(PRESETS["mini"].shares) == set(CLASSES)
    assert {s.task for s in load_corpus(per_pattern=1)} == set(CLASSES)
    for told in ("prompt", "label", "words"):
        assert len({getattr(task, told) for task in TASKS.values()}) == len(TASKS)


def test_what_upstream_released_is_not_what_we_know() -> None:
    assert OFFICIAL_TASKS == ("noise", "blur", "rain", "haze", "lol", "sr", "en")
    assert set(PRESETS["7d"].shares) == set(OFFICIAL_TASKS) <= set(TASKS)
    assert all(set(PRESETS[name].shares) <= set(OFFICIAL_TASKS) for name in ("3d", "5d", "6d"))


# What CONTRIBUTING.md asks of who adds a task: a row, a row, and sentences.
ROW = '        Task("dust", "dust", "remove the dust from this photo", "remove dust"),\n'
RECIPE = '    "dust": Recipe(noise.gaussian_noise, clean_share=0.05),\n'
SENTENCES = [f"dust\tadult\tdust/{i}\t{text}\n" for i, text in enumerate(
    ("remove the dust specks", "clean the scanned slide", "there are hairs and fluff on my scan")
)]  # fmt: skip

SCRIPT = """
import asyncio, sys
from pathlib import Path
import numpy as np, pytest, torch
import fake_host
from tiny_model import tiny_parts
from instructir_core import Restorer, checkpoint, official
from instructir_core.evaluation import degradations, report, sets
from instructir_core.evaluation.experiments import (
    Evaluation, LabelledSentence, evaluate, read_all)
from instructir_core.tasks import CLASSES, OFFICIAL_TASKS, TASKS
from instructir_core.text import InstructionHead, InstructionReader
from instructir_core.training import corpus, examples, recipes, samples

root, photos = Path(sys.argv[1]), Path(sys.argv[2])
assert len(TASKS) == int(sys.argv[3]) + 1 and CLASSES[-2:] == ("dust", "none")

# The official files and the bundled one still load as what they are.
torch.save(InstructionHead(32, 256, 7).state_dict(), root / "lm.pt")
assert checkpoint.load_head(root / "lm.pt")[1] == OFFICIAL_TASKS == tuple(TASKS)[:7]
mini = official.load_named("mini")
assert mini.tasks == (*OFFICIAL_TASKS, "none")
assert Restorer.from_pretrained("mini", device="cpu").encode("remove the dust").task in mini.tasks

# Training: samples, sentences, sheets.
clean = np.full((40, 48, 3), 0.5, np.float32)
training, held = samples.collect_sources(CLASSES, photos)
bank = {c: torch.zeros(2, 4) for c in CLASSES}
shares = dict.fromkeys(CLASSES, 1.0)
batches = samples.Batches(training, shares, CLASSES, bank, size=32, batch=2 * len(CLASSES), seed=0)
assert torch.bincount(batches[0][3]).tolist() == [2] * len(CLASSES)
assert list(degradations.held_out_pairs([photos / "0.png"], "dust", 32))
assert recipes.contact_sheet(clean, draws=1).shape == (len(CLASSES) * 44, 2 * 52, 3)
assert len(recipes.compose(["dust", "rain"], clean, np.random.default_rng(0))) == 3
sentences = corpus.load_corpus(per_pattern=1)
assert sum(s.task == "dust" for s in sentences) == 3 and "| dust | en |" in corpus.card(sentences)
some = [s for s in sentences if s.task in ("dust", "none")]
assert examples.build_examples(some, 0).targets.shape[1] == len(CLASSES)

# Evaluation: recipes, scores with the task's own sentence, reading.
network, _, encoder = tiny_parts()
reader = InstructionReader(encoder, InstructionHead(16, 256, len(CLASSES)), CLASSES, "tiny")
restorer = Restorer(network, reader, "tiny")
asked = [LabelledSentence(task, "adult", f"{task} {n}") for task in CLASSES for n in range(3)]
found = evaluate(restorer, Evaluation(
    sets=[sets.synthetic(photos, "dust", size=32)], sentences=asked, limit=1, size=32,
    unchanged=sets.files(photos), chains=[(sets.files(photos), "dust+noise25")],
))
assert {row.sentence for row in found.rows if row.test == "score"} == {TASKS["dust"].prompt}
identity = {row.set for row in found.rows if row.test == "identity"}
assert {"clean, asked dust", "dust degraded, asked none"} <= identity
read = [row for row in found.rows if row.test == "sentences"]
assert report.confusion(read)[1].shape == (len(CLASSES), len(CLASSES))

# The node's menu.
fake_host.ROOT = root
pack = fake_host.import_pack(pytest.MonkeyPatch(), fake_host.FakeHost(root / "models"))
encode = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())[1]
inputs = {one.arguments[0]: one.options for one in encode.define_schema().options["inputs"]}
assert inputs["preset"]["options"] == ["from text", *(task.label for task in TASKS.values())]
print("complete")
"""


def insert(path: Path, pattern: str, text: str) -> None:
    """Insert a line after the last one that matches."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    place = max(i for i, line in enumerate(lines) if re.match(pattern, line))
    path.write_text("".join([*lines[: place + 1], text, *lines[place + 1 :]]), "utf-8")


def test_an_eighth_task(tmp_path: Path) -> None:
    from PIL import Image
    from skimage import data

    pack, photos = tmp_path / "pack", tmp_path / "photos"
    left_out = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(ROOT / "instructir_core", pack / "instructir_core", ignore=left_out)
    (pack / "instructir_core" / "weights").symlink_to(ROOT / "instructir_core" / "weights")
    shutil.copytree(ROOT / "nodes", pack / "nodes", ignore=left_out)
    shutil.copy(ROOT / "__init__.py", pack)
    core = pack / "instructir_core"
    insert(core / "tasks.py", r"        Task\(", ROW)
    insert(core / "training" / "recipes.py", r'    "\w+": Recipe\(', RECIPE)
    with open(core / "training" / "corpus" / "en.tsv", "a", encoding="utf-8") as file:
        file.writelines(SENTENCES)
    photos.mkdir()
    for index in range(2):
        Image.fromarray(data.coffee()[100:170, 150 : 230 + index]).save(photos / f"{index}.png")
    paths = os.pathsep.join([str(pack), str(DATA.parent)])
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(pack), str(photos), str(len(TASKS))],
        capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, cwd=pack, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.endswith("complete\n")
