"""Weight files: upstream's pair of ``.pt`` files, and our one-file ``.safetensors``.

A ``.safetensors`` of ours holds tensors under ``network.``, ``head.``, ``text_encoder.`` and
``diagnosis.``, and in its metadata the configs of these, the task names and where the weights came
from. No file is ever unpickled beyond plain tensors.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from .diagnose import Judge, JudgeConfig, check_fit
from .files import brief, memory_told, sha256, write_atomically
from .model import InstructIR, NetworkConfig
from .tasks import OFFICIAL_TASKS
from .text import (
    HashedEncoder,
    InstructionHead,
    TextEncoder,
    config_to_json,
    encoder_from_json,
)

log = logging.getLogger(__name__)

FORMAT = "instructir"
FORMAT_VERSION = "1"
SAFE_TORCH = (2, 10)
"""PyTorch whose ``weights_only`` has no known flaw (CVE-2025-32434, CVE-2026-24747)."""


@dataclass(eq=False)
class Checkpoint:
    """What a weight file holds; parts that it lacks are None."""

    name: str
    network: InstructIR | None
    head: InstructionHead | None = None
    text_encoder: TextEncoder | None = None
    tasks: tuple[str, ...] = OFFICIAL_TASKS
    provenance: dict[str, Any] = field(default_factory=dict)
    diagnosis: Judge | None = None

    @property
    def version(self) -> str:
        """Of the weights, as whoever released them counts; "" where the file tells none."""
        return brief(self.provenance.get("version", ""), 20)


# --- reading -----------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a ``.safetensors`` or ``.pt`` file of an InstructIR network, or of a head alone.

    Raises OSError when it cannot be opened or does not fit in memory, ValueError when it holds
    something else.
    """
    path = Path(path)
    with memory_told(path):
        try:
            return _load(path)
        except ValueError:  # memory may have lacked for a moment, which some readers call a fault
            return _load(path)


