"""Weight files: upstream's pair of ``.pt`` files, our one-file ``.safetensors``, and the Hub.

A ``.safetensors`` of ours holds tensors under ``network.``, ``head.`` and ``text_encoder.``, and
in its metadata the network's config, the task names, the text encoder's config and where the
weights came from. No file is ever unpickled beyond plain tensors.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from .model import InstructIR, NetworkConfig
from .text import (
    TASKS,
    HashedEncoder,
    InstructionHead,
    TextEncoder,
    TransformersEncoder,
    config_to_json,
    encoder_from_json,
)

log = logging.getLogger(__name__)

FORMAT = "instructir"
FORMAT_VERSION = "1"
MINI = Path(__file__).parent / "weights" / "instructir-mini.safetensors"
"""The bundled model."""

HUB_REPOSITORY = "marcosv/InstructIR"
HUB_ENCODER = "TaylorAI/bge-micro-v2"
OFFICIAL_NAME = "instructir-7d.safetensors"
ENCODER_FOLDER = "bge-micro-v2"
ENCODER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
                 "special_tokens_map.json", "model.safetensors")  # fmt: skip
ENCODER_BYTES = 35_500_000
"""About; only the progress of its download needs it."""
DOWNLOADS = ".download"
"""Folder beside the models for what is under way."""
_ENCODER_NEEDED = ("config.json", "tokenizer.json", "model.safetensors")


@dataclass(frozen=True)
class HubFile:
    """A released file and what is known about its content."""

    name: str
    size: int
    git_blob: str
    """sha1 of ``blob <size>\\0`` and the content, as upstream's git tree records it: decides."""
    sha256: str
    """Or its first digits; from a third party, so a difference only warns."""


OFFICIAL_FILES = (
    HubFile(
        "im_instructir-7d.pt",
        63_627_895,
        "fdeec1492a2ea4a84200a7b05ca89168b6198bdb",
        "f28d8f0f66ff57449ebe2be52241dfdd53a3dfab1003d63e65493f96ea152fd0",
    ),
    HubFile(
        "lm_instructir-7d.pt",
        403_275,
        "965cec632a4f5b147996cf13cd66de928181878e",
        "b239e5d5",
    ),
)

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class Checkpoint:
    """What a weight file holds; parts that it lacks are None."""

    name: str
    network: InstructIR | None
    head: InstructionHead | None = None
    text_encoder: TextEncoder | None = None
    tasks: tuple[str, ...] = TASKS
    provenance: dict[str, Any] = field(default_factory=dict)


# --- reading -----------------------------------------------------------------------------------


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a ``.safetensors`` or ``.pt`` file of an InstructIR network, or of a head alone.

    Raises OSError when it cannot be opened, ValueError when it holds something else.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    try:
        if metadata.get("format") == FORMAT:
            return _from_ours(path, tensors, metadata)
        return _from_plain(path, tensors)
    except json.JSONDecodeError as exc:
        raise ValueError(
            f"{path}: found metadata that is no JSON ({exc}); expected that of an InstructIR "
            "file. Get the file again."
        ) from exc
    except ValueError as exc:
        raise ValueError(f"{path}: {str(exc).rstrip('.')}.") from exc
    except (KeyError, TypeError, AttributeError, RuntimeError) as exc:
        # Metadata may say anything, and PyTorch raises RuntimeError on absurd sizes.
        raise ValueError(
            f"{path}: found metadata or tensors that do not fit together ({exc!r}); expected a "
            "complete InstructIR file. Get the file again."
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


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
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
    except SafetensorError as exc:
        raise ValueError(
            f"{path}: found {start[:8]!r}..., which is no readable safetensors or PyTorch file "
            f"({exc}); expected a complete weight file. Download or copy it again."
        ) from exc


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        # The released head was saved on a CUDA device: without map_location a CPU fails.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise ValueError(
            f"{path}: found a pickle that is damaged or holds more than tensors, possibly code; "
            "expected plain tensors. It was not run. Get the weights from a source you trust, "
            "best as .safetensors."
        ) from exc
    except Exception as exc:  # truncated archives raise RuntimeError, EOFError, KeyError, ...
        raise ValueError(
            f"{path}: found a damaged or cut-off PyTorch file ({str(exc).splitlines()[0][:200]}); "
            "expected complete weights. Download it again."
        ) from exc
    for wrapper in ("params", "state_dict", "model"):  # as BasicSR and others save
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(
            f"{path}: found a {type(content).__name__} that is no plain state dict; expected "
            "tensors by name. Choose im_instructir-7d.pt or lm_instructir-7d.pt."
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}, {}


