"""The networks of the studies on CIFAR-10, by width; recipes name them ``studies.networks:vgg16_half``."""

from __future__ import annotations

from functools import partial

from torch import nn

from benchmarks.networks import resnet18

# Numbers are the channels of a 3x3 convolution, each with BatchNorm and ReLU; 0 is a 2x2 max-pooling.
VGG11 = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def vgg(
    layers: tuple[int, ...], width: float = 1.0, hidden: int = 0, classes: int = 10, dropout: float = 0.0
) -> nn.Sequential:
    """A VGG for 32x32 images, (B, 3, 32, 32) to logits (B, classes).

    Args:
        layers: channels of the convolutions, and 0 for every pooling.
        width: factor on all channels.
        hidden: units of a hidden layer in front of the last one; 0 is none.
        classes: number of outputs.
        dropout: rate of a dropout after every activation; 0 is none.
    """
    body: list[nn.Module] = []
    last = 3

    def activation() -> list[nn.Module]:
        return [nn.ReLU(), nn.Dropout(dropout)] if dropout else [nn.ReLU()]

    for channels in layers:
        if channels == 0:
            body.append(nn.MaxPool2d(2))
            continue
        now = round(width * channels)
        body += [nn.Conv2d(last, now, 3, padding=1, bias=False), nn.BatchNorm2d(now), *activation()]
        last = now
    body.append(nn.Flatten())
    if hidden:
        now = round(width * hidden)
        body += [nn.Linear(last, now, bias=False), nn.BatchNorm1d(now), *activation()]
        last = now
    return nn.Sequential(*body, nn.Linear(last, classes))


def with_dropout(net: nn.Module, rate: float) -> nn.Module:
    """The same network with dropout after every ReLU. Mutates and returns ``net``; names of its parameters stay."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child) is nn.ReLU:
                setattr(module, name, nn.Sequential(child, nn.Dropout(rate)))
    return net


def resnet18_16_dropout(classes: int = 10) -> nn.Module:
    return with_dropout(resnet18(16, classes), 0.1)


# The VGG-like network of Structured Bayesian Pruning: thirteen convolutions and one hidden layer of 512.
vgg16 = partial(vgg, VGG16, 1.0, 512)
vgg16_half = partial(vgg, VGG16, 0.5, 512)
vgg16_quarter = partial(vgg, VGG16, 0.25, 512)
vgg16_tiny = partial(vgg, VGG16, 0.0625, 512)  # for trying programs
vgg11_quarter = partial(vgg, VGG11, 0.25)
vgg11_quarter_dropout = partial(vgg, VGG11, 0.25, dropout=0.1)
resnet18_16 = partial(resnet18, 16)