def _load(path: Path) -> Checkpoint:
    tensors, metadata = _read(path)
    try:
        if metadata.get("format") == FORMAT:
            return _from_ours(path, tensors, metadata)
        return _from_plain(path, tensors)
    except json.JSONDecodeError as exc:
        raise ValueError(
            f"{path}: found metadata that is no JSON ({brief(exc)}); expected that of an "
            "InstructIR file. Get the file again."
        ) from exc
    except ValueError as exc:
        raise ValueError(f"{path}: {brief(exc, 600).rstrip('.')}.") from exc
    except (KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as exc:
        # Metadata may say anything, and PyTorch raises RuntimeError on absurd sizes.
        raise ValueError(
            f"{path}: found metadata or tensors that do not fit together ({brief(repr(exc))}); "
            "expected a complete InstructIR file. Get the file again."
        ) from exc


def load_network(path: str | os.PathLike[str]) -> InstructIR:
    """The network alone: ``forward(image (B, 3, H, W), embedding (B, 256))``, unclamped, fp32.

    Raises OSError when the file cannot be opened, ValueError when it holds no such network.
    """
    network = load(path).network
    if network is None:
        raise ValueError(
            f"{path}: found an instruction head without an image network; expected "
            "im_instructir-7d.pt or a .safetensors made by `instructir models convert`. Choose "
            "the im_ file."
        )
    return network


def load_head(path: str | os.PathLike[str]) -> tuple[InstructionHead, tuple[str, ...]]:
    """The instruction head of a file and the tasks it tells apart; errors as `load`."""
    checkpoint = load(path)
    if checkpoint.head is None:
        raise ValueError(
            f"{path}: found no instruction head (fc1.*, fc2.*); expected lm_instructir-7d.pt or a "
            ".safetensors that holds one. Choose the lm_ file."
        )
    return checkpoint.head, checkpoint.tasks


def load_diagnosis(path: str | os.PathLike[str]) -> Judge:
    """The judge of pictures in a file; errors as `load`."""
    diagnosis = load(path).diagnosis
    if diagnosis is None:
        raise ValueError(
            f"{path}: found no diagnosis; expected a .safetensors made by `instructir "
            "train-diagnosis`, or a model that holds one. Choose another file."
        )
    return diagnosis


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(
                f"{path}: found a pipe or device; expected a weight file. Copy it to a file first."
            )
        with open(path, "rb") as file:
            start = file.read(16)
    except FileNotFoundError as exc:
        raise FileNotFoundError(
            f"{path}: found no such file; expected InstructIR weights. Check the path, or run "
            "`instructir models list`."
        ) from exc
    except OSError as exc:
        raise OSError(
            f"{path}: could not be opened ({exc.strerror}); expected a weight file that you may "
            "read. Check the path and its permissions."
        ) from exc
    # A safetensors header may be 0x80 bytes long, so the first byte alone does not tell.
    is_pickle = start[:1] == b"\x80" and start[8:9] != b"{"
    is_torch = start[:4] == b"PK\x03\x04" or is_pickle
    try:
        return _read_torch(path) if is_torch else _read_safetensors(path)
    except (SafetensorError, RuntimeError, TypeError, KeyError, AttributeError) as exc:
        raise ValueError(
            f"{path}: found {start[:8]!r}..., which is no readable safetensors or PyTorch file "
            f"({brief(exc)}); expected a complete weight file. Download or copy it again."
        ) from exc


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if found is None or (int(found[1]), int(found[2])) < SAFE_TORCH:
        raise ValueError(
            f"{path}: found PyTorch {torch.__version__}, whose reader of .pt files can be made to "
            f"run code; expected {SAFE_TORCH[0]}.{SAFE_TORCH[1]} or newer. Update PyTorch, or use "
            "a .safetensors file, which loads everywhere (`instructir models convert` makes one)."
        )
    try:
        # The released head was saved on a CUDA device: without map_location a CPU fails.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # truncated archives raise RuntimeError, EOFError, KeyError, ...
        if type(exc).__name__ == "UnpicklingError":
            raise ValueError(
                f"{path}: found a pickle that is damaged or holds more than tensors, possibly "
                "code; expected plain tensors. It was not run. Get the weights from a source you "
                "trust, best as .safetensors."
            ) from exc
        raise ValueError(
            f"{path}: found a damaged or cut-off PyTorch file ({type(exc).__name__}: "
            f"{brief(exc)}); expected complete weights. Download it again."
        ) from exc
    for wrapper in ("params", "state_dict", "model"):  # as BasicSR and others save
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(
            f"{path}: found a {type(content).__name__} that is no plain state dict; expected "
            "tensors by name. Choose im_instructir-7d.pt or lm_instructir-7d.pt."
        )
    for key, value in content.items():
        plain = value.layout == torch.strided and value.device.type == "cpu"
        # Strides of 0 make a few bytes any size.
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"{path}: found {brief(key, 60)}, whose values are not all in the file; expected "
                "plain tensors. Get the weights from a source you trust, best as .safetensors."
            )
    return {str(key).removeprefix("module."): value for key, value in content.items()}, {}


def _from_plain(path: Path, tensors: dict[str, Tensor]) -> Checkpoint:
    if set(tensors) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}:
        return Checkpoint(path.stem, None, _head(tensors, OFFICIAL_TASKS))
    return Checkpoint(path.stem, _network(tensors))


