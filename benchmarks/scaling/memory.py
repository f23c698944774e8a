"""Two measures of memory: the bytes of tensors, which are the same on every machine, and the resident set."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dither._inputs import tensors

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakBytes(TorchDispatchMode):
    """While it is open: the most bytes of tensors that existed at once, beside those that existed before.

    What operators return is counted until nobody holds it. What a kernel allocates and frees inside is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tensors((args, kwargs)):
            self._see(tensor, count=False)
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            self._see(tensor, count=True)
        self.peak = max(self.peak, self.now)
        return out

    def _see(self, tensor: torch.Tensor, *, count: bool) -> None:
        storage = tensor.untyped_storage()
        if tensor.is_meta or storage._cdata in self._known:
            return
        size = storage.nbytes() if count else 0
        self.now += size
        self._known[storage._cdata] = weakref.finalize(storage, self._forget, storage._cdata, size)

    def _forget(self, key: int, size: int) -> None:
        self.now -= size
        del self._known[key]


def bytes_of(net: nn.Module) -> int:
    """The bytes of parameters and buffers; a shared one counts once."""
    return sum(t.numel() * t.element_size() for t in [*net.parameters(), *net.buffers()])


def resident(run: Callable[[], Any]) -> tuple[Any, int]:
    """What ``run`` returns, and by how many bytes the resident set of this process peaked above what it was before.

    Linux only; run it in a process of its own, with an allocator that gives memory back (see `worker`).
    """
    before = _kilobytes("VmRSS")
    RESET.write_text("5", encoding="utf-8")  # the peak starts again at what is resident now
    result = run()
    return result, (_kilobytes("VmHWM") - before) * 1024


def _kilobytes(key: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
