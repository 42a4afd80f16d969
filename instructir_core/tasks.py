"""The tasks: what each is called, and the sentence that asks for it.

A task is a row here, a row of `training.recipes` and sentences of the corpus; CONTRIBUTING.md
tells the whole way.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What a picture can be relieved of."""

    name: str
    """As in weight files, the corpus and results: never changes."""
    words: str
    """What is wrong, as people say it."""
    prompt: str
    """The sentence that asks for it wherever one is needed."""
    label: str
    """The sentence's name in the node's menu; saved workflows hold it, so it never changes."""


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("noise", "noise", "remove the noise from this photo", "remove noise"),
        Task("blur", "blur", "this photo is blurry, make it sharp", "sharpen blur"),
        Task("rain", "rain", "remove the rain from this photo", "remove rain"),
        Task("haze", "haze", "remove the haze from this photo", "remove haze"),
        Task("lol", "low light", "this photo is too dark, brighten it", "brighten dark photo"),
        Task(
            "sr", "low resolution", "increase the resolution of this photo", "increase resolution"
        ),
        Task("en", "dull colours", "improve the colours of this photo", "enhance colours"),
    )
}
"""Every task by its name. Random draws count rows: a new one goes to the end."""

NO_TASK = "none"
"""What a sentence asks for that names nothing the model can do."""

CLASSES = (*TASKS, NO_TASK)
"""What a head that is trained here tells apart, in the order of its outputs."""

OFFICIAL_TASKS = ("noise", "blur", "rain", "haze", "lol", "sr", "en")
"""What the released head tells apart, in upstream's order (``DEG_MAP``): never changes."""

TASK_WORDS = {task.name: task.words for task in TASKS.values()} | {NO_TASK: "nothing it restores"}
"""The tasks, and `NO_TASK`, as people say them."""
