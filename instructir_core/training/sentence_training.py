"""First stage of training: the bundled sentence encoder and the instruction head.

Cross-entropy on the task and on the language, and, where a trained reader is started from, the
cosine to its mean embedding of each task: an image network that learnt to follow those need not
learn again. Where a teacher is at hand, distillation from a larger sentence model over the corpus
and over single words lets the small encoder read words that the corpus lacks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .. import checkpoint
from ..tasks import CLASSES
from ..text import (
    HashedEncoder,
    HashedEncoderConfig,
    InstructionHead,
    TextEncoder,
    TransformersEncoder,
)
from ..words import tokenize
from .corpus import Sentence
from .examples import VARIANTS, Examples, build_examples
from .streams import Stream, stream

TAUGHT = 30_000
"""Sentences that a teacher is asked about; more take long and teach little."""
TEACHERS_LANGUAGE = "en"
"""The sentence models that are small enough to run here know English alone."""
LONGEST = 48
"""Tokens of a sentence that training looks at."""
_ALIKE = 16
"""Batches drawn together and dealt by length."""
HIDDEN = 0.25
"""Share of the words whose pieces alone are seen, so that these carry an inflected one."""
MISSED = 0.1
"""Share of the words that a sentence lacks while it is learnt."""
FADE = 0.5
"""Weight decay of the table: what a row says by chance fades, so that a piece of a word that was
never met says little instead of something else."""
ROWS = 0.1
"""Root mean square of the rows of a table that is made narrower."""
NEW = HashedEncoderConfig(24576, reach=2, folded=True, row_width=24, spelling_buckets=6144)
"""Of a new encoder. 100,000 words and pieces of the corpus shared 6144 rows of four times the
width, 17 to a row, which kept it from reading words of its languages that it had not met."""


def encode_all(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """(N, width) vectors of many sentences; those of like length share a batch, which is faster."""
    vectors = torch.empty(len(texts), encoder.width)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(texts), 256):
        batch = order[start : start + 256]
        vectors[batch] = encoder.encode([texts[i] for i in batch])
    return vectors


def refit_classes(
    encoder: HashedEncoder,
    head: InstructionHead,
    corpus: Sequence[Sentence],
    seed: int = 0,
    steps: int = 600,
    examples: int = 60_000,
) -> None:
    """Fit the head's last layer anew, on sentences of one and of two requests.

    Training with pictures shows one task at a time, after which the head hardly admits a second.
    The embeddings, and so the pictures, stay exactly as they are.
    """
    some = stream(seed, Stream.CLASS_SENTENCES).permutation(len(corpus))[: examples // VARIANTS]
    drawn = build_examples([corpus[i] for i in some], seed, languages=False)
    texts, targets = drawn.texts, drawn.targets
    with torch.no_grad():
        embeddings = head(encode_all(encoder, texts))[0]
    optimizer = torch.optim.AdamW(head.fc2.parameters(), lr=0.02, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = stream(seed, Stream.CLASS_BATCHES)
    weights = drawn.shares()
    head.fc2.requires_grad_(True)
    for _ in range(steps):
        rows = rng.choice(len(texts), 1024, p=weights)
        loss = F.cross_entropy(head.fc2(embeddings[rows]), targets[rows], label_smoothing=0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    head.requires_grad_(False)


def task_means(
    encoder: TextEncoder, head: InstructionHead, corpus: Sequence[Sentence], most: int = 1000
) -> Tensor:
    """(8, 256) unit vectors: where a trained reader puts each class on the average."""
    means = []
    for task in CLASSES:
        known = [s.text for s in corpus if s.task == task and s.language in ("en", "zh")]
        with torch.no_grad():
            embeddings = head(encode_all(encoder, known[:: -(-len(known) // most)]))[0]
        means.append(F.normalize(embeddings.mean(0), dim=0))
    return torch.stack(means)


def widen(encoder: HashedEncoder, config: HashedEncoderConfig) -> HashedEncoder:
    """An encoder of another config that gives the same vectors, to be trained on.

    It may know other languages, have more layers and several times the buckets; one whose words
    are folded or whose rows are narrower gives nearly the same. Other sizes raise ``ValueError``.
    """
    known = encoder.config
    times, rest = divmod(config.buckets, known.buckets)
    narrower = config.row_width == known.row_width or not known.row_width
    alike = (known.width, known.heads) == (config.width, config.heads)
    if not (alike and narrower) or rest:
        raise ValueError(
            f"found a text encoder of {known} to start from; expected the width and heads of "
            f"{config}, and its buckets or a divisor of them. Start from none, or keep its sizes"
        )
    wider = HashedEncoder(config)
    for layer in wider.layers[known.layers :]:
        for name, parameter in layer.named_parameters():
            if name.startswith(("self_attn.out_proj", "linear2")):
                nn.init.zeros_(parameter)
    for parameter in wider.further[known.reach - 1 :].parameters():
        nn.init.zeros_(parameter)
    own, state = wider.state_dict(), encoder.state_dict()
    if config.row_width and not known.row_width:
        state["table.weight"], state["wide.weight"] = _narrow(
            state["table.weight"], config.row_width
        )
    # A bucket of many is, modulo the fewer, the one that it was.
    state["table.weight"] = state["table.weight"].repeat(times, 1)
    same = {k: v for k, v in state.items() if own[k].shape == v.shape}
    wider.load_state_dict({**own, **same})
    return wider


def _narrow(table: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Rows of this width and root mean square `ROWS`, and the matrix that widens them again."""
    directions = torch.linalg.svd(table, full_matrices=False)[2][:width]
    rows = table @ directions.T
    scale = ROWS / rows.square().mean().sqrt()
    return rows * scale, directions.T / scale


