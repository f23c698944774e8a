"""The networks of the paper, a small one for the digits, and the door for the user's own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet500300(nn.Module):
    """LeNet-500-300: two hidden layers on the pixels, (B, 1, 28, 28) or (B, 784) to logits (B, 10).

    Source: LeCun et al. 1998; the widths are those of Neklyudov et al. 2017, table 1.

    Example:
        >>> import torch
        >>> LeNet500300()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, pixels: int = 784, classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(pixels, 500)
        self.fc2 = nn.Linear(500, 300)
        self.fc3 = nn.Linear(300, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


class LeNet5(nn.Module):
    """LeNet-5-Caffe: two convolutions without padding, (B, 1, 28, 28) to logits (B, 10).

    With a ReLU after each pool, which Caffe's own example leaves out and most papers on pruning add.
    Source: LeCun et al. 1998, in the version of Caffe; Neklyudov et al. 2017, table 1.

    Example:
        >>> sum(p.numel() for p in LeNet5().parameters())
        431080
    """

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class LeNet5BatchNorm(nn.Module):
    """LeNet-5 with BatchNorm before every activation, (B, 1, 28, 28) to logits (B, 10).

    The network of the table of Atanov et al. 2018: BatchNorm after both convolutions and the hidden layer, and
    dropout after each of the three where it is asked for. BatchNorm has the bias, so the layers before it have none.

    Args:
        dropout: probability that a value is dropped; 0 leaves dropout out.
        channels: of the images.
        classes: K.

    Example:
        >>> [type(layer).__name__ for layer in LeNet5BatchNorm(dropout=0.5).children()]
        ['Conv2d', 'BatchNorm2d', 'Conv2d', 'BatchNorm2d', 'Linear', 'BatchNorm1d', 'Linear', 'Dropout']
    """

    def __init__(self, dropout: float = 0.0, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5, bias=False)
        self.bn1 = nn.BatchNorm2d(20)
        self.conv2 = nn.Conv2d(20, 50, 5, bias=False)
        self.bn2 = nn.BatchNorm2d(50)
        self.fc1 = nn.Linear(800, 500, bias=False)
        self.bn3 = nn.BatchNorm1d(500)
        self.fc2 = nn.Linear(500, classes)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.dropout(F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 2)))
        x = self.dropout(F.relu(F.max_pool2d(self.bn2(self.conv2(x)), 2)))
        return self.fc2(self.dropout(F.relu(self.bn3(self.fc1(x.flatten(1))))))


class DigitsNet(nn.Module):
    """A small convolutional network for 8x8 images, (B, 1, 8, 8) to logits (B, 10).

    Example:
        >>> import torch
        >>> DigitsNet()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(128, 64)
        self.fc2 = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class DigitsBatchNorm(nn.Module):
    """The network of :class:`DigitsNet` with BatchNorm before every activation, (B, 1, 8, 8) to logits (B, 10).

    BatchNorm has the bias, so the layers before it have none.

    Example:
        >>> import torch
        >>> DigitsBatchNorm(classes=5)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 5])
    """

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc1 = nn.Linear(128, 64, bias=False)
        self.bn3 = nn.BatchNorm1d(64)
        self.fc2 = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 2))
        x = F.relu(F.max_pool2d(self.bn2(self.conv2(x)), 2))
        return self.fc2(F.relu(self.bn3(self.fc1(x.flatten(1)))))


_MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet_500_300": LeNet500300,
    "lenet5": LeNet5,
    "lenet5_bn": LeNet5BatchNorm,
    "lenet5_bn_dropout": partial(LeNet5BatchNorm, dropout=0.5),
    "digits": DigitsNet,
    "digits_bn": DigitsBatchNorm,
}


def model_names() -> tuple[str, ...]:
    """Names that :func:`make_model` knows.

    Example:
        >>> model_names()
        ('lenet_500_300', 'lenet5', 'lenet5_bn', 'lenet5_bn_dropout', 'digits', 'digits_bn')
    """
    return tuple(_MODELS)


def make_model(name: str, classes: int | None = None) -> nn.Module:
    """A fresh network by its name here, or by ``package.module:callable`` for one of your own.

    Weights are drawn from torch's global generator: seed it before.

    Args:
        name: one of :func:`model_names`, or an importable callable without arguments that returns a module.
        classes: number of outputs. None is the network's own number (10 for those here). A callable of your own gets
            it if it has an argument of this name; otherwise it must make enough outputs by itself.

    Returns:
        The network, on the CPU, in training mode.

    Raises:
        ValueError: If the name is unknown, cannot be imported or does not make a module.

    Example:
        >>> type(make_model("torch.nn:Identity")).__name__
        'Identity'
    """
    if ":" not in name:
        if name not in _MODELS:
            raise ValueError(f"unknown model {name!r}, known are {', '.join(_MODELS)} and package.module:callable")
        return _MODELS[name](**({} if classes is None else {"classes": classes}))
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot import the model {name!r}: {error}") from error
    if not callable(factory):
        raise ValueError(f"the model {name!r} is {type(factory).__name__}, expected a callable that returns a module")
    takes_classes = classes is not None and "classes" in inspect.signature(factory).parameters
    model = factory(classes=classes) if takes_classes else factory()
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model {name!r} returned {type(model).__name__}, expected a torch.nn.Module")
    return model
