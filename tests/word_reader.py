"""A reader that knows a few words of each language: it stands for a model in tests."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from instructir_core.instruction import Instruction
from instructir_core.tasks import NO_TASK, TASKS

KNOWN = {
    "noise": "nois|grain|rausch|bruit|ruido|ruído|шум|噪|ノイズ|노이즈",
    "lol": r"bright|dark|hell(?!o)|dunkel|éclair|aclar|ilumin|clare|ярч|светл|темн|亮|暗|明る|밝",
    "blur": "sharp|blur|scharf|schärf|net|nítid|nitid|резк|清晰|锐|銳|鮮明|선명",
    "rain": "(?<!g)rain|regen|pluie|lluvia|chuva|дожд|雨|비",
    "haze": "fog|nebel|brume|niebla|névoa|туман|雾|霧|안개",
    "en": "colour|farbe|couleur|color|cores|цвет|颜色|色|색",
}
CLAUSE = re.compile(r"[,，]|(?=but|without|aber|sans|但|不要)")
LEAVE = (
    "don't|keep|without|leave|lass|ohne|laisse|sans|deja|sin |deixa|sem |не трог|без|"
    "别|別|不要|말고"
)


class WordReader:
    """Reads a task by its words; half and half where there are two, and `none` where there is
    none or where it is refused."""

    def __init__(self, tasks: Sequence[str] = (*TASKS, NO_TASK), name: str = "words") -> None:
        self.tasks, self.name = tuple(tasks), name
        self.asked: list[str] = []

    def read_all(self, texts: Sequence[str]) -> list[Instruction]:
        self.asked += texts
        return [self.read(text.strip()) for text in texts]

    def read(self, text: str) -> Instruction:
        found = [t for t, words in KNOWN.items() if re.search(words, text, re.IGNORECASE)]
        if NO_TASK in self.tasks:
            asked = [clause for clause in CLAUSE.split(text) if not re.search(LEAVE, clause, re.I)]
            found = [t for t in found if any(re.search(KNOWN[t], c, re.I) for c in asked)]
            found = found or [NO_TASK]
        sure = dict.fromkeys(found or self.tasks[:3], 0.96 / len(found or self.tasks[:3]))
        shares = {task: sure.get(task, 0.04 / len(self.tasks)) for task in self.tasks}
        best = max(shares, key=shares.__getitem__)
        return Instruction(text, torch.zeros(1, 256), best, shares, self.name)
