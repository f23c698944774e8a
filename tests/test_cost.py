"""cost and compare: counts against hand calculations, time measured fairly and nothing changed."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import dither
from dither import _cost, _modes, _onnx
from dither.pruning.measuring._macs import macs_of_tensors


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
        f"times: cpu, 1 thread, torch {torch.__version__}",
    ]  # fmt: skip
    assert "431,080" in text
    assert "2,293,000" in text
    assert text.splitlines()[1].endswith(" 1.00")
    assert "original / small" not in str(pair.original)
    assert json.loads(json.dumps(pair.to_dict()))["macs_ratio"] == 1.0


def small_convolutions(width: int) -> nn.Module:
    layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 4)]
    return nn.Sequential(*layers).eval()


@pytest.mark.slow
@pytest.mark.parametrize("mode", _cost.MODES)
def test_every_mode_runs_the_network(mode: str) -> None:
    pytest.importorskip("onnxruntime")
    with torch.no_grad():
        for width, rows in ((8, 1), (8, 2), (4, 2)):
            net, x = small_convolutions(width), torch.randn(rows, 3, 8, 8)
            out = _modes.prepare(mode, net, x)()
            torch.testing.assert_close(torch.as_tensor(out[0] if isinstance(out, list) else out), net(x))


def test_modes_are_compared_too() -> None:
    pytest.importorskip("onnxruntime")
    nets = small_convolutions(8), small_convolutions(4)
    modes = ("channels_last", "onnxruntime")
    pair = dither.compare(*nets, torch.randn(1, 3, 8, 8), batch_sizes=(1, 2), modes=modes, repeats=3)
    assert not pair.original.unavailable
    assert tuple(pair.original.modes) == tuple(pair.speedup_by_mode) == modes
    for mode in modes:
        a, b = (cost.modes[mode] for cost in (pair.original, pair.small))
        for size in (1, 2):
            assert pair.speedup_by_mode[mode][size].median == pytest.approx(a[size].median / b[size].median)
            assert f"ms, batch {size}, {mode}" in str(pair)


def test_channels_last_times_copies_in_that_format() -> None:
    seen: list[tuple[bool, bool]] = []

    class Spy(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            formats = [t.is_contiguous(memory_format=torch.channels_last) for t in (input, self.weight)]
            seen.append((formats[0], formats[1]))
            return super().forward(input)

    net = Spy(3, 4, 3)
    dither.cost(net, torch.randn(1, 3, 8, 8), batch_sizes=(2,), modes=("channels_last",), repeats=2, warmup=0)
    assert seen[1:3] == [(False, False)] * 2  # after the pass that counts
    assert seen[3:] == [(True, True)] * 3
    assert not net.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_mode_that_does_not_run_is_named_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(_onnx, "find_spec", lambda name: None)
    modes = ("channels_last", "compiled", "onnxruntime")
    it = dither.cost(nn.Linear(3, 2), torch.zeros(1, 3), batch_sizes=(1,), modes=modes, repeats=1)
    assert it.unavailable == {
        "channels_last": "no weight has four dimensions",
        "compiled": "RuntimeError: no C++ compiler",
        "onnxruntime": "ImportError: timing it needs onnx, onnxscript, onnxruntime: pip install 'dither[export]'",
    }
    assert "not timed: compiled: RuntimeError: no C++ compiler" in str(it)
    assert not it.modes
    with pytest.raises(ValueError, match="unknown mode 'compile', known are eager, channels_last, compiled, onnxrunt"):
        dither.cost(nn.Linear(3, 2), torch.zeros(1, 3), modes=("compile",))


def test_fused_attention_is_timed_as_it_is_used_and_counted_as_operators() -> None:
    seen: list[bool] = []
    net = nn.Linear(2, 2)
    net.register_forward_pre_hook(lambda *_: seen.append(torch.backends.mha.get_fastpath_enabled()))
    dither.cost(net, torch.zeros(1, 2), batch_sizes=(1,), repeats=2, warmup=0)
    assert seen == [False, True, True]
    assert torch.backends.mha.get_fastpath_enabled()


def test_reports_come_back_from_json() -> None:
    pair = dither.compare(lenet5(), lenet5(), torch.zeros(1, 1, 28, 28), batch_sizes=(1, 2), repeats=2)
    there = json.loads(json.dumps(pair.to_dict()))
    assert dither.Comparison.from_dict(there) == pair
    assert dither.Cost.from_dict(there["small"]) == pair.small
    old = {name: value for name, value in there["small"].items() if name not in ("modes", "unavailable", "setting")}
    assert dither.Cost.from_dict(old).latency == pair.small.latency
    for wrong in ({"params": 3}, {**there["small"], "speed": 1}, {**there["small"], "latency": 3}):
        with pytest.raises(ValueError, match="these values are no cost"):
            dither.Cost.from_dict(wrong)
    with pytest.raises(ValueError, match="these values are no comparison"):
        dither.Comparison.from_dict({"original": there["original"]})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_waited_for() -> None:
    net = nn.Linear(4096, 4096, device="cuda")
    it = dither.cost(net, torch.zeros(1, 4096, device="cuda"), batch_sizes=(8192,), repeats=3)
    assert it.latency[8192].median > it.macs * 8192 / 1e15  # below that, only the launch was timed


class Fused(nn.Module):
    """Attention with 2 heads of keys for 4 of queries."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_counts_whatever_computes_it(backend: SDPBackend) -> None:
    x = (torch.randn(3, 4, 5, 8), torch.randn(3, 2, 7, 8), torch.randn(3, 2, 7, 8))
    with sdpa_kernel(backend):
        assert dither.cost(Fused(), x, batch_sizes=()).macs == 4 * 5 * 7 * (8 + 8)
        assert macs_of_tensors(Fused(), x) == ({}, 4 * 5 * 7 * (8 + 8))
