"""The line on Encode Instruction: what was read, in the language of the sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..instructir_core import Instruction
from ..instructir_core.tasks import TASK_WORDS

LONGEST = 60
"""Characters that fit on the node."""


@dataclass(frozen=True)
class Words:
    """What the line is made of in one language."""

    tasks: dict[str, str]
    then: str
    preset: str
    """Before the rest, with the name from the menu."""
    advice: dict[str, str]
    """By `Instruction.doubt`; ``{}`` is what was read."""


def _tasks(words: str) -> dict[str, str]:
    """In the order of `TASK_WORDS`; a task without a word here keeps its English one."""
    return {**TASK_WORDS, **dict(zip(TASK_WORDS, words.split("|"), strict=False))}


WORDS = {
    "en": Words(
        TASK_WORDS, ", then ", "Preset {}: ",
        {
            "language": "Not in a language that this model reads.",
            "nothing": "Nothing to restore in these words: say what is wrong.",
            "several": "Two things at once: give each its own instruction.",
            "unsure": "Unsure, {}: say it in other words.",
        },
    ),
    "zh": Words(
        _tasks("噪点|模糊|雨|雾|太暗|分辨率低|色彩暗淡|没有要修复的"), "，然后", "预设 {}：",
        {
            "language": "模型不懂这种语言。",
            "nothing": "这句话里没有要修复的内容：请说出哪里不好。",
            "several": "一次说了两件事：请各写一条指令。",
            "unsure": "没有把握（{}）：请换个说法。",
        },
    ),
    "zh-Hant": Words(
        _tasks("雜訊|模糊|雨|霧|太暗|解析度低|色彩暗淡|沒有要修復的"), "，然後", "預設 {}：",
        {
            "language": "模型不懂這種語言。",
            "nothing": "這句話裡沒有要修復的內容：請說出哪裡不好。",
            "several": "一次說了兩件事：請各寫一條指令。",
            "unsure": "沒有把握（{}）：請換個說法。",
        },
    ),
    "ja": Words(
        _tasks("ノイズ|ぼけ|雨|かすみ|暗さ|低解像度|色あせ|直すものなし"),
        "、次に", "プリセット {}：",
        {
            "language": "この言語はモデルが読めません。",
            "nothing": "直すものが読み取れません。どこが悪いか書いてください。",
            "several": "一度に二つの依頼です。一つずつの指示に分けてください。",
            "unsure": "不確かです（{}）。別の言い方をしてください。",
        },
    ),
    "ko": Words(
        _tasks("노이즈|흐림|비|안개|어두움|낮은 해상도|바랜 색|복원할 것 없음"),
        ", 그다음 ", "프리셋 {}: ",
        {
            "language": "모델이 읽지 못하는 언어입니다.",
            "nothing": "복원할 것이 없는 문장입니다. 무엇이 문제인지 써 주세요.",
            "several": "한 번에 두 가지입니다. 지시를 하나씩 나눠 주세요.",
            "unsure": "확실하지 않습니다({}). 다르게 써 보세요.",
        },
    ),
}  # fmt: skip


def language_of(text: str) -> str:
    """One of `WORDS`, by the letters alone; English where they tell of none."""
    if any("\uac00" <= c <= "\ud7a3" for c in text):
        return "ko"
    if any("\u3040" <= c <= "\u30ff" for c in text):
        return "ja"
    han = "".join(c for c in text if "\u4e00" <= c <= "\u9fff")
    if not han:
        return "en"
    # The old national sets hold the letters of one way of writing only.
    return "zh-Hant" if _within(han, "big5") and not _within(han, "gb2312") else "zh"


def _within(text: str, charset: str) -> bool:
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def reading(instruction: Instruction, words: Words = WORDS["en"]) -> str:
    """The tasks that were read, and how surely."""
    return ", ".join(
        f"{words.tasks[t]} {instruction.probabilities[t]:.0%}" for t in instruction.tasks
    )


def one_line(sentence: str, parts: Sequence[Instruction], preset: str | None = None) -> str:
    """At most `LONGEST` characters: the first advice where there is any, else the tasks."""
    words = WORDS[language_of(sentence)]
    doubtful = next((part for part in parts if part.doubt), None)
    if doubtful is not None and doubtful.doubt is not None:
        line = words.advice[doubtful.doubt].format(reading(doubtful, words))
    else:
        line = words.then.join(reading(part, words) for part in parts)
    if preset is not None:
        line = words.preset.format(preset) + line
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"


def in_full(parts: Sequence[Instruction]) -> str:
    """Each part of the sentence, what was read in it, and all the advice."""
    numbered = len(parts) > 1
    lines = [
        f"{number}. {reading(part)}: {part.text}" if numbered else f"{reading(part)}: {part.text}"
        for number, part in enumerate(parts, 1)
    ]
    for part in parts:
        lines += ["Restore Image leaves the picture as it is."] if part.asks_nothing else []
        lines += [part.advice] if part.advice else []
    return "\n".join(lines)
