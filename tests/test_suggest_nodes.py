"""Suggest Instruction, Try All Instructions, and Restore Image's guard, on a fake host."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_host import FakeHost
from told_diagnosis import ToldDiagnosis

from instructir_core.tasks import TASKS

IMAGE = torch.rand(3, 40, 60, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def managed(nodes: SimpleNamespace) -> Any:
    """A loaded model."""
    return nodes.load.execute("tiny.safetensors").values[0]


def tell(managed: Any, *answers: dict[str, float]) -> ToldDiagnosis:
    managed.restorer.diagnosis = ToldDiagnosis(*answers)
    return managed.restorer.diagnosis


def restore(nodes: SimpleNamespace, managed: Any, image: Any, asked: Any, **more: Any) -> Any:
    output = nodes.restore.execute(image, 1.0, managed, asked, **more)
    return output.values[0], "" if output.ui is None else output.ui["text"][0]


def asks(managed: Any, task: str) -> tuple[Any, ...]:
    """An instruction that reads as its task, whatever the tiny model makes of the sentence."""
    made = managed.restorer.encode(TASKS[task].prompt)
    object.__setattr__(made, "task", task)
    object.__setattr__(made, "probabilities", {task: 1.0})
    return (made,)


@pytest.fixture
def shown(nodes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines on the nodes."""
    lines: list[str] = []
    monkeypatch.setattr(nodes.host, "show_text", lambda node, text: lines.append(text))
    return lines


# --- Suggest Instruction -----------------------------------------------------------------------


def test_what_is_suggested_is_restored(
    nodes: SimpleNamespace, managed: Any, shown: list[str]
) -> None:
    tell(managed, {"noise": 0.8, "lol": 0.5, "rain": 0.35})
    instruction, sentences, report = nodes.suggest.execute(managed, IMAGE, 2).values
    assert sentences == f"{TASKS['noise'].prompt}\n{TASKS['lol'].prompt}"
    assert [i.text for i in instruction] == sentences.splitlines()
    assert shown == ["strong noise, dark"]
    assert report.splitlines() == [
        "strong noise, dark; left aside: a little rain (3 frames)",
        f"- {TASKS['noise'].prompt}",
        f"- {TASKS['lol'].prompt}",
    ]
    result, _ = restore(nodes, managed, IMAGE, instruction, guard="off")
    assert torch.equal(result, managed.restorer.restore(IMAGE, instruction))
    more = nodes.encode.execute(managed, "x", "remove haze", previous=instruction).values[0]
    assert [i.text for i in more][:2] == sentences.splitlines() and len(more) == 3
    assert len(nodes.suggest.execute(managed, IMAGE, 3).values[0]) == 3
    assert len(nodes.suggest.execute(managed, IMAGE, 1, 0.9).values[0]) == 0


def test_nothing_suggested_flows_through(
    nodes: SimpleNamespace, managed: Any, fake: FakeHost, shown: list[str]
) -> None:
    tell(managed, {})
    output = nodes.suggest.execute(managed, IMAGE, 2)
    instruction, sentences, report = output.values
    assert instruction == () and sentences == "" and shown == ["nothing found (3 frames)"]
    assert "Restore Image leaves the picture as it is." in report and output.ui["text"] == (report,)
    assert nodes.restore.check_lazy_status(managed, instruction, 1.0) == []
    assert len(fake.loads) == 1  # it looks through the network
    fake.loads.clear()
    result, said = restore(nodes, managed, IMAGE, instruction)
    assert result is IMAGE and not fake.loads
    assert said == "Nothing is to be restored: the picture is left as it is."
    after = nodes.encode.execute(managed, "x", "remove haze", previous=instruction).values[0]
    assert len(after) == 1


def test_the_line_fits(nodes: SimpleNamespace, managed: Any, shown: list[str]) -> None:
    tell(managed, {"sr": 0.38, "en": 0.37, "noise": 0.36})
    report = nodes.suggest.execute(managed, IMAGE, 3).values[2]
    assert len(shown[0]) <= 60 and shown[0].endswith("…") and report.startswith(shown[0][:-1])


def test_channels_and_hidden_colours(nodes: SimpleNamespace, managed: Any) -> None:
    diagnosis = tell(managed, {"rain": 0.5})
    nodes.suggest.execute(managed, IMAGE[:1, ..., :1], 1)
    assert torch.equal(diagnosis.seen[0], IMAGE[0, ..., :1].expand(-1, -1, 3))
    clear = torch.cat([torch.full((1, 40, 60, 3), 0.25), torch.ones(1, 40, 60, 1)], -1)
    clear[0, 10:20, 10:20] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    nodes.suggest.execute(managed, clear, 1)
    assert torch.allclose(diagnosis.seen[1], torch.tensor(0.25))  # not the magenta below alpha 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"most": 4}, "most is 4; expected a number from 1 to 3"),
        ({"most": None}, "most is None"),
        ({"threshold": 1.5}, "threshold is 1.5; expected a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"image": torch.rand(40, 60, 3)}, r"image of shape \(40, 60, 3\); expected"),
        ({"image": IMAGE * float("nan")}, "NaN or infinity among the pixels in frame 1 of 3"),
    ],
)
def test_what_other_nodes_give(
    nodes: SimpleNamespace, managed: Any, options: dict[str, Any], said: str
) -> None:
    tell(managed, {})
    with pytest.raises(ValueError, match=said):
        nodes.suggest.execute(**{"restorer": managed, "image": IMAGE, "most": 2, **options})


