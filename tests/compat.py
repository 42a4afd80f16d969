"""Which versions it works with: ``python tests/compat.py [ROW ...]`` prints a table.

A row swaps packages of the environment that `make` set up for others, in a folder before it, or
takes another Python with an environment of its own. The tests that touch these packages decide.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = [
    f"tests/test_{name}.py" for name in ("pictures", "metadata", "colour", "text", "checkpoint")
]
ROWS = {
    "as pinned": [],
    "pillow 11.3": ["pillow==11.3.0"],
    "numpy 1.26": ["numpy==1.26.4"],
    "transformers 4.37": [
        "transformers==4.37.2",
        "tokenizers==0.15.2",
        "huggingface-hub==0.25.2",
        "requests",
    ],
    "pillow 12.3, numpy 2.0, transformers 4.57 and OpenImageIO 3.2.1 together": [
        "pillow==12.3.0",
        "numpy==2.0.2",
        "transformers==4.57.6",
        "tokenizers==0.22.2",
        "huggingface-hub==0.36.2",
        "requests",
        "openimageio==3.2.1.3",
    ],
    "torch 2.10": ["torch==2.10.0"],
    "torch 2.14": ["torch==2.14.1"],
    "torch 2.15": ["torch==2.15.0"],
    "Python 3.10": ["python3.10"],
    "Python 3.12": ["python3.12"],
    "Python 3.13": ["python3.13"],
}
"""What to swap: packages, or a Python."""


def run(swaps: list[str], place: Path) -> str:
    """Install and test; what came of it, in a few words."""
    python, before = sys.executable, ""
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if swaps and swaps[0].startswith("python"):
        made = subprocess.run([swaps[0], "-m", "venv", place], capture_output=True, check=False)
        python = str(place / "bin" / "python")
        command = [python, *pip, "-c", "constraints.txt", "-e", ".[torch,dev]"]
        if made.returncode:
            return "not tested: not on this machine"
    elif swaps:
        extra = [] if swaps[0].startswith("torch") else ["--no-deps"]
        command, before = [python, *pip, "--target", str(place), *extra, *swaps], str(place)
    else:
        command = [python, "-c", ""]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        return "not tested: " + (done.stderr.strip().splitlines() or ["cannot be installed"])[-1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [before, str(ROOT)]))}
    tested = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    last = (tested.stdout.strip().splitlines() or ["no output"])[-1]
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", tested.stdout, re.M)
    return re.sub(r" in [\d.]+s.*", "", last) + "".join(f"; {name}" for name in failed[:5])


if __name__ == "__main__":
    print("| versions | tests |\n| --- | --- |")
    for name, swaps in ROWS.items():
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            print(f"| {name} | not tested here |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {name} | {run(swaps, Path(folder) / 'env')} |", flush=True)
