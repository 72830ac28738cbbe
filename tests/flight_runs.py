"""One preflight in a folder of its own, with the settings that its rule gets and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import builders
import models
from plan import plan
from preflight import preflight
from snaketune.dag import CHECKED
from snaketune.job import StageError

SETTINGS: dict[str, Any] = builders.settings("train", batch_size=4, precision="fp32", max_steps=6) | {"seed": 5}
KEYS = (*CHECKED, "seed", "trust_remote_code")


def made(folder: Path, kind: str = "gpt2", rows: list[tuple[str | None, str]] | None = None, **tokenize: Any) -> Any:
    """A base model and the tokens of both splits: of questions and answers, or of `rows`."""
    base = models.base(folder / "base", kind)
    pairs = rows or models.pairs(16)
    tokens = {name: models.tokens(pairs, base, folder / "tokens", name, **tokenize) for name in ("train", "validation")}
    return {"base": base} | tokens


class Flight:
    """A preflight of what `made` made; settings over SETTINGS. Called, it returns preflight.json."""

    def __init__(self, made: dict[str, str], folder: Path, **settings: Any) -> None:
        self.made, self.folder = made, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = SETTINGS | {"trust_remote_code": False} | settings
        tokens = {name: made[name] for name in ("train", "validation")}
        self.order, self.about = str(folder / "plan.arrow"), str(folder / "plan.json")
        plan(tokens, {name: f"{path}.json" for name, path in tokens.items()}, self.order, self.about, self.settings)
        self.sentence = ""

    @property
    def out(self) -> Path:
        return self.folder / "preflight.json"

    def __call__(self) -> dict[str, Any]:
        arguments = (self.made["train"], self.order, self.about, self.made["base"], str(self.out))
        asked = {key: self.settings[key] for key in KEYS}
        self.sentence = preflight(*arguments, asked, gpus=0, threads=1)
        return json.loads(self.out.read_text(encoding="utf-8"))

    def refused(self) -> str:
        """The sentence of its refusal."""
        with pytest.raises(StageError) as error:
            self()
        assert not self.out.exists()
        return str(error.value)