def _from_plain(path: Path, tensors: dict[str, Tensor]) -> Checkpoint:
    if set(tensors) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}:
        return Checkpoint(path.stem, None, _head(tensors, TASKS), None, TASKS)
    return Checkpoint(path.stem, _network(tensors))


def _from_ours(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> Checkpoint:
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"found format version {metadata.get('format_version')!r}; expected "
            f"{FORMAT_VERSION!r}. Update this package"
        )
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "head": {}, "text_encoder": {}}
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
    tasks = tuple(json.loads(metadata["tasks"]))
    head = _head(parts["head"], tasks) if parts["head"] else None
    encoder = None
    if parts["text_encoder"]:
        with torch.device("meta"):  # as for the network: no memory for sizes that are not there
            encoder = encoder_from_json(metadata["text_encoder"])
        _compare(encoder, parts["text_encoder"])
        encoder = encoder.to_empty(device="cpu")
        _fill(encoder, parts["text_encoder"])
    provenance = json.loads(metadata.get("provenance", "{}"))
    name = str(provenance.get("name", path.stem))
    return Checkpoint(name, network, head, encoder, tasks, provenance)


def _network(tensors: Mapping[str, Tensor]) -> InstructIR:
    config = NetworkConfig.from_shapes({k: tuple(v.shape) for k, v in tensors.items()})
    # Shapes are compared before any memory is taken: a header may claim absurd sizes.
    with torch.device("meta"):
        network = InstructIR(config)
    _compare(network, tensors)
    network = network.to_empty(device="cpu")
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
    module.load_state_dict({k: v.float() for k, v in tensors.items()})
    module.eval().requires_grad_(False)


# --- writing -----------------------------------------------------------------------------------