@dataclass(frozen=True)
class Lessons:
    """What a teacher says of some of the examples, and of single words."""

    of_example: npt.NDArray[np.int64]
    """Row of each example in `sentences`; -1 for those that were not taught."""
    sentences: Tensor
    """(taught, W) unit vectors."""
    words: list[list[str]]
    """Each as its only token."""
    meanings: Tensor
    """(words, W) unit vectors."""


def _ask(teacher: Path, examples: Examples, seed: int) -> Lessons:
    """Ask about some examples of the teacher's language, and about every word it knows or meets."""
    guide = TransformersEncoder(teacher)
    known = (np.array(examples.languages) == TEACHERS_LANGUAGE).nonzero()[0]
    taught = stream(seed, Stream.LESSONS).permutation(known)[:TAUGHT]
    of_example = np.full(len(examples.texts), -1)
    of_example[taught] = np.arange(len(taught))
    vocabulary = {w for w in guide.tokenizer.get_vocab() if w.isalpha() and len(w) > 2}
    words = sorted(vocabulary | {w for i in known for w in _tokens(examples.texts[int(i)])})
    sentences = encode_all(guide, [examples.texts[i] for i in taught])
    return Lessons(of_example, sentences, [[w] for w in words], encode_all(guide, words))


def _tokens(text: str) -> list[str]:
    return tokenize(text)[:LONGEST]


