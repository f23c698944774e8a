"""One point of one series, in a process of its own: ``python -m benchmarks.scaling.measure layers 8`` prints JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import dither
from benchmarks.scaling.memory import PeakBytes, bytes_of, resident
from benchmarks.scaling.subjects import LLAMA_7B, TINY_LLAMA, convnet, decoder, doubtful
from dither import pruning
from dither._inputs import Inputs, call
from dither.pruning.noise._gates import gated_weights

BATCH = 64
# The allocator of glibc keeps what it once had for later use, which hides what is needed now.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


@dataclass(frozen=True)
class Series:
    """Points that differ in one size.

    Attributes:
        grows: What grows.
        sizes: The sizes.
        tiny: Those of a smoke run.
        measure: What is measured at one size: a record with x and the steps.
        x: The name of x.
    """

    grows: str
    sizes: tuple[Any, ...]
    tiny: tuple[Any, ...]
    measure: Callable[[Any], dict[str, Any]]
    x: str = "parameters"


def step(run: Callable[[], Any], *, once: bool = False) -> tuple[Any, dict[str, float]]:
    """What ``run`` returns, its seconds of the processor, and what it held beside what there was before, in bytes.

    The bytes of tensors are measured in a second run, which that makes slower; with ``once`` in the same run, where
    the time of a large network hides it.
    """
    memory = PeakBytes()
    start = time.process_time()
    with memory if once else nullcontext():
        result, most = resident(run)
    seconds = time.process_time() - start
    with nullcontext() if once else memory:
        once or run()
    return result, {"seconds": seconds, "resident": most, "tensors": memory.peak}


def pipeline(make: Callable[[], tuple[nn.Module, Inputs]], *, once: bool = False) -> dict[str, Any]:
    """A forward pass, attach, plan and shrink, half of all units under noise; and shrink where everything stays."""
    net, x = make()
    record: dict[str, Any] = {"x": sum(p.numel() for p in net.parameters()), "bytes": bytes_of(net)}
    with torch.no_grad():
        _, record["forward"] = step(partial(call, net, x), once=once)
    noisy, record["attach"] = step(partial(pruning.attach, net, x), once=once)
    del net  # there is room for one of a billion parameters, not for two
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in pruning.gates(noisy).values():
            layer.log_scale[torch.rand(layer.num_features, generator=generator) < 0.5] = 3.0
    plan, record["plan"] = step(lambda: pruning.plan(noisy, x), once=once)
    small, record["shrink"] = step(lambda: pruning.shrink(noisy, plan, x), once=once)
    record["kept"] = bytes_of(small) / record["bytes"]
    del small
    everything = pruning.plan(noisy, x, threshold=1e-9)
    _, record["shrink nothing"] = step(lambda: pruning.shrink(noisy, everything, x), once=once)
    return record


def labels(net: nn.Module, x: Inputs) -> dict[str, Any]:
    """The label run against the bytes that a forward pass holds at its peak."""
    with torch.no_grad():
        _, plain = step(lambda: call(net, x))
    _, found = step(lambda: pruning.analyse(net, x))
    return {"x": plain["tensors"], "bytes": bytes_of(net), "forward": plain, "analyse": found}


def described() -> dict[str, Any]:
    """The analysis of a network of 7 billion parameters that has no values."""
    net, x = decoder(**LLAMA_7B, device="meta")
    analysis, found = step(lambda: pruning.analyse(net, x))
    units = sum(space.size for space in analysis.spaces if space.reason is None)
    params = sum(p.numel() for p in net.parameters())
    return {"x": params, "bytes": bytes_of(net), "units": units, "analyse": found}


def training(layers: int) -> dict[str, Any]:
    """A forward and a backward pass without noise, with it, and with it where blocks are checkpointed."""
    net, x = decoder(WIDTH, layers, hidden=WIDTH)
    noisy = pruning.attach(net, x)
    read = {id(module): getattr(module, name) for module, name, _ in gated_weights(noisy)}
    gated = sum(weight.numel() * weight.element_size() for weight in read.values())
    record: dict[str, Any] = {"x": sum(p.numel() for p in net.parameters()), "bytes": bytes_of(net), "gated": gated}

    def run(which: nn.Module) -> None:
        which.train()(**x).logits.float().logsumexp(-1).sum().backward()  # gradients stay, as in accumulation

    run(net), run(noisy)
    _, record["step"] = step(partial(run, net))
    _, record["step with noise"] = step(partial(run, noisy))
    noisy.gradient_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    _, record["step with noise, checkpointed"] = step(partial(run, noisy))
    return record


def prediction(num_samples: int, batches: int) -> dict[str, Any]:
    """`dither.predict` over a loader that makes its batches as they are asked for."""
    net = doubtful()

    def loader(count: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(count):
            yield torch.randn(BATCH, 1, 28, 28, generator=generator)

    dither.predict(net, loader(1), num_samples)  # it measures how to run, once for each shape
    _, found = step(lambda: dither.predict(net, loader(batches), num_samples))
    return {"bytes": bytes_of(net), "predict": found}


def samples(count: int) -> dict[str, Any]:
    return {"x": count, **prediction(count, 4)}


def rows(batches: int) -> dict[str, Any]:
    return {"x": batches * BATCH, **prediction(4, batches)}


LAYERS, WIDTH, CHANNELS = 4, 256, 16
SERIES = {
    "layers": Series("decoder: layers", (2, 4, 8, 16, 32), (1,), lambda n: pipeline(lambda: decoder(WIDTH, n))),
    "width": Series("decoder: width", (128, 256, 512, 1024), (), lambda n: pipeline(lambda: decoder(n, LAYERS))),
    "channels": Series("ResNet-18: width", (16, 32, 64, 128), (4, 8), lambda n: pipeline(lambda: convnet(n))),
    "tokens": Series(
        "decoder: tokens",
        (64, 128, 256, 512, 1024),
        (8, 16),
        lambda n: labels(*decoder(WIDTH, LAYERS, tokens=n)),
        "bytes of activations",
    ),
    "pixels": Series(
        "ResNet-18: pixels",
        (32, 64, 128, 256),
        (),
        lambda n: labels(*convnet(CHANNELS, n)),
        "bytes of activations",
    ),
    "training": Series("decoder: layers", (2, 4, 8, 16), (), training),
    "samples": Series("LeNet-5: samples", (4, 16, 64, 256), (2, 4), samples, "samples"),
    "rows": Series("LeNet-5: examples", (4, 16, 64, 256), (), rows, "examples"),
}
LARGE = {
    "decoder": Series(
        "Llama of 1.1 billion parameters",
        ("bfloat16",),
        (),
        lambda dtype: pipeline(lambda: decoder(**TINY_LLAMA, dtype=getattr(torch, dtype)), once=True),
    ),
    "description": Series("Llama of 7 billion parameters", ("meta",), (), lambda device: described()),
}


def measure(name: str, size: Any) -> dict[str, Any]:
    """One record, in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing was trained, and plan says so
        return {"series": name, "size": size, **({**SERIES, **LARGE})[name].measure(size)}


def apart(name: str, size: Any, threads: int) -> dict[str, Any]:
    """One record, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scaling.measure", name, str(size), str(threads)]
    done = subprocess.run(command, env={**os.environ, **GIVES_BACK}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} {size} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    which, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    measure("channels", 4)  # what is loaded when it is first used
    print(json.dumps(measure(which, int(size) if size.isdigit() else size)))