def _from_ours(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> Checkpoint:
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"found format version {metadata.get('format_version')!r}; expected "
            f"{FORMAT_VERSION!r}. Update this package"
        )
    parts: dict[str, dict[str, Tensor]] = {
        "network": {}, "head": {}, "text_encoder": {}, "diagnosis": {}
    }  # fmt: skip
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    network = None
    if parts["network"]:
        network = _network(parts["network"])
        said = NetworkConfig.from_dict(json.loads(metadata["network"]))
        if said != network.config:
            raise ValueError(
                f"found metadata that says {said} and tensors of {network.config}; expected them "
                "to agree. The file was tampered with or written wrongly: get it again"
            )
    tasks = _tasks(json.loads(metadata["tasks"]))
    head = _head(parts["head"], tasks) if parts["head"] else None
    encoder = None
    if parts["text_encoder"]:
        _check_layers(metadata["text_encoder"], parts["text_encoder"])
        with torch.device("meta"):  # as for the network: no memory for sizes that are not there
            encoder = encoder_from_json(metadata["text_encoder"])
        _fill(encoder, parts["text_encoder"])
    provenance = json.loads(metadata.get("provenance", "{}"))
    name = brief(provenance.get("name", path.stem), 100)
    diagnosis = _diagnosis(path, parts["diagnosis"], metadata) if parts["diagnosis"] else None
    if diagnosis is not None and network is not None:
        check_fit(diagnosis, network, path)
    return Checkpoint(name, network, head, encoder, tasks, provenance, diagnosis)


def _tasks(found: object) -> tuple[str, ...]:
    names = found if isinstance(found, list) else []
    fine = all(isinstance(n, str) and n.isprintable() and 0 < len(n) <= 100 for n in names)
    if not names or not fine or len(set(names)) != len(names):
        raise ValueError(
            f"found the task names {brief(found, 100)}; expected a list of different words. The "
            "file was written wrongly: get it again"
        )
    return tuple(names)


