"""Many pictures on many machines: a Ray cluster whose workers take pictures as they get free.

    for done in restore_files(jobs, instructions, manifest=Manifest(out, {}), address="auto"):
        print(done.target, done.error or "restored")

One worker per GPU, or per few cores, on every machine that the cluster has at the time. All of them
read and write the same folders. A worker or a machine that dies costs the picture it held, which
another restores; one that has ended two workers is reported instead.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from os import environ
from pathlib import Path
from typing import Any

import torch

from . import __version__, memory, official
from .batch import Done, restore_job
from .files import brief, sha256, sweep, write_atomically
from .instruction import Instruction
from .manifest import Job, Manifest
from .pipeline import Restorer

log = logging.getLogger(__name__)

LOCAL = "local"
"""The address of a cluster that is started on this machine, for one run."""
CORES = 4
"""Of a worker without a GPU, unless told otherwise or machines have fewer. One core each would be
quicker by a little, but every worker needs the memory of a picture."""
LIVES = 2
"""Workers that a picture may end before it is reported."""
FAILED_STARTS = 3
"""After which a machine gets no more workers."""
PATIENCE = 60.0
"""Seconds without any worker before it is said, and without any machine before it is given up."""
SAMPLES = 100
"""Folders of which each worker looks at one source."""


@dataclass(frozen=True)
class Work:
    """What every worker needs to know. Paths are absolute, and the same on every machine."""

    model: str
    head: Path | None
    text_encoder: Path | None
    gpu: bool
    cores: int
    instructions: tuple[Instruction, ...]
    settings: Mapping[str, Any]
    """Of `batch.restore_job`."""
    weights_sha256: str
    probe: Path
    """A file in the folder of results, and what it holds."""
    words: bytes
    samples: tuple[tuple[Path, int], ...]
    """Some sources and their bytes."""
    version: str = __version__


class Worker:
    """Restores one picture after the other, in a process of its own somewhere in the cluster."""

    def prepare(self, work: Work, workers: int) -> str | None:
        """Load the model; ``workers`` share this machine. Returns what is wrong here, or None."""
        self.host = socket.gethostname()
        try:
            _check_machine(work)
            if not work.gpu:
                torch.set_num_threads(work.cores)
                memory.share(workers)
            self.restorer = Restorer.from_pretrained(
                work.model, head=work.head, text_encoder=work.text_encoder,
                device="cuda" if work.gpu else "cpu",
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, AssertionError) as exc:
            return f"{self.host}: {exc}"
        self.work = work
        return None

    def restore(self, job: Job, resume: bool) -> Done:
        """As `batch.restore_job`, without the pixels; ``resume`` a video that another began."""
        settings = {**self.work.settings}
        settings["resume"] = settings.get("resume", False) or resume
        done = restore_job(self.restorer, job, self.work.instructions, **settings)
        device = f"{done.details['device']} of {self.host}"
        return replace(done, restored=None, details={**done.details, "device": device})


def _check_machine(work: Work) -> None:
    """Raise OSError or ValueError where a worker's machine is not like the others."""
    if work.version != __version__:
        raise ValueError(
            f"found version {__version__} of instructir; expected {work.version}, as where the run "
            "was started. Install the same on all machines."
        )
    folder = work.probe.parent
    try:
        same = work.probe.read_bytes() == work.words
    except OSError:
        same = False
    if not same or not os.access(folder, os.W_OK):
        raise OSError(
            f"{folder}: found another folder here, or one that may not be written to; expected "
            "the one where the run was started. Mount the same storage at the same place on all "
            "machines."
        )
    for source, size in work.samples:
        if not source.is_file() or source.stat().st_size != size:
            raise OSError(
                f"{source}: found no such file here; expected it as where the run was started. "
                "Mount the same storage at the same place on all machines."
            )
    weights = official.named_path(work.model)
    if not weights.is_file() or sha256(weights) != work.weights_sha256:
        raise OSError(
            f"{weights}: found no weights here, or others; expected those of {work.model} where "
            "the run was started. Install the same on all machines, or give --model a path on the "
            "shared storage."
        )


# --- the run, where it was started -------------------------------------------------------------


@dataclass
class _Task:
    job: Job
    ended: int = 0
    """Workers that died of it, or with it."""


@dataclass(frozen=True)
class _Hand:
    actor: Any
    node: str
    host: str


