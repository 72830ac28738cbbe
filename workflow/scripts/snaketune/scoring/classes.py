"""What classification says beyond its numbers: the confusion matrix, and precision, recall and F1 of each class.

The measure is that of `workflow/metrics/classification/measure.py`; its statistics are the cells of the confusion
matrix, so all of it follows from sums, those of resampled corpora too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from snaketune.job import StageError
from snaketune.scoring.measures import Answers, Statistics, module

MEASURE = "classification"


def found(settings: Mapping[str, Any], answers: Answers) -> list[str] | None:
    """The classes to tell apart: `classes` of the section `score`, else the distinct golds of the answers.

    None where `classification` is not asked for. Raises StageError where they are too many, none, or not distinct.
    """
    if MEASURE not in settings["metrics"]:
        return None
    source = module(MEASURE)
    try:
        classes = settings.get("classes") or source.find_classes(answers)
        source.Measure(classes)
    except ValueError as error:
        raise StageError(
            f"`score.metrics: {MEASURE}`: {error}. A class is what `label` holds, or the reference where no row has a "
            "label; name them in `score.classes`, or leave this metric out"
        ) from None
    return list(classes)


def per_class(measure: Any, sums: Statistics) -> dict[str, dict[str, np.ndarray]]:
    """{class: {"precision", "recall", "f1"}}, 0-100, of corpora whose cells sum to `sums` (arrays of one shape)."""
    scores = measure.by_class(sums)
    return {
        label: {name: values[number] for name, values in scores.items()} for number, label in enumerate(measure.classes)
    }


def confusion(measure: Any, sums: Statistics) -> np.ndarray:
    """Rows by right class and named class, the last column for no class: [classes, classes + 1] int64.

    `sums` are those of one corpus: a number each.
    """
    cells = np.zeros((len(measure.classes), len(measure.classes) + 1), dtype=np.int64)
    for name, rows in sums.items():
        cells[tuple(map(int, name.split("_")))] = round(float(rows))
    return cells
