"""From a text to its words, and from a word to the rows of a table that stand for it."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache

# Scripts written without spaces are split into single characters, which bigrams tie together.
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|"
    r"[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)


def tokenize(text: str) -> list[str]:
    """Words, or single characters of Chinese and Japanese, in lower case without punctuation.

    A text of punctuation alone is one token, so that every non-empty text can be read.
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("\u2019", "")
    return _TOKEN.findall(text) or [text.strip() or " "]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each token of `tokenize` begins and ends in a text as it stands."""
    return [match.span() for match in _TOKEN.finditer(text)]


def fold(word: str) -> str:
    """The word without accents, and Hangul letter by letter (Unicode's canonical decomposition).

    Accents are often left out, and forms of one Korean verb share letters but no syllable.
    """
    letters = unicodedata.normalize("NFD", word)
    return "".join(letter for letter in letters if not "\u0300" <= letter <= "\u036f")


def _hash(feature: str, buckets: int) -> int:
    return zlib.crc32(feature.encode()) % buckets


@lru_cache(maxsize=65536)
def word_features(
    word: str, following: str, buckets: int, folded: bool = False
) -> tuple[list[int], list[int]]:
    """Buckets of the word itself (two, so that two words rarely share both) and of its pieces.

    Pieces are character 3- to 5-grams, which let a misspelt word be recognised, and for one
    character of an unspaced script the pair with the next character, ``following``.
    """
    word = fold(word) if folded else word
    whole = [_hash("w:" + word, buckets), _hash("v:" + word, buckets)]
    marked = f"<{word[:40]}>"
    pieces = [
        _hash(f"{n}:" + marked[i : i + n], buckets)
        for n in (3, 4, 5)
        for i in range(len(marked) - n + 1)
    ]
    if following:
        pieces.append(_hash("p:" + word + following, buckets))
    return whole, pieces


def next_character(tokens: Sequence[str], i: int) -> str:
    pair = tokens[i : i + 2]
    return pair[1] if len(pair) == 2 and len(pair[0]) == len(pair[1]) == 1 else ""
