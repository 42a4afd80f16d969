"""Load the pack with a real host's own loader; prints its seconds and the modules it brought.

``import_cost.py COMFYUI_FOLDER PACK_FOLDER``, by the host's Python.
"""

import asyncio
import importlib
import json
import os
import sys
import time

from launch import define_torchvision_operators

if __name__ == "__main__":
    host, pack = sys.argv[1:]
    define_torchvision_operators()
    sys.argv = ["main.py", "--cpu"]
    os.chdir(host)
    sys.path.insert(0, host)
    import comfy.options

    comfy.options.enable_args_parsing()
    for name in ("utils.extra_config", "server"):  # in the order of the host's main.py
        importlib.import_module(name)
    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())  # what the host has before any pack

    before = set(sys.modules)
    start = time.perf_counter()
    loaded = asyncio.run(nodes.load_custom_node(pack))
    seconds = time.perf_counter() - start
    brought = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
    print(json.dumps({"loaded": loaded, "seconds": seconds, "brought": brought}))