def train_sentences(
    corpus: Sequence[Sentence],
    seed: int = 0,
    steps: int = 7000,
    batch: int = 64,
    *,
    learning_rate: float = 2e-3,
    teacher: Path | None = None,
    embedding_width: int = 256,
    config: HashedEncoderConfig | None = None,
    start: tuple[HashedEncoder, InstructionHead] | None = None,
) -> tuple[HashedEncoder, InstructionHead]:
    """Train encoder and head; ``teacher`` is a folder of a BERT-like sentence encoder.

    ``start`` continues from trained ones: the means of their embeddings, and the network that
    learnt to follow them, then hardly change. Theirs stay as they are; copies are returned. The
    encoder learns to tell the languages of the corpus from all others.
    """
    torch.manual_seed(seed)
    languages = tuple(dict.fromkeys(s.language for s in corpus))
    encoder, head = _parts(languages, embedding_width, config, start)
    anchors = task_means(*start, corpus) if start is not None else None
    examples = build_examples(corpus, seed)
    tokens = [_tokens(t) for t in examples.texts]
    lessons = _ask(teacher, examples, seed) if teacher is not None else None
    to_teacher = nn.Linear(encoder.width, lessons.meanings.shape[1] if lessons else 1)
    parameters = [*encoder.parameters(), *head.parameters(), *to_teacher.parameters()]
    optimizer = _optimizer(encoder, parameters, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = stream(seed, Stream.SENTENCE_BATCHES)
    encoder.train()
    bar = tqdm(_batches(tokens, examples.shares(), batch, steps, rng), "sentences", total=steps)
    for step, rows in enumerate(bar):
        said = [tokens[i] for i in rows]
        drop = torch.from_numpy(rng.random(sum(map(len, said))) < HIDDEN)
        words, mask = encoder.look_up(said, drop)
        # Now and then a word is missing, so that none is all that a task hangs on.
        heard = words * (torch.rand(mask.shape) >= MISSED)[..., None]
        sentence = encoder.combine(heard, mask)
        embedding, logits = head(sentence)
        targets = examples.targets[rows]
        loss = F.cross_entropy(logits, targets, label_smoothing=0.02)
        if anchors is not None:
            places = F.normalize(targets @ anchors, dim=-1)
            loss = loss + (1.0 - (embedding * places).sum(-1)).mean()
        if lessons is not None:
            asked = rng.integers(len(lessons.words), size=batch // 2)
            single = encoder([lessons.words[i] for i in asked])
            loss = loss + 2.0 * _distance(lessons, to_teacher, rows, asked, sentence, single)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    encoder.eval().requires_grad_(False)
    learn_languages(encoder, examples, seed, min(3000, steps))
    return encoder, head.eval().requires_grad_(False)


def _parts(
    languages: tuple[str, ...],
    embedding_width: int,
    config: HashedEncoderConfig | None,
    start: tuple[HashedEncoder, InstructionHead] | None,
) -> tuple[HashedEncoder, InstructionHead]:
    """New encoder and head, or copies of those to start from, ready to learn."""
    if start is not None:
        own = replace(config or _grown(start[0].config), languages=languages)
        return widen(start[0], own), copy.deepcopy(start[1]).requires_grad_(True)
    own = replace(config or NEW, languages=languages)
    encoder = HashedEncoder(own)
    head = InstructionHead(encoder.width, embedding_width, len(CLASSES))
    nn.init.normal_(encoder.table.weight, std=0.05)
    nn.init.normal_(head.fc2.weight)  # logits of a unit vector need rows of norm well above 1
    return encoder, head


def _optimizer(
    encoder: HashedEncoder, parameters: Sequence[nn.Parameter], learning_rate: float
) -> torch.optim.AdamW:
    table = encoder.table.weight
    others = [parameter for parameter in parameters if parameter is not table]
    groups: list[dict[str, Any]] = [{"params": [table], "weight_decay": FADE}, {"params": others}]
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=0.01)


def _grown(known: HashedEncoderConfig) -> HashedEncoderConfig:
    """`NEW`, as far as an encoder of another config can be made so."""
    own = replace(known, reach=NEW.reach, folded=True)
    if NEW.buckets % known.buckets or known.row_width or known.width <= NEW.row_width:
        return own
    spelling = known.spelling_buckets or known.buckets
    return replace(own, buckets=NEW.buckets, row_width=NEW.row_width, spelling_buckets=spelling)


def _distance(
    lessons: Lessons,
    to_teacher: nn.Linear,
    rows: npt.NDArray[np.int64],
    asked: npt.NDArray[np.int64],
    sentences: Tensor,
    words: Tensor,
) -> Tensor:
    """Mean of 1 - cosine between what is said of the taught sentences and words and the lessons."""
    known = lessons.of_example[rows] >= 0
    own = to_teacher(torch.cat([sentences[torch.from_numpy(known)], words]))
    taught = lessons.sentences[lessons.of_example[rows[known]]]
    theirs = torch.cat([taught, lessons.meanings[asked]])
    return 1.0 - F.cosine_similarity(own, theirs).mean()


def learn_languages(
    encoder: HashedEncoder, examples: Examples, seed: int, steps: int = 3000, batch: int = 256
) -> None:
    """Teach the encoder which language a sentence is in, by whole ones and by a few words."""
    assert encoder.spelling is not None and encoder.language is not None
    languages = encoder.config.languages
    spoken = torch.tensor([languages.index(s) if s else len(languages) for s in examples.languages])
    # Every language alike, and any other as often as three of them.
    counts = torch.bincount(spoken, minlength=len(languages) + 1).double()
    mass = torch.ones(len(counts), dtype=torch.float64)
    mass[-1] = 3.0
    shares = (mass / counts.clamp(min=1.0))[spoken].numpy()
    parameters = [*encoder.spelling.parameters(), *encoder.language.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = stream(seed, Stream.LANGUAGES)
    for _ in tqdm(range(steps), "languages"):
        rows = rng.choice(len(spoken), batch, p=shares / shares.sum())
        said = [_tokens(examples.texts[i]) for i in rows]
        for i in range(0, batch, 2):  # half of them in part
            length = int(rng.integers(1, len(said[i]) + 1))
            first = int(rng.integers(len(said[i]) - length + 1))
            said[i] = said[i][first : first + length]
        loss = F.cross_entropy(encoder.speaks(said), spoken[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    encoder.requires_grad_(False)


def _batches(
    tokens: Sequence[Sequence[str]],
    shares: npt.NDArray[np.float64],
    batch: int,
    steps: int,
    rng: np.random.Generator,
) -> Iterator[npt.NDArray[np.int64]]:
    """Rows to train on; those of like length share a batch, which leaves little padding."""
    lengths = np.array([len(t) for t in tokens])
    for start in range(0, steps, _ALIKE):
        rows = rng.choice(len(tokens), _ALIKE * batch, p=shares)
        parts = rows[np.argsort(lengths[rows], kind="stable")].reshape(_ALIKE, batch)
        yield from rng.permutation(parts)[: steps - start]


def train_reader(
    init: checkpoint.Checkpoint,
    out: Path,
    corpus: Sequence[Sentence],
    *,
    seed: int = 0,
    steps: int = 7000,
    learning_rate: float = 2e-3,
    teacher: Path | None = None,
) -> Path:
    """Train the encoder and head of a file on, and write them with its network as ``out``.

    The network stays as it is, and the embeddings of each task about where it knows them. Raises
    ``ValueError`` where the file has no reader of this package's kind, or ``out`` another suffix.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: expected a name ending in .safetensors. Rename the output.")
    encoder, head = init.text_encoder, init.head
    if not isinstance(encoder, HashedEncoder) or head is None or tuple(init.tasks) != CLASSES:
        raise ValueError(
            f"{init.name}: found no sentence encoder and head for {', '.join(CLASSES)}; expected "
            "those of this package. Start from mini, or from a file trained here."
        )
    reader = train_sentences(
        corpus, seed, steps,
        learning_rate=learning_rate, teacher=teacher, start=(encoder, head),
    )  # fmt: skip
    made = {
        "seed": seed, "steps": steps, "learning_rate": learning_rate,
        "sentences": len(corpus), "taught": teacher is not None,
        "init": init.provenance.get("reader", init.name),
    }  # fmt: skip
    provenance = {**init.provenance, "reader": made}
    checkpoint.save(out, init.network, reader[1], CLASSES, reader[0], provenance)
    return out
