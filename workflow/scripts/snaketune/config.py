"""A user's configuration held against the schema: defaults filled in, variants merged, faults told in sentences.

The Snakefile calls `load` in every call: nothing heavy is imported here.
"""

from __future__ import annotations

import copy
import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from snaketune.schema import Config, section_of
from snaketune.tune import space


class ConfigError(Exception):
    """A configuration that cannot be run; its text is a list of sentences for the user."""


def load(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Check a raw configuration and fill in its defaults.

    Returns the complete settings of the run and of each of its variants, by name; the run comes first.
    Raises ConfigError, with a sentence for each fault: the key, what was given, what is allowed.
    """
    run, faults = _checked(raw)
    sentences = [_sentence(fault, "") for fault in faults]
    known = {(fault["loc"], fault["type"]) for fault in faults}
    settings = {run.get("run", ""): run}
    variants = raw.get("variants")
    for name, override in variants.items() if isinstance(variants, dict) else ():
        if not isinstance(override, dict):
            continue  # it is among the faults of the run
        merged = _merged({k: v for k, v in copy.deepcopy(raw).items() if k != "variants"}, override)
        variant, faults = _checked(merged)
        own = [fault for fault in faults if (fault["loc"], fault["type"]) not in known]
        sentences += [_sentence(fault, f"variants.{name}.") for fault in own]
        settings[name] = variant | {"run": name}
    if not sentences:
        sentences = [_sentence(fault, f"{name}: ") for name, fault in _with_children(settings)]
    if sentences:
        raise ConfigError("\n".join(f"- {sentence}" for sentence in sentences))
    return settings


def _with_children(settings: dict[str, dict[str, Any]]) -> list[tuple[str, Any]]:
    """Put the runs of each seed and fold after the others; what is wrong with them, by name."""
    wrong = []
    for parent, given in list(settings.items()):
        overrides = {seed_name(parent, seed): {"train": {"seed": seed}} for seed in given["seeds"]}
        for fold in range(given["folds"]):
            split = {"method": "k-fold", "folds": given["folds"], "fold": fold}
            overrides[fold_name(parent, fold)] = {"split": split}
        for name, override in overrides.items():
            if name in settings:
                raise ConfigError(f"- the variant `{name}` has the name of a run of `seeds` or `folds`: rename it.")
            settings[name], faults = child(given, name, override)
            wrong += [(name, fault) for fault in faults]
        wrong += [(best_name(parent), fault) for fault in _misfits(given)]
    return wrong


def _misfits(settings: dict[str, Any]) -> list[Any]:
    """What is wrong with the space of a search: each value of a list and both ends of a range are tried."""
    if settings["tune"] is None:
        return []
    ends = {key: part["values"] or [part["low"], part["high"]] for key, part in settings["tune"]["space"].items()}
    first = {key: values[0] for key, values in ends.items()}
    tried = [first, *(first | {key: value} for key, values in ends.items() for value in values[1:])]
    faults = [child(settings, best_name(settings["run"]), space.override(values))[1] for values in tried]
    return next(filter(None, faults), [])


def child(parent: dict[str, Any], name: str, override: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The complete settings of a run that differs from its parent by `override`, and faults as pydantic has them.

    It has no children, and is no search.
    """
    alone = {"run": name, "seeds": [], "folds": 0, "tune": None, "variants": {}}
    return _checked(_merged(copy.deepcopy(parent), override) | alone)


def seed_name(run: str, seed: int) -> str:
    """The run that trains with another seed."""
    return f"{run}-seed-{seed}"


def fold_name(run: str, fold: int) -> str:
    """The run that is tested on another fold."""
    return f"{run}-fold-{fold}"


def trial_name(run: str, number: int) -> str:
    """The run that tries a configuration."""
    return f"{run}-trial-{number:03d}"


def best_name(run: str) -> str:
    """The run of the best configuration."""
    return f"{run}-best"


def _checked(raw: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The complete settings, and no fault; or no settings, and all faults."""
    try:
        return Config.model_validate(raw).model_dump(mode="python"), []
    except ValidationError as error:
        return {}, error.errors()


def _merged(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """`base` with `override` laid over it; mappings are merged, everything else is replaced."""
    for key, value in override.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            base[key] = _merged(base[key], value)
        else:
            base[key] = copy.deepcopy(value)
    return base


def _sentence(fault: dict[str, Any], where: str) -> str:
    """One of pydantic's faults in words: the key, what was given, what is allowed, and the nearest valid name."""
    path = [str(part) for part in fault["loc"]]
    key = where + (".".join(path) or "the configuration")
    if fault["type"] == "extra_forbidden":
        names = _names(path[:-1])
        near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        return f"`{key}` is not a key.{hint} Allowed here: {', '.join(names)}."
    if fault["type"] == "missing":
        return f"`{key}` is missing and has no default. See config/README.md."
    if fault["type"] == "value_error":
        return f"`{key}`: {fault['ctx']['error']}."
    if fault["type"] == "literal_error":
        given = str(fault["input"])
        allowed = fault["ctx"]["expected"]
        near = difflib.get_close_matches(given, allowed.replace("'", "").replace(" or ", ", ").split(", "), n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        return f"`{key}` is `{given}`.{hint} Allowed: {allowed}."
    if fault["type"] == "string_pattern_mismatch":
        return f"`{key}` is `{fault['input']}`; allowed are lower-case letters, digits, and after the first . _ -"
    return f"`{key}` is `{fault['input']!r}`: {fault['msg'][0].lower()}{fault['msg'][1:]}."


def _names(path: list[str]) -> list[str]:
    """The valid keys at a place in the configuration."""
    model: type[BaseModel] = Config
    for part in path:
        if part.isdigit() or part not in model.model_fields:  # a place in a list, or a name that the user gave
            continue
        found = section_of(model.model_fields[part].annotation)
        if found is None:
            return []
        model = found
    return list(model.model_fields)
