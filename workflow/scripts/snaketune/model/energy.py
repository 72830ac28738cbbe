"""The energy that devices take while they train, where they tell it.

NVIDIA's GPUs count it since their driver was loaded (NVML's total energy consumption, from Volta on). What else runs
on a GPU counts too. A CPU tells nothing, nor does a part of a GPU (MIG).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pynvml
import torch

Counter = Callable[[], float]  # joules since some moment


class Meter:
    """Joules since it was made, over all counters; of none, None."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._start = [counter() for counter in counters]

    def joules(self) -> float | None:
        """What the devices have taken since this meter was made."""
        if not self._counters:
            return None
        return sum(counter() - start for counter, start in zip(self._counters, self._start, strict=True))


def counters_of(devices: Sequence[torch.device]) -> list[Counter]:
    """A counter for each device; none at all where one of them does not tell."""
    if not devices or any(device.type != "cuda" for device in devices):
        return []
    try:
        pynvml.nvmlInit()
        found = [_counter(device) for device in devices]
        for counter in found:
            counter()
    except pynvml.NVMLError:
        return []
    return found


def _counter(device: torch.device) -> Counter:
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000  # it counts millijoules
