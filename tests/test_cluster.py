"""Restoring on a cluster: three nodes on this machine, workers and machines that die in it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from instructir_core import cluster, memory
from instructir_core.cli import main
from instructir_core.files import sha256, temporary_name
from instructir_core.manifest import read_lines

ROOT = Path(__file__).parent.parent
COUNT = 40


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def photos(folder: Path, count: int = COUNT, size: int = 64) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def arguments(weights: Path, source: Path, out: Path, *more: object) -> list[str]:
    given = ["restore", source, "-o", out, "--model", weights, "-i", "derain", "--device", "cpu"]
    return [*map(str, given), *map(str, more)]


def results(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


def lines(out: Path) -> list[dict[str, Any]]:
    return [*read_lines(out / "manifest.jsonl")]


# --- without a cluster -------------------------------------------------------------------------


def test_what_is_no_address(weights: Path, tmp_path: Path,
                            capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    for good in ("local", "auto", "10.0.0.1:6379", "head:6379", "[::1]:6379"):
        cluster.check_address(good)
    for wrong in ("photos/", "a.png", "ray://head:10001", "head", "head:", ":1"):
        with pytest.raises(ValueError, match="behind the inputs"):
            cluster.check_address(wrong)
    folder = photos(tmp_path / "in", 2)
    given = ["restore", "--ray", str(folder), str(folder / "000.png"), "-i", "derain"]
    given += ["-o", str(tmp_path / "out"), "--model", str(weights)]
    assert main(given) == 1
    assert "Write --ray behind the inputs" in capsys.readouterr().err
    given = arguments(weights, folder, tmp_path / "x.png", "--ray")
    assert main([*given[:1], str(folder / "000.png"), *given[2:]]) == 1
    assert "expected a folder for the pictures" in capsys.readouterr().err
    assert main(arguments(weights, folder, tmp_path / "out", "--ray", "--device", "cuda:1")) == 1
    assert "--device cuda:1: expected cpu or cuda" in capsys.readouterr().err
    assert main(arguments(weights, folder, tmp_path / "out", "--ray", "--cores", "0")) == 1
    assert "--cores is 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_package_is_named(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    assert main(arguments(weights, photos(tmp_path / "in", 1), tmp_path / "out", "--ray")) == 1
    assert 'pip install "instructir[ray]"' in capsys.readouterr().err
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_machines_that_are_not_alike(weights: Path, tmp_path: Path) -> None:
    source = photos(tmp_path / "in", 1) / "000.png"
    probe = tmp_path / "out" / ".probe"
    probe.parent.mkdir()
    probe.write_bytes(b"words")
    work = cluster.Work(
        str(weights), None, None, False, 1, (), {}, sha256(weights), probe, b"words",
        ((source, source.stat().st_size),),
    )  # fmt: skip
    assert cluster.Worker().prepare(work, 2) is None
    memory.share(1)
    for change, words in (
        ({"version": "0.0.1"}, "expected 0.0.1"),
        ({"words": b"others"}, "another folder"),
        ({"probe": tmp_path / "nowhere" / ".probe"}, "Mount the same storage"),
        ({"samples": ((source, 1),)}, "no such file here"),
        ({"samples": ((tmp_path / "none.png", 1),)}, "Mount the same storage"),
        ({"weights_sha256": "0"}, "no weights here"),
        ({"model": "nothing.safetensors"}, "no weights here"),
    ):
        said = cluster.Worker().prepare(replace(work, **change), 1)
        assert said is not None and words in said and socket.gethostname() in said


def test_memory_is_shared() -> None:
    alone = memory.free_memory(torch.device("cpu"))
    try:
        memory.share(4)
        part = memory.free_memory(torch.device("cpu"))
    finally:
        memory.share(1)
    assert alone is None or (part is not None and part < alone / 2)


def node(cpu: float, gpu: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpu, "GPU": gpu}}


def test_what_a_worker_gets() -> None:
    assert cluster._kind([node(64), node(8)], None, None) == (False, 4)
    assert cluster._kind([node(64), node(2), node(0)], None, None) == (False, 2)
    assert cluster._kind([node(64), node(2)], None, 16) == (False, 16)
    assert cluster._kind([node(64), node(8, 2)], None, None) == (True, 4)
    assert cluster._kind([node(64), node(8, 2)], "cpu", None) == (False, 4)
    assert cluster._kind([node(0), node(4, 8)], "cuda", None)[0]
    with pytest.raises(ValueError, match="no GPU in the cluster"):
        cluster._kind([node(8), node(8, 2, alive=False)], "cuda", None)
    with pytest.raises(ValueError, match="no machine with 9 cores"):
        cluster._kind([node(8), node(0)], None, 9)
    with pytest.raises(ValueError, match="no machine with 1 cores"):
        cluster._kind([node(0)], None, None)


# --- with one ----------------------------------------------------------------------------------


@pytest.fixture
def three() -> Iterator[tuple[Any, list[Any]]]:
    """A head without cores, and three nodes of one core each, all on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: no cluster to test")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    quiet = {"include_dashboard": False, "object_store_memory": 80 << 20}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
    nodes = [found.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(3)]
    try:
        yield found, nodes
    finally:
        ray.shutdown()
        found.shutdown()


