"""The blind page: two answers to a prompt, and which is better.

The page is a function of the two answers of a row, not of who gave them: exchange base and tuned, and the same bytes
come out. So nothing in it can tell the sides, whatever one looks for. Only the key knows.

The data stands in the page as JSON, in which no character can end the script element; the one script is allowed by
its hash and makes text nodes only; the policy of the page forbids every other script and the whole network.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup

from snaketune.pages.pages import render, visible

SCRIPT = "judge.js"  # beside the template
# Within JSON these characters stand in strings only, where an escape means the same.
UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Pair:
    """The two answers to one prompt, in the order in which they are shown."""

    row_id: str
    prompt: str | None
    reference: str | None
    a: str
    b: str


def digest(size: int, *parts: Any) -> str:
    """A hash of values, as `size` bytes in hex."""
    return blake2b(json.dumps(parts).encode(), digest_size=size).hexdigest()


def ordered(seed: int, row_id: str, answers: Sequence[str]) -> tuple[str, str]:
    """Two answers in an order that the seed, the row and both texts decide, and not who gave which.

    Any other answer to the row makes another coin: who knows the sides of one run knows nothing of the next.
    """
    low, high = sorted(answers)
    return (low, high) if int(digest(1, "side", seed, row_id, low, high), 16) % 2 else (high, low)


def page_id(run: str, pairs: Sequence[Pair]) -> str:
    """What an export names: equal for equal rows, texts and sides of a run."""
    return digest(8, run, [[pair.row_id, pair.prompt, pair.reference, pair.a, pair.b] for pair in pairs])


def item_id(page: str, row_id: str) -> str:
    """The name of a pair within its page; it says nothing of the row to those who do not hold the key."""
    return digest(6, page, row_id)


def judge_page(template: str | Path, run: str, pairs: Sequence[Pair], equal: int) -> str:
    """The page. `equal`: how many rows were left out because both answers are the same text."""
    page = page_id(run, pairs)
    data = {"page": page, "run": run, "items": [_shown(page, pair) for pair in pairs]}
    script = (Path(template).parent / SCRIPT).read_text(encoding="utf-8")
    return render(
        template,
        run=run,
        pairs=len(pairs),
        equal=equal,
        data=Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(UNSAFE)),
        script=Markup(script),
        script_hash="sha256-" + b64encode(sha256(script.encode()).digest()).decode(),
    )


def _shown(page: str, pair: Pair) -> dict[str, str]:
    texts = {"prompt": pair.prompt, "reference": pair.reference, "a": pair.a, "b": pair.b}
    return {"id": item_id(page, pair.row_id)} | {name: visible(text or "") for name, text in texts.items()}
