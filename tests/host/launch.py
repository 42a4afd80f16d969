"""Start a ComfyUI host: ``launch.py COMFYUI_FOLDER [its arguments]``.

torchvision has no CPU build everywhere; with a mismatched one its import fails for want of two
operators that nothing here calls. Defining them lets such a host start. Only tests do this.

With DENY_SOCKETS, a file's name, no connection leaves the process: each that is asked for fails,
and goes to that file with the Python files that asked for it.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

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


def deny_sockets(log: Path) -> None:
    """Let each connection fail that is asked for, and each name that is looked up."""
    outward = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
    log.write_text(json.dumps({"event": "started", "files": []}) + "\n")
    own = (None, "", "localhost", "127.0.0.1", "0.0.0.0", "::1", "::")

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event not in outward:
            return
        # Where it listens it looks up its own address; event loops connect two ends of their own.
        asked = given[0] if event != "socket.connect" else given[1]
        asked = asked[0] if isinstance(asked, tuple) else asked
        if (event == "socket.getaddrinfo" or isinstance(given[-1], tuple)) and asked in own:
            return
        files = [frame.filename for frame in traceback.extract_stack()]
        with open(log, "a") as file:
            file.write(json.dumps({"event": event, "asked": str(asked), "files": files}) + "\n")
        raise OSError("connections are denied here")

    sys.addaudithook(hook)


if __name__ == "__main__":
    if "DENY_SOCKETS" in os.environ:
        deny_sockets(Path(os.environ["DENY_SOCKETS"]))
    folder = Path(sys.argv[1]).resolve()
    define_torchvision_operators()
    sys.argv = [str(folder / "main.py"), *sys.argv[2:]]
    sys.path.insert(0, str(folder))
    runpy.run_path(sys.argv[0], run_name="__main__")