def when(ready: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Act in another thread, as soon as it is time."""

    def wait() -> None:
        end = time.monotonic() + 120
        while not ready() and time.monotonic() < end:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.ray
def test_a_node_that_dies_costs_nothing(
    three: tuple[Any, list[Any]], weights: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found, nodes = three
    folder, out, whole = photos(tmp_path / "in", size=160), tmp_path / "out", tmp_path / "whole"
    assert main(arguments(weights, folder, whole)) == 0
    (folder / "bad.png").write_bytes(b"no picture")
    hosts = []

    def kill() -> None:
        hosts.append(len(results(out)))
        found.remove_node(nodes[1], allow_graceful=False)

    killer = when(lambda: len(results(out)) >= 6, kill)
    code = main(arguments(weights, folder, out, "--ray", found.address, "--cores", "1"))
    killer.join()
    said = capsys.readouterr()
    assert code == 1, said.err
    assert 6 <= hosts[0] < COUNT, "the node died too late to tell"
    assert f"{COUNT + 1} pictures, 1 failed" in said.out
    # All whole, each once, and nothing half-written is left.
    assert results(out) == results(whole)
    told = Counter(line["target"] for line in lines(out))
    assert set(told.values()) == {1} and len(told) == COUNT + 1
    assert [line["target"] for line in lines(out) if line["status"] == "error"] == ["bad.png"]
    assert {p.name for p in out.iterdir()} - set(results(whole)) == {"manifest.jsonl"}
    # Its settings and files are told as those of one process: there is nothing left to do.
    (folder / "bad.png").unlink()
    assert main(arguments(weights, folder, out, "--resume")) == 0
    assert f"{COUNT} pictures, {COUNT} were finished before" in capsys.readouterr().out


class Mortal(cluster.Worker):
    """Ends on one picture, as the kernel ends what takes too much memory."""

    def restore(self, job: Any, resume: bool) -> Any:
        if job[0].name == "003.png":
            with (job[1].parent / "begun.txt").open("a") as file:
                file.write("once\n")
            (job[1].parent / temporary_name(job[1]).name).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().restore(job, resume)


@pytest.mark.ray
def test_a_picture_that_ends_workers_is_reported(
    three: tuple[Any, list[Any]], weights: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import ray

    found, _ = three
    folder, out = photos(tmp_path / "in", 6), tmp_path / "out"
    monkeypatch.setattr(cluster, "Worker", Mortal)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    assert main(arguments(weights, folder, out, "--ray", found.address, "--cores", "1")) == 1
    said = capsys.readouterr()
    assert "003.png: found that 2 workers ended on it" in said.err
    assert "6 pictures, 1 failed" in said.out
    assert (out / "begun.txt").read_text() == "once\nonce\n"
    (out / "begun.txt").unlink()
    told = {line["target"]: line["status"] for line in lines(out)}
    assert told == {f"00{n}.png": "error" if n == 3 else "ok" for n in range(6)}
    assert {p.name for p in out.iterdir()} == {*told, "manifest.jsonl"} - {"003.png"}
    # A later run tries it again.
    monkeypatch.undo()
    assert main(arguments(weights, folder, out, "--ray", found.address, "--resume")) == 0
    assert "6 pictures, 5 were finished before, 0 failed" in capsys.readouterr().out


@pytest.mark.ray
def test_scaling(three: tuple[Any, list[Any]], weights: Path, tmp_path: Path) -> None:
    """Pictures a second by one, two and three workers; printed, not judged: cores are shared."""
    found, nodes = three
    folder = photos(tmp_path / "in", 60, 128)
    for count in (3, 2, 1):
        out = tmp_path / f"out{count}"
        assert main(arguments(weights, folder, out, "--ray", found.address, "--cores", "1")) == 0
        times = sorted(path.stat().st_mtime for path in out.glob("*.png"))
        assert len(times) == 60
        pace = 59 / (times[-1] - times[0])
        print(f"{count} workers on {os.cpu_count()} cores: {pace:.2f} pictures a second")
        found.remove_node(nodes.pop())


@pytest.mark.ray
def test_a_cluster_of_its_own(weights: Path, tmp_path: Path) -> None:
    """Started for one run and locked; afterwards nothing of it is left."""
    pytest.importorskip("ray", reason="Ray is not installed: no cluster to test")
    folder, out = photos(tmp_path / "in", 3), tmp_path / "out"
    given = arguments(weights, folder, out, "--ray", "--cores", "1")
    code = (
        "import sys; from instructir_core.cli import main; code = main(sys.argv[1:])\n"
        "import os; assert os.environ['RAY_AUTH_MODE'] == 'token'; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "3 pictures, 0 failed" in done.stdout and len(results(out)) == 3
    assert {line["device"].split()[0] for line in lines(out)} == {"cpu"}
