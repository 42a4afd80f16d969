"""Start a ComfyUI host: ``launch.py COMFYUI_FOLDER [its arguments]``.

torchvision has no CPU build everywhere; with a mismatched one its import fails for want of two
operators that nothing here calls. Defining them lets such a host start. Only tests do this.
"""

import runpy
import sys
from pathlib import Path

import torch


def define_torchvision_operators() -> None:
    """Declare `torchvision::nms` and `::qnms` where the installed build lacks them."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in list(sys.modules):
            if name.partition(".")[0] == "torchvision":
                del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        globals()["_library"] = library  # the definitions live as long as this object


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve()
    define_torchvision_operators()
    sys.argv = [str(folder / "main.py"), *sys.argv[2:]]
    sys.path.insert(0, str(folder))
    runpy.run_path(sys.argv[0], run_name="__main__")
