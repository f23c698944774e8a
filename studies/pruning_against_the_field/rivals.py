"""What Torch-Pruning makes of a trained network: one score for each channel."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dither import pruning

NAMES = ("l1", "bn_scale", "taylor", "group_norm")
BATCHES = 10  # whose gradients Taylor adds up


def importances() -> dict[str, Callable[[], Any]]:
    """Its criteria, by the name of the row. Scores are relative to the mean of their group, as is its default.

    Raises:
        SystemExit: If Torch-Pruning is not installed.
    """
    try:
        from torch_pruning import importance
    except ModuleNotFoundError as error:
        raise SystemExit("this study needs Torch-Pruning: pip install -c constraints.txt torch-pruning") from error
    return {
        "l1": lambda: importance.GroupMagnitudeImportance(p=1, group_reduction="first"),  # of the filters alone
        "group_norm": lambda: importance.GroupMagnitudeImportance(p=2),  # of all slices that go with a channel
        "bn_scale": importance.BNScaleImportance,
        "taylor": importance.GroupTaylorImportance,
    }


def scores(method: str, net: nn.Module, example: Tensor, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The score of each channel, by the name that dither has for the space.

    Args:
        method: a name of `importances`.
        net: the trained network; it is not changed.
        example: images that it is run on.
        batches: images and labels; gradients are taken on them where the criterion reads gradients.
    """
    net = copy.deepcopy(net).eval()
    importance = importances()[method]()
    if method == "taylor":
        for x, labels in islice(batches, BATCHES):
            F.cross_entropy(net(x), labels).backward()
    spaces = [space for space in pruning.analyse(net, example).spaces if space.reason is None]
    found: dict[str, Tensor] = {}
    for root, group in groups(net, example):
        for space in spaces:
            if space.written_by([root]):
                found[space.name] = importance(group).detach().double()
    return found


def groups(net: nn.Module, example: Tensor) -> Iterable[tuple[str, Any]]:
    """Torch-Pruning's groups of channels that go together, with the name of the layer that each begins at."""
    from torch_pruning import DependencyGraph

    names = {module: name for name, module in net.named_modules()}
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    graph = DependencyGraph().build_dependency(net, example)
    return [(names[group[0].dep.target.module], group) for group in graph.get_all_groups(ignored_layers=[last])]
