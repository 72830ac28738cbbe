"""The blocks of a step as the passes of a process: how many sequences at once, in which shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from snaketune.model import attention
from snaketune.model.batches import Batch, Rows, collate
from snaketune.model.parallel import World


@dataclass(frozen=True)
class How:
    """How a device computes the plan, as the preflight chose it."""

    precision: str  # bf16, fp16, tf32, fp32
    attention: str  # a path of snaketune.model.attention
    compile: bool
    pass_blocks: int  # blocks in a pass of one process
    width: int  # the most tokens of a block
    longest: int  # the most tokens of a row
    most_rows: int  # in a step
    packed: bool
    loss_on: str
    pad: int  # the token that fills what is left of a sequence


class Passes:
    """Makes the batches of some rows for one process. `most_rows`: how many a pass may have, for static shapes."""

    def __init__(self, rows: Rows, how: How, world: World) -> None:
        self.rows, self.how, self.world = rows, how, world
        self.most_rows = how.most_rows

    def of(self, blocks: list[list[int]]) -> Iterator[Batch]:
        """This process's share of some blocks; as many passes in every process, empty ones if need be."""
        share, size = self.world.share(blocks), self.how.pass_blocks
        most = -(-len(blocks) // self.world.size)
        for start in range(0, most, size):
            part = share[start : start + size]
            yield self._batch(part) if part else self._empty(blocks[:1])

    def _batch(self, blocks: list[list[int]]) -> Batch:
        how, layout = self.how, attention.layout(self.how.attention)
        static: dict[str, int] = {}
        if how.compile:
            width = self._width(blocks, layout)
            tails = -(-width // how.longest) * (1 if layout == "flat" else len(blocks))
            static = {"width": width, "longest": how.longest, "most_documents": self.most_rows + tails}
        batch = collate(blocks, self.rows, self.rows.prompt_lengths, how.loss_on, how.pad, layout, **static)
        return batch.pinned() if self.world.device.type == "cuda" else batch

    def _width(self, blocks: list[list[int]], layout: str) -> int:
        """One shape for every pass of the compiled model, or few, where rows come one by one."""
        if layout == "rows":
            return self.how.width
        if self.how.packed:
            return self.how.width * self.how.pass_blocks
        tokens = sum(int(self.rows.lengths[row]) for block in blocks for row in block)
        return -(-tokens // self.how.width) * self.how.width

    def _empty(self, blocks: list[list[int]]) -> Batch:
        """A pass in which nothing is trained, for a process that has no block left while others have."""
        batch = self._batch(blocks)
        return Batch(batch.input_ids, batch.position_ids, batch.documents, batch.places[:0], batch.targets[:0])
