"""The global random generators: seeded before each pass, and given back as they were."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch


class GlobalRandom:
    """A context in which the global generators (CPU, and the accelerators named) may be seeded at will."""

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self._devices = [d for d in dict.fromkeys(devices) if d.type not in {"cpu", "meta"}]
        self._cpu: torch.Tensor | None = None
        self._states: list[torch.Tensor] = []

    def __enter__(self) -> GlobalRandom:
        self._cpu = torch.get_rng_state()
        self._states = [_module(d).get_rng_state(d) for d in self._devices]
        return self

    def seed(self, value: int) -> None:
        """Seed all of them."""
        torch.default_generator.manual_seed(value)
        for device in self._devices:
            if device.type == "cuda":
                torch.cuda.default_generators[device.index].manual_seed(value)
            else:
                _module(device).manual_seed(value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._cpu is not None
        torch.set_rng_state(self._cpu)
        for device, state in zip(self._devices, self._states, strict=True):
            _module(device).set_rng_state(state, device)


def _module(device: torch.device) -> Any:
    return torch.get_device_module(device)
