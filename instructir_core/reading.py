"""From one sentence to its parts: what each asks for, what to leave alone, and in which order.

The words below, in any of the languages, say where a sentence may be cut and in which order its
parts come. It is cut only where the parts read as different tasks, or as something to leave
alone, more surely than the whole reads as one. What a part asks for is the model's to read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .instruction import Instruction, without
from .refusals import FORBIDDEN, LEFT_ALONE, NEGATION, OPPOSITE, REFUSAL
from .tasks import NO_TASK
from .words import word_spans

ORDER = ("noise", "sr", "blur", "lol", "rain", "haze", "en")
"""Where the sentence says none: noise before light, which would lift it, else the damage that came
last first, as cameras add it."""

# What a cut says. Words of TURN stay with what follows them, all others are dropped.
AND = "and"  # no order
THEN = "then"  # what follows comes later
FIRST, LAST = "first", "last"  # what follows comes before, or after, everything
AFTER, BEFORE = "after", "before"  # what follows comes earlier, or later, than what it hangs on
SWAP = "swap"  # what precedes comes later than what follows: "brightening needs denoising first"
TURN = "turn"  # a contrast or a refusal begins
MARK = "mark"  # punctuation

# Regular expressions of whole words, for languages with spaces: one line for each language,
# English, German, French, Spanish, Portuguese, Russian, Korean.
_WORDS = {
    THEN: r"""
        (?:and )?then(?: also)?|after (?:that|this|which)|afterwards?|next|followed by|subsequently
        dann(?: auch)?|danach|anschließend|hinterher|daraufhin|im anschluss
        (?:et )?puis|ensuite|après (?:ça|cela|quoi)|par la suite
        luego|después(?! de)|entonces|a continuación|acto seguido|seguidamente
        depois(?! de| d[eoa])|então|em seguida|a seguir|logo após
        потом|затем|далее|после (?:этого|чего)|следом
        (?:그|그런)? ?(?:다음|후)(?:에|으로)?|뒤에?|그리고 나서|이어서|나서
    """,
    FIRST: r"""
        first(?: of all)?|firstly|start (?:by|with)|begin (?:by|with)|before that|beforehand
        zuerst|zunächst|erst(?: ?mal)?|als erstes|vorher|zuvor|erstens
        (?:tout )?d['’]abord|premièrement|en premier(?: lieu)?|avant (?:ça|cela|tout)|commence par
        primero|primeramente|antes que nada|en primer lugar|antes de eso|empieza por
        primeiro|primeiramente|em primeiro lugar|antes disso|antes de tudo|comece por
        сначала|сперва|вначале|в первую очередь|до этого|перед этим
        먼저|우선|일단|첫째로?|맨 처음에?
    """,
    LAST: r"""
        finally|lastly|last(?: of all)?|(?:at|in) the (?:very )?end|to finish
        zuletzt|zum schluss|schließlich|am (?:ende|schluss)|abschließend
        enfin|finalement|pour finir|en dernier(?: lieu)?|à la fin
        por último|finalmente|al final|para terminar
        por (?:fim|último)|finalmente|no (?:final|fim)|para terminar
        в (?:самом )?конце|наконец|напоследок|под конец
        마지막으로|마지막에|끝으로|최종적으로
    """,
    AFTER: r"""
        after|once
        nach|nachdem
        après(?: avoir)?|une fois
        después de|tras|una vez
        depois d[eoa]s?|após|uma vez
        после(?: того как)?
    """,
    BEFORE: r"""
        before
        vor|bevor|ehe
        avant(?: de| d['’])?
        antes de
        antes d[eoa]s?
        перед(?: тем как)?|прежде чем|до того как
    """,
    SWAP: r"""
        전에|이전에
    """,
    AND: r"""
        and(?: also)?|also|plus|as well as|along with|as well|besides|in addition(?: to)?|apart from
        und(?: auch| außerdem)?|sowie|plus|außerdem|auch noch|zusätzlich|obendrein|gleichzeitig
        et(?: aussi)?|ainsi que|aussi|(?:en|de) plus|également|en même temps|par ailleurs
        y(?: también)?|e|además|también|así como|a la vez|de paso|igualmente
        e(?: também)?|também|além disso|bem como|mais|ao mesmo tempo|de quebra
        и(?: ещё| еще)?|а (?:также|ещё|еще)|также|плюс|заодно|кроме того|вдобавок
        그리고|및|또한?|동시에|아울러|더불어|게다가
    """,
    TURN: r"""
        but|just|only|without|(?<!do )not|no|don['’]?t|do not|never|keep(?:ing)?|leav(?:e|ing)
        except
        aber|nur|bloß|ohne|nicht|kein\w*|lass(?:e|en)?|behalte|sondern|außer
        mais|seulement|juste|sans|ne|pas|laisse[rz]?|garde[rz]?|conserve[rz]?|sauf
        pero|sino|sol[oa]|sólo|solamente|sin|no|deja|dejar|conserva|mantén|salvo
        mas|só|somente|apenas|sem|não|deixa|deixe|deixar|mantém|mantenha|exceto
        но|только|лишь|без|не|ничего|оставь(?:те)?|сохрани(?:те)?|кроме
        하지만|그러나|다만|단|말고|그냥
    """,
}
# The same for Chinese and Japanese, which have no spaces: any place in the text.
_CHARACTERS = {
    THEN: r"""
        然[后後]|之[后後]|以[后後]|随[后後]|隨後|接着|接著|接下[来來]|下一步|第二步|其次|再(?!次|现|現)|[后後](?![面期台景排])|(?:完了?|好了)(?=[再就])
        次に|それから|その(?:後|あと)[でに]?|続いて|つづいて|(?<=て)から|(?<=[たの])(?:後|あと)[でに]?
    """,
    FIRST: r"""
        首先|第一步|先(?![生前])
        まず|最初に|先に|はじめに|初めに
    """,
    LAST: r"""
        (?:放[到在]?|留[到在])最?[后後](?:面|头|頭)?(?:再?[处處]理|再?[弄做])?|最[后後]|最终|最終(?!的に)
        最後に|最終的に|おわりに|終わりに
    """,
    SWAP: r"""
        之前|以前|前(?![景面后後方的])
        (?<=[るの])(?:前|まえ)に
    """,
    AND: r"""
        并且|並且|并|並|同时|同時|而且|还有|還有|还要|還要|还|還|以及|另外|此外|外加|加上|(?<![增添附更])加(?=[去除降调調提放锐銳美修补補])|顺便|順便|顺带|順帶|和|跟|与|與|且|又|也
        そして|また|さらに|更に|および|及び|同時に|ついでに|加えて|(?<=[^と])と(?=[^てきこのもいっ])
    """,
    TURN: r"""
        但是?|只是?|不要|不用|不必|无需|無需|不想|不动|不動|不改|别|別(?!の)|勿|保留|保持|留着|留著|而不
        だけど|けれど|ただし|でも
    """,
}
# What ends a part and stays in it: Japanese and Korean say the link, and the refusal, at the end.
_ENDINGS = (
    r"(?<=[てで])(?=[^んいるたもき\s])|(?<=まま)(?=\S)|(?<=ずに)(?=\S)|"
    r"(?<=[고와과며])\s|(?<=지만)\s|(?<=않고)\s"
)
_PUNCTUATION = r"[,.;:!?，。；：！？、…&+/|\n]+|\s[-–—]\s|[–—]+"


def _words(kind: str) -> str:
    """The regular expression of all words that say one thing."""
    spaced = "|".join(line.strip() for line in _WORDS[kind].strip().splitlines())
    unspaced = "|".join(line.strip() for line in _CHARACTERS.get(kind, "").strip().splitlines())
    return rf"(?<!\w)(?:{spaced})(?!\w)" + (f"|{unspaced}" if unspaced else "")


def _pattern() -> re.Pattern[str]:
    """Every place where a sentence may be cut; the group that matched says what the cut says."""
    groups = [
        f"(?P<{kind}>{f'(?={_words(kind)})' if kind == TURN else _words(kind)})" for kind in _WORDS
    ]
    return re.compile("|".join([*groups, f"(?P<{MARK}>{_ENDINGS}|{_PUNCTUATION})"]), re.IGNORECASE)


_CUTS = _pattern()
_TURNS = re.compile(
    rf"(?:\s*(?:{_words(TURN)}|\b(?:i|you|please|pls)\b|[请請]))+\s*", re.IGNORECASE
)
_ORDERS = frozenset({THEN, FIRST, LAST, AFTER, BEFORE, SWAP})
_LINKS = _ORDERS | {AND}
PRICE = 0.15
"""What a cut costs, in nats: the parts must be read by so much more surely than the whole."""
UNHEARD = 0.3
"""What a part costs besides whose task the whole sentence hardly seems to ask for."""
SURE = 0.95
"""A clause read with at least this probability says what it says, whatever stands beside it."""
LINKED = 0.75
"""The same of one that a word such as "and" or "then" ties to the next, or to the one before."""
OVERHEARD = 0.6
"""What a part costs for each clause in it that is surely about another task."""
REFUSED = 0.9
"""How surely a refusal asks for nothing that is known by its words."""
MOST_CLAUSES = 16
"""Clauses that are told apart; what follows them is one more."""
LONGEST_SPAN = 6
"""Clauses that one part may hold, unless it is the whole."""
MOST_WORDS = 24
"""Words up to which a part that seems to ask two things without a link is tried at every word."""


class Reads(Protocol):
    """What reads sentences: `text.InstructionReader`."""

    tasks: tuple[str, ...]

    def read_all(self, texts: Sequence[str]) -> list[Instruction]:
        """One instruction for each sentence."""
        ...


@dataclass(frozen=True)
class _Stretch:
    """A piece of the sentence, and what the cut before it says."""

    start: int
    end: int
    said: frozenset[str]


@dataclass(frozen=True)
class _Part(_Stretch):
    """One that was read."""

    instruction: Instruction
    task: str
    """As the instruction's, or `NO_TASK` where it says what to leave alone."""
    refused: bool = False
    """Its words say so, whatever was read."""

    @property
    def share(self) -> float:
        """The probability of what was read; of a refusal that is known by its words, a high one."""
        return REFUSED if self.refused else self.instruction.probabilities[self.task]

    @property
    def doubt(self) -> float:
        """-log of it, in nats."""
        return -math.log(max(self.share, 1e-9))


def read_parts(text: str, reader: Reads) -> tuple[Instruction, ...]:
    """What a sentence asks for, one instruction each, in the order to carry out; never empty.

    Parts that ask for nothing, or say what to leave alone, are left out unless nothing else
    remains. Raises ValueError when the sentence is empty.
    """
    whole = reader.read_all([text])[0]
    text = whole.text
    divided = _divide(text, whole, reader)
    if NO_TASK in reader.tasks and all(_refused(text, clause) for clause in _clauses(text)):
        return (_forbidden(whole),)
    wanted = [part for part in divided if part.task != NO_TASK]
    once = _once_each(wanted)
    parts = [piece for part in once for piece in _divide_unmarked(text, part, reader)]
    if len({part.task for part in parts}) > 1:
        return tuple(part.instruction for part in _in_order(_once_each(parts)))
    if not parts or len(wanted) != 1 or whole.task == parts[0].task:
        return (whole,)
    return (parts[0].instruction,)


def _refused(text: str, clause: _Stretch) -> bool:
    """Its words say that it asks for nothing, whatever is read."""
    said = text[clause.start : clause.end]
    return bool(FORBIDDEN.match(said) or OPPOSITE.match(said))


def _forbidden(whole: Instruction) -> Instruction:
    """The same, read as asking for nothing."""
    if whole.task == NO_TASK:
        return whole
    return replace(whole, task=NO_TASK, probabilities=without(whole.probabilities, REFUSED))


def _divide(text: str, whole: Instruction, reader: Reads) -> list[_Part]:
    """The surest way to divide a text at its links, parts to leave alone included.

    Of all ways to put neighbouring clauses together, the one of least doubt, where a cut costs
    `PRICE`, a task that is not heard in the whole `UNHEARD`, and one that is heard in a clause but
    not in its part `OVERHEARD` (dynamic programming).
    """
    clauses = _clauses(text)
    spans = [
        (i, j)
        for j in range(1, len(clauses) + 1)
        for i in range(j)
        if j - i <= LONGEST_SPAN or (i, j) == (0, len(clauses))
    ]
    stretches = [_together(clauses[i:j]) for i, j in spans]
    read = dict(zip(spans, _read(text, stretches, reader), strict=True))
    heard = {*whole.tasks, NO_TASK}
    for i, clause in enumerate(clauses if len(clauses) > 1 else []):
        # Negated, and not what the whole asks for: it names what to leave alone.
        known = NO_TASK in reader.tasks
        marks = NEGATION if known else REFUSAL
        negated = marks.search(text, clause.start, clause.end) is not None
        if _refused(text, clause) or (negated and not (known and read[i, i + 1].task in heard)):
            read[i, i + 1] = replace(read[i, i + 1], task=NO_TASK, refused=True)
    said = _surely_said(text, [read[i, i + 1] for i in range(len(clauses))])

    def cost(part: _Part) -> float:
        inner = [c for c in said if part.start <= c.start and c.end <= part.end]
        overheard = sum(clause.task != part.task for clause in inner)
        unheard = part.task not in heard
        return part.doubt + PRICE + UNHEARD * unheard + OVERHEARD * overheard

    best: list[tuple[float, list[_Part]]] = [(-PRICE, [])]
    for j in range(1, len(clauses) + 1):
        ways = [(i, read[i, j]) for i in range(j) if (i, j) in read]
        i, last = min(ways, key=lambda way: best[way[0]][0] + cost(way[1]))
        best.append((best[i][0] + cost(last), [*best[i][1], last]))
    return _said_before_dropped(best[-1][1])


def _surely_said(text: str, clauses: Sequence[_Part]) -> list[_Part]:
    """The clauses that ask for something on their own, whatever stands beside them."""
    tied = [bool(clause.said & _LINKS) for clause in clauses] + [False]
    return [
        clause
        for i, clause in enumerate(clauses)
        if clause.task != NO_TASK
        and clause.share >= (LINKED if tied[i] or tied[i + 1] else SURE)
        and not LEFT_ALONE.match(text, clause.end)
    ]


def _clauses(text: str) -> list[_Stretch]:
    """Cut at every link; adjoining links count as one. There is one clause at least."""
    found: list[_Stretch] = []
    start, links = 0, list[str]()
    for match in [*_CUTS.finditer(text), None]:
        end = len(text) if match is None else match.start()
        if re.search(r"\w", text[start:end]) and not _TURNS.fullmatch(text, start, end):
            found.append(_Stretch(start, end, frozenset(_of_previous(found, links))))
            start, links = end, []
        if match is not None:
            links.append(match.lastgroup or "")
            if not _TURNS.fullmatch(text, start, match.end()):
                start = match.end()
    _of_previous(found, [*links, MARK])
    if len(found) > MOST_CLAUSES:
        found[MOST_CLAUSES:] = [_together(found[MOST_CLAUSES:])]
    return found or [_Stretch(0, len(text), frozenset(links))]


def _of_previous(found: list[_Stretch], links: list[str]) -> list[str]:
    """Give "denoise it first, then ..." its "first", and return the links that are left."""
    if found and len(links) > 1 and links[0] in (FIRST, LAST):
        found[-1] = replace(found[-1], said=found[-1].said | {links[0]})
        return links[1:]
    return links


def _together(clauses: Sequence[_Stretch]) -> _Stretch:
    """Neighbouring clauses as one; an order that is said within is an order said."""
    first, *others = clauses
    within = any(clause.said & _ORDERS for clause in others)
    said = first.said | {THEN} if within else first.said
    return _Stretch(first.start, clauses[-1].end, said)


def _read(text: str, stretches: Sequence[_Stretch], reader: Reads) -> list[_Part]:
    read = reader.read_all([text[s.start : s.end] for s in stretches])
    return [
        _Part(stretch.start, stretch.end, stretch.said, instruction, instruction.task)
        for stretch, instruction in zip(stretches, read, strict=True)
    ]


def _said_before_dropped(parts: Sequence[_Part]) -> list[_Part]:
    """Hand what is said before a part that will be left out on to the next one."""
    said, handed = frozenset[str](), []
    for part in parts:
        said |= part.said
        handed.append(replace(part, said=said))
        if part.task != NO_TASK:
            said = frozenset()
    return handed


def _once_each(parts: Sequence[_Part]) -> list[_Part]:
    """Each task once, where it is read most surely, at the place where it was first said."""
    surest: dict[str, _Part] = {}
    for part in parts:
        known = surest.setdefault(part.task, part)
        if part.doubt < known.doubt:
            surest[part.task] = replace(part, said=known.said)
    return list(surest.values())


def _divide_unmarked(text: str, part: _Part, reader: Reads) -> list[_Part]:
    """The part, or two where it seems to ask for two things with no word between."""
    words = [start for start, _ in word_spans(text) if part.start <= start < part.end]
    asked = set(part.instruction.tasks) - {NO_TASK}
    if len(asked) < 2 or not 1 < len(words) <= MOST_WORDS:
        return [part]
    cuts = words[1:]
    stretches = [_Stretch(part.start, cut, part.said) for cut in cuts]
    stretches += [_Stretch(cut, part.end, frozenset()) for cut in cuts]
    read = _read(text, stretches, reader)
    pairs = [
        pair
        for pair in zip(read[: len(cuts)], read[len(cuts) :], strict=True)
        if pair[0].task != pair[1].task and {pair[0].task, pair[1].task} <= asked
    ]
    if not pairs:
        return [part]
    first, second = min(pairs, key=lambda pair: pair[0].doubt + pair[1].doubt)
    if first.doubt + second.doubt + PRICE >= part.doubt:
        return [part]
    return [*_divide_unmarked(text, first, reader), *_divide_unmarked(text, second, reader)]


def _in_order(parts: Sequence[_Part]) -> list[_Part]:
    """The order that the cuts say, or `ORDER` where none says any."""
    said = frozenset[str]().union(*(part.said for part in parts))
    if not said & _ORDERS:
        return sorted(parts, key=_place)
    places = [float(place) for place in range(len(parts))]
    for place, part in enumerate(parts):
        if FIRST in part.said:
            places[place] = -1.0
        elif LAST in part.said:
            places[place] = len(parts)
        elif AFTER in part.said and place:
            places[place] = place - 1.5
        elif BEFORE in part.said and not place:
            places[place] = 1.5
        if SWAP in part.said and place:
            places[place - 1] = place + 0.5
    order = sorted(range(len(parts)), key=places.__getitem__)
    return [parts[i] for i in order]


def _place(part: _Part) -> int:
    return ORDER.index(part.task) if part.task in ORDER else len(ORDER)
