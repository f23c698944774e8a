"""The ways in which a network can be run, each as a function without arguments that can be timed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ._inputs import Inputs, call, map_tensors, tensors
from ._onnx import Runtime, require, to_bytes
from ._trace import input_names, named_outputs, trace

Run = Callable[[], Any]


class UnavailableError(Exception):
    """A network does not run in this mode here; the message is the reason."""


def prepare(mode: str, net: nn.Module, batch: Inputs) -> Run:
    """A pass of ``net`` over ``batch`` in another mode of `MODES` than eager, ready to be timed: it has run once.

    Raises:
        UnavailableError: If it does not run that way here.
    """
    try:
        run = MODES[mode](net, batch)
        run()
    except UnavailableError:
        raise
    except Exception as error:  # compilers and exporters have exceptions of their own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UnavailableError(f"{type(error).__name__}: {lines[0] if lines else 'no message'}") from error
    return run


def eager(net: nn.Module, batch: Inputs) -> Run:
    """``net(batch)``; the pass has ended when the function returns, on accelerators too."""
    kinds = {t.device.type for t in (*tensors(batch), *net.parameters())} - {"cpu"}
    waits: list[Callable[[], None]] = [getattr(torch, kind).synchronize for kind in kinds if hasattr(torch, kind)]

    def run() -> Any:
        out = call(net, batch)
        for wait in waits:
            wait()
        return out

    return run


def _channels_last(net: nn.Module, batch: Inputs) -> Run:
    if not any(p.ndim == 4 for p in net.parameters()):
        raise UnavailableError("no weight has four dimensions")
    images = map_tensors(lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t, batch)
    return eager(copy.deepcopy(net).to(memory_format=torch.channels_last), images)  # pyright: ignore[reportCallIssue]


def _compiled(net: nn.Module, batch: Inputs) -> Run:
    # One graph for every network and batch size of a class; beyond the usual limit of 8 torch would go on uncompiled.
    many: dict[str, Any] = (
        {"recompile_limit": 64} if "recompile_limit" in inspect.signature(torch.compile).parameters else {}
    )
    compiled: Any = torch.compile(net, dynamic=False, **many)
    return eager(compiled, batch)


def _onnxruntime(net: nn.Module, batch: Inputs) -> Run:
    require("timing it")
    if any(t.device.type != "cpu" for t in (*tensors(batch), *net.parameters())):
        raise UnavailableError("it is timed on the CPU only")
    program = trace(net, batch, dynamic_batch=False, flat=True)
    runtime = Runtime(to_bytes(program, input_names(net, batch), list(named_outputs(call(net, batch))), {}))
    feed = runtime.feed(tensors(batch))
    return lambda: runtime.session.run(None, feed)


MODES: dict[str, Callable[[nn.Module, Inputs], Run]] = {
    "eager": eager,
    "channels_last": _channels_last,
    "compiled": _compiled,
    "onnxruntime": _onnxruntime,
}
