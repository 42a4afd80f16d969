"""From a sentence to an instruction: sentence encoders, and the head that reads the task.

A frozen encoder turns a sentence into a unit vector; a small head turns that into the 256-d
embedding that steers the image network, and into one probability per task (paper, section 3.2).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import brief
from .instruction import NOTHING, UNKNOWN_LANGUAGE, Instruction, strongest, without
from .tasks import NO_TASK, TASKS
from .words import next_character, tokenize, word_features

log = logging.getLogger(__name__)

MAX_TOKENS = 512
SPELLING = 16
"""Width of what the encoder keeps of each word and word piece to know a language by."""
MAX_KNOWN = 1024
"""Sentences whose instructions are kept in memory."""


class InstructionHead(nn.Module):
    """Sentence vector -> instruction embedding and task logits, as upstream's code executes it.

    The paper says a two-layer MLP; the released code has no activation between the two layers.
    """

    def __init__(self, width: int, embedding_width: int, tasks: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, embedding_width)
        self.fc2 = nn.Linear(embedding_width, tasks)

    def forward(self, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """(B, width) -> unit-norm embedding (B, 256), logits (B, tasks)."""
        embedding = F.normalize(self.fc1(sentence), dim=-1)
        return embedding, self.fc2(embedding)


class TextEncoder(Protocol):
    """Anything that turns sentences into vectors the head was trained on."""

    width: int

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """(B, width) float32 unit vectors on the CPU."""
        ...


def check_sentence(text: str) -> str:
    """Return the text stripped; raise ``ValueError`` when there is nothing to read in it."""
    if not isinstance(text, str):
        raise ValueError(
            f"The instruction is a {type(text).__name__}; expected a sentence such as "
            "'remove the noise'."
        )
    if not text.strip():
        raise ValueError(
            "The instruction is empty; expected a sentence such as 'remove the noise' or "
            "'too dark, brighten it'. Write what should be restored."
        )
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(
            f"The instruction has half a character at position {exc.start}, which no text has; "
            "expected Unicode. Type it anew."
        ) from exc
    return text.strip()


def _warn_truncated(text: str, found: int) -> None:
    log.warning(
        "The instruction %r... has %d tokens; only the first %d are read. Shorten it to one "
        "sentence.",
        text[:40],
        found,
        MAX_TOKENS,
    )


@dataclass(frozen=True)
class HashedEncoderConfig:
    """Shape of the bundled sentence encoder."""

    buckets: int = 6144
    width: int = 96
    heads: int = 4
    layers: int = 1
    reach: int = 1
    """Convolutions over neighbouring words, each over twice the distance of the one before."""
    languages: tuple[str, ...] = ()
    """Codes such as ``zh-Hant`` of those it reads and tells from all others; empty: it does not."""
    folded: bool = False
    """Words are looked up as `fold` writes them; the first files look them up as they are typed."""
    row_width: int = 0
    """Of the rows of the table, which one matrix widens; 0: they are as wide as the encoder."""
    spelling_buckets: int = 0
    """Of the table that languages are known by; 0: as many as `buckets`."""

    def __post_init__(self) -> None:
        sizes = (self.buckets, self.width, self.heads, self.layers, self.reach)
        known = all(isinstance(language, str) for language in self.languages)
        others = (self.row_width, self.spelling_buckets)
        counted = all(isinstance(n, int) for n in (*sizes, *others))
        counted = counted and min(sizes) > 0 and min(others) >= 0
        if not (known and counted and isinstance(self.folded, bool)) or self.width % self.heads:
            raise ValueError(
                f"found a text encoder of {self}; expected positive whole numbers, the width a "
                "multiple of the heads. Get the file again"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HashedEncoderConfig:
        """Build a config from saved metadata; unknown names raise ``ValueError``."""
        first = {"reach": 1, "languages": (), "folded": False, "row_width": 0}
        values = {**first, "spelling_buckets": 0, **values}  # the first files say none of these
        if set(values) != set(cls.__dataclass_fields__):
            raise ValueError(
                f"found the text encoder fields {sorted(values)}; expected "
                f"{sorted(cls.__dataclass_fields__)}. Update this package"
            )
        return cls(**{**values, "languages": tuple(values["languages"])})

    def to_dict(self) -> dict[str, Any]:
        """The config as plain JSON values."""
        return asdict(self)


def _table(buckets: int, width: int) -> nn.EmbeddingBag:
    """As PyTorch makes it; but on the meta device its start would import a compiler, for 1 s."""
    weight = torch.empty(buckets, width)
    if not weight.is_meta:
        nn.init.normal_(weight)
    return nn.EmbeddingBag(buckets, width, mode="mean", _weight=weight)


class HashedEncoder(nn.Module):
    """Sentence encoder of the bundled model: hashed words and word pieces, one transformer layer.

    It has no vocabulary file: every word of every script falls into some buckets of one learned
    table (Bojanowski et al., TACL 2017; Svenstrup et al., NeurIPS 2017). Many narrow rows, so that
    few words share one, cost no more than few wide ones (Lan et al., ALBERT, ICLR 2020).
    """

    def __init__(self, config: HashedEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.width = width = config.width
        self.table = _table(config.buckets, config.row_width or width)
        self.wide = nn.Linear(config.row_width, width, bias=False) if config.row_width else None
        self.neighbours = nn.Conv1d(width, width, 3, padding=1)
        self.further = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=2**i, dilation=2**i) for i in range(1, config.reach)
        )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, config.heads, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        # Which language it is, their spelling tells; one class more: any other.
        self.spelling = self.language = None
        if config.languages:
            self.spelling = _table(config.spelling_buckets or config.buckets, SPELLING)
            self.language = nn.Linear(SPELLING, len(config.languages) + 1)

    def forward(
        self, sentences: Sequence[Sequence[str]], drop_words: Tensor | None = None
    ) -> Tensor:
        """Lists of tokens -> (B, width) unit vectors; ``drop_words`` as in `look_up`."""
        return self.combine(*self.look_up(sentences, drop_words))

    def look_up(
        self, sentences: Sequence[Sequence[str]], drop_words: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Lists of tokens -> their vectors (B, T, width), and the (B, T) mask of those there are.

        ``drop_words`` (training only): for each token in order, True to hide the whole-word
        vectors, so that the pieces learn to carry a misspelt word.
        """
        device = self.table.weight.device
        bags: list[tuple[list[int], list[int]]] = [
            word_features(word, next_character(tokens, i), self.config.buckets, self.config.folded)
            for tokens in sentences
            for i, word in enumerate(tokens)
        ]
        whole = torch.tensor([w for w, _ in bags], device=device)
        lengths = torch.tensor([len(p) for _, p in bags], device=device)
        flat = torch.tensor([i for _, p in bags for i in p], device=device)
        pieces = self.table(flat, lengths.cumsum(0) - lengths)
        words = self.table(whole)
        if drop_words is not None:
            words = words * (~drop_words)[:, None]
        rows = words + pieces if self.wide is None else self.wide(words + pieces)
        counts = [len(tokens) for tokens in sentences]
        x = nn.utils.rnn.pad_sequence(list(rows.split(counts)), batch_first=True)
        counts_t = torch.tensor(counts, device=device)
        return x, torch.arange(x.shape[1], device=device)[None] < counts_t[:, None]

    def combine(self, x: Tensor, mask: Tensor) -> Tensor:
        """The vectors of words (B, T, width) and their mask -> (B, width) unit vectors."""
        for convolution in (self.neighbours, *self.further):
            x = x + F.gelu(convolution(x.transpose(1, 2))).transpose(1, 2) * mask[..., None]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask)
        return F.normalize(mean_pool(self.norm(x), mask), dim=-1)

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (B, width) float32 unit vectors; more than 512 tokens are cut off."""
        tokens = [tokenize(s) for s in sentences]
        for text, found in zip(sentences, tokens, strict=True):
            if len(found) > MAX_TOKENS:
                _warn_truncated(text, len(found))
        return self([t[:MAX_TOKENS] for t in tokens]).float().cpu()

    def speaks(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Lists of tokens -> (B, languages + 1) logits, the last for any other language."""
        assert self.spelling is not None and self.language is not None
        device = self.spelling.weight.device
        size = self.spelling.num_embeddings  # never folded: accents tell languages apart
        bags = [
            [i for word in tokens for part in word_features(word, "", size) for i in part]
            for tokens in sentences
        ]
        lengths = torch.tensor([len(bag) for bag in bags], device=device)
        flat = torch.tensor([i for bag in bags for i in bag], device=device)
        return self.language(self.spelling(flat, lengths.cumsum(0) - lengths))

    @torch.inference_mode()
    def foreign(self, sentences: Sequence[str]) -> Tensor:
        """(B,) probability that each is in none of the languages of the config; 0 without any."""
        if self.language is None:
            return torch.zeros(len(sentences))
        tokens = [tokenize(s)[:MAX_TOKENS] for s in sentences]
        foreign = self.speaks(tokens).softmax(-1)[:, -1].float().cpu()
        own = [_written_as_one_of(self.config.languages, s) for s in sentences]
        return foreign.masked_fill(torch.tensor(own), 0.0)


