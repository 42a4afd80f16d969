"""First stage of training: the bundled sentence encoder and the instruction head.

Cross-entropy on the instruction corpus, and, where a teacher is at hand, distillation from a
larger sentence model over the corpus and over single words, which is what lets the small encoder
read words that the corpus lacks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..tasks import CLASSES, NO_TASK
from ..text import (
    HashedEncoder,
    HashedEncoderConfig,
    InstructionHead,
    TextEncoder,
    TransformersEncoder,
    tokenize,
)
from .corpus import Sentence, join, vary
from .streams import Stream, stream

VARIANTS = 6
"""Times each corpus sentence is drawn as another person would type it."""
TAUGHT = 30_000
"""Sentences that a teacher is asked about; more take long and teach little."""
TEACHERS_LANGUAGE = "en"
"""The sentence models that are small enough to run here know English alone."""


def _targets(tasks: Sequence[str]) -> Tensor:
    """(8,) probabilities: shared equally by the tasks asked for."""
    target = torch.zeros(len(CLASSES))
    for task in tasks:
        target[CLASSES.index(task)] += 1.0 / len(tasks)
    return target


def build_examples(corpus: Sequence[Sentence], seed: int) -> tuple[list[str], Tensor, list[str]]:
    """Varied sentences, plus pairs of requests joined into one, their (N, 8) targets and their
    languages."""
    rng = stream(seed, Stream.EXAMPLES)
    texts, targets, languages = [], [], []
    for sentence in corpus:
        # Hand-written sentences say what no pattern does, and are far fewer.
        copies = VARIANTS * (2 if sentence.handwritten else 1)
        texts += [sentence.text, *(vary(sentence.text, rng) for _ in range(copies - 1))]
        targets += [_targets([sentence.task])] * copies
        languages += [sentence.language] * copies
    restoring = [s for s in corpus if s.task != NO_TASK]
    # Short requests joined: long ones with their own "because" make no natural pair.
    short = [s for s in restoring if len(tokenize(s.text)) <= 6]
    wanted = len(texts) + len(corpus)
    while len(texts) < wanted:
        first, second = (short[int(i)] for i in rng.integers(len(short), size=2))
        if first.language != second.language:
            continue
        tasks = [first.task, second.task]
        texts.append(vary(join(first.text, second.text, rng), rng))
        targets.append(_targets(tasks))
        languages.append(first.language)
    return texts, torch.stack(targets), languages


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
    texts, targets, _ = build_examples([corpus[i] for i in some], seed)
    with torch.no_grad():
        embeddings = head(encode_all(encoder, texts))[0]
    optimizer = torch.optim.AdamW(head.fc2.parameters(), lr=0.02, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = stream(seed, Stream.CLASS_BATCHES)
    weights = _equal_shares(targets)
    head.fc2.requires_grad_(True)
    for _ in range(steps):
        rows = rng.choice(len(texts), 1024, p=weights)
        loss = F.cross_entropy(head.fc2(embeddings[rows]), targets[rows], label_smoothing=0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    head.requires_grad_(False)


@dataclass(frozen=True)
class Lessons:
    """What a teacher says of some of the examples, and of single words."""

    vectors: Tensor
    """(taught + words, W) unit vectors."""
    of_example: npt.NDArray[np.int64]
    """Row of each example; -1 for those that were not taught."""
    words: list[str]
    """Their rows come last."""


def _ask(teacher: Path, texts: Sequence[str], languages: Sequence[str], seed: int) -> Lessons:
    """Ask about some examples of the teacher's language, and about every word it knows or meets."""
    guide = TransformersEncoder(teacher)
    known = np.array([language == TEACHERS_LANGUAGE for language in languages]).nonzero()[0]
    taught = stream(seed, Stream.LESSONS).permutation(known)[:TAUGHT]
    of_example = np.full(len(texts), -1)
    of_example[taught] = np.arange(len(taught))
    vocabulary = {w for w in guide.tokenizer.get_vocab() if w.isalpha() and len(w) > 2}
    words = sorted(vocabulary | {w for i in known for w in _tokens(texts[int(i)])})
    return Lessons(encode_all(guide, [*(texts[i] for i in taught), *words]), of_example, words)


