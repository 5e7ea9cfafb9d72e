"""Files of evaluation tasks (train/README.md, "Evaluation tasks"): reading, checking, scoring."""

import json
from dataclasses import dataclass
from pathlib import Path

ANSWER_TOKENS = 96  # of an answer, unless the task says otherwise; at most `recent`
SCORES = ("all", "any", "exact", "loss")


@dataclass(frozen=True)
class EvalTask:
    """One sample; fields as in the file."""

    task: str
    length: int
    ids: list[int]
    answers: list[str]
    score: str  # one of SCORES
    seed: int
    max_tokens: int = ANSWER_TOKENS

    def to_json(self) -> str:
        """A line of the file."""
        return json.dumps(vars(self)) + "\n"


def read_tasks(path: Path) -> list[EvalTask]:
    """Reads and checks a file of tasks."""
    tasks = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        task = EvalTask(**json.loads(line))
        if task.score not in SCORES or not task.ids:
            raise ValueError(f"{path}:{number}: score {task.score!r}, {len(task.ids)} ids")
        if task.score != "loss" and not task.answers:
            raise ValueError(f"{path}:{number}: 0 answers, at least 1 expected")
        if task.score == "loss" and not 1 <= task.max_tokens <= len(task.ids) - 2:
            raise ValueError(
                f"{path}:{number}: {task.max_tokens} targets, 1 to {len(task.ids) - 2} expected"
            )
        tasks.append(task)
    return tasks


def score_of(task: EvalTask, text: str) -> float:
    """all: the share of answers that occur; any: 1 if one does; exact: 1 if the text is one."""
    if task.score == "exact":
        return float(text.strip() in task.answers)
    found = [float(answer.casefold() in text.casefold()) for answer in task.answers]
    return sum(found) / len(found) if task.score == "all" else max(found)
