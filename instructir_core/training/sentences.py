"""First stage of training: the bundled sentence encoder and the instruction head.

Cross-entropy on the instruction corpus, and, where a teacher is at hand, distillation from a
larger sentence model over the corpus and over single words, which is what lets the small encoder
read words that the corpus lacks.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..text import (
    NO_TASK,
    HashedEncoder,
    HashedEncoderConfig,
    InstructionHead,
    TransformersEncoder,
    tokenize,
)
from .instructions import CLASSES, Sentence, join, vary

log = logging.getLogger(__name__)

VARIANTS = 6
"""Times each corpus sentence is drawn as another person would type it."""


def _targets(tasks: Sequence[str]) -> Tensor:
    """(8,) probabilities: shared equally by the tasks asked for."""
    target = torch.zeros(len(CLASSES))
    for task in tasks:
        target[CLASSES.index(task)] += 1.0 / len(tasks)
    return target


def build_examples(corpus: Sequence[Sentence], seed: int) -> tuple[list[str], Tensor]:
    """Varied sentences, plus pairs of requests joined into one, and their (N, 8) targets."""
    rng = np.random.default_rng((seed, 1))
    texts, targets = [], []
    for sentence in corpus:
        texts += [sentence.text, *(vary(sentence.text, rng) for _ in range(VARIANTS - 1))]
        targets += [_targets([sentence.task])] * VARIANTS
    restoring = [s for s in corpus if s.task != NO_TASK]
    # Short requests joined: long ones with their own "because" make no natural pair.
    short = [s for s in restoring if len(tokenize(s.text)) <= 6]
    while len(texts) < (VARIANTS + 1) * len(corpus):
        first, second = (short[int(i)] for i in rng.integers(len(short), size=2))
        if first.language != second.language:
            continue
        tasks = [first.task, second.task]
        texts.append(vary(join(first.text, second.text, rng), rng))
        targets.append(_targets(tasks))
    return texts, torch.stack(targets)


def _teach(teacher: TransformersEncoder, texts: Sequence[str]) -> Tensor:
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # batches of equal length
    vectors = torch.empty(len(texts), teacher.width)
    for start in tqdm(range(0, len(texts), 256), desc="teacher", leave=False):
        batch = order[start : start + 256]
        vectors[batch] = teacher.encode([texts[i] for i in batch])
    return vectors


def refit_classes(
    encoder: HashedEncoder,
    head: InstructionHead,
    corpus: Sequence[Sentence],
    seed: int = 0,
    steps: int = 600,
) -> None:
    """Fit the head's last layer anew, on sentences of one and of two requests.

    Training with pictures shows one task at a time, after which the head hardly admits a second.
    The embeddings, and so the pictures, stay exactly as they are.
    """
    texts, targets = build_examples(corpus, seed)
    with torch.no_grad():
        vectors = torch.cat(
            [encoder.encode(texts[i : i + 512]) for i in range(0, len(texts), 512)]
        ).clone()
        embeddings = head(vectors)[0]
    optimizer = torch.optim.AdamW(head.fc2.parameters(), lr=0.02, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng((seed, 6))
    weights = (targets / targets.sum(0).clamp(min=1.0)).sum(1).double().numpy()
    weights /= weights.sum()
    head.fc2.requires_grad_(True)
    for _ in range(steps):
        rows = rng.choice(len(texts), 1024, p=weights)
        loss = F.cross_entropy(head.fc2(embeddings[rows]), targets[rows], label_smoothing=0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    head.requires_grad_(False)


def train_sentences(
    corpus: Sequence[Sentence],
    seed: int = 0,
    steps: int = 3000,
    batch: int = 256,
    teacher: Path | None = None,
    embedding_width: int = 256,
    config: HashedEncoderConfig | None = None,
) -> tuple[HashedEncoder, InstructionHead]:
    """Train encoder and head; ``teacher`` is a folder of a BERT-like sentence encoder."""
    torch.manual_seed(seed)
    encoder = HashedEncoder(config or HashedEncoderConfig())
    head = InstructionHead(encoder.width, embedding_width, len(CLASSES))
    nn.init.normal_(encoder.table.weight, std=0.3)
    nn.init.normal_(head.fc2.weight)  # logits of a unit vector need rows of norm well above 1

    texts, targets = build_examples(corpus, seed)
    tokens = [tokenize(t)[:64] for t in texts]
    words: list[str] = []
    student_to_teacher = nn.Linear(encoder.width, 384)
    lessons = torch.empty(0)
    if teacher is not None:
        guide = TransformersEncoder(teacher)
        student_to_teacher = nn.Linear(encoder.width, guide.width)
        known = {w for t in tokens for w in t}
        vocabulary = guide.tokenizer.get_vocab()
        words = sorted(known | {w for w in vocabulary if w.isalpha() and len(w) > 2})
        lessons = _teach(guide, [*texts, *words])
    word_tokens = [[w] for w in words]

    parameters = [*encoder.parameters(), *head.parameters(), *student_to_teacher.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng((seed, 2))
    # Equal share per class, whatever the corpus holds of each.
    weights = (targets / targets.sum(0).clamp(min=1.0)).sum(1).double().numpy()
    weights /= weights.sum()
    encoder.train()
    bar = tqdm(range(steps), desc="sentences")
    for step in bar:
        rows = rng.choice(len(texts), batch, p=weights)
        batch_tokens = [tokens[i] for i in rows]
        drop = torch.from_numpy(rng.random(sum(map(len, batch_tokens))) < 0.15)
        extra = rng.integers(len(words), size=batch) if words else np.empty(0, np.int64)
        both = encoder(
            [*batch_tokens, *(word_tokens[i] for i in extra)],
            torch.cat([drop, torch.zeros(len(extra), dtype=torch.bool)]),
        )
        _, logits = head(both[:batch])
        loss = F.cross_entropy(logits, targets[rows], label_smoothing=0.02)
        if words:
            index = np.concatenate([rows, len(texts) + extra])
            guess = F.normalize(student_to_teacher(both), dim=-1)
            loss = loss + 2.0 * (1.0 - (guess * lessons[index]).sum(-1).mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return encoder.eval(), head.eval()