def _tokens(text: str) -> list[str]:
    return tokenize(text)[:64]


def train_sentences(
    corpus: Sequence[Sentence],
    seed: int = 0,
    steps: int = 3000,
    batch: int = 256,
    *,
    teacher: Path | None = None,
    embedding_width: int = 256,
    config: HashedEncoderConfig | None = None,
    start: tuple[HashedEncoder, InstructionHead] | None = None,
) -> tuple[HashedEncoder, InstructionHead]:
    """Train encoder and head; ``teacher`` is a folder of a BERT-like sentence encoder.

    ``start`` continues from trained ones: their embeddings, and the network that learnt to
    follow them, then hardly change. Theirs stay as they are; copies are returned.
    """
    torch.manual_seed(seed)
    encoder, head = _parts(embedding_width, config, start)
    texts, targets, languages = build_examples(corpus, seed)
    tokens = [_tokens(t) for t in texts]
    lessons = None
    student_to_teacher = nn.Linear(encoder.width, 384)
    if teacher is not None:
        lessons = _ask(teacher, texts, languages, seed)
        student_to_teacher = nn.Linear(encoder.width, lessons.vectors.shape[1])
    words = lessons.words if lessons is not None else []

    parameters = [*encoder.parameters(), *head.parameters(), *student_to_teacher.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = stream(seed, Stream.SENTENCE_BATCHES)
    weights = _equal_shares(targets)
    encoder.train()
    bar = tqdm(range(steps), desc="sentences")
    for step in bar:
        rows = rng.choice(len(texts), batch, p=weights)
        batch_tokens = [tokens[i] for i in rows]
        drop = torch.from_numpy(rng.random(sum(map(len, batch_tokens))) < 0.15)
        extra = rng.integers(len(words), size=batch) if words else np.empty(0, np.int64)
        both = encoder(
            [*batch_tokens, *([words[i]] for i in extra)],
            torch.cat([drop, torch.zeros(len(extra), dtype=torch.bool)]),
        )
        _, logits = head(both[:batch])
        loss = F.cross_entropy(logits, targets[rows], label_smoothing=0.02)
        if lessons is not None:
            loss = loss + 2.0 * _distance(lessons, both, rows, extra, student_to_teacher)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return encoder.eval(), head.eval()


def _parts(
    embedding_width: int,
    config: HashedEncoderConfig | None,
    start: tuple[HashedEncoder, InstructionHead] | None,
) -> tuple[HashedEncoder, InstructionHead]:
    """New encoder and head, or copies of those to start from, ready to learn."""
    if start is not None:
        encoder, head = copy.deepcopy(start[0]), copy.deepcopy(start[1])
        encoder.requires_grad_(True)
        head.requires_grad_(True)
        return encoder, head
    encoder = HashedEncoder(config or HashedEncoderConfig())
    head = InstructionHead(encoder.width, embedding_width, len(CLASSES))
    nn.init.normal_(encoder.table.weight, std=0.3)
    nn.init.normal_(head.fc2.weight)  # logits of a unit vector need rows of norm well above 1
    return encoder, head


def _equal_shares(targets: Tensor) -> npt.NDArray[np.float64]:
    """How often to draw each example, so that every class has the same share of the draws."""
    weights = (targets / targets.sum(0).clamp(min=1.0)).sum(1).double().numpy()
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def _distance(
    lessons: Lessons,
    vectors: Tensor,
    rows: npt.NDArray[np.int64],
    extra: npt.NDArray[np.int64],
    to_teacher: nn.Module,
) -> Tensor:
    """1 less the mean cosine to the teacher's vectors, of the examples ``rows`` where they were
    taught, and of the words ``extra``."""
    first_word = len(lessons.vectors) - len(lessons.words)
    asked = np.concatenate([lessons.of_example[rows], first_word + extra])
    known = (asked >= 0).nonzero()[0]
    guess = F.normalize(to_teacher(vectors[known]), dim=-1)
    alike = (guess * lessons.vectors[asked[known]]).sum(-1)
    return 1.0 - alike.mean()
