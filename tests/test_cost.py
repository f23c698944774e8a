"""cost and compare: counts against hand calculations, time measured fairly and nothing changed."""

import json

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import _cost


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3, bias=False)
        self.right2 = nn.Linear(5, 3, bias=False)
        self.right2.weight = self.right.weight

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) + self.right(b) + self.right2(b)


def lenet5() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def test_counts_of_lenet5() -> None:
    it = dither.cost(lenet5(), torch.zeros(7, 1, 28, 28), batch_sizes=(1,), repeats=2, warmup=0)
    assert it.macs == 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10  # of one example, not of seven
    assert it.params == 520 + 25_050 + 400_500 + 5_010
    assert it.bytes == 4 * it.params


def test_grouped_transposed_and_strided_convolutions() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1), nn.ConvTranspose2d(8, 2, 2, stride=2), nn.Conv1d(8, 8, 1)
    )
    it = dither.cost(net[:2], torch.zeros(1, 4, 8, 8), batch_sizes=(1,), repeats=1)
    assert it.macs == 4 * 4 * 8 * 1 * 9 + 4 * 4 * 8 * 2 * 4


def test_bytes_count_buffers_and_dtypes() -> None:
    net = nn.BatchNorm1d(3).to(torch.float64)
    it = dither.cost(net, torch.zeros(2, 3, dtype=torch.float64), batch_sizes=(2,), repeats=1)
    assert (it.params, it.macs, it.bytes) == (6, 0, 6 * 8 + 6 * 8 + 8)


@pytest.mark.parametrize(
    "inputs",
    [(torch.zeros(1, 4), torch.zeros(1, 5)), {"b": torch.zeros(3, 5), "a": torch.zeros(3, 4)}],
    ids=["tuple", "dict"],
)
def test_several_inputs_and_tied_weights(inputs: object) -> None:
    it = dither.cost(TwoInputs(), inputs, batch_sizes=(1, 4), repeats=2)
    assert (it.params, it.macs, it.bytes) == (12 + 3 + 15, 12 + 2 * 15, 30 * 4)
    assert set(it.latency) == {1, 4}


def test_batches_are_made_of_the_example() -> None:
    seen: list[Tensor] = []
    net = nn.Identity()
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.arange(6.0).reshape(2, 3)
    dither.cost(net, x, batch_sizes=(5,), repeats=1, warmup=0)
    assert torch.equal(seen[-1], x[[0, 1, 0, 1, 0]])


def test_nothing_is_changed() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    net[1].eval()  # frozen, as the authors freeze BatchNorm
    modes = [m.training for m in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graphs: list[bool] = []
    net.register_forward_hook(lambda m, _, out: graphs.append(out.requires_grad or m.training))
    dither.cost(net, torch.randn(3, 4), repeats=2)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert graphs
    assert not any(graphs)
    assert torch.is_grad_enabled()


def test_modes_come_back_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    with pytest.raises(RuntimeError):
        dither.cost(net, torch.zeros(1, 3))
    assert all(m.training for m in net.modules())


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"warmup": -1}, {"batch_sizes": (0,)}])
def test_bad_numbers(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="need repeats >= 1"):
        dither.cost(nn.Linear(2, 2), torch.zeros(1, 2), **wrong)


def test_turns_alternate_and_warm_up_first() -> None:
    calls: list[str] = []
    seconds = _cost.time_in_turns([lambda: calls.append("a"), lambda: calls.append("b")], repeats=3, warmup=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [len(s) for s in seconds] == [3, 3]
    assert all(s > 0 for row in seconds for s in row)


def test_ratio_is_of_medians_with_quartiles_of_pairs() -> None:
    it = _cost.ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert (it.median, it.lower, it.upper) == (2.0, 2.0, 2.5)
    assert _cost.ratio([3.0], [2.0]) == _cost.Spread(1.5, 1.5, 1.5)


def test_time_sees_the_larger_network() -> None:
    # 2000 times the work: a wrong way round or a clock that stands still cannot pass, whatever the machine is doing
    big = nn.Sequential(*[nn.Linear(512, 512) for _ in range(8)])
    pair = dither.compare(big, nn.Linear(512, 2), torch.zeros(1, 512), batch_sizes=(256,), repeats=5)
    assert pair.speedup[256].median > 1.5
    assert pair.macs_ratio == 8 * 512 / 2
    assert pair.params_ratio == sum(p.numel() for p in big.parameters()) / (512 * 2 + 2)


def test_a_network_without_parameters_has_infinite_ratio() -> None:
    pair = dither.compare(nn.Linear(2, 2), nn.Identity(), torch.zeros(1, 2), batch_sizes=(1,), repeats=1)
    assert pair.params_ratio == pair.macs_ratio == float("inf")


def test_print_and_json() -> None:
    pair = dither.compare(lenet5(), lenet5(), torch.zeros(1, 1, 28, 28), batch_sizes=(1, 2), repeats=2)
    text = str(pair)
    assert [line.split("  ")[0] for line in text.splitlines()[1:]] == [
        "parameters", "MACs per example", "bytes", "ms, batch 1", "ms, batch 2",
    ]  # fmt: skip
    assert "431,080" in text
    assert "2,293,000" in text
    assert text.splitlines()[1].endswith(" 1.00")
    assert "original / small" not in str(pair.original)
    assert json.loads(json.dumps(pair.to_dict()))["macs_ratio"] == 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_waited_for() -> None:
    net = nn.Linear(4096, 4096, device="cuda")
    it = dither.cost(net, torch.zeros(1, 4096, device="cuda"), batch_sizes=(8192,), repeats=3)
    assert it.latency[8192].median > it.macs * 8192 / 1e15  # below that, only the launch was timed
