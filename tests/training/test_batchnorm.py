"""BatchNorm under noise: frozen, or measured again."""

import torch
from torch import nn

from dither.training import Images
from dither.training._batchnorm import reestimate, train_frozen


def test_frozen_statistics_do_not_move() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout())
    train_frozen(net)
    net(torch.rand(8, 1, 6, 6))
    assert net.training
    assert net[2].training
    assert net[1].running_mean.tolist() == [0, 0, 0]


def test_measured_statistics_are_plain_means_over_batches() -> None:
    images = Images(torch.randint(0, 256, (330, 2, 4, 4), dtype=torch.uint8), torch.zeros(330, dtype=torch.int64), 1)
    net = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0.3))
    net[0].running_mean.fill_(9)
    reestimate(net, images, batch_size=100)
    x = images.pixels[:300].float() / 255
    torch.testing.assert_close(net[0].running_mean, x.mean((0, 2, 3)))
    batch_vars = torch.stack([part.var((0, 2, 3)) for part in x.split(100)])
    torch.testing.assert_close(net[0].running_var, batch_vars.mean(0))
    assert net[2].momentum == 0.3
    assert not any(module.training for module in net.modules())


def test_networks_without_batchnorm_are_left_alone() -> None:
    net = nn.Linear(2, 2).train()
    reestimate(net, Images(torch.zeros(4, 1, 1, 2, dtype=torch.uint8), torch.zeros(4), 1))
    assert net.training
