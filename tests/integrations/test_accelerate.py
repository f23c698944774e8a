"""What docs/distributed.md says of Accelerate in a loop of one's own."""

from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from dither import pruning


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state()
    GradientState._reset_state()
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state()
    GradientState._reset_state()


def computed_in(net: nn.Module, x: Tensor) -> set[torch.dtype]:
    """Of its linear layers."""
    seen: set[torch.dtype] = set()
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda layer, args, out: seen.add(out.dtype))
    net(x)
    return seen


@pytest.mark.parametrize(
    ("keep", "forget", "expected"),
    [(True, False, torch.bfloat16), (False, False, torch.float32), (False, True, torch.bfloat16)],
    ids=["as unwrap_model gives it", "the trap", "the way out"],
)
def test_what_shrink_returns_computes_in(
    accelerator: Accelerator, keep: bool, forget: bool, expected: torch.dtype
) -> None:
    x = torch.randn(4, 8)
    net = accelerator.prepare(pruning.attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), x))
    with torch.no_grad():
        pruning.gates(net)["0"].log_scale[:12].fill_(3.0)
    net = accelerator.unwrap_model(net, keep_fp32_wrapper=keep)
    small = pruning.shrink(net, pruning.plan(net, x), x)
    assert small[0].out_features == 4
    if forget:
        vars(small).pop("_is_accelerate_prepared", None)
    assert computed_in(accelerator.prepare(small), x) == {expected}
