"""The section of a search for the best configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from snaketune.sections import Section
from snaketune.tune.space import grid, parse


class Dimension(Section):
    """The values that one key may take: a list, or a range."""

    values: list[Any] | None = Field(None, min_length=1, description="These values; a plain list means the same.")
    low: float | int | None = Field(None, description="Least value of a range; whole numbers make a whole range.")
    high: float | int | None = Field(None, description="Largest value of a range.")
    step: float | int | None = Field(None, gt=0, description="Only low, low + step, ...")
    log: bool = Field(False, description="Equal factors are equally likely, not equal differences.")


def _listed(value: Any) -> Any:
    return {"values": value} if isinstance(value, list) else value


class Tune(Section):
    """A search for the best configuration by the validation loss; the test split is not touched. The run itself is
    trained as it stands, to be compared with."""

    method: Literal["grid", "random", "qmc", "tpe"] = Field(
        "tpe", description="All combinations, at random, quasi-random (even), or Bayesian (Optuna's TPE)."
    )
    space: dict[str, Annotated[Dimension, BeforeValidator(_listed)]] = Field(
        ...,
        min_length=1,
        description="Keys of `model`, `tokenize` and `train`, with dots, and what each may be.",
        examples=[{"train.learning_rate": {"low": 1e-5, "high": 5e-5, "log": True}, "train.batch_size": [8, 16]}],
    )
    trials: int = Field(12, ge=1, le=1000, description="Configurations that are tried; of a grid at most all of it.")
    generation: int = Field(
        4,
        ge=1,
        description="Trials proposed at once. Each knows all earlier generations and nothing of its own, so that any "
        "number of cores gives the same trials.",
    )
    pruning: Literal["none", "median", "asha"] = Field(
        "none", description="Ends a trial that at an evaluation is worse than earlier generations were there."
    )
    final: bool = Field(True, description="Train the best configuration in full, and score it once on the test split.")

    @model_validator(mode="after")
    def searchable(self) -> Tune:
        given = {key: dimension.model_dump() for key, dimension in self.space.items()}
        parse(given)
        if self.method == "grid":
            grid(given)
        return self
