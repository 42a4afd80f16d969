"""First stage of training: the bundled sentence encoder and the instruction head.

Cross-entropy on the task and on the language, and, where a trained reader is started from, the
cosine to its mean embedding of each task: an image network that learnt to follow those need not
learn again. Where a teacher is at hand, distillation from a larger sentence model over the corpus
and over single words lets the small encoder read words that the corpus lacks.
"""

from __future__ import annotations

import copy
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
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
    TextEncoder,
    TransformersEncoder,
    mean_pool,
    tokenize,
)
from .framing import join, pick, vary
from .instructions import CLASSES, Sentence

log = logging.getLogger(__name__)

VARIANTS = 5
"""Times each corpus sentence is drawn as another person would type it."""
SHORT = 8
"""Words up to which a request is joined with another: long ones make no natural pair."""
TAUGHT = 30_000
"""Sentences that a teacher is asked about; more take long and teach little."""
TEACHERS_LANGUAGE = "en"
"""The sentence models that are small enough to run here know English alone."""
_ALIKE = 16
"""Batches drawn together and dealt by length."""
LONGEST = 48
"""Tokens of a sentence that training looks at."""
OTHER = ""
"""Stands for every language that the encoder does not know."""


@dataclass(frozen=True)
class Examples:
    """What the encoder and the head are trained on."""

    texts: list[str]
    targets: Tensor
    """(N, 8) probabilities."""
    languages: list[str]
    """Of each text; `OTHER` where it should not be read."""

    def shares(self) -> np.ndarray:
        """(N,) how often to draw each: every class alike, `OTHER` being one more, and within it
        languages by the square root of what there is of them, so that small ones are heard."""
        cells: dict[tuple[int, str], list[int]] = defaultdict(list)
        for i, task in enumerate(self.targets.argmax(1).tolist()):
            language = self.languages[i]
            cells[task if language != OTHER else len(CLASSES), language].append(i)
        mass: Counter[int] = Counter()
        for (task, _), rows in cells.items():
            mass[task] += len(rows) ** 0.5
        shares = np.zeros(len(self.texts))
        for (task, _), rows in cells.items():
            shares[rows] = len(rows) ** -0.5 / mass[task]
        return shares / shares.sum()


def _targets(tasks: Sequence[str]) -> Tensor:
    """(8,) probabilities: shared equally by the tasks asked for."""
    target = torch.zeros(len(CLASSES))
    for task in tasks:
        target[CLASSES.index(task)] += 1.0 / len(tasks)
    return target