def test_a_model_without_diagnosis(nodes: SimpleNamespace, managed: Any) -> None:
    with pytest.raises(ValueError, match="'tiny' has no diagnosis"):
        nodes.suggest.execute(managed, IMAGE, 2)
    asked = asks(managed, "rain")
    for guard in ("warn", "skip"):
        result, said = restore(nodes, managed, IMAGE, asked, guard=guard)
        assert torch.equal(result, managed.restorer.restore(IMAGE, asked)) and not said


# --- Try All Instructions ----------------------------------------------------------------------


def test_all_are_tried(nodes: SimpleNamespace, managed: Any, fake: FakeHost) -> None:
    tell(managed, {"haze": 0.8})
    kept = IMAGE.clone()
    output = nodes.try_all.execute(managed, IMAGE, 30)
    images, sheet = output.values
    trials = sys.modules["installed_pack.instructir_core.trials"]
    view = trials.shrunk(IMAGE[1], 30)  # the middle one
    assert tuple(images.shape) == (len(TASKS), 20, 30, 3)
    for image, task in zip(images, TASKS.values(), strict=True):
        expected = managed.restorer.restore(view, managed.restorer.encode(task.prompt))
        assert torch.equal(image, expected)
    drawn = trials.sheet(view, dict(zip(TASKS, images, strict=True)),
                         managed.restorer.suggest(IMAGE[1], 1))  # fmt: skip
    assert torch.equal((sheet[0] * 255).round().byte(), torch.from_numpy(drawn.copy()))
    assert output.ui["images"] is sheet and torch.equal(IMAGE, kept)
    assert fake.bars[-1][-1] == (100, 100) and len(fake.loads) == 1
    plain, other = nodes.try_all.execute(managed, IMAGE[:1, ..., :1], 0).values
    assert tuple(plain.shape) == (len(TASKS), 40, 60, 3) and other.shape[-1] == 3


def test_trying_all_needs_no_diagnosis_and_stops(
    nodes: SimpleNamespace, managed: Any, fake: FakeHost
) -> None:
    images, _ = nodes.try_all.execute(managed, IMAGE).values
    assert tuple(images.shape) == (len(TASKS), 40, 60, 3)
    fake.asked, fake.stop_at = 0, 9
    with pytest.raises(Exception) as stopped:
        nodes.try_all.execute(managed, IMAGE)
    assert type(stopped.value).__name__ == "Interrupted" and fake.asked == 9
    fake.stop_at = 1 << 40
    for size in (-1, 5000, "x"):
        with pytest.raises(ValueError, match=r"size is .*; expected a number from 0 to 4096"):
            nodes.try_all.execute(managed, IMAGE, size)
    with pytest.raises(ValueError, match="NaN or infinity"):
        nodes.try_all.execute(managed, IMAGE * float("nan"))


# --- the guard ---------------------------------------------------------------------------------


def test_what_is_not_shown_is_said(nodes: SimpleNamespace, managed: Any, fake: FakeHost) -> None:
    diagnosis = tell(managed, {"noise": 0.6})
    asked = asks(managed, "haze")
    result, said = restore(nodes, managed, IMAGE, asked)
    assert said == "" and not diagnosis.seen  # unless asked for, nothing is looked at
    result, said = restore(nodes, managed, IMAGE, asked, guard="warn")
    assert torch.equal(result, managed.restorer.restore(IMAGE, asked))
    assert said == "This picture shows no haze: 'remove the haze from this photo' may do harm."
    # One frame of the batch, before and after.
    assert len(diagnosis.seen) == 2 and torch.equal(diagnosis.seen[0], IMAGE[1])
    assert torch.equal(diagnosis.seen[1], result[1])
    result, said = restore(nodes, managed, IMAGE, asked, guard="skip")
    assert result is IMAGE and "was left out" in said


def test_what_got_worse_comes_back(nodes: SimpleNamespace, managed: Any) -> None:
    asked = asks(managed, "haze")
    before, after = {"haze": 0.5, "noise": 0.1}, {"haze": 0.5, "noise": 0.4}
    tell(managed, before, after)
    result, said = restore(nodes, managed, IMAGE, asked, guard="warn")
    assert torch.equal(result, managed.restorer.restore(IMAGE, asked))
    assert said == "Got worse: noise rose from 0.1 to 0.4."
    tell(managed, before, after)
    result, said = restore(nodes, managed, IMAGE, asked, guard="skip")
    assert result is IMAGE and said.endswith("the picture is left as it was.")


def test_off_runs_nothing(nodes: SimpleNamespace, managed: Any) -> None:
    diagnosis = tell(managed, {})
    asked = asks(managed, "haze")
    result, said = restore(nodes, managed, IMAGE, asked, guard="off")
    assert not diagnosis.seen and not said
    assert torch.equal(result, managed.restorer.restore(IMAGE, asked))
    with pytest.raises(ValueError, match="guard is 'on'; expected one of off, warn, skip"):
        restore(nodes, managed, IMAGE, asked, guard="on")


def test_steady_frames_are_those_of_the_core(nodes: SimpleNamespace, managed: Any) -> None:
    asked = asks(managed, "haze")
    noise = 0.05 * torch.rand(4, 40, 60, 3, generator=torch.Generator().manual_seed(1))
    video = 0.5 * IMAGE[:1] + noise
    plain, _ = restore(nodes, managed, video, asked)
    steady, _ = restore(nodes, managed, video, asked, steady=True)
    core = torch.stack([*managed.restorer.restore_frames(video, asked, steady=True)])
    torch.testing.assert_close(steady, core, atol=1e-6, rtol=0)
    assert torch.equal(steady[0], plain[0]) and not torch.equal(steady[1:], plain[1:])
