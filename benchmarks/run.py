"""Speed and memory against upstream's network, measured side by side.

    python benchmarks/run.py [--upstream CHECKOUT_OF_mv-lab_InstructIR] [--sizes 256 512 1024]
    python benchmarks/run.py --device cuda       # precisions, torch.compile, batches, VRAM
    python benchmarks/run.py --grid --sizes 64 --batches 1 2 --repeats 1      # the same on a CPU

Without a checkout our own plain forward, the same operations, takes upstream's place. Times are
medians of interleaved runs in one process: as is, and with a warm heap (glibc told to keep freed
memory, as a long-running host does). Memory is the peak above the start, one process per figure.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
CONFIGS = {"full": (32, (2, 2, 4, 8), 4, (2, 2, 2, 2)), "mini": (16, (1, 1, 2, 2), 2, (1, 1, 1, 1))}


def keep_freed_memory() -> None:
    """glibc: never give pages back, never use separate mappings; other systems are left alone."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD


def reference_of(ours: Any, upstream: str | None, device: str) -> tuple[Any, str]:
    """Upstream's network with the weights of ours, or our own plain forward, and its name."""
    if not upstream:
        return ours, "plain forward"
    sys.path.insert(0, upstream)
    from models.instructir import InstructIR as Upstream

    config = ours.config
    reference = Upstream(
        width=config.width, enc_blk_nums=[*config.encoder_blocks],
        middle_blk_num=config.middle_blocks, dec_blk_nums=[*config.decoder_blocks], txtdim=256,
    )  # fmt: skip
    reference.load_state_dict(ours.state_dict())
    return reference.eval().to(device), "upstream"


def subjects(model: str, size: int, upstream: str | None, device: str) -> dict[str, Callable]:
    """What is measured, by name, each a function without arguments."""
    import torch

    from instructir_core import strips
    from instructir_core.model import InstructIR, NetworkConfig

    config = NetworkConfig(*CONFIGS[model])
    torch.manual_seed(0)
    ours = InstructIR(config).eval().requires_grad_(False)
    for name, parameter in ours.named_parameters():
        if name.endswith(("beta", "gamma")):  # zero when untrained, which would hide every block
            parameter.normal_(0, 0.2)
    ours.to(device, memory_format=torch.channels_last)
    reference, label = reference_of(ours, upstream, device)
    image = torch.rand(1, 3, size, size, device=device)
    embedding = torch.nn.functional.normalize(torch.randn(1, 256, device=device))

    def run(function: Callable) -> Callable:
        def once() -> Any:
            with torch.inference_mode():
                result = function()
                if device == "cuda":
                    torch.cuda.synchronize()
                return result

        return once

    return {
        label: run(lambda: reference(image, embedding)),
        "ours": run(lambda: strips.run(ours, image, embedding)),
    }


