"""Every activation and every pooling of torch.nn between two convolutions: none of them stands in the way."""

from __future__ import annotations

import copy

from torch import nn

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head

POOLINGS = [
    nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(2),
    nn.LPPool2d(2, 2), nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ZeroPad2d(1),
    nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.ConstantPad2d(1, 0.5), nn.Dropout(), nn.Dropout2d(),
    nn.Identity(), nn.BatchNorm2d(6),
]  # fmt: skip
ACTIVATIONS = [
    nn.ELU(), nn.Hardshrink(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardswish(), nn.LeakyReLU(), nn.LogSigmoid(),
    nn.PReLU(), nn.PReLU(6), nn.ReLU(), nn.ReLU6(), nn.RReLU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.GELU("tanh"),
    nn.Sigmoid(), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Softshrink(), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(),
    nn.Threshold(0.1, 0.2), nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Hardswish(inplace=True),
    nn.LeakyReLU(0.1, inplace=True), nn.Hardtanh(inplace=True), nn.ELU(inplace=True), nn.Mish(inplace=True),
]  # fmt: skip
LAYERS = [
    Case(
        f"between: {layer!r}",
        lambda layer=layer: Net(
            lambda m, x: m.head(m.b(m.f(m.a(x)))), a=conv(3, 6), f=copy.deepcopy(layer), b=conv(6, 4), head=head(4)
        ),
        IMAGE,
        {"a": 6, "b": 4},
        OUTPUT,
    )
    for layer in [*ACTIVATIONS, *POOLINGS]
]
