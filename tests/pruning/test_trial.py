"""The trial: a width that the code holds on to costs the channels of that layer, not the model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import pruning
from dither.pruning.attaching import _trial
from dither.pruning.cutting._cut import difference
from dither.pruning.noise._gates import find_bank
from tests.cases import Net, conv
from tests.pruning.test_cases import assert_same, drown_half


class Block(nn.Module):
    """Two hidden layers; the second one's width is written into the code where ``fixed``."""

    def __init__(self, width: int = 6, *, fixed: bool = True) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 5)
        self.width = width if fixed else -1

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(F.relu(self.a(x)))
        return x + self.c(F.relu(h).view(len(x), self.width))  # the line


class Blocks(nn.Sequential):
    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(*[Block(6 + i, **options) for i in range(count)], nn.Linear(5, 2))


def whole(model: nn.Module, x: Any) -> dict[str, str]:
    bank = find_bank(pruning.attach(model, x))
    assert bank is not None
    return bank.whole


def assert_exact(model: nn.Module, x: Tensor) -> None:
    net = pruning.attach(model.double(), x.double())
    drown_half(net, 0)
    plan = pruning.plan(net, x.double())
    assert any(kept < total for kept, total in plan.widths.values())
    assert_same(pruning.masked(net, plan)(x.double()), pruning.shrink(net, plan, x.double())(x.double()))


# --- what is found ---------------------------------------------------------------------------------------------------
def test_only_the_layer_to_blame_stays_whole() -> None:
    model, x = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 5), Block()), torch.randn(3, 5)
    found = whole(model, x)
    assert list(found) == ["3.b"]
    assert 'in module "3"' in found["3.b"]
    assert "test_trial.py" in found["3.b"]
    assert "# the line` fixes a size" in found["3.b"]
    assert list(pruning.gates(pruning.attach(model, x))) == ["0", "3.a"]
    assert_exact(model, x)


def test_the_reason_travels_with_a_copy() -> None:
    net = pruning.attach(Blocks(1), torch.randn(3, 5))
    bank = find_bank(copy.deepcopy(net))
    assert bank is not None
    assert "fixes a size" in bank.whole["0.b"]


def test_equal_blocks_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty blocks cost two searches, not twenty: the copies are counted."""
    runs = 0
    cut = _trial.cut

    def counted(*args: Any) -> Any:
        nonlocal runs
        runs += 1
        return cut(*args)

    monkeypatch.setattr(_trial, "cut", counted)
    found = whole(Blocks(20), torch.randn(3, 5))
    assert sorted(found) == sorted(f"{i}.b" for i in range(20))
    assert found["0.b"].startswith("in module")
    assert found["7.b"].startswith('as "1.b": in module')
    assert runs < 20


def test_equal_layers_of_other_blocks_stay_free() -> None:
    """One of many equal blocks to blame says nothing of the others."""
    model, x = nn.Sequential(Block(fixed=False), Block(7), Block(8, fixed=False)), torch.randn(3, 5)
    assert list(whole(model, x)) == ["1.b"]
    assert list(pruning.gates(pruning.attach(model, x))) == ["0.a", "0.b", "1.a", "2.a", "2.b"]


def test_code_that_takes_channels_by_a_computed_position() -> None:
    """No operator shows it: the width of a layer decides in Python; only values do."""

    class Scaled(Block):
        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.b(F.relu(self.a(x))))
            return self.c(h * h.shape[1])

    found = whole(Scaled(), torch.randn(3, 5))
    assert list(found) == ["b"]
    assert "the output would change by" in found["b"]
    assert_exact(Scaled(), torch.randn(3, 5))


def test_a_branch_that_begins_with_a_scale_of_zero() -> None:
    """As in LayerScale and zero-initialised residuals: at the given values every error in it is multiplied by zero."""

    class Silent(Block):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.b(F.relu(self.a(x))))
            return x + self.scale * self.c(h * h.shape[1])

    assert list(whole(Silent(), torch.randn(3, 5))) == ["b"]


def test_code_that_looks_at_values_is_run_with_values() -> None:
    class Asks(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.sum()) > 0 else -x)

    found = whole(Asks(), torch.ones(3, 5))
    assert list(found) == ["b"]
    assert "# the line` fixes a size" in found["b"]


def test_a_tensor_that_is_no_part_of_the_model_is_no_size() -> None:
    """It is not on the meta device, where shapes are tried: that alone says nothing of the model."""
    one = torch.ones(3)
    model = Net(
        lambda m, x: m.b(y := F.relu(m.a(x))) * (1 if y.shape[1] == 8 else one), a=nn.Linear(5, 8), b=nn.Linear(8, 3)
    )
    assert whole(model, torch.randn(3, 5)) == {}


def test_a_width_in_the_output() -> None:
    model = Net(lambda m, x: (m.b(y := F.relu(m.a(x))), x.new_zeros(y.shape[1])), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    with pytest.raises(pruning.ShrinkError, match="the output would have another shape"):
        pruning.attach(model, torch.randn(3, 5))


@pytest.mark.parametrize("batch", [2, 12])
def test_images(batch: int) -> None:
    class FixedView(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = conv(1, 4), nn.Linear(256, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).view(-1, 256))

    model = nn.Sequential(conv(1, 4), nn.ReLU(), conv(4, 1), FixedView())
    found = whole(model, torch.randn(batch, 1, 8, 8))
    assert list(found) == ["3.conv"]
    assert found["3.conv"].startswith('in module "3",')  # not the layer behind it, that has too few rows
    assert_exact(model, torch.randn(batch, 1, 8, 8))


# --- what the trial must not do --------------------------------------------------------------------------------------
def test_a_network_that_draws_at_random_draws_the_same_twice() -> None:
    model = Net(lambda m, x: m.b(F.relu(m.a(x + torch.randn_like(x)))), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    assert whole(model, torch.randn(3, 5)) == {}


def test_a_network_that_differs_from_itself() -> None:
    class Counts(Block):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            Counts.count += 1
            return self.c(F.relu(self.b(F.relu(self.a(x))))) * Counts.count

    with pytest.raises(pruning.ShrinkError, match="two runs of the unchanged model differ"):
        pruning.attach(Counts(), torch.randn(3, 5))


def test_buffers_and_parameters_of_the_model_are_not_touched() -> None:
    class Remembers(Block):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return super().forward(x) * self.seen

    model = Remembers().double()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    net = pruning.attach(model, torch.randn(3, 5).double())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(net.get_parameter("a.weight"), before["a.weight"])


def test_rounding_is_not_taken_for_an_error() -> None:
    """In float32 the two differ by 1e-3; float64 says that they are the same function."""
    model = Net(lambda m, x: (1e4 * m.b(F.relu(m.a(x)))).sin(), a=nn.Linear(50, 80), b=nn.Linear(80, 3))
    assert whole(model, torch.randn(30, 50)) == {}


def test_an_error_is_not_taken_for_rounding() -> None:
    a, b = nn.Linear(5, 3), nn.Linear(5, 3)
    b.load_state_dict(a.state_dict())
    assert difference(a, b, [torch.randn(4, 5)]) == 0
    with torch.no_grad():
        b.weight[0, 0] += 1e-3
    assert difference(a, b, [torch.randn(4, 5)]) > 1