_SCRIPTS = {
    "ko": re.compile("[\uac00-\ud7a3]"), "ja": re.compile("[\u3040-\u30ff]"),
    "zh": re.compile("[\u4e00-\u9fff]"), "zh-Hant": re.compile("[\u4e00-\u9fff]"),
}  # fmt: skip
"""Scripts that are of these languages alone: they tell more surely than words do."""


def _written_as_one_of(languages: Sequence[str], text: str) -> bool:
    return any(_SCRIPTS[code].search(text) for code in languages if code in _SCRIPTS)


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, T, C) over the tokens whose (B, T) mask is 1."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


class TransformersEncoder:
    """A BERT-like sentence encoder from a folder, run by the transformers library.

    Always attention-masked mean pooling and L2 norm: upstream chooses the pooling by the folder's
    name, so a renamed copy of bge-micro-v2 silently gave other embeddings.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        try:
            # Imported here: it takes seconds, and the bundled model does without.
            from transformers import AutoModel, AutoTokenizer
        except ImportError as exc:
            raise OSError(
                f"{folder}: this text encoder needs the package transformers ({exc}). Install it "
                "with: pip install transformers"
            ) from exc
        if not (folder / "config.json").is_file():
            raise OSError(
                f"{folder}: found no config.json; expected the folder of a sentence encoder such "
                "as TaylorAI/bge-micro-v2 (config.json, tokenizer.json, model.safetensors). "
                "Download it, or choose another folder."
            )
        try:
            # fp32 always: the released weights are stored as fp16, upstream computes in fp32.
            # Code that lies in the folder is never run, nor is the user asked to run it.
            # Nothing is downloaded (hence the nosec).
            safe = {"local_files_only": True, "trust_remote_code": False}
            model = AutoModel.from_pretrained(folder, use_safetensors=True, **safe)  # nosec B615
            self.model = model.float().eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **safe)  # nosec B615
        except Exception as exc:  # the library raises nearly every type on a damaged folder
            raise ValueError(
                f"{folder}: transformers could not read this text encoder ({brief(exc)}); expected "
                "a complete BERT-like model folder with model.safetensors and without code of its "
                "own. Download it again."
            ) from exc
        self.model.to(device)
        self.width: int = self.model.config.hidden_size

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> (B, width) float32 unit vectors; more than 512 tokens are cut off."""
        # A fast tokenizer's own warning about long texts is replaced by ours.
        lengths = [len(ids) for ids in self.tokenizer(list(sentences), verbose=False)["input_ids"]]
        for text, found in zip(sentences, lengths, strict=True):
            if found > MAX_TOKENS:
                _warn_truncated(text, found)
        batch = self.tokenizer(
            list(sentences),
            padding=True,
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(self.model.device)
        hidden = self.model(**batch).last_hidden_state
        return F.normalize(mean_pool(hidden, batch["attention_mask"]), dim=-1).float().cpu()


class InstructionReader:
    """Encoder plus head: reads a sentence and returns the `Instruction` for one model."""

    def __init__(
        self, encoder: TextEncoder, head: InstructionHead, tasks: Sequence[str], model: str
    ) -> None:
        if encoder.width != head.fc1.in_features:
            raise ValueError(
                f"The text encoder gives {encoder.width} values, the instruction head expects "
                f"{head.fc1.in_features}. Use the encoder the head was trained with."
            )
        self.encoder, self.head, self.tasks, self.model = encoder, head, tuple(tasks), model
        self.known: dict[str, Instruction] = {}

    def read(self, text: str) -> Instruction:
        """Encode one sentence; raises ``ValueError`` when it is empty."""
        return self.read_all([text])[0]

    @torch.inference_mode()
    def read_all(self, texts: Sequence[str]) -> list[Instruction]:
        """Encode sentences, several at once; raises ``ValueError`` when one is empty."""
        texts = [check_sentence(text) for text in texts]
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if len(self.known) + len(new) > MAX_KNOWN:
            self.known.clear()
            new = list(dict.fromkeys(texts))
        if new:
            embeddings, logits = self.head(self.encoder.encode(new))
            foreign, languages = self._foreign(new)
            for text, embedding, row, other in zip(
                new, embeddings, logits.softmax(-1).tolist(), foreign, strict=True
            ):
                probabilities = without(dict(zip(self.tasks, row, strict=True)), other)
                task = strongest(probabilities)
                if probabilities[task] < probabilities.get(NO_TASK, 0.0) < NOTHING:
                    embedding = self._of_prompt(task)
                # Cloned, so that it is an ordinary tensor that may be saved or trained on.
                self.known[text] = Instruction(
                    text,
                    embedding[None].detach().clone(),
                    task,
                    probabilities,
                    self.model,
                    languages if other else (),
                )
        return [self.known[text].copy() for text in texts]

    def _of_prompt(self, task: str) -> Tensor:
        """The embedding of the task's own sentence, for one that is half read as nothing: its own
        would do next to nothing."""
        return self.head(self.encoder.encode([TASKS[task].prompt]))[0][0]

    def _foreign(self, texts: Sequence[str]) -> tuple[list[float], tuple[str, ...]]:
        """How probably each is in no language that the encoder knows, and those it knows.

        0 below `UNKNOWN_LANGUAGE`: a few rare words must not cost a sentence its task.
        """
        if not isinstance(self.encoder, HashedEncoder) or NO_TASK not in self.tasks:
            return [0.0] * len(texts), ()
        foreign = self.encoder.foreign(texts)
        foreign = foreign.masked_fill(foreign < UNKNOWN_LANGUAGE, 0.0)
        return foreign.tolist(), self.encoder.config.languages


def config_to_json(encoder: HashedEncoder) -> str:
    """The bundled encoder's config as stored in a checkpoint's metadata."""
    return json.dumps({"kind": "hashed", **encoder.config.to_dict()})


def encoder_from_json(text: str) -> HashedEncoder:
    """An untrained encoder of the stored shape; raises ``ValueError`` for an unknown kind."""
    values = json.loads(text)
    kind = values.pop("kind", None)
    if kind != "hashed":
        raise ValueError(
            f"found a text encoder of kind {kind!r}; expected 'hashed'. Update this package"
        )
    return HashedEncoder(HashedEncoderConfig.from_dict(values))
