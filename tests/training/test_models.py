"""The networks by name."""

import pytest
import torch
from torch import nn

from dither.training import make_model, model_names


@pytest.mark.parametrize(
    ("name", "shape", "params"),
    [
        ("lenet_500_300", (3, 1, 28, 28), 545_810),
        ("lenet5", (3, 1, 28, 28), 431_080),
        ("lenet5_bn", (3, 1, 28, 28), 431_650),
        ("lenet5_bn_dropout", (3, 1, 28, 28), 431_650),
        ("digits", (3, 1, 8, 8), 13_706),
        ("digits_bn", (3, 1, 8, 8), 13_818),
    ],
)
def test_networks_of_the_paper_have_their_sizes(name: str, shape: tuple[int, ...], params: int) -> None:
    net = make_model(name)
    assert net(torch.rand(shape)).shape == (3, 10)
    assert sum(p.numel() for p in net.parameters()) == params


@pytest.mark.parametrize("name", model_names())
def test_every_network_can_have_another_number_of_classes(name: str) -> None:
    size = 8 if name.startswith("digits") else 28
    assert make_model(name, 5)(torch.rand(3, 1, size, size)).shape == (3, 5)


def test_lenet5_reads_channels_last_too() -> None:
    net, x = make_model("lenet5"), torch.rand(2, 1, 28, 28)
    expected = net(x)
    last = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(x.contiguous(memory_format=torch.channels_last)), expected)


def own_network() -> nn.Module:
    return nn.Linear(2, 3)


def own_network_for(classes: int = 4) -> nn.Module:
    return nn.Linear(2, classes)


not_callable = 3


def test_the_users_own_network() -> None:
    assert isinstance(make_model(f"{__name__}:own_network"), nn.Linear)
    assert make_model(f"{__name__}:own_network", 7)(torch.zeros(1, 2)).shape == (1, 3)


def test_the_users_own_network_is_told_the_number_of_classes_if_it_asks() -> None:
    assert make_model(f"{__name__}:own_network_for")(torch.zeros(1, 2)).shape == (1, 4)
    assert make_model(f"{__name__}:own_network_for", 7)(torch.zeros(1, 2)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet6", "unknown model 'lenet6', known are lenet_500_300, .*, digits_bn and package.module:callable"),
        ("no_such_package:net", "cannot import the model 'no_such_package:net'"),
        ("torch.nn:NoSuchLayer", "cannot import the model"),
        (f"{__name__}:not_callable", "is int, expected a callable"),
        ("builtins:dict", "returned dict, expected a torch.nn.Module"),
        (":x", "cannot import the model"),
    ],
)
def test_unusable_names_are_explained(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(name)
