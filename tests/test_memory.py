"""The plan, what is tried after an out-of-memory error, and a process held to the plan."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from instructir_core import memory
from instructir_core.memory import plan
from instructir_core.model import NetworkConfig

MINI = NetworkConfig(16, (1, 1, 2, 2), 2, (1, 1, 1, 1))


def test_plan() -> None:
    small = plan(NetworkConfig(), 64, 64)
    assert small.exact and "exact, whole" in str(small)
    large = plan(NetworkConfig(), 4096, 4096)
    assert large.exact and large.rows < 4096 and "strips" in str(large)
    short = plan(NetworkConfig(), 4096, 4096, free=10**9)
    assert not short.exact and short.bytes <= 10**9 and "tiles" in str(short)
    assert short.tile is not None and short.tile > 512  # as large as fits: a tile sees only itself
    asked = plan(NetworkConfig(), 4096, 4096, tile=512)
    assert asked.tile == 512 and asked.bytes < short.bytes
    none = plan(NetworkConfig(), 4096, 4096, free=0)
    assert none.tile == 64  # the smallest; then memory runs out or not
    half = plan(NetworkConfig(), 4096, 4096, value_bytes=2)
    assert half.bytes < 0.6 * large.bytes
    one = plan(NetworkConfig(), 100, 60, tile=100)
    assert one.exact and "exact, whole" in str(one)


@pytest.mark.parametrize("strip", [memory.CPU_STRIP, memory.GPU_STRIP])
def test_short_memory_makes_strips_smaller_before_tiles(strip: int) -> None:
    whole = plan(NetworkConfig(), 2000, 3000, strip=strip)
    rows = [whole.rows]
    for share in (0.9, 0.5, 0.2, 0.1, 0.01, 0.0):
        free = whole.maps + int(share * (whole.bytes - whole.maps))
        found = plan(NetworkConfig(), 2000, 3000, free=free, strip=strip)
        assert found.exact
        assert found.bytes <= free or found.rows == 2
        rows.append(found.rows)
    assert rows == sorted(rows, reverse=True) and rows[-1] == 2 < rows[0]
    assert not plan(NetworkConfig(), 2000, 3000, free=whole.maps - 1, strip=strip).exact
    tiled = plan(NetworkConfig(), 2000, 3000, free=10**8, strip=strip, tile=512)
    assert tiled.tile == 512 and tiled.bytes <= 10**8 < plan(MINI, 512, 512, strip=strip).bytes * 9


def test_smaller_pieces_after_out_of_memory() -> None:
    planned: memory.Plan | None = plan(NetworkConfig(), 1000, 2000, strip=memory.GPU_STRIP)
    seen = []
    while planned is not None:
        seen.append(planned)
        planned = planned.smaller()
    assert all(b.bytes < a.bytes for a, b in itertools.pairwise(seen)), seen
    assert [p.tile for p in seen if not p.exact] == [992, 496, 256]
    assert [p.rows for p in seen if p.exact][-1] == 2
    tried = []

    def run(given: memory.Plan) -> int:
        tried.append(given)
        if given.exact:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 1

    assert memory.with_smaller_pieces(run, seen[0]) == (1, tried[-1])
    assert tried == seen[: len(tried)] and tried[-1].tile == 992
    released = []

    def never(given: memory.Plan) -> int:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(torch.OutOfMemoryError, match=r"smallest pieces \(2000 x 1000: .*256 px"):
        memory.with_smaller_pieces(never, seen[0], release=lambda: released.append(1))
    assert len(released) == len(seen) - 1

    def other(given: memory.Plan) -> int:
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        memory.with_smaller_pieces(other, seen[0])


def peak(which: int) -> int:
    """Bytes that restoring 1024 x 1024 through mini takes: 0 the plain forward, 1 `strips.run`."""
    job = {"job": "memory", "model": "mini", "size": 1024, "upstream": None, "device": "cpu"}
    environment = {**os.environ, "INSTRUCTIR_BENCHMARK": json.dumps({**job, "which": which})}
    script = Path(__file__).parent.parent / "benchmarks" / "run.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return int(json.loads(run.stdout)["bytes"])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_process_takes_the_memory_of_the_plan() -> None:
    planned = plan(MINI, 1024, 1024).bytes
    taken = peak(1)
    # PyTorch's own libraries and the heap's gaps come on top.
    assert 0.9 * planned < taken < 1.7 * planned
    assert peak(0) > 2 * taken


def test_free_memory_is_plausible() -> None:
    found = memory.free_memory(torch.device("cpu"))
    assert found is None or 10**7 < found < 10**14
