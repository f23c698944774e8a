"""The networks that are measured, in plain torch; ``noise=True`` puts layers of noise on the activations."""

from __future__ import annotations

from torch import Tensor, nn

from dither.pruning import LogNormalNoise


def after_relu(channels: int, noise: bool) -> nn.Module:
    return nn.Sequential(nn.ReLU(), LogNormalNoise(channels)) if noise else nn.ReLU()


def convnet8(width: int = 64, *, noise: bool = False) -> nn.Module:
    """Seven 3x3 convolutions with BatchNorm and a linear layer, for 32x32 images."""
    layers: list[nn.Module] = []
    last = 3
    for i, channels in enumerate([width, width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width]):
        layers += [nn.Conv2d(last, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
        layers += [after_relu(channels, noise)] + [nn.MaxPool2d(2)] * (i in (1, 3, 5))
        last = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 10))


class Basic(nn.Module):
    """Two 3x3 convolutions and a residual add."""

    growth = 1

    def __init__(self, last: int, channels: int, stride: int, noise: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(last, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), after_relu(channels, noise),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.skip = shortcut(last, channels, stride)
        self.relu = after_relu(channels, noise)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.skip(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a residual add; four times as many channels come out."""

    growth = 4

    def __init__(self, last: int, channels: int, stride: int, noise: bool = False) -> None:
        super().__init__()
        out = self.growth * channels
        self.body = nn.Sequential(
            nn.Conv2d(last, channels, 1, bias=False), nn.BatchNorm2d(channels), after_relu(channels, noise),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels),
            after_relu(channels, noise), nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.skip = shortcut(last, out, stride)
        self.relu = after_relu(out, noise)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.skip(x))


def shortcut(last: int, channels: int, stride: int) -> nn.Module:
    if last == channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(last, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def stages(block: type[Basic | Bottleneck], width: int, depths: list[int], noise: bool) -> tuple[nn.Module, int]:
    blocks: list[nn.Module] = []
    last = width
    for i, depth in enumerate(depths):
        for j in range(depth):
            blocks.append(block(last, width * 2**i, 2 if i and not j else 1, noise))
            last = width * 2**i * block.growth
    return nn.Sequential(*blocks), last


def resnet18(width: int = 32, classes: int = 10, *, noise: bool = False) -> nn.Module:
    """ResNet-18 for 32x32 images: a 3x3 stem, no pooling before the stages."""
    body, last = stages(Basic, width, [2, 2, 2, 2], noise)
    stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), after_relu(width, noise)]
    return nn.Sequential(*stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes))


def resnet50(width: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3)) -> nn.Module:
    """ResNet-50 for 224x224 images, 25.6 million parameters."""
    body, last = stages(Bottleneck, width, list(depths), noise=False)
    stem = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 1000))
