"""The loss curves of a training, as a drawing that carries its own reading.

In:  train/history.jsonl (training and evaluation lines)
Out: train/curves.svg: training and validation loss against step, the best checkpoint marked, the learning rate below

The sentence about over- and underfitting stands in the drawing's <desc>, so that a screen reader gets the message too.
"""

from pathlib import Path

from snaketune.job import run
from snaketune.pages.charts import curves
from snaketune.pages.history import read_history, verdict


def draw(history: str, drawing: str) -> str:
    """Draw a history; returns its verdict."""
    course = read_history(history)
    words = verdict(course)
    Path(drawing).write_text(curves(course, words), encoding="utf-8")
    return words


if __name__ == "__main__":
    run(lambda job: draw(job.input.history, job.output.curves), snakemake)
