"""The space of a search: what each key of the configuration may be, and how many configurations that makes.

A dimension is a list of values, or a range of numbers; with a `step` the range is a list as well. The Snakefile imports
this module in every call: it is light.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from typing import Any

Values = dict[str, Any]  # dotted key of the configuration -> its value

SEARCHED = ("model", "tokenize", "train")  # sections
MOST = 100_000  # configurations of a grid, and values of a dimension
DIGITS = 6  # significant ones of a number that is drawn: a learning rate needs no more, and is read
# YAML 1.1 takes these for texts: an exponent without a dot, or without a sign.
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class Dimension:
    """What one key may be: `values`, or every number from `low` to `high`, whole ones alone if both are whole."""

    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def listed(self) -> bool:
        """Whether its values can be counted one by one."""
        return bool(self.values)

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return not self.listed and isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """How many values it has; infinite for a range of numbers that are not whole."""
        if self.listed:
            return len(self.values)
        return self.high - self.low + 1 if self.whole else math.inf

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the dimension: equal shares hold equally many values, or equal factors."""
        if self.listed:
            return self.values[int(share * len(self.values))]
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        if self.log:
            return self.rounded(math.exp(math.log(low) + share * (math.log(high) - math.log(low))))
        return self.rounded(low + share * (high - low))

    def rounded(self, value: float) -> float:
        """A number of a range as it is written down: whole, or with few digits, and within the range."""
        number = round(value) if self.whole else float(f"{value:.{DIGITS}g}")
        return min(max(number, self.low), self.high)


Space = dict[str, Dimension]  # by dotted key, in the order of the keys


def parse(given: Mapping[str, Any]) -> Space:
    """Check a space as it stands in the configuration: {"train.learning_rate": [..] or {values} or {low, high, ..}}.

    Raises ValueError, with a sentence that names the key.
    """
    if not given:
        raise ValueError("the space of a search names no key; give one, such as `train.learning_rate`")
    space = {key: _dimension(key, given[key]) for key in sorted(given)}
    for key in space:
        if inner := next((other for other in space if other.startswith(f"{key}.")), None):
            raise ValueError(f"`{key}` holds `{inner}`, and both are searched; remove one")
    return space


def size_of(space: Space) -> float:
    """How many configurations there are; infinite where a range has numbers that are not whole."""
    return math.prod(dimension.size for dimension in space.values())


def trials_of(tune: Mapping[str, Any]) -> int:
    """How many trials a search has, by its section `tune`: never more than there are configurations."""
    return int(min(tune["trials"], size_of(parse(tune["space"]))))


def grid(given: Mapping[str, Any]) -> list[Values]:
    """Every configuration of a space as the configuration has it, in a fixed order: the last key changes fastest.

    Raises ValueError where a range has no step, or where there are too many.
    """
    space = parse(given)
    for key, dimension in space.items():
        if not dimension.listed:
            raise ValueError(f"`{key}` is a range, of which a grid needs single values: give `step`, or a list")
    if (count := size_of(space)) > MOST:
        raise ValueError(f"a grid of {count:,} configurations; shorten the lists, or set another `method`")
    return [dict(zip(space, values, strict=True)) for values in product(*(each.values for each in space.values()))]


def override(values: Values) -> dict[str, Any]:
    """What a trial lays over the configuration: {"train.learning_rate": 1e-5} is {"train": {"learning_rate": 1e-5}}."""
    return with_values({}, values)


def with_values(settings: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Settings with the values of a trial in their places."""
    changed = copy.deepcopy(dict(settings))
    for key, value in values.items():
        *sections, name = key.split(".")
        place = changed
        for section in sections:
            if not isinstance(place.get(section), dict):  # a section that is left out: null
                place[section] = {}
            place = place[section]
        place[name] = copy.deepcopy(value)
    return changed


def distinct(draws: Iterable[Values], known: Iterable[Values] = ()) -> Iterator[Values]:
    """Those draws that are neither known nor drawn before, in their order."""
    seen = {identity(values) for values in known}
    for values in draws:
        if (mark := identity(values)) not in seen:
            seen.add(mark)
            yield values


def identity(values: Any) -> str:
    """A configuration, or a value, as a text: equal ones have equal texts."""
    return json.dumps(values, sort_keys=True)


def _dimension(key: str, given: Any) -> Dimension:
    section, dot, name = key.partition(".")
    if section not in SEARCHED or not dot or not all(name.split(".")):
        raise ValueError(
            f"`{key}` cannot be searched; keys of {', '.join(SEARCHED)} can, such as `train.learning_rate`"
        )
    if isinstance(given, list):
        given = {"values": given}
    if not isinstance(given, Mapping) or (unknown := sorted(set(given) - {"values", "low", "high", "log", "step"})):
        what = f"`{unknown[0]}`" if isinstance(given, Mapping) else f"`{given}`"
        raise ValueError(f"`{key}` has {what}; give a list of values, or `low` and `high` with `log` or `step`")
    named = {name: value for name, value in given.items() if value is not None and value is not False}
    if "values" in named:
        if more := sorted(set(named) - {"values"}):
            raise ValueError(f"`{key}` has `values` and `{more[0]}`; remove one")
        return _listed(key, named["values"])
    return _range(key, named)


def _listed(key: str, given: Any) -> Dimension:
    if not isinstance(given, list) or not given:
        raise ValueError(f"`{key}`: `values` must be a list with at least one value")
    values = [number_of(value) for value in given]
    if len(set(map(json.dumps, values))) < len(values):
        raise ValueError(f"`{key}` lists a value twice; remove one")
    return Dimension(values=tuple(values))


def _range(key: str, given: Mapping[str, Any]) -> Dimension:
    if not {"low", "high"} <= set(given):
        raise ValueError(f"`{key}` needs `low` and `high`, or a list of values")
    numbers = {name: number_of(given[name]) for name in ("low", "high", "step") if name in given}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"`{key}`: `{name}` is `{value}`, and must be a number")
    low, high, step, log = numbers["low"], numbers["high"], numbers.get("step"), bool(given.get("log"))
    if low >= high:
        raise ValueError(f"`{key}`: `low` ({low:g}) must be below `high` ({high:g})")
    if log and (low <= 0 or step is not None):
        raise ValueError(f"`{key}`: `log` needs a `low` above 0, and no `step`")
    if step is None:
        whole = isinstance(low, int) and isinstance(high, int)
        return Dimension(low=low if whole else float(low), high=high if whole else float(high), log=log)
    if step <= 0:
        raise ValueError(f"`{key}`: `step` ({step:g}) must be above 0")
    # In decimal numbers, as they are written: 0.1 + 2 * 0.1 is 0.3, and not 0.30000000000000004.
    first, width = Decimal(str(low)), Decimal(str(step))
    count = int((Decimal(str(high)) - first) / width) + 1
    if count > MOST:
        raise ValueError(f"`{key}` has {count:,} values; give a longer `step`")
    kind = int if isinstance(low, int) and isinstance(step, int) else float
    return Dimension(values=tuple(kind(first + width * number) for number in range(count)))


def number_of(value: Any) -> Any:
    """A value as it was meant: YAML reads 1e-5 as a text."""
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value
