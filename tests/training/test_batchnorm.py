"""BatchNorm under noise: frozen, or measured again."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import dither
from dither.training import Batches, Fit, Noise, Recipe, Run, load_images, make_model
from dither.training._batchnorm import reestimate, train_frozen


def test_frozen_statistics_do_not_move() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout())
    train_frozen(net)
    net(torch.rand(8, 1, 6, 6))
    assert net.training
    assert net[2].training
    assert net[1].running_mean.tolist() == [0, 0, 0]


def test_measured_statistics_are_plain_means_over_batches() -> None:
    x = torch.rand(5100, 2, 4, 4)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0.3))
    net[0].running_mean.fill_(9)
    reestimate(net, ((part, torch.zeros(100)) for part in x.split(100)))
    seen = x[:5000]  # 50 batches
    torch.testing.assert_close(net[0].running_mean, seen.mean((0, 2, 3)))
    batch_vars = torch.stack([part.var((0, 2, 3)) for part in seen.split(100)])
    torch.testing.assert_close(net[0].running_var, batch_vars.mean(0))
    assert net[2].momentum == 0.3
    assert not any(module.training for module in net.modules())


def test_networks_without_batchnorm_are_left_alone() -> None:
    net = nn.Linear(2, 2).train()
    reestimate(net, iter([(torch.zeros(4, 2), torch.zeros(4))]))
    assert net.training


def test_a_run_measures_on_the_batches_of_its_training(tmp_path: Path) -> None:
    """Shifted images have zeros at their edges, so their mean is lower than that of the images as they are."""
    images = load_images("digits", "train")
    fit = Fit(epochs=1, batch_size=100, shift=3)
    recipe = Recipe(
        model="digits_bn",
        data="digits",
        base=fit,
        prune=fit,
        noise=Noise(batchnorm="reestimate"),
        finetune=Fit(epochs=0),
    )
    run = Run(tmp_path, recipe)
    run.prune()
    small = dither.load(make_model("digits_bn"), tmp_path / "small.safetensors")
    measured = copy.deepcopy(small)
    reestimate(measured, Batches(images, fit, recipe.seed).epoch(0))
    torch.testing.assert_close(measured.state_dict(), small.state_dict())
    reestimate(measured, Batches(images, Fit(epochs=1, batch_size=100), recipe.seed).epoch(0))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(measured.state_dict(), small.state_dict())
