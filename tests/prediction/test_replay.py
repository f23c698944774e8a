"""The prefix computed once: which operators run again, and that nothing changes bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dither import pruning
from dither.prediction._link import softmax
from dither.prediction._replay import Diverged, Record
from dither.prediction._sampler import Batch, Sampler
from tests.prediction.networks import Apply, Normal, Residual, Shift, conv_net

aten = torch.ops.aten


class Counting(TorchDispatchMode):
    """Counts the operators that really run: entered first, it is below every other mode."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[object] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func] += 1
        return func(*args, **(kwargs or {}))


def run(net: nn.Module, x: Tensor, samples: int = 4) -> tuple[Tensor, Tensor, Record, Counter]:
    """Plain samples, the same with the prefix computed once, the record, and what ran in the second way."""
    sampler = Sampler(net, samples, torch.Generator().manual_seed(0))
    batch = Batch(x, len(x), softmax)
    with sampler.ready():
        plain = torch.stack(sampler.looped(batch, range(samples), None))
        with Counting() as counting:
            first, record = sampler.recorded(batch, 0)
            rest = sampler.looped(batch, range(1, samples), None if record.reason else record)
    return plain, torch.stack([first, *rest]), record, counting.counts


def shifted(*before: nn.Module, after: Callable[[Tensor], Tensor] | None = None) -> nn.Sequential:
    return nn.Sequential(*before, Shift(Normal(6)), *([Apply(after)] if after else [])).eval()


def test_prefix_runs_once_and_the_suffix_every_time() -> None:
    plain, replayed, _, counts = run(conv_net(), torch.randn(2, 1, 8, 8))
    assert torch.equal(plain, replayed)
    assert bool((plain[0] != plain[1]).any())
    # The first convolution and the one before the draw run once, the one after it for each of 4 samples.
    assert counts[aten.convolution.default] == 1 + 1 + 4
    assert counts[aten.addmm.default] == 4


@pytest.mark.parametrize("cached", [True, False])
def test_prefix_runs_once_under_autocast_that_keeps_its_copies_of_parameters(cached: bool) -> None:
    net, x = conv_net(), torch.randn(2, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
        _, _, _, counts = run(net, x)
        torch.clear_autocast_cache()
        sampler = Sampler(net, 4, torch.Generator().manual_seed(0))
        with sampler.ready(), Counting() as counting:
            _, record = sampler.recorded(Batch(x, 2, softmax), 0)
            for sample in range(1, 4):
                sampler.replayed(Batch(x, 2, softmax), sample, record)
    assert counts[aten.convolution.default] == 1 + 1 + 4
    # A first pass that has made the copies is recorded once more.
    assert counting.counts[aten.convolution.default] == 1 + 1 + 4 + 3 * cached


def test_residual_stream_is_kept_across_a_skip() -> None:
    """x is read by the block, and again by the sum after it, which depends on the draw."""
    net = nn.Sequential(nn.Linear(5, 6), Residual(nn.Sequential(nn.Linear(6, 6), Shift(Normal(6)))), nn.Linear(6, 3))
    plain, replayed, record, counts = run(net.eval(), torch.randn(4, 5))
    assert torch.equal(plain, replayed)
    assert not record.reason
    assert counts[aten.addmm.default] == 1 + 1 + 4


def test_dropout_and_what_comes_after_it_depend_on_the_draw() -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)).eval()
    plain, replayed, record, counts = run(net, torch.randn(4, 5))
    assert torch.equal(plain, replayed)
    assert record.random == 1
    assert counts[aten.addmm.default] == 1 + 4


def test_gates_are_drawn_for_every_sample() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    net = pruning.attach(model, torch.zeros(1, 5)).eval()
    with torch.no_grad():
        for gate in pruning.gates(net).values():
            gate.log_scale.fill_(0.0)
    plain, replayed, _, counts = run(net, torch.randn(4, 5))
    assert torch.equal(plain, replayed)
    assert bool((plain[0] != plain[1]).any())
    assert counts[aten.addmm.default] == 1 + 2 * 4  # gates multiply weights from the second layer on


def test_an_input_that_changes_between_passes_is_seen() -> None:
    net = conv_net()
    sampler = Sampler(net, 2, None)
    x = torch.randn(2, 1, 8, 8)
    with sampler.ready():
        _, record = sampler.recorded(Batch(x, 2, softmax), 0)
        x.mul_(2)
        out = sampler.looped(Batch(x, 2, softmax), range(1, 2), record)
        assert torch.equal(out[0], sampler.plain(Batch(x, 2, softmax), 1))


def test_constants_made_in_the_forward_pass_are_compared_by_value() -> None:
    net = nn.Sequential(Apply(lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])), *shifted())
    plain, replayed, _, counts = run(net, torch.randn(4, 6))
    assert torch.equal(plain, replayed)
    assert counts[aten.mul.Tensor] == 1