def _check_layers(config: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a config speaks of more layers than tensors are there."""
    layers = json.loads(config).get("layers", 1)
    if not isinstance(layers, int) or not 0 < layers <= len(tensors):
        raise ValueError(
            f"found a text encoder of {brief(layers, 40)} layers in {len(tensors)} tensors; "
            "expected as many as are there. Get the file again"
        )


def _network(tensors: Mapping[str, Tensor]) -> InstructIR:
    config = NetworkConfig.from_shapes({k: tuple(v.shape) for k, v in tensors.items()})
    # Shapes are compared before any memory is taken: a header may claim absurd sizes.
    with torch.device("meta"):
        network = InstructIR(config)
    _fill(network, tensors)
    return network


def _head(tensors: Mapping[str, Tensor], tasks: Sequence[str]) -> InstructionHead:
    if tensors["fc2.weight"].shape[0] != len(tasks):
        raise ValueError(
            f"found a head of {tensors['fc2.weight'].shape[0]} classes; expected "
            f"{len(tasks)} ({', '.join(tasks)}). Choose the head that belongs to the network"
        )
    width, inner = tensors["fc1.weight"].shape[1], tensors["fc1.weight"].shape[0]
    head = InstructionHead(width, inner, len(tasks))
    _fill(head, tensors)
    return head


def _diagnosis(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Judge | None:
    config = JudgeConfig.from_json(metadata["diagnosis"])
    if config is None:
        log.warning(
            "%s: found a diagnosis of an earlier kind, which is left out; the model restores as "
            "ever. To have suggestions, make a new one: instructir train-diagnosis", path
        )  # fmt: skip
        return None
    with torch.device("meta"):  # as for the network
        judge = Judge(config)
    _fill(judge, tensors)
    return judge


def _compare(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in tensors.items()}
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    differing = [k for k in wanted if k in found and wanted[k] != found[k]]
    if missing or extra or differing:
        details = [f"lacks {missing[0]} and {len(missing) - 1} more"] if missing else []
        details += [f"has the unknown {extra[0]} and {len(extra) - 1} more"] if extra else []
        details += [f"{k} is {found[k]} where {wanted[k]} was expected" for k in differing[:1]]
        raise ValueError(
            f"found tensors that do not fit one {type(module).__name__}: "
            f"{'; '.join(details)}. Get the file again, or choose InstructIR weights"
        )


def _fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    _compare(module, tensors)
    if not all(t.is_floating_point() and torch.isfinite(t).all() for t in tensors.values()):
        raise ValueError(
            "found NaN, infinity or whole numbers among the weights; expected finite floats. The "
            "training that made the file failed, or it is damaged: get another"
        )
    # A copy, for the file may change under what is mapped from it.
    own = {k: v.to(torch.float32, copy=True).contiguous() for k, v in tensors.items()}
    module.load_state_dict(own, assign=True)
    module.eval().requires_grad_(False)


# --- writing -----------------------------------------------------------------------------------


def save(
    path: Path,
    network: InstructIR | None,
    head: InstructionHead | None,
    tasks: Sequence[str],
    text_encoder: HashedEncoder | None,
    provenance: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    diagnosis: Judge | None = None,
) -> None:
    """Write one ``.safetensors``; the file appears whole or not at all.

    ``dtype`` casts every tensor (None keeps them). Raises OSError when the folder cannot be
    written to.
    """
    tensors: dict[str, Tensor] = {}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tasks": json.dumps(list(tasks)),
    }
    if network is not None:
        metadata["network"] = json.dumps(network.config.to_dict())
    if text_encoder is not None:
        metadata["text_encoder"] = config_to_json(text_encoder)
    if diagnosis is not None:
        metadata["diagnosis"] = diagnosis.config.to_json()
    metadata["provenance"] = json.dumps(dict(provenance))
    modules = {
        "network": network, "head": head, "text_encoder": text_encoder, "diagnosis": diagnosis
    }  # fmt: skip
    for part, module in modules.items():
        for key, value in (module.state_dict() if module is not None else {}).items():
            tensors[f"{part}.{key}"] = value.detach().cpu().to(dtype or value.dtype).contiguous()
    write_atomically(Path(path), serialize(tensors, metadata))


def convert(
    network_path: Path,
    out: Path,
    *,
    head_path: Path | None = None,
    reader_path: Path | None = None,
    diagnosis_path: Path | None = None,
    half: bool = False,
    version: str | None = None,
) -> Path:
    """Make one ``.safetensors`` of a network file and, where given, a head file.

    ``reader_path`` is a file of ours whose sentence encoder and head are taken in place of the
    network file's, ``diagnosis_path`` one whose diagnosis is; ``version`` is what these weights
    are released as. Raises ValueError when ``out`` is one of the inputs or has another suffix,
    when both head and reader are given, when there is no reader or diagnosis in its file, and as
    `load`.
    """
    paths = (network_path, head_path, reader_path, diagnosis_path)
    sources = [p for p in paths if p is not None]
    if out.suffix != ".safetensors" or any(out.resolve() == p.resolve() for p in sources):
        raise ValueError(
            f"{out}: expected a new file ending in .safetensors, which is none of the inputs. "
            "Choose another output name."
        )
    if out.exists():
        raise ValueError(f"{out}: found a file of this name; expected a new one. Choose another.")
    source = load(network_path)
    if source.network is None:
        load_network(network_path)  # raises, saying what was found
    reader = source
    if reader_path is not None:
        reader = _reader(reader_path, alone=head_path is None)
    head, tasks = (reader.head, reader.tasks) if head_path is None else load_head(head_path)
    encoder = reader.text_encoder if isinstance(reader.text_encoder, HashedEncoder) else None
    provenance = source.provenance | {
        "converted_from": [{"file": p.name, "sha256": sha256(p)} for p in sources]
    }
    provenance.setdefault("name", network_path.stem)
    if version is not None:
        provenance["version"] = version
    dtype = torch.float16 if half else None
    diagnosis = source.diagnosis if diagnosis_path is None else load_diagnosis(diagnosis_path)
    if diagnosis is not None and diagnosis_path and source.network is not None:
        check_fit(diagnosis, source.network, diagnosis_path)
    save(out, source.network, head, tasks, encoder, provenance, dtype=dtype, diagnosis=diagnosis)
    return out


def _reader(path: Path, *, alone: bool) -> Checkpoint:
    reader = load(path)
    if not alone or reader.head is None or reader.text_encoder is None:
        found = "no sentence encoder and head" if alone else "a head beside it"
        raise ValueError(
            f"{path}: found {found}; expected a .safetensors of this package that brings both. "
            "Choose another file, or leave --reader or --head out."
        )
    return reader
