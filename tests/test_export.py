"""export: the file computes what the network does, in onnxruntime and in torch, or it is not written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither
from dither import ExportError, _export, _onnx, batchnorm, pruning
from dither._export import difference, read_exported
from dither._inputs import call, map_tensors, tensors, with_batch
from tests.cases import CASES, Case
from tests.pruning.test_cases import drown_half

SUFFIXES = (".onnx", ".pt2")
both = pytest.mark.parametrize("suffix", SUFFIXES)
# One of each kind: what ONNX makes of the others is the same few operators.
IN_ONNX = (
    "mlp over positions", "BatchNorm between", "one dimension", "transposed convolution", "depthwise", "dense block",
    "channel shuffle", "a class token in front", "outputs in a dict", "outputs in a dataclass",
)  # fmt: skip


def rows(path: Path, batch: Any) -> list[Tensor]:
    """What the file computes, by the ways of its own format."""
    if path.suffix == ".pt2":
        return tensors(call(torch.export.load(path).module(), batch))
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    fed = {name: t.numpy() for name, t in zip(names, tensors(batch), strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, fed)]


def assert_file_computes(path: Path, net: nn.Module, batch: Any) -> None:
    with torch.no_grad():
        expected = tensors(call(net, batch))
    found = rows(path, batch)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert difference([b], [a]) < 1e-5 or float((a - b).abs().max()) < 1e-6  # a mutual information is small


@pytest.mark.parametrize("case", [c for c in CASES if c.name in IN_ONNX], ids=lambda case: case.name)
def test_shrunk_networks_in_onnxruntime(case: Case, tmp_path: Path) -> None:
    x = case.inputs()
    net = pruning.attach(case.build(), x)
    drown_half(net, seed=0)
    small = pruning.shrink(net, pruning.plan(net, x), x).float()
    batch = map_tensors(lambda t: t.float() if t.is_floating_point() else t, case.inputs(2))
    made = dither.export(small, tmp_path / "net.onnx", batch)
    assert made.difference < 1e-5
    for size in (1, 7):
        assert_file_computes(made.path, small, with_batch(batch, size))


@dataclass
class Answer:
    logits: Tensor
    hidden: list[Tensor]
    loss: None = None


class Branches(nn.Module):
    """Inputs and outputs of every kind; "mean" is also the name of an operator inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor, double: bool = False, *, scale: list[Tensor] | None = None) -> Any:
        y = self.fc(self.conv(x).relu().mean((2, 3)))
        y = y * 2 if double else y
        for s in scale or ():
            y = y * s
        return {"logits": y, "mean": y.mean(1), "none": None, "width": 4, "more": (y + 1, [y.argmax(1)])}


class AnswersInAClass(Branches):
    def forward(self, x: Tensor) -> Answer:  # pyright: ignore[reportIncompatibleMethodOverride]
        y = self.fc(self.conv(x).relu().mean((2, 3)))
        return Answer(y, [y.exp(), y.sum(0)])


class ByKeyword(Branches):
    def forward(self, **images: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.fc(self.conv(images["left"] - images["right"]).relu().mean((2, 3)))


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SIGNATURES: dict[str, tuple[nn.Module, Any, tuple[str, ...], tuple[str, ...]]] = {
    "dict, lists, constants": (
        Branches(),
        {"scale": [torch.full((2, 1), 2.0), torch.tensor(3.0)], "x": IMAGES, "double": True},
        ("scale_0", "scale_1", "x"),
        ("logits", "mean", "more_0", "more_1_0"),
    ),
    "positional": (Branches(), (IMAGES, True), ("x",), ("logits", "mean", "more_0", "more_1_0")),
    "dataclass": (AnswersInAClass(), IMAGES, ("x",), ("logits", "hidden_0", "hidden_1")),
    "only keywords": (ByKeyword(), {"right": IMAGES, "left": IMAGES.flip(0)}, ("right", "left"), ("output",)),
    "recurrent": (nn.LSTM(3, 5, batch_first=True), torch.randn(2, 7, 3), ("input",), ("output_0", "output_1_0")),
    "one row": (Branches(), IMAGES[:1], ("x",), ("logits",)),
    "integers": (nn.Embedding(9, 4), torch.arange(6).view(2, 3), ("input",), ("output",)),
}


@both
@pytest.mark.parametrize("name", SIGNATURES)
def test_inputs_and_outputs_of_every_kind(name: str, suffix: str, tmp_path: Path) -> None:
    net, inputs, given, returned = SIGNATURES[name]
    made = dither.export(net.eval(), tmp_path / f"net{suffix}", inputs)
    assert made.inputs == given
    assert made.outputs[: len(returned)] == returned
    assert made.batch_sizes == (2, 3, 1)
    assert made.bytes == made.path.stat().st_size
    assert made.difference < 1e-5
    for size in (1, 2, 5):
        assert_file_computes(made.path, net, with_batch(inputs, size))
    if suffix == ".onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(made.path)
        assert tuple(value.name for value in session.get_inputs()) == made.inputs
        assert tuple(value.name for value in session.get_outputs()) == made.outputs
        assert session.get_inputs()[-1].shape[0] == "batch"


@both
def test_outputs_can_be_named(suffix: str, tmp_path: Path) -> None:
    net, path = nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)), tmp_path / f"net{suffix}"
    assert dither.export(net, path, torch.randn(2, 3), output_names=["softmax"]).outputs == ("softmax",)
    assert_file_computes(path, net, torch.randn(4, 3))
    for names in (["a", "b"], []):
        with pytest.raises(ExportError, match=r"output_names are \[.*\]; the network returns output"):
            dither.export(net, path, torch.randn(2, 3), output_names=names)


