"""The models known by name: the bundled one, and the released one with its files on the Hub."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass
from os import environ
from pathlib import Path
from urllib import request
from urllib.parse import urlsplit

from safetensors import SafetensorError, safe_open

from .checkpoint import Checkpoint, load, load_head, load_network, save
from .files import brief, git_blob, sha256
from .text import TransformersEncoder

log = logging.getLogger(__name__)

MINI_FILE = Path(__file__).parent / "weights" / "instructir-mini.safetensors"
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
CONNECT_SECONDS = 8.0
"""How long a connection to the Hub may take to open."""
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


def default_folder() -> Path:
    """Where downloaded models are kept: ``INSTRUCTIR_HOME``, else the user's cache folder."""
    home = environ.get("INSTRUCTIR_HOME")
    if home:
        return Path(home)
    cache = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
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
            try:
                _verify(path, known)
            except ValueError:
                # Otherwise it would be taken for good the next time, too.
                if (folder / DOWNLOADS) in path.parents:
                    path.unlink()
                raise
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
        from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
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
            if not HF_HUB_OFFLINE:
                check_reachable(ENDPOINT)
            # Told by its hash or its shapes afterwards, not by a revision.
            found = hf_hub_download(repository, name, local_dir=parts)  # nosec B615
            outcome.set_result(found)
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
            f"({type(exc).__name__}: {brief(exc, 200)}). Connect to the internet "
            "and try again, or put these files by hand into these folders:\n" + "\n".join(lines)
        ) from exc


def check_reachable(address: str, seconds: float = CONNECT_SECONDS) -> None:
    """Raise OSError unless a connection to the address, or its proxy, opens in this time.

    The Hub library tries for minutes where packets vanish. A slow network is not given up on: only
    the connection counts, and where one address of the name keeps silent the next is tried beside.
    """
    url = urlsplit(address)
    proxy = request.getproxies().get(url.scheme)
    if proxy and not request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = url.port or (443 if url.scheme == "https" else 80)
    outcome: Future[None] = Future()

    async def open_one() -> None:
        _, writer = await asyncio.open_connection(url.hostname, port, happy_eyeballs_delay=0.2)
        writer.close()

    def run() -> None:
        try:
            asyncio.run(open_one())
            outcome.set_result(None)
        except BaseException as exc:
            outcome.set_exception(exc)

    # In a thread, for a name server that does not answer cannot be timed out.
    threading.Thread(target=run, daemon=True).start()
    try:
        outcome.result(timeout=seconds)
    except (OSError, FutureTimeoutError) as exc:
        reason = str(exc) or "no answer"
        raise OSError(f"no connection to {url.hostname}, port {port}: {reason}") from exc


def _verify(path: Path, known: HubFile) -> None:
    size, blob = path.stat().st_size, git_blob(path)
    if size != known.size or blob != known.git_blob:
        raise ValueError(
            f"{path}: found {size} bytes with the git blob id {blob}; expected {known.size} bytes "
            f"and {known.git_blob}, as upstream's repository records {known.name}. Delete the "
            "file if it is still there, and download it again."
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
        try:
            check_bge_micro(temporary)
        except ValueError as exc:
            shutil.rmtree(folder / DOWNLOADS / HUB_ENCODER.replace("/", "--"), ignore_errors=True)
            wrong = str(exc).removeprefix(f"{temporary}: ")
            raise ValueError(f"{target}, as put there or downloaded: {wrong}") from exc
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
            f"{folder}: found a text encoder that cannot be read ({brief(exc)}); expected "
            f"{HUB_ENCODER}. Delete the folder and download it again."
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
    known = {"mini": MINI_FILE, "7d": (folder or default_folder()) / OFFICIAL_NAME}
    return known.get(str(name), Path(name))


def _head_of_pair(network: Path) -> Path | None:
    """The ``lm_`` file beside an ``im_`` file of the same name, as upstream releases them."""
    head = network.with_name(network.name.replace("im_", "lm_", 1))
    return head if network.suffix == ".pt" and head != network and head.is_file() else None


def load_named(
    name: str | os.PathLike[str],
    *,
    head: str | os.PathLike[str] | None = None,
    text_encoder: str | os.PathLike[str] | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """A model by name, "mini" or "7d", or by path, with its head and text encoder where known.

    Upstream's ``im_*.pt`` finds its ``lm_*.pt`` and the encoder's folder beside it. ``head`` and
    ``text_encoder`` replace what the model brings; ``folder`` is where the official
    files are kept; ``progress`` reports their download. Errors as `load` and `fetch_official`.
    """
    if name == "mini":
        checkpoint = load(MINI_FILE)
    elif name == "7d":
        checkpoint = load(fetch_official(folder, progress))
        checkpoint.text_encoder = TransformersEncoder((folder or default_folder()) / ENCODER_FOLDER)
    else:
        checkpoint = load(name)
        if checkpoint.network is None:
            load_network(name)  # raises, saying what was found
        beside = Path(name).parent / ENCODER_FOLDER
        partner = _head_of_pair(Path(name))
        if checkpoint.head is None and head is None and partner is not None and beside.is_dir():
            head = partner
            text_encoder = text_encoder or beside
        wanted = checkpoint.text_encoder is None and text_encoder is None
        # A file that was converted from the official pair finds the encoder next to it.
        if wanted and checkpoint.head is not None and _encoder_is_here(beside):
            checkpoint.text_encoder = TransformersEncoder(beside)
    if head is not None:
        checkpoint.head, checkpoint.tasks = load_head(head)
    if text_encoder is not None:
        checkpoint.text_encoder = TransformersEncoder(Path(text_encoder))
    return checkpoint