def test_code_that_does_something_else_every_time_is_run_as_it_is() -> None:
    """The number of steps changes from pass to pass."""
    number = 1

    def fickle(x: Tensor) -> Tensor:
        for _ in range(number % 3):
            x = torch.relu(x) + 0.5
        return x

    sampler = Sampler(shifted(Apply(fickle)), 9, torch.Generator().manual_seed(0))
    batch = Batch(torch.randn(4, 6), 4, softmax)
    with sampler.ready():
        _, record = sampler.recorded(batch, 0)
        for number in range(9):
            (out,) = sampler.looped(batch, range(number, number + 1), record)
            assert torch.equal(out, sampler.plain(batch, number))


def test_control_flow_that_looks_at_the_draw() -> None:
    net = shifted(nn.Linear(5, 6), after=lambda x: x * 2 if float(x.sum()) > 0 else x - 1)
    plain, replayed, _, _ = run(net, torch.randn(4, 5), 12)
    assert torch.equal(plain, replayed)


def test_control_flow_that_looks_at_the_prefix() -> None:
    net = shifted(nn.Linear(5, 6), Apply(lambda x: x * 2 if float(x.sum()) > 0 else x - 1))
    plain, replayed, _, _ = run(net, torch.randn(4, 5), 6)
    assert torch.equal(plain, replayed)


IN_PLACE = {
    "a kept tensor is changed by the draw": lambda m, x: (h := m[0](x)).add_(m[1](h)),
    "a kept tensor changes after the draw read it": lambda m, x: (h := m[0](x), y := m[1](h), h.mul_(2), y + h)[-1],
    "a view of it does": lambda m, x: (h := m[0](x), y := m[1](h), h.view(-1).mul_(2), y + h)[-1],
    "before the draw": lambda m, x: m[1](m[0](x).relu_().mul_(2)),
    "on the result of the draw": lambda m, x: m[1](m[0](x)).relu_().add_(1),
    "rows are written one by one": lambda m, x: (o := torch.zeros(4, 6), o[1:3].copy_(m[1](m[0](x))[1:3]), o * 2)[-1],
    "new memory is filled": lambda m, x: (o := torch.empty(4, 6), o.fill_(2.0), m[1](m[0](x)) * o)[-1],
    "several views": lambda m, x: torch.cat([m[1](part) for part in m[0](x).chunk(2)]),
    "the same view twice": lambda m, x: m[1](m[0](x).flatten(1)) + m[0](x).flatten(1),
}


WRITES = "an operator that depends on the draw writes into a tensor that does not"
CHANGES = "a tensor changes after an operator that depends on the draw has read it"
REFUSED = {
    "a kept tensor is changed by the draw": WRITES,
    "rows are written one by one": WRITES,
    "a kept tensor changes after the draw read it": CHANGES,
    "a view of it does": CHANGES,
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_operators_that_work_in_place(name: str) -> None:
    class Net(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return IN_PLACE[name](self, input)

    plain, replayed, record, _ = run(Net(nn.Linear(5, 6), Shift(Normal(6))).eval(), torch.randn(4, 5))
    assert torch.equal(plain, replayed)
    assert bool((plain[0] != plain[1]).any())
    assert record.reason == REFUSED.get(name, "")


def test_buffers_that_count_passes_go_on_counting() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return x

    net = shifted(Counter(), nn.Linear(5, 6))
    plain, replayed, record, _ = run(net, torch.randn(4, 5), 4)
    assert torch.equal(plain, replayed)
    assert "writes into a parameter, a buffer or the input" in record.reason
    assert float(net[0].passes) == 8


def test_an_output_that_does_not_depend_on_the_draw_is_kept() -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.0)).eval()
    plain, replayed, record, counts = run(net, torch.randn(4, 5))
    assert torch.equal(plain, replayed)
    assert not record.depends
    assert counts[aten.addmm.default] == 1


def test_attention_without_dropout_is_not_random() -> None:
    def attend(x: Tensor) -> Tensor:
        q = x.view(1, 1, *x.shape)
        return F.scaled_dot_product_attention(q, q, q).view(x.shape)

    plain, replayed, record, _ = run(shifted(nn.Linear(5, 6), Apply(attend)), torch.randn(4, 5))
    assert torch.equal(plain, replayed)
    assert record.random == 0


def test_what_was_not_computed_is_never_read() -> None:
    """The network hides a tensor of its prefix and reads it in the next pass only."""
    hidden: list[Tensor] = []

    def hide(x: Tensor) -> Tensor:
        hidden.append(torch.relu(x))
        return x

    net = shifted(Apply(hide), nn.Linear(5, 6), after=lambda x: x + (hidden[-1].sum() if len(hidden) % 2 == 0 else 0))
    sampler = Sampler(net, 3, None)
    batch = Batch(torch.randn(4, 5), 4, softmax)
    with sampler.ready():
        _, record = sampler.recorded(batch, 0)
        with pytest.raises(Diverged, match="reads what was not computed"):
            sampler.replayed(batch, 1, record)
