"""What sets a run apart from its group's reference: the dotted keys of the complete settings that differ.

The settings are those of manifest.json. What names a run and its relatives sets nothing apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snaketune.pages.leaderboard_groups import Group
from snaketune.pages.leaderboard_runs import Run
from snaketune.pages.pages import NONE, clipped

NOT_COMPARED = ("run", "variants", "tune", "seeds", "folds")
FIRST = 6  # differences that a run shows at once
LONGEST = 80  # characters of a value on the page
KEPT = 1_000  # and in the table, whose readers refuse cells of more than 130,000
ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """A run beside the one that it is held against: key -> (value there, value of the run), by key."""

    run: str
    against: str | None  # None: this is the reference
    changed: dict[str, tuple[Any, Any]] | None  # None: the settings of one of the two are not known


def differences(group: Group, runs: Sequence[Run] = ()) -> list[Difference]:
    """Each run of a group against the group's reference, and each seed or fold against its run.

    runs: of the leaderboard; the run of folds is not of their group.
    """
    known = {run.name: run for run in (*runs, *group.runs)}
    main = reference(group).name if group.candidates else None
    found = []
    for run in group.runs:
        against = group.parents.get(run.name, main if run.name != main else None)
        other = known.get(against) if against else None
        sides = (other.config, run.config) if other else (None, None)
        changed = None if None in sides else changes(*sides)
        found.append(Difference(run.name, against, changed))
    return found


def reference(group: Group) -> Run:
    """The run that most others are variants of or begin with the name of; of equal ones the first by name."""

    def followers(run: Run) -> int:
        variants = (run.config or {}).get("variants") or {}
        others = (other.name for other in group.runs if other.name != run.name)
        return sum(name in variants or name.startswith(f"{run.name}-") for name in others)

    return min(group.candidates, key=lambda run: (-followers(run), run.name))


def changes(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, with both values; ABSENT stands for a key that one side does not have."""
    sides = [flat({key: part for key, part in side.items() if key not in NOT_COMPARED}) for side in (one, other)]
    pairs = {key: tuple(side.get(key, ABSENT) for side in sides) for key in sorted(sides[0].keys() | sides[1].keys())}
    return {key: (a, b) for key, (a, b) in pairs.items() if not _same(a, b)}


def _same(one: Any, other: Any) -> bool:
    """Whether two values mean the same: 15 is 15.0, and true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys; a list, and a mapping without keys, is a value."""
    found: dict[str, Any] = {}
    for key, part in settings.items():
        if isinstance(part, dict) and part:
            found |= flat(part, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = part
    return found


def as_json(difference: Difference) -> str | None:
    """The changed keys as a JSON object, key -> {"from", "to"}; a side that lacks the key lacks its entry.

    A value of more than KEPT characters of JSON is the first of them, as a string. None where nothing is known.
    """
    if difference.changed is None:
        return None
    told = {
        key: {side: _kept(part) for side, part in zip(("from", "to"), pair, strict=True) if part is not ABSENT}
        for key, pair in difference.changed.items()
    }
    return json.dumps(told, sort_keys=True)


def table(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """The differences as the page shows them: `first` at once, `rest` folded."""
    rows = []
    for difference in found:
        changed = [(clipped(key), _shown(a), _shown(b)) for key, (a, b) in (difference.changed or {}).items()]
        rows.append(
            {
                "run": difference.run,
                "against": difference.against,
                "known": difference.changed is not None,
                "first": changed[:FIRST],
                "rest": changed[FIRST:],
            }
        )
    return rows


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _kept(value: Any) -> Any:
    text = _text(value)
    return value if len(text) <= KEPT else f"{text[:KEPT]}…"


def _shown(value: Any) -> str:
    if value is ABSENT:
        return NONE
    return clipped(value if isinstance(value, str) and value else _text(value), LONGEST)
