"""The loss curves of a training, as a drawing that carries its own reading.

In:  train/history.jsonl (a line for each step and each evaluation)
Out: train/curves.svg: training and validation loss against step, the base model and the best checkpoint marked; below
     it the validation accuracy and the learning rate

Memory and speed are not drawn: they differ from run to run, and the same training gives the same drawing.

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