def save(
    path: Path,
    network: InstructIR | None,
    head: InstructionHead | None,
    tasks: Sequence[str],
    text_encoder: HashedEncoder | None,
    provenance: Mapping[str, Any],
    dtype: torch.dtype | None = None,
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
    metadata["provenance"] = json.dumps(dict(provenance))
    modules = {"network": network, "head": head, "text_encoder": text_encoder}
    for part, module in modules.items():
        for key, value in (module.state_dict() if module is not None else {}).items():
            tensors[f"{part}.{key}"] = value.detach().cpu().to(dtype or value.dtype).contiguous()
    write_atomically(Path(path), serialize(tensors, metadata))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, creating its folder; OSError names the remedy."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as exc:
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(exc, OSError):
            raise
        raise OSError(
            f"{path}: could not be written ({exc.strerror or exc}); expected a folder that you "
            f"may write to, with {len(content)} bytes free. Choose another or free space."
        ) from exc


def convert(
    network_path: Path, out: Path, head_path: Path | None = None, half: bool = False
) -> Path:
    """Make one ``.safetensors`` of a network file and, where given, a head file.

    Raises ValueError when ``out`` is one of the inputs or has another suffix, and as `load`.
    """
    sources = [p for p in (network_path, head_path) if p is not None]
    if out.suffix != ".safetensors" or any(out.resolve() == p.resolve() for p in sources):
        raise ValueError(
            f"{out}: expected a new file ending in .safetensors, which is none of the inputs. "
            "Choose another output name."
        )
    source = load(network_path)
    if source.network is None:
        load_network(network_path)  # raises, saying what was found
    head, tasks = (source.head, source.tasks) if head_path is None else load_head(head_path)
    encoder = source.text_encoder if isinstance(source.text_encoder, HashedEncoder) else None
    provenance = source.provenance | {
        "converted_from": [{"file": p.name, "sha256": sha256(p)} for p in sources]
    }
    provenance.setdefault("name", network_path.stem)
    save(out, source.network, head, tasks, encoder, provenance, torch.float16 if half else None)
    return out


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    return _digest(path, hashlib.sha256())


def _git_blob(path: Path) -> str:
    start = f"blob {path.stat().st_size}\0".encode()
    return _digest(path, hashlib.sha1(start, usedforsecurity=False))


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# --- the official model ------------------------------------------------------------------------


def default_folder() -> Path:
    """Where downloaded models are kept: ``INSTRUCTIR_HOME``, else the user's cache folder."""
    home = os.environ.get("INSTRUCTIR_HOME")
    if home:
        return Path(home)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "instructir"


def official_is_here(folder: Path | None = None) -> bool:
    """Whether `fetch_official` would need no network."""
    folder = folder or default_folder()
    return (folder / OFFICIAL_NAME).is_file() and _encoder_is_here(folder / ENCODER_FOLDER)


def _encoder_is_here(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _ENCODER_NEEDED)


def fetch_official(folder: Path | None = None, progress: Progress | None = None) -> Path:
    """The official 7D model as one ``.safetensors`` in ``folder``, downloaded when not there.

    The two ``.pt`` files are also taken from the folder itself, where a user may have put them by
    hand. Each is verified, then converted; the sentence encoder goes into the folder
    ``bge-micro-v2`` beside. ``progress(done, total)`` counts bytes and may raise to stop; a later
    call resumes.

    Raises OSError, with the files, their addresses and the folder, when they cannot be had, and
    ValueError when what came is not what upstream released.
    """
    folder = folder or default_folder()
    target = folder / OFFICIAL_NAME
    official = sum(known.size for known in OFFICIAL_FILES)
    total = official + ENCODER_BYTES

    def report(done: int) -> None:
        if progress is not None:
            progress(min(done, total), total)

    report(0)
    if not target.is_file():
        paths: list[Path] = []
        before = 0
        for known in OFFICIAL_FILES:
            path = folder / known.name
            if not path.is_file():
                path = _download(HUB_REPOSITORY, known.name, folder, report, before)
            _verify(path, known)
            paths.append(path)
            before += known.size
            report(before)
        network, (head, tasks) = load_network(paths[0]), load_head(paths[1])
        provenance = {
            "name": "7d",
            "source": f"https://huggingface.co/{HUB_REPOSITORY}",
            "licence": "MIT",
            "files": [
                {"file": k.name, "git_blob": k.git_blob, "sha256": sha256(p)}
                for k, p in zip(OFFICIAL_FILES, paths, strict=True)
            ],
        }
        save(target, network, head, tasks, None, provenance)
    report(official)
    if not _encoder_is_here(folder / ENCODER_FOLDER):
        _fetch_encoder(folder, lambda done: report(official + done))
    shutil.rmtree(folder / DOWNLOADS, ignore_errors=True)
    report(total)
    return target


def _download(
    repository: str, name: str, folder: Path, report: Callable[[int], None], before: int
) -> Path:
    """One file from the Hub's own cache, or downloaded beside the models.

    ``report(before + bytes so far)`` is called several times a second and may raise to stop. The
    Hub library's settings (``HF_ENDPOINT``, ``HF_HUB_OFFLINE``) apply.
    """
    try:
        # Imported here: it takes long.
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.constants import ENDPOINT
    except ImportError as exc:
        raise OSError(
            f"Downloading {name} needs the package huggingface-hub ({exc}). Install it with: pip "
            "install huggingface-hub"
        ) from exc
    cached = try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    parts = folder / DOWNLOADS / repository.replace("/", "--")
    outcome: Future[str] = Future()

    def fetch() -> None:
        try:
            outcome.set_result(hf_hub_download(repository, name, local_dir=parts))
        except BaseException as exc:
            outcome.set_exception(exc)

    # In a thread, so that it can be stopped even where the connection hangs. Such a thread ends
    # by itself; the library's lock makes the next download of the file wait for it.
    threading.Thread(target=fetch, daemon=True).start()
    while not outcome.done():
        done = 0
        with suppress(OSError):  # a part may be renamed while it is looked at
            done = sum(p.stat().st_size for p in parts.rglob("*.incomplete"))
        report(before + done)
        wait([outcome], timeout=0.2)
    try:
        return Path(outcome.result())
    except Exception as exc:  # the library wraps network errors in many types
        wanted = [(HUB_REPOSITORY, k.name, folder) for k in OFFICIAL_FILES]
        wanted += [(HUB_ENCODER, n, folder / ENCODER_FOLDER) for n in _ENCODER_NEEDED]
        lines = [f"  {ENDPOINT}/{r}/resolve/main/{n}  ->  {f}" for r, n, f in wanted]
        raise OSError(
            f"{name} is not on this computer and could not be downloaded from {ENDPOINT} "
            f"({type(exc).__name__}: {str(exc).splitlines()[0][:200]}). Connect to the internet "
            "and try again, or put these files by hand into these folders:\n" + "\n".join(lines)
        ) from exc


def _verify(path: Path, known: HubFile) -> None:
    size, blob = path.stat().st_size, _git_blob(path)
    if size != known.size or blob != known.git_blob:
        raise ValueError(
            f"{path}: found {size} bytes with the git blob id {blob}; expected {known.size} bytes "
            f"and {known.git_blob}, as upstream's repository records {known.name}. Delete the "
            "file and download it again."
        )
    digest = sha256(path)
    if not digest.startswith(known.sha256):
        log.warning(
            "%s: its sha256 is %s, a third party's list says %s; its git blob id is upstream's, "
            "so it is used.",
            path,
            digest,
            known.sha256,
        )


def _fetch_encoder(folder: Path, report: Callable[[int], None]) -> None:
    """Download the sentence encoder and record its hashes; the folder appears whole."""
    target = folder / ENCODER_FOLDER
    temporary = folder / f".{ENCODER_FOLDER}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
    except OSError as exc:
        raise OSError(
            f"{folder}: could not be written ({exc.strerror}); expected a folder that you may "
            "write to. Change its permissions, or set INSTRUCTIR_HOME to another."
        ) from exc
    try:
        copied = 0
        for name in ENCODER_FILES:
            path = target / name
            try:
                if not path.is_file():
                    path = _download(HUB_ENCODER, name, folder, report, copied)
            except OSError:
                if name in _ENCODER_NEEDED:
                    raise
                continue  # newer exports of a tokenizer lack some of the small files
            shutil.copyfile(path, temporary / name)
            copied += path.stat().st_size
            report(copied)
        check_bge_micro(temporary)
        hashes = {p.name: sha256(p) for p in sorted(temporary.iterdir())}
        (temporary / "sha256.json").write_text(json.dumps(hashes, indent=1), "utf-8")
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_bge_micro(folder: Path) -> None:
    """Raise ValueError unless the folder holds a BERT of 3 layers and width 384.

    Upstream pins no hash of the encoder, so its config and tensor shapes decide.
    """
    config_path, weights = folder / "config.json", folder / "model.safetensors"
    try:
        config = json.loads(config_path.read_text("utf-8"))
        with safe_open(weights, "pt") as file:
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
    except (ValueError, OSError, SafetensorError) as exc:
        raise ValueError(
            f"{folder}: found a text encoder that cannot be read ({exc}); expected {HUB_ENCODER}. "
            "Delete the folder and download it again."
        ) from exc
    shapes = {k.removeprefix("bert."): v for k, v in shapes.items()}
    found = (
        config.get("model_type"),
        config.get("num_hidden_layers"),
        config.get("hidden_size"),
        shapes.get("embeddings.word_embeddings.weight"),
        sum(k.endswith("attention.self.query.weight") for k in shapes),
    )
    expected = ("bert", 3, 384, (config.get("vocab_size"), 384), 3)
    if found != expected:
        raise ValueError(
            f"{folder}: found an encoder with type, layers, width, word table and attention "
            f"layers {found}; expected {expected} as {HUB_ENCODER} has. Download that one."
        )


def named_path(name: str | os.PathLike[str], folder: Path | None = None) -> Path:
    """Where the file of "mini", "7d" or a path lies, or will lie."""
    known = {"mini": MINI, "7d": (folder or default_folder()) / OFFICIAL_NAME}
    return known.get(str(name), Path(name))


def load_named(
    name: str | os.PathLike[str],
    head: str | os.PathLike[str] | None = None,
    text_encoder: str | os.PathLike[str] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """A model by name, "mini" or "7d", or by path, with its head and text encoder where known.

    ``head`` and ``text_encoder`` replace what the model brings; ``folder`` is where the official
    files are kept; ``progress`` reports their download. Errors as `load` and `fetch_official`.
    """
    if name == "mini":
        checkpoint = load(MINI)
    elif name == "7d":
        checkpoint = load(fetch_official(folder, progress))
        checkpoint.text_encoder = TransformersEncoder((folder or default_folder()) / ENCODER_FOLDER)
    else:
        checkpoint = load(name)
        if checkpoint.network is None:
            load_network(name)  # raises, saying what was found
        beside = Path(name).parent / ENCODER_FOLDER
        wanted = checkpoint.text_encoder is None and text_encoder is None
        # A file that was converted from the official pair finds the encoder next to it.
        if wanted and checkpoint.head is not None and _encoder_is_here(beside):
            checkpoint.text_encoder = TransformersEncoder(beside)
    if head is not None:
        checkpoint.head, checkpoint.tasks = load_head(head)
    if text_encoder is not None:
        checkpoint.text_encoder = TransformersEncoder(Path(text_encoder))
    return checkpoint
