"""What only the host's own process can tell: ``inside.py COMFYUI_FOLDER PACK_FOLDER``.

Prints as JSON what loading the pack costs, and where the weights are during and after a run in
each memory mode of the host, with `meta` in the place of a GPU that has little memory free.
"""

import asyncio
import importlib
import json
import os
import sys
import time

import torch
from launch import define_torchvision_operators


def start_host(folder):
    """Import the host as its main.py does, up to where packs are loaded."""
    define_torchvision_operators()
    sys.argv = ["main.py", "--cpu"]
    os.chdir(folder)
    sys.path.insert(0, folder)
    import comfy.options

    comfy.options.enable_args_parsing()
    for name in ("utils.extra_config", "server"):
        importlib.import_module(name)
    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())


def cost_of_loading(pack):
    """Seconds of CPU (other programs do not count), and the top-level modules that came."""
    import nodes

    before = set(sys.modules)
    start = time.process_time()
    loaded = asyncio.run(nodes.load_custom_node(pack))
    seconds = time.process_time() - start
    brought = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
    return {"loaded": loaded, "seconds": seconds, "brought": brought}


def places_of_weights(pack, mode):
    """Devices of the network's parameters before, during and after a run, and once evicted."""
    import comfy.model_management as memory

    gpu = torch.device("meta")
    memory.vram_state = memory.VRAMState[mode]
    memory.get_torch_device = lambda: gpu
    free = 1 << 20
    memory.get_free_memory = lambda _=None, torch_free_too=False: (
        (free, free) if torch_free_too else free
    )
    host = sys.modules[pack.replace(".", "_x_") + ".nodes.host"]
    managed = host.load_restorer(host.BUNDLED_NAME, "auto")
    network = managed.restorer.network
    network.to = lambda device: network.to_empty(device=device)  # meta holds nothing to copy back

    def devices():
        return sorted({str(p.device) for p in network.parameters()})

    places = {"before": devices()}
    with managed.resident(256, 256, None):
        places["during"] = devices()
    places["after"] = devices()
    memory.free_memory(1 << 60, gpu)  # as for another model
    places["evicted"] = devices()
    return places


if __name__ == "__main__":
    host_folder, pack_folder = sys.argv[1:]
    start_host(host_folder)
    told = cost_of_loading(pack_folder)
    for vram in ("NORMAL_VRAM", "LOW_VRAM", "NO_VRAM"):
        told[vram] = places_of_weights(pack_folder, vram)
    print(json.dumps(told))
