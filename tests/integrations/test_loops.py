"""The same seed and the same noise keep the same channels, whoever writes the loop."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.integrations import LOOPS, Digits, Settings, pretrained
from dither import pruning

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

SHORT = Settings(epochs=5, gate_lr=0.3, factor=0.02)


@pytest.fixture(scope="module")
def data() -> Digits:
    return Digits(256)


@pytest.fixture(scope="module")
def model(data: Digits) -> nn.Module:
    return pretrained(data, epochs=2)


@pytest.mark.parametrize("name", ["Lightning", "Trainer"])
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (replace(SHORT, shrink_at=(3, 4)), 0.0),
        # Lightning adds up the norm in the order of the optimizer, others in the order of the network: rounding
        (replace(SHORT, epochs=9, gate_lr=0.4, factor=0.006, shrink_at=(8,), accumulate=2, clip=1.0), 1e-4),
    ],
    ids=["removal", "accumulated and clipped"],
)
def test_the_loops_agree(data: Digits, model: nn.Module, name: str, settings: Settings, tolerance: float) -> None:
    nets: list[nn.Module] = []
    for loop in (LOOPS["plain"], LOOPS[name]):
        net = pruning.attach(copy.deepcopy(model), data.x[:2])
        nets.append(loop(net, data, settings))
    plain, other = nets
    plans = [pruning.overall(net, pruning.plan(net, data.x[:2])) for net in nets]
    kept, total = (sum(counts) for counts in zip(*plans[0].widths.values(), strict=True))
    assert 40 < kept < total - 20  # there is something to agree on
    assert plain.dither_shrunk["before" if tolerance == 0 else "kept"]
    assert [(c.name, c.kept) for c in plans[0].spaces] == [(c.name, c.kept) for c in plans[1].spaces]
    for (key, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=key)