@both
def test_a_network_that_doubts(suffix: str, tmp_path: Path) -> None:
    net = batchnorm.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)))
    batchnorm.fit(net, torch.randn(60, 3, 8, 8).split(6))
    frozen = batchnorm.freeze(net, 4)
    names = ["mean", "entropy", "mutual_information"]
    made = dither.export(frozen, tmp_path / f"net{suffix}", IMAGES, output_names=names)
    assert made.outputs == tuple(names)
    assert_file_computes(made.path, frozen, torch.randn(5, 3, 8, 8))


def test_a_program_runs_where_dither_is_not(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.ones(1, 3)
    dither.export(net, tmp_path / "net.pt2", x)
    code = (
        "import sys, torch; sys.modules['dither'] = None\n"
        f"print(torch.export.load({str(tmp_path / 'net.pt2')!r}).module()(torch.ones(1, 3)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), net(x))


def test_the_network_is_not_changed(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = dither.export(net, tmp_path / "net.pt2", torch.randn(2, 3))
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert_file_computes(made.path, net.eval(), torch.randn(4, 3))  # the mean network: no dropout


@both
def test_header_with_plan_and_cost(suffix: str, tmp_path: Path) -> None:
    case = next(c for c in CASES if c.name == "BatchNorm between")
    x = case.inputs()
    net = pruning.attach(case.build(), x)
    drown_half(net, seed=0)
    plan = pruning.plan(net, x)
    small = pruning.shrink(net, plan, x).float()
    cost = dither.cost(small, x.float(), batch_sizes=(1,), repeats=2)
    dither.export(small, tmp_path / f"net{suffix}", x.float(), metadata={"error_pct": 1.5}, cost=cost)
    header = read_exported(tmp_path / f"net{suffix}")
    assert header.class_name == "Net"
    assert header.metadata == {"error_pct": 1.5}
    assert dither.Cost.from_dict(header.cost) == cost
    assert pruning.Plan.from_dict(header.shrunk["plan"]) == plan


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    scope: dict[str, Any] = {}
    exec(compile(example, "docs/export.md", "exec"), scope)
    assert scope["made"].difference < 1e-5
    assert torch.equal(scope["again"].eval()(scope["x"]), scope["small"](scope["x"]))
    assert {path.name for path in tmp_path.iterdir()} == {"small.safetensors", "small.onnx", "small.pt2"}


# ---- what cannot be exported


class Rows(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return torch.stack([super(Rows, self).forward(row) for row in input])


class Halves(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).view(2, -1)


class Branch(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if input.sum() > 0 else input


class Draws(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(super().forward(input))


def gated() -> nn.Module:
    return pruning.attach(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 4)), torch.zeros(1, 3))


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "one graph for each number of rows": (Rows(3, 3), r"Constraints violated \(batch\).*use dynamic_batch=False"),
    "a fixed number of rows": (
        Halves(3, 3),
        r"runs with 4 rows and not with 5 \(RuntimeError: shape.*dynamic_batch=",
    ),
    "a branch on values": (Branch(3, 3), r"data-dependent expression .*test_export\.py:\d+ `return super\(\)\.forward"),
    "random numbers": (Draws(3, 3), r"two passes over the same inputs differ: the network draws"),
    "gates": (gated(), r'"1\.parametrizations\..*" is noise\. Export what pruning\.shrink returns, or pruning\.masked'),
    "noise": (nn.Sequential(pruning.LogNormalNoise(3)), r'"0" is noise'),
    "converted": (batchnorm.convert(nn.Sequential(nn.BatchNorm1d(3))), r'"0" is a converted .*batchnorm\.freeze'),
    "no values": (nn.Linear(3, 2, device="meta"), "on the meta device"),
}


@both
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why_and_write_nothing(name: str, suffix: str, tmp_path: Path) -> None:
    net, says = REFUSED[name]
    with pytest.raises(ExportError, match=says) as caught:
        dither.export(net, tmp_path / f"net{suffix}", torch.randn(4, 3))
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@both
@pytest.mark.parametrize("make", [Rows, Halves])
def test_a_fixed_batch_is_the_way_out(make: type[nn.Linear], suffix: str, tmp_path: Path) -> None:
    net = make(3, 3)
    made = dither.export(net, tmp_path / f"net{suffix}", torch.randn(4, 3), dynamic_batch=False)
    assert made.batch_sizes == (4,)
    assert_file_computes(made.path, net, torch.randn(4, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_scripted_and_compiled(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(ExportError, match=r"is scripted; export the nn\.Module"):
        dither.export(torch.jit.script(net), tmp_path / "net.pt2", torch.zeros(2, 3))
    made = dither.export(torch.compile(net), tmp_path / "net.pt2", torch.zeros(2, 3))
    assert_file_computes(made.path, net, torch.randn(4, 3))


@pytest.mark.parametrize(
    ("dtype", "says"),
    [(torch.float64, "NOT_IMPLEMENTED : Could not find an implementation for Conv"), (torch.bfloat16, "bfloat16")],
)
def test_numbers_that_onnxruntime_has_no_kernel_for(dtype: torch.dtype, says: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ExportError, match=rf"{says}.*export net\.float\(\)"):
        dither.export(nn.Conv2d(3, 4, 3).to(dtype), tmp_path / "net.onnx", IMAGES.to(dtype))
    assert list(tmp_path.iterdir()) == []


def test_half_precision(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).half()
    made = dither.export(net, tmp_path / "net.onnx", IMAGES.half())
    assert made.difference < 2e-3
    assert rows(made.path, IMAGES.half())[0].dtype == torch.float16


def test_what_is_wrong_with_the_inputs_is_the_callers_own_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        dither.export(nn.Linear(3, 2), tmp_path / "net.pt2", torch.zeros(1, 5))


def test_unknown_suffix_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"net\.pth ends in '\.pth'; known are \.onnx, \.pt2"):
        dither.export(nn.Linear(3, 2), tmp_path / "net.pth", torch.zeros(1, 3))
    with pytest.raises(ExportError, match=r"absent.*No such file or directory\. Nothing was written"):
        dither.export(nn.Linear(3, 2), tmp_path / "absent" / "net.pt2", torch.zeros(1, 3))


def test_onnx_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ImportError, match=r"dither\.export to ONNX needs onnxscript: pip install 'dither\[export\]'"):
        dither.export(nn.Linear(3, 2), tmp_path / "net.onnx", torch.zeros(1, 3))


@both
def test_a_file_that_computes_something_else_is_not_written(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, path = nn.Linear(3, 2), tmp_path / f"net{suffix}"
    dither.export(net, path, torch.zeros(1, 3))
    before = path.read_bytes()
    trace = _export.trace
    wrong = nn.Linear(3, 2)
    wrong.weight, wrong.bias = net.weight, nn.Parameter(net.bias.detach() + 0.01)
    monkeypatch.setattr(_export, "trace", lambda _, *args, **options: trace(wrong, *args, **options))
    with pytest.raises(ExportError, match=r"would compute something else than the network \(they differ by 0\.\d+ of"):
        dither.export(net, path, torch.zeros(1, 3))
    assert path.read_bytes() == before


def test_a_file_that_ends_at_two_gibibytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(_onnx, "LARGEST", 31)
    with pytest.raises(ExportError, match=r"an ONNX file ends at 2; export net\.half\(\)"):
        dither.export(nn.Linear(3, 2), tmp_path / "net.onnx", torch.zeros(1, 3))


@both
def test_a_file_of_another_program(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_exported(path)
    path.write_bytes(b"nonsense" * 9)
    with pytest.raises(dither.CheckpointError, match=rf"no complete \{suffix} file"):
        read_exported(path)


def test_difference_has_the_scale_of_each_output() -> None:
    a = torch.tensor([1.0, -100.0, float("nan"), float("inf")])
    assert difference([a], [a.clone()]) == 0
    assert difference([a, a], [a, a + torch.tensor([0.0, 1.0, 0.0, 0.0])]) == pytest.approx(0.01)
    assert difference([a], [a.nan_to_num()]) == float("inf")
    assert difference([a[:2]], [a[:1]]) == float("inf")
    assert difference([torch.tensor([3])], [torch.tensor([4])]) == float("inf")
    assert difference([torch.zeros(2)], [torch.ones(2)]) > 1e9
    small, large = torch.tensor([1e-6]), torch.tensor([1.0])
    assert difference([small, large], [2 * small, large]) == pytest.approx(1e-4)  # rounding of what it came from
    assert difference([torch.zeros(0)], [torch.zeros(0)]) == 0
