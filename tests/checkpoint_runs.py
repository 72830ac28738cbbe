"""Small checkpoints for the tests: tensors and models that stand for those of a step."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from snaketune.model.checkpoints import keep_best, save


def weights(step: int) -> dict[str, torch.Tensor]:
    """Tensors that stand for a model after a step."""
    generator = torch.Generator().manual_seed(step)
    return {"a": torch.randn(3, 4, generator=generator), "b.c": torch.randn(5, generator=generator)}


def writer(step: int) -> Callable[[Path], None]:
    """What writes the model of a step."""

    def write(folder: Path) -> None:
        (folder / "model").mkdir()
        save_file(weights(step), folder / "model/model.safetensors")

    return write


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, *steps: int, best_step: int | None = None) -> Path:
    """A checkpoint folder as a kill before the removal of older steps leaves it."""
    if best_step is not None:
        keep_best(folder, writer(best_step), {"step": best_step, "loss": 1.5})
    older = folder.with_name(f"{folder.name}-older")
    for step in steps:
        state = {"best_step": best_step, "moments": {0: torch.full((2, 3), float(step))}}
        place = save(folder, step, state, weights(step))
        shutil.copytree(place, older / place.name)
    shutil.copytree(older, folder, dirs_exist_ok=True)
    return folder