def job_time(options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved medians in seconds, and the largest difference between the results."""
    import torch

    if options.warm:
        keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    what = subjects(options.model, options.size, options.upstream, options.device)
    first, second = (f() for f in what.values())
    times: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(options.repeats):
        for name, function in what.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {
        "error": float((first - second).abs().max()),
        "seconds": {name: statistics.median(found) for name, found in times.items()},
    }


def job_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak of one run above the start, in bytes."""
    import torch

    function = list(
        subjects(options.model, options.size, options.upstream, options.device).values()
    )[options.which]
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        function()
        return {"bytes": torch.cuda.max_memory_allocated() - start}
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    start = status("VmRSS")
    function()
    return {"bytes": status("VmHWM") - start}


def status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def job_scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per million pixels of ours with a warm heap: over sizes, then over batches."""
    import torch

    from instructir_core import Restorer, strips
    from instructir_core.model import InstructIR, NetworkConfig

    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    restorer = Restorer(InstructIR(NetworkConfig(*CONFIGS[options.model])), device=options.device)
    embedding = torch.nn.functional.normalize(torch.randn(1, 256, device=options.device))
    sizes = {size: torch.rand(1, 3, size, size, device=options.device) for size in options.sizes}
    batches = {n: torch.rand(n, 256, 256, 3, device=options.device) for n in (1, 2, 4, 8)}
    jobs: dict[str, tuple[int, Callable]] = {
        **{
            f"{size} px": (size**2, lambda x=x: strips.run(restorer.network, x, embedding))
            for size, x in sizes.items()
        },
        **{
            f"256 px, batch {n}": (n * 256**2, lambda x=x: restorer.restore(x, embedding))
            for n, x in batches.items()
        },
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(options.repeats):
        for name, (pixels, function) in jobs.items():
            start = time.perf_counter()
            function()
            if options.device == "cuda":
                torch.cuda.synchronize()
            times[name].append((time.perf_counter() - start) / pixels * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


def job_precision(options: argparse.Namespace) -> dict[str, Any]:
    """Largest and mean error, in 8-bit steps, of the bundled model in half precision."""
    import torch

    from instructir_core import Restorer, pictures

    pixels = pictures.read(ROOT / "example_workflows" / "inputs" / "noisy.png").pixels
    picture = torch.from_numpy(pixels)
    exact = Restorer.from_pretrained("mini", device=options.device)
    instruction = exact.encode("remove the noise")
    reference = exact.restore(picture, instruction)
    found = {}
    for dtype in (torch.float16, torch.bfloat16):
        half = Restorer.from_pretrained("mini", device=options.device, dtype=dtype)
        error = (half.restore(picture, instruction) - reference).abs() * 255
        found[str(dtype)] = {"max": float(error.max()), "mean": float(error.mean())}
    return found


def job_grid(options: argparse.Namespace) -> dict[str, Any]:
    """One size, batch and precision: seconds and peak bytes of a picture, by what restores it.

    Upstream runs eagerly in float32, its whole batch at once. "ours" is what users get: frame by
    frame. "compiled" is our plain forward through torch.compile in the same precision.
    """
    import copy

    import torch

    from instructir_core import Restorer
    from instructir_core.model import InstructIR, NetworkConfig

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    plain = InstructIR(NetworkConfig(*CONFIGS[options.model])).eval().requires_grad_(False)
    for name, parameter in plain.named_parameters():
        if name.endswith(("beta", "gamma")):
            parameter.normal_(0, 0.2)
    dtype = getattr(torch, options.dtype)
    reference, label = reference_of(copy.deepcopy(plain).to(options.device), options.upstream,
                                    options.device)  # fmt: skip
    restorer = Restorer(plain, device=options.device, dtype=dtype)
    frames = torch.rand(options.batch, options.size, options.size, 3, device=options.device)
    images = frames.permute(0, 3, 1, 2).contiguous()
    embedding = torch.nn.functional.normalize(torch.randn(1, 256, device=options.device))
    plan = restorer.plan(options.size, options.size)
    what: dict[str, Callable] = {
        label: lambda: reference(images, embedding.expand(options.batch, -1)).clamp(0, 1),
        "ours": lambda: restorer.restore(frames, embedding, plan=plan).permute(0, 3, 1, 2),
    }
    if options.compile:
        compiled = torch.compile(restorer.network)
        what["compiled"] = lambda: compiled(
            images.to(dtype), embedding.expand(options.batch, -1).to(dtype)
        ).clamp(0, 1).float()  # fmt: skip
    found: dict[str, Any] = {"plan_bytes": plan.bytes}
    results = {}
    for name, function in what.items():
        found[name], results[name] = timed(function, options)
    for name in what:
        if results[name] is not None and results[label] is not None and name != label:
            found[name]["error"] = float((results[name] - results[label]).abs().max())
    return found


def timed(function: Callable, options: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """The median of runs after one to warm up, and the first result; or why there is none."""
    import torch

    cuda = options.device.startswith("cuda")

    def once() -> Any:
        with torch.inference_mode():
            result = function()
            if cuda:
                torch.cuda.synchronize()
            return result

    start = torch.cuda.memory_allocated() if cuda else 0
    try:
        result = once().cpu()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(options.repeats):
            begun = time.perf_counter()
            once()
            times.append((time.perf_counter() - begun) / options.batch)
    except Exception as exc:  # out of memory, or a compiler that is not there: the others go on
        return {"failed": (str(exc).splitlines() or [type(exc).__name__])[0][:200]}, None
    peak = torch.cuda.max_memory_allocated() - start if cuda else None
    return {"seconds": statistics.median(times), "bytes": peak}, result


def print_grid(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All of the grid, a process for each cell: a table, and the rows for the file."""
    rows = []
    print(
        f"{'model':6}{'size':>6}{'batch':>6} {'precision':10}{'what':14}{'s a picture':>12}"
        f"{'ratio':>7}{'error':>9}{'MiB':>8}{'of plan':>8}"
    )
    for model in options.models:
        for size in options.sizes or [512, 1024, 2048, 4096]:
            for batch in options.batches:
                for dtype in ("float32", "float16", "bfloat16"):
                    cell = {"model": model, "size": size, "batch": batch, "dtype": dtype}
                    found = separate("grid", options, **cell)
                    rows.append({**cell, **found})
                    print_cell(cell, found)
    return rows


def print_cell(cell: dict[str, Any], found: dict[str, Any]) -> None:
    start = f"{cell['model']:6}{cell['size']:>6}{cell['batch']:>6} {cell['dtype']:10}"
    if "failed" in found:
        print(f"{start}{found['failed']}", flush=True)
        return
    first = next(value for name, value in found.items() if name != "plan_bytes").get("seconds")
    for name, value in found.items():
        if name == "plan_bytes":
            continue
        if "failed" in value:
            print(f"{start}{name:14}{value['failed']}", flush=True)
            continue
        peak = value["bytes"]
        memory = "       -       -" if peak is None else f"{peak / 2**20:>8.0f}"
        if peak is not None and name == "ours":
            memory += f"{peak / found['plan_bytes']:>8.2f}"
        error = f"{value['error']:>9.1e}" if "error" in value else f"{'':9}"
        seconds = value["seconds"]
        ratio = f"{first / seconds:>7.2f}" if first else f"{'-':>7}"
        print(f"{start}{name:14}{seconds:>12.4f}{ratio}{error}{memory}", flush=True)


def job_start(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds to import torch, then the core, then to load the bundled model and restore 64 px."""
    start = time.perf_counter()
    import torch

    after_torch = time.perf_counter()
    from instructir_core import Restorer

    after_core = time.perf_counter()
    restorer = Restorer.from_pretrained("mini", device="cpu")
    restorer.restore(torch.rand(64, 64, 3), restorer.encode("remove the noise"))
    return {
        "torch": after_torch - start,
        "core": after_core - after_torch,
        "first": time.perf_counter() - after_core,
    }


def separate(job: str, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """A job in a process of its own."""
    settings = vars(options) | more | {"job": job}
    environment = os.environ | {"INSTRUCTIR_BENCHMARK": json.dumps(settings, default=str)}
    result = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        return {"failed": result.stderr.strip().splitlines()[-1] if result.stderr else "killed"}
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    if "INSTRUCTIR_BENCHMARK" in os.environ:
        settings = argparse.Namespace(**json.loads(os.environ["INSTRUCTIR_BENCHMARK"]))
        jobs = {
            "time": job_time,
            "memory": job_memory,
            "start": job_start,
            "precision": job_precision,
            "scaling": job_scaling,
            "grid": job_grid,
        }
        print(json.dumps(jobs[settings.job](settings)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", help="a checkout of mv-lab/InstructIR")
    parser.add_argument("--models", nargs="+", default=["full", "mini"], choices=CONFIGS)
    parser.add_argument("--sizes", nargs="+", type=int, help="default: 256 to 1024, or 512 to 4096")
    parser.add_argument("--memory-sizes", nargs="+", type=int, default=[512, 1024, 2048])
    parser.add_argument("--scaling-sizes", nargs="+", type=int, default=[256, 512, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--grid", action="store_true", help="what --device cuda measures, here")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], help="of the grid")
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="the grid without torch.compile"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(options.device), "cores": os.cpu_count()}
    print("machine:", found["machine"])
    if options.grid or options.device != "cpu":
        found["grid"] = print_grid(options)
        found["precision"] = separate("precision", options)
        print("error of half precision in 8-bit steps:", json.dumps(found["precision"]))
    else:
        options.sizes = options.sizes or [256, 512, 1024]
        print_all(options, found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def machine(device: str) -> str:
    if device == "cpu":
        return platform.processor() or platform.machine()
    import torch

    return torch.cuda.get_device_name(device)


def print_all(options: argparse.Namespace, found: dict[str, Any]) -> None:
    """What is measured on a CPU: tables, and the figures in ``found``."""
    found["start"] = separate("start", options)
    print("start-up in seconds:", {k: round(v, 2) for k, v in found["start"].items()})
    found["precision"] = separate("precision", options)
    print("error of half precision in 8-bit steps:", json.dumps(found["precision"]))
    rows = []
    print(
        f"{'model':6}{'size':>6}  {'heap':6}{'upstream s':>11}{'ours s':>9}{'ratio':>7}{'error':>9}"
    )
    for model in options.models:
        for size in options.sizes:
            for warm in (False, True):
                row = separate("time", options, model=model, size=size, warm=warm)
                rows.append({"model": model, "size": size, "warm": warm, **row})
                if "failed" in row:
                    print(f"{model:6}{size:>6}  {row['failed']}")
                    continue
                theirs, ours = row["seconds"].values()
                print(
                    f"{model:6}{size:>6}  {'warm' if warm else 'as is':6}{theirs:>11.3f}"
                    f"{ours:>9.3f}{theirs / ours:>7.2f}{row['error']:>9.1e}", flush=True,
                )  # fmt: skip
    found["times"] = rows
    found["scaling"] = {}
    print("seconds per million pixels, warm heap:")
    for model in options.models:
        scaling = separate("scaling", options, model=model, sizes=options.scaling_sizes)
        found["scaling"][model] = scaling
        for name, value in scaling.items():
            said = value if isinstance(value, str) else f"{value:.3f}"
            print(f"{model:6}{name:>18}  {said}", flush=True)
    found["memory"] = memory = []
    print(f"{'model':6}{'size':>6}{'upstream MiB':>14}{'ours MiB':>10}{'ours B/px':>11}")
    for model in options.models:
        for size in options.memory_sizes:
            both = [separate("memory", options, model=model, size=size, which=w) for w in (0, 1)]
            peaks = [b.get("bytes", float("nan")) for b in both]
            memory.append({"model": model, "size": size, "bytes": peaks})
            print(
                f"{model:6}{size:>6}{peaks[0] / 2**20:>14.0f}{peaks[1] / 2**20:>10.0f}"
                f"{peaks[1] / size**2:>11.0f}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