def build_examples(corpus: Sequence[Sentence], seed: int, languages: bool = True) -> Examples:
    """Varied sentences, two joined into one, and, with ``languages``, text in other languages."""
    rng = np.random.default_rng((seed, 1))
    texts, targets, spoken = [], [], []
    for sentence in corpus:
        # Hand-written sentences say what no pattern does, and are far fewer.
        copies = VARIANTS * (2 if sentence.handwritten else 1)
        typed = (vary(sentence.text, rng, sentence.language) for _ in range(copies - 1))
        texts += [sentence.text, *typed]
        targets += [_targets([sentence.task])] * copies
        spoken += [sentence.language] * copies
    pairs = draw_pairs(corpus, len(corpus), rng)
    for tasks, language, text in pairs:
        texts.append(vary(text, rng, language))
        targets.append(_targets(tasks))
        spoken.append(language)
    if languages:
        foreign = draw_foreign(corpus, len(corpus) // 4, rng)
        texts += foreign
        targets += [_targets([NO_TASK])] * len(foreign)
        spoken += [OTHER] * len(foreign)
    return Examples(texts, torch.stack(targets), spoken)


_IN_ORDER = {
    "en": "first {0}, then {1}|{0} {1}|{1} after you {0}|before you {1}, {0}|{1}, but first {0}",
    "zh": "先{0}再{1}|{0}并{1}|{0}{1}|{1}前先{0}|{0}后{1}|{0}还要{1}|{0}也{1}",
    "zh-Hant": "先{0}再{1}|{0}並{1}|{0}{1}|{1}前先{0}|{0}後{1}|{0}還要{1}|{0}也{1}",
    "ja": "まず{0}、次に{1}|{0}、{1}|{0}{1}|{1}前に{0}|{0}、そして{1}|{0}、それから{1}",
    "ko": "먼저 {0} 그다음 {1}|{0} {1}|{1} 전에 {0}|{0} 그리고 {1}|{0}, {1}",
    "de": "erst {0}, dann {1}|{0} {1}|bevor du {1}, {0}|{1}, aber vorher {0}",
    "fr": "d'abord {0}, puis {1}|{0} {1}|avant de {1}, {0}|{1}, mais d'abord {0}",
    "es": "primero {0}, luego {1}|{0} {1}|antes de {1}, {0}|{1}, pero primero {0}",
    "pt": "primeiro {0}, depois {1}|{0} {1}|antes de {1}, {0}|{1}, mas primeiro {0}",
    "ru": "сначала {0}, потом {1}|{0} {1}|прежде чем {1}, {0}|{1}, но сначала {0}",
}
"""Two requests whose order is said, or with nothing between them."""


def draw_pairs(
    corpus: Sequence[Sentence], count: int, rng: np.random.Generator
) -> list[tuple[list[str], str, str]]:
    """(tasks, language, text) of ``count`` sentences joined of two short ones of one language.

    A quarter joins a request with one for nothing, and asks for the request alone.
    """
    requests: dict[str, list[Sentence]] = defaultdict(list)
    nothing: dict[str, list[Sentence]] = defaultdict(list)
    for s in corpus:
        if len(tokenize(s.text)) <= SHORT:
            (nothing if s.task == NO_TASK else requests)[s.language].append(s)
    languages = sorted(language for language, known in requests.items() if len(known) > 1)
    mass = np.array([len(requests[language]) ** 0.5 for language in languages])
    pairs = []
    for index in rng.choice(len(languages), count, p=mass / mass.sum()):
        language = languages[int(index)]
        first = pick(requests[language], rng)
        if nothing[language] and rng.random() < 0.25:
            both, tasks = [first, pick(nothing[language], rng)], [first.task]
            both = both[:: pick((1, -1), rng)]
        else:
            both = [first, pick(requests[language], rng)]
            tasks = [s.task for s in both]
        said = [s.text.rstrip(".!?。！？") for s in both]
        if language in _IN_ORDER and rng.random() < 0.35:
            text = pick(_IN_ORDER[language].split("|"), rng).format(*said)
        else:
            text = join(said[0], said[1], rng, language)
        pairs.append((tasks, language, text))
    return pairs


def draw_foreign(corpus: Sequence[Sentence], count: int, rng: np.random.Generator) -> list[str]:
    """Text in languages that the corpus has none of: written, mixed anew, and made up."""
    file = resources.files(__package__).joinpath("corpus/other-languages.list")
    lines = file.read_text("utf-8").splitlines()
    written: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line and not line.startswith("#"):
            language, _, text = line.partition("\t")
            written[language].append(text)
    texts = [text for known in written.values() for text in known]
    for known in written.values():
        words = " ".join(known).split()
        for length in rng.integers(2, 9, size=4 * len(known)):
            texts.append(" ".join(words[int(i)] for i in rng.integers(len(words), size=length)))
    spaced = [s.text for s in corpus if s.language not in ("zh", "zh-Hant", "ja")]
    return texts + [disguise(pick(spaced, rng), rng) for _ in range(count)]


_VOWELS = "aeiouyáéíóúàèâêôäöüåæøõãаеиоуыэюяёі"
_CONSONANTS = (
    "bcdfghjklmnpqrstvwxz", "bdgjklmnprstvz", "bčdďfghjklmnňprřsštvzž", "bcdđghklmnpqrstvx",
    "ptkmnlrsvhjd", "bcçdfgğhjklmnprsştvz",
)  # fmt: skip
_SCRIPTS = ((0x3B1, 24), (0x561, 38), (0x5D0, 27), (0x627, 36), (0x905, 53), (0xE01, 46),
            (0x10D0, 33), (0xB85, 50), (0x995, 35), (0x13A0, 80), (0x1200, 90))  # fmt: skip
"""First letter and count of letters of scripts that no language of the corpus is written in."""


def disguise(text: str, rng: np.random.Generator) -> str:
    """The sentence in a language that does not exist: other vowels, other consonants, and now and
    then another script, by one substitution throughout."""
    text = text.casefold()
    letters = sorted({c for c in text if c.isalpha()})
    if rng.random() < 0.15 or not any(c < "\u0530" for c in letters):
        start, count = pick(_SCRIPTS, rng)
        stands_for = {c: chr(start + int(rng.integers(count))) for c in letters}
    else:
        cyrillic = sum("\u0400" <= c <= "\u04ff" for c in letters) > len(letters) / 2
        vowels = (
            "аеиоуіэ" if cyrillic else pick(("aeiou", "aeiouäöõ", "aeiouáéíů", "aeiyouăâ"), rng)
        )
        others = "бвгджзклмнпрстфхцчш" if cyrillic else pick(_CONSONANTS, rng)
        stands_for = {c: pick(vowels if c in _VOWELS else others, rng) for c in letters}
    return re.sub(r"\w", lambda m: stands_for.get(m.group(), m.group()), text)


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
    some = np.random.default_rng((seed, 8)).permutation(len(corpus))[: examples // VARIANTS]
    drawn = build_examples([corpus[i] for i in some], seed, languages=False)
    texts, targets = drawn.texts, drawn.targets
    with torch.no_grad():
        embeddings = head(encode_all(encoder, texts))[0]
    optimizer = torch.optim.AdamW(head.fc2.parameters(), lr=0.02, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng((seed, 6))
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

    It may know other languages and have more layers; tables of other sizes raise ``ValueError``.
    """
    known = encoder.config
    if (known.buckets, known.width, known.heads) != (config.buckets, config.width, config.heads):
        raise ValueError(
            f"found a text encoder of {known} to start from; expected the buckets, width and "
            f"heads of {config}. Start from none, or keep its sizes"
        )
    wider = HashedEncoder(config)
    for layer in wider.layers[known.layers :]:
        for name, parameter in layer.named_parameters():
            if name.startswith(("self_attn.out_proj", "linear2")):
                nn.init.zeros_(parameter)
    for parameter in wider.further[known.reach - 1 :].parameters():
        nn.init.zeros_(parameter)
    own = wider.state_dict()
    same = {k: v for k, v in encoder.state_dict().items() if own[k].shape == v.shape}
    wider.load_state_dict({**own, **same})
    return wider


class _Lessons:
    """What a larger model says of sentences and of single words, in the language it knows."""

    def __init__(
        self, teacher: Path, examples: Examples, tokens: Sequence[Sequence[str]], seed: int
    ):
        guide = TransformersEncoder(teacher)
        known = (np.array(examples.languages) == TEACHERS_LANGUAGE).nonzero()[0]
        taught = np.random.default_rng((seed, 7)).permutation(known)[:TAUGHT]
        self.of = np.full(len(tokens), -1)
        """Row of `sentences` for each example, or -1."""
        self.of[taught] = np.arange(len(taught))
        vocabulary = {w for w in guide.tokenizer.get_vocab() if w.isalpha() and len(w) > 2}
        spoken = sorted(vocabulary | {w for i in known for w in tokens[i]})
        self.sentences = encode_all(guide, [examples.texts[i] for i in taught])
        self.words = [[w] for w in spoken]
        self.meanings = encode_all(guide, spoken)
        self.width = guide.width


def train_sentences(
    corpus: Sequence[Sentence],
    seed: int = 0,
    steps: int = 8000,
    batch: int = 64,
    teacher: Path | None = None,
    embedding_width: int = 256,
    config: HashedEncoderConfig | None = None,
    start: tuple[HashedEncoder, InstructionHead] | None = None,
    learning_rate: float = 2e-3,
) -> tuple[HashedEncoder, InstructionHead]:
    """Train encoder and head; ``teacher`` is a folder of a BERT-like sentence encoder.

    ``start`` continues from trained ones: the means of their embeddings, and the network that
    learnt to follow them, then hardly change. Theirs stay as they are; copies are returned.
    """
    torch.manual_seed(seed)
    languages = tuple(dict.fromkeys(s.language for s in corpus))
    config = replace(
        config or (start[0].config if start else HashedEncoderConfig()), languages=languages
    )
    if start is not None:
        encoder, head = widen(start[0], config), copy.deepcopy(start[1])
        head.requires_grad_(True)
        anchors = task_means(*start, corpus)
    else:
        encoder = HashedEncoder(config)
        head = InstructionHead(encoder.width, embedding_width, len(CLASSES))
        nn.init.normal_(encoder.table.weight, std=0.3)
        nn.init.normal_(head.fc2.weight)  # logits of a unit vector need rows of norm well above 1
        anchors = torch.zeros(len(CLASSES), embedding_width)

    examples = build_examples(corpus, seed)
    tokens = [tokenize(t)[:LONGEST] for t in examples.texts]
    spoken = torch.tensor([languages.index(s) if s else len(languages) for s in examples.languages])
    lessons = _Lessons(teacher, examples, tokens, seed) if teacher is not None else None
    to_teacher = nn.Linear(encoder.width, lessons.width if lessons else 1)
    parameters = [*encoder.parameters(), *head.parameters(), *to_teacher.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng((seed, 2))
    encoder.train()
    bar = tqdm(_batches(tokens, examples.shares(), batch, steps, rng), "sentences", total=steps)
    for step, rows in enumerate(bar):
        said = [tokens[i] for i in rows]
        drop = torch.from_numpy(rng.random(sum(map(len, said))) < 0.15)
        words, mask = encoder.look_up(said, drop)
        sentence = encoder.combine(words, mask)
        embedding, logits = head(sentence)
        targets = examples.targets[rows]
        loss = F.cross_entropy(logits, targets, label_smoothing=0.02)
        loss = loss + 0.2 * _language_loss(encoder, words, mask, spoken[rows])
        if start is not None:
            loss = (
                loss + (1.0 - (embedding * F.normalize(targets @ anchors, dim=-1)).sum(-1)).mean()
            )
        if lessons is not None:
            asked = rng.integers(len(lessons.words), size=batch // 2)
            known = (lessons.of[rows] >= 0).nonzero()[0]
            own = torch.cat([sentence[known], encoder([lessons.words[i] for i in asked])])
            theirs = torch.cat(
                [lessons.sentences[lessons.of[rows[known]]], lessons.meanings[asked]]
            )
            alike = (F.normalize(to_teacher(own), dim=-1) * theirs).sum(-1)
            loss = loss + 2.0 * (1.0 - alike.mean())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return encoder.eval().requires_grad_(False), head.eval().requires_grad_(False)


def _language_loss(encoder: HashedEncoder, words: Tensor, mask: Tensor, spoken: Tensor) -> Tensor:
    """Cross-entropy of the language: of each sentence, and of a few words out of each."""
    assert encoder.language is not None
    some = mask & (torch.rand(mask.shape) < 0.5)
    some = torch.where(some.any(1, keepdim=True), some, mask)
    whole = F.cross_entropy(encoder.language(mean_pool(words, mask)), spoken)
    return (whole + F.cross_entropy(encoder.language(mean_pool(words, some)), spoken)) / 2


def _batches(
    tokens: Sequence[Sequence[str]],
    shares: np.ndarray,
    batch: int,
    steps: int,
    rng: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Rows to train on; those of like length share a batch, which leaves little padding."""
    lengths = np.array([len(t) for t in tokens])
    for start in range(0, steps, _ALIKE):
        rows = rng.choice(len(tokens), _ALIKE * batch, p=shares)
        parts = rows[np.argsort(lengths[rows], kind="stable")].reshape(_ALIKE, batch)
        yield from rng.permutation(parts)[: steps - start]
