"""What do S = 16 samples cost against one pass?

One pass is the plain network in eval mode, as it was before batchnorm.convert. Against it: a plain Python loop of S
passes of the converted network with sampling switched on, and dither.predict, everything it does included (draws,
checks, softmax). All in turns. LeNet-5 with BatchNorm on 28x28 images, all its BatchNorms drawn; a ResNet-18 for 32x32
images, the BatchNorms of its last block drawn. Targets: at batch 1 at most 12x (aim 6x), at batch 64 at most 16x (aim
14x), the ResNet at most 4x (aim 2.5x). Last column: one pass with the channels last, a layout that predict may choose.

Run: python -m benchmarks.prediction
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn

import dither
from benchmarks.networks import resnet18
from benchmarks.report import finish, milliseconds, options, times, waiting
from dither import batchnorm
from dither._cost import Spread, ratio, time_in_turns
from dither.prediction._choice import plan_of
from dither.training import LeNet5BatchNorm

NUM_SAMPLES = 16


def one_pass(net: nn.Module, x: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        net(x)

    return run


def loop(net: nn.Module, x: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def run() -> None:
        with dither.sampling(net):
            torch.stack([net(x).softmax(1) for _ in range(NUM_SAMPLES)])

    return run


def predict(net: nn.Module, x: Tensor) -> Callable[[], None]:
    def run() -> None:
        dither.predict(net, x, NUM_SAMPLES)

    return run


def fitted(model: nn.Module, shape: tuple[int, ...], device: str, layers: list[str] | None = None) -> nn.Module:
    """Converted and fitted to noise: what is drawn does not change the time."""
    net = batchnorm.convert(model, layers)
    batchnorm.fit(net, [torch.randn(16, *shape, device=device) for _ in range(4)])
    return net


def main() -> None:
    chosen = options(__doc__, repeats=60)
    lenet, width, large = LeNet5BatchNorm(), (4 if chosen.smoke else 32), (4 if chosen.smoke else 64)
    resnet = resnet18(width)
    last = next(name for name, m in reversed([*resnet.named_modules()]) if hasattr(m, "body"))
    cases = [
        ("LeNet-5, all BatchNorms", lenet, (1, 28, 28), 1, None),
        ("LeNet-5, all BatchNorms", lenet, (1, 28, 28), large, None),
        (f"ResNet-18, width {width}, last block", resnet, (3, 32, 32), large, [last]),
    ]
    records = []
    head = [
        "network",
        "batch",
        "one pass, ms",
        "predict / one pass",
        "loop / one pass",
        "how",
        "channels last / one pass",
    ]
    table = [head]
    for name, model, shape, batch, layers in cases:
        plain = model.to(chosen.device).eval()
        net = fitted(plain, shape, chosen.device, layers)
        x = torch.randn(batch, *shape, device=chosen.device)
        last_format = x.to(memory_format=torch.channels_last)
        runs = [one_pass(plain, x), predict(net, x), loop(net, x), one_pass(plain, last_format)]
        predict(net, x)()  # measures and remembers
        seconds = time_in_turns([waiting(chosen, run) for run in runs], chosen.repeats, chosen.warmup)
        spreads = [Spread.of(s) for s in seconds]
        ratios = [ratio(s, seconds[0]) for s in seconds[1:]]
        how = str(plan_of(net))
        records.append(
            {"network": name, "batch": batch, "num_samples": NUM_SAMPLES, "how": how}
            | {
                f"{key}_s": asdict(s)
                for key, s in zip(("plain", "predict", "loop", "channels_last"), spreads, strict=True)
            }
            | {f"{key}_ratio": asdict(r) for key, r in zip(("predict", "loop", "channels_last"), ratios, strict=True)}
        )
        table.append(
            [name, str(batch), milliseconds(spreads[0]), times(ratios[0]), times(ratios[1]), how, times(ratios[2])]
        )
    finish("prediction", chosen, records, table)


if __name__ == "__main__":
    main()
