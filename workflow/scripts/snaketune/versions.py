"""The packages that decide results: those installed now, beside the lock's and beside those that made earlier results.

The lock is an input of every rule, so that a new lock reruns what it should. Nothing sees an environment that is not
the lock's: results of two environments would stand side by side. So each start of Snakemake compares them, and says so
in one line. The Snakefile imports this in every call: metadata is read, no package is imported.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# What computes, reads or writes a number or a text of the results, and Snakemake, which decides what is up to date.
PACKAGES = (
    *("snakemake", "torch", "transformers", "datasets", "tokenizers", "gigatoken", "accelerate", "peft", "safetensors"),
    *("numpy", "pandas", "pyarrow", "numba", "evaluate", "sacrebleu", "rouge-score", "optuna"),
    *("ftfy", "selectolax", "py3langid", "symspellpy"),
)
LISTED = 3  # packages, and runs, that the warning names
Versions = dict[str, str | None]  # by package; None: not installed


def installed() -> Versions:
    """The versions of the packages in this environment."""
    found: Versions = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def locked(lock: Path) -> Versions:
    """The versions that a file of `pip freeze` names; none where there is no file."""
    try:
        text = lock.read_text(encoding="utf-8")
    except OSError:
        return {}
    pinned = re.findall(r"^([\w.-]+)==([^\s;#]+)", text, re.MULTILINE)
    by_name = {_plain(name): number for name, number in pinned}
    return {name: by_name[_plain(name)] for name in PACKAGES if _plain(name) in by_name}


def recorded(manifest: Path, lock: Path) -> Versions:
    """The versions that made a run's results, Python's among them; none without a manifest that can be read.

    None either where the run was made with another lock: then Snakemake makes it anew, and nothing is mixed.
    """
    try:
        facts: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        made = dict(facts["packages"])
        hashes = {Path(path).name: digest for path, digest in facts["code"].items() if Path(path).name == lock.name}
        with lock.open("rb") as file:
            same = hashes.get(lock.name) == file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return made | {"python": facts.get("python")} if same else {}


def differences(then: Versions, now: Versions, *, builds: bool = True) -> list[str]:
    """`numpy 2.4.6, now 2.3.0` for each package of `then` that is another now.

    builds: tell `2.13.0+cpu` from `2.13.0`; a lock names no build.
    """
    changed = []
    for name, old in then.items():
        new = now.get(name)
        if name in now and _compared(name, old, builds) != _compared(name, new, builds):
            changed.append(f"{name} {old or 'missing'}, now {new or 'missing'}")
    return changed


def warning(lock: Path, runs: Iterable[str], results: Path = Path("results")) -> str | None:
    """One line on what is installed otherwise than locked or than when results were made; None where all is equal."""
    now = installed() | {"python": platform.python_version()}
    told = []
    if changed := differences(locked(lock), now, builds=False):
        told.append(f"{lock.name} has {_some(changed)}: `pip install -r {lock}` installs the lock's")
    made: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        if changed := differences(recorded(results / run / "manifest.json", lock), now):
            made.setdefault(tuple(changed), []).append(run)
    for changed, names in made.items():
        told.append(
            f"{_some(names, ', ')} in {results}/ was made with {_some(list(changed))}: what is up to date stays as it "
            "is, so `snakemake --forceall` if all must be of one environment"
        )
    return f"The installed packages differ. {'. '.join(told)}." if told else None


def _compared(name: str, number: str | None, builds: bool) -> str | None:
    """A version as far as it counts: of Python 3.11, whatever the patch."""
    if number is None:
        return None
    if name == "python":
        return ".".join(number.split(".")[:2])
    return number if builds else number.partition("+")[0]


def _plain(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _some(names: list[str], between: str = "; ") -> str:
    more = len(names) - LISTED
    return between.join(names[:LISTED]) + f" and {more} more" * (more > 0)