@dataclass
class _Crew:
    """The workers of a run: hired on every machine of the cluster, replaced when they die."""

    work: Work
    remote: Any
    """The work in the cluster's own store."""
    idle: list[_Hand] = field(default_factory=list)
    new: dict[Any, _Hand] = field(default_factory=dict)
    busy: dict[Any, tuple[_Hand, _Task]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    trouble: str = ""
    """The last reason why a worker could not start."""
    alone_since: float = field(default_factory=time.monotonic)
    told: bool = False

    def hire(self, pictures: int) -> None:
        """Fill every machine, with no more workers than ``pictures`` that wait."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        hands = [*self.idle, *self.new.values(), *(hand for hand, _ in self.busy.values())]
        here = Counter(hand.node for hand in hands)
        wanted = pictures - len(self.idle) - len(self.new)
        for node, host, room in _machines(self.work.gpu, self.work.cores):
            for _ in range(here[node], room):
                if wanted < 1 or self.failed[node] >= FAILED_STARTS:
                    break
                wanted -= 1
                actor = ray.remote(Worker).options(
                    num_cpus=1 if self.work.gpu else self.work.cores,
                    num_gpus=1 if self.work.gpu else 0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                ).remote()  # fmt: skip
                self.new[actor.prepare.remote(self.remote, room)] = _Hand(actor, node, host)
        self._check_alive()

    def _check_alive(self) -> None:
        """Say that no worker has come up yet; OSError when none ever will."""
        now = time.monotonic()
        if self.idle or self.busy:
            self.alone_since, self.told = now, False
        waited = now - self.alone_since
        if not self.new and (self.trouble or waited > PATIENCE) and not (self.idle or self.busy):
            raise OSError(
                f"Found no machine that can restore{f' ({self.trouble})' if self.trouble else ''}; "
                "expected one at least in the cluster. What is finished is in the manifest: go on "
                "with --resume."
            )
        if waited > PATIENCE and not self.told:
            self.told = True
            log.warning("No worker has started for a minute: other work may hold the cluster.")

    def give(self, task: _Task) -> None:
        """Hand a picture to a worker that is free."""
        hand = self.idle.pop()
        job = (task.job[0].absolute(), task.job[1].absolute())
        self.busy[hand.actor.restore.remote(job, task.ended > 0)] = hand, task

    def results(self, seconds: float) -> Iterator[tuple[_Task, Done | None, str]]:
        """What came in: pictures that are done, or None and the reason why a worker is gone."""
        import ray

        refs = [*self.busy, *self.new]
        if not refs:
            time.sleep(seconds)
            return
        ready, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        for ref in ready:
            found, why = None, ""
            try:
                found = ray.get(ref)
            except ray.exceptions.RayError as exc:
                why = _reason(exc)
            if ref in self.new:
                self._admit(self.new.pop(ref), found, why)
                continue
            hand, task = self.busy.pop(ref)
            if why:
                log.warning("A worker on %s is gone (%s).", hand.host, why)
                _end(hand)
            else:
                self.idle.append(hand)
            yield task, found, why

    def _admit(self, hand: _Hand, wrong: str | None, why: str) -> None:
        """A worker that is ready, or could not start; OSError where its machine is not as ours."""
        if wrong:
            raise OSError(wrong)
        if why:
            self.trouble = f"{hand.host}: {why}"
            self.failed[hand.node] += 1
            _end(hand)
        else:
            self.idle.append(hand)

    def dismiss(self) -> None:
        """End them all, and what they were in the middle of."""
        import ray

        for hand in [*self.idle, *self.new.values(), *(hand for hand, _ in self.busy.values())]:
            _end(hand)
        if self.busy:
            ray.wait([*self.busy], num_returns=len(self.busy), timeout=10)
        for _, task in self.busy.values():
            sweep(task.job[1])


def _end(hand: _Hand) -> None:
    import ray

    with suppress(ray.exceptions.RayError, ValueError):
        ray.kill(hand.actor)


def _machines(gpu: bool, cores: int) -> Iterator[tuple[str, str, int]]:
    """Id, name and number of workers of every machine that lives."""
    import ray

    for node in ray.nodes():
        has = node["Resources"]
        room = int(has.get("GPU", 0)) if gpu else int(has.get("CPU", 0)) // cores
        if node["Alive"] and room:
            yield node["NodeID"], node["NodeManagerHostname"], room


def _reason(exc: BaseException) -> str:
    """The cause of a failure in the cluster, in one line."""
    cause = getattr(exc, "cause", None)
    if isinstance(cause, BaseException):  # an error of ours, raised in the worker
        return brief(f"{type(cause).__name__}: {cause}")
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return brief(lines[-1] if lines else type(exc).__name__)


def restore_files(
    jobs: Sequence[Job],
    instructions: Sequence[Instruction],
    *,
    manifest: Manifest,
    address: str = LOCAL,
    model: str = "mini",
    head: Path | None = None,
    text_encoder: Path | None = None,
    device: str | None = None,
    cores: int | None = None,
    **settings: Any,
) -> Iterator[Done]:
    """As `batch.restore_files`, by the workers of a cluster, in the order in which they finish.

    ``address`` is host:port, "auto" for the cluster that this machine belongs to, or "local" for
    one that lives as long as the run. ``device`` None takes GPUs where any machine has one, else
    ``cores`` for each worker. Pictures of `Done.restored` stay where they were made. Raises
    ValueError for settings that cannot be, and OSError without Ray, without the cluster, without
    storage that all machines share, and when no machine is left.
    """
    check_address(address)
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"--device {device}: expected cpu or cuda with --ray, or nothing.")
    if cores is not None and cores < 1:
        raise ValueError(f"--cores is {cores}; expected 1 or more.")
    ray = _ray(address)

    def run() -> Iterator[Done]:
        mine = not ray.is_initialized()
        if mine:
            _join(ray, address)
        try:
            gpu, cores_each = _kind(ray.nodes(), device, cores)
            work = Work(
                model if model in ("mini", "7d") else str(Path(model).absolute()),
                head and head.absolute(), text_encoder and text_encoder.absolute(),
                gpu, cores_each, tuple(instructions), settings,
                sha256(official.named_path(model)),
                manifest.folder.absolute() / f".{secrets.token_hex(8)}.probe.tmp",
                secrets.token_bytes(16), _samples(jobs),
            )  # fmt: skip
            write_atomically(work.probe, work.words)
            try:
                with closing(_hand_out(_Crew(work, ray.put(work)), jobs, manifest)) as found:
                    yield from found
            finally:
                work.probe.unlink(missing_ok=True)
        finally:
            if mine:
                ray.shutdown()

    return run()


def check_address(address: str) -> None:
    """Raise ValueError for what is no address, such as an input that came to stand there."""
    if address not in (LOCAL, "auto") and not re.fullmatch(
        r"(\[[\da-fA-F:]+\]|[^:/]+):\d+", address
    ):
        raise ValueError(
            f"--ray {address}: expected host:port, auto (the cluster of this machine) or nothing "
            "(one for this run). Write --ray behind the inputs."
        )


def _samples(jobs: Sequence[Job]) -> tuple[tuple[Path, int], ...]:
    """A source of each folder, and its bytes."""
    places = {source.parent: source.absolute() for source, _ in jobs}
    return tuple((path, path.stat().st_size) for path in [*places.values()][:SAMPLES])


def _kind(
    nodes: Sequence[Mapping[str, Any]], device: str | None, cores: int | None
) -> tuple[bool, int]:
    """Whether workers get a GPU each, and how many cores otherwise; ValueError where none can."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = any(has.get("GPU", 0) >= 1 for has in alive)
    if device == "cuda" and not gpus:
        raise ValueError("--device cuda: found no GPU in the cluster. Leave it out to take cores.")
    most = [int(has.get("CPU", 0)) for has in alive if has.get("CPU", 0) >= 1]
    gpu = gpus and device != "cpu"
    if not gpu and (not most or max(most) < (cores or 1)):
        raise ValueError(
            f"Found no machine with {cores or 1} cores in the cluster; expected one at least. "
            "Add one, or lower --cores."
        )
    return gpu, cores or min([CORES, *most])


def _hand_out(crew: _Crew, jobs: Sequence[Job], manifest: Manifest) -> Generator[Done, None, None]:
    """Give out all pictures, those that ended a worker last; note and tell what became of each."""
    waiting = deque(_Task(job) for job in jobs)
    try:
        while waiting or crew.busy:
            crew.hire(len(waiting))
            while waiting and crew.idle:
                crew.give(waiting.popleft())
            for task, found, why in crew.results(1.0):
                if found is None:
                    sweep(task.job[1])
                    task.ended += 1
                    if task.ended < LIVES:
                        waiting.append(task)
                        continue
                    found = _lost(task, why)
                done = replace(found, source=task.job[0], target=task.job[1])
                manifest.add(*task.job, **done.details)
                yield done
    finally:
        crew.dismiss()


def _lost(task: _Task, why: str) -> Done:
    error = (
        f"{task.job[0]}: found that {task.ended} workers ended on it, the last with: {why}. It is "
        "not tried again in this run. Restore it alone, or with --tile-size if memory was short."
    )
    return Done(*task.job, {"status": "error", "message": error}, error=error)


def _ray(address: str) -> Any:
    # All of it counts only before the import. Nothing is to be told to anyone, and the ports of a
    # cluster of our own, open to the network, ask for a word that nobody else knows.
    environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == LOCAL and "ray" not in sys.modules:
        environ.setdefault("RAY_AUTH_MODE", "token")
        environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError as exc:
        raise OSError(
            "Working on many machines needs the package ray. Install it with: "
            'pip install "instructir[ray]"'
        ) from exc
    return ray


def _join(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one that takes work from this process alone."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        ray.init(LOCAL, num_cpus=cores, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as exc:
        raise OSError(
            f"--ray {address}: found no cluster there ({brief(exc)}); expected one that this "
            "machine has joined. Start it with: ray start --head --disable-usage-stats"
        ) from exc
