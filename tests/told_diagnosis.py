"""A diagnosis that answers what it is told: it stands for a trained one in tests."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from instructir_core.tasks import TASKS


class ToldDiagnosis(nn.Module):
    """Each picture gets the next of the answers, and the last one again and again."""

    def __init__(self, *answers: Mapping[str, float], threshold: float = 0.3) -> None:
        super().__init__()
        self.answers, self.seen = list(answers), list[Tensor]()
        self.thresholds = dict.fromkeys(TASKS, threshold)
        self.absent = dict.fromkeys(TASKS, threshold / 2)

    def severities(self, image: Tensor) -> dict[str, float]:
        assert image.ndim == 3 and image.shape[2] == 3
        self.seen.append(image)
        answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
        return {task: answer.get(task, 0.02) for task in TASKS}
