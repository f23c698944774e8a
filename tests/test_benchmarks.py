"""Every benchmark runs, in tiny sizes, and writes nothing then."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks import networks, per_example, report
from benchmarks.graph.__main__ import HEADER, row
from dither.distributions import LogUniform, TruncatedLogNormal
from tests.distributions.test_sampling import assert_uniform

HERE = Path(networks.__file__).parent
NAMES = [p.stem for p in sorted(HERE.glob("*.py")) if p.stem not in {"__init__", "networks", "per_example", "report"}]
NAMES.append("graph.__main__")


SLOW = {
    "kills",
    "lost_process",
    "target",
    "integrations",
    "graph.__main__",
    "speed_of_shrunk",
}  # most are whole trainings


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in NAMES])
def test_smoke(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in [HERE / "README.md", *HERE.glob("results/*")]}
    monkeypatch.setattr(sys, "argv", [name, "--smoke", "--threads", "1"])
    importlib.import_module(f"benchmarks.{name}").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("| --- |")
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert before == {p: p.read_bytes() for p in [HERE / "README.md", *HERE.glob("results/*")]}
    assert f"<!-- bench:{name.partition('.')[0]} -->" in (HERE / "README.md").read_text(encoding="utf-8")


def test_networks_are_what_they_are_called() -> None:
    with torch.device("meta"):
        nets = {"resnet50": networks.resnet50(), "resnet18": networks.resnet18(64), "convnet8": networks.convnet8()}
    params = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items()}
    assert params["resnet50"] == 25_557_032  # as in torchvision
    assert params["resnet18"] == 11_173_962  # the usual one for CIFAR-10
    readers = [m for m in nets["convnet8"].modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(readers) == 8


def test_section_of_the_readme(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("a\n<!-- bench:x -->\nold\n<!-- /bench -->\nb\n<!-- bench:y -->\nkept\n<!-- /bench -->\n")
    report.replace_section(file, "x", "new")
    assert file.read_text() == (
        "a\n<!-- bench:x -->\nnew\n<!-- /bench -->\nb\n<!-- bench:y -->\nkept\n<!-- /bench -->\n"
    )
    with pytest.raises(SystemExit, match="no line <!-- bench:z -->"):
        report.replace_section(file, "z", "new")


# μ and log σ of one channel each; the first is where training begins.
CHANNELS = [(0.0, -5.0), (-3.0, -0.7), (-1.0, 0.7), (-5.0, 2.0)]


def per_example_layer() -> tuple[per_example.PerExampleNoise, TruncatedLogNormal]:
    layer = per_example.PerExampleNoise(len(CHANNELS)).double()
    with torch.no_grad():
        for parameter, values in zip((layer.loc, layer.log_scale), zip(*CHANNELS, strict=True), strict=True):
            parameter.copy_(torch.tensor(values))
    return layer, TruncatedLogNormal(layer.loc.detach(), layer.log_scale.detach().exp())


def test_the_noise_per_example_has_the_law_of_the_library() -> None:
    layer, law = per_example_layer()
    with torch.no_grad():
        theta = layer.draw(100_000)
        torch.testing.assert_close(layer.kl(), torch.distributions.kl_divergence(law, LogUniform()).sum())
    for column in law.cdf(theta).T:
        assert_uniform(column, failure_rate=1e-7)
    error = (theta.mean(0) - law.mean) / (theta.std(0) / len(theta) ** 0.5)
    assert error.abs().max() < 5.7, "a mean that far off: once in 10 million runs for each channel"
    torch.testing.assert_close(theta.mean(0) / theta.std(0), law.snr, rtol=0.03, atol=0)  # 6 standard errors or more


def test_the_noise_per_example_is_drawn_for_every_example_and_channel() -> None:
    layer, _ = per_example_layer()
    theta = layer(torch.ones(3, len(CHANNELS), 2, 2, dtype=torch.float64))
    torch.testing.assert_close(theta, theta[:, :, :1, :1].expand_as(theta), rtol=0, atol=0)
    assert theta[:, :, 0, 0].unique().numel() == 3 * len(CHANNELS)


def test_the_noise_per_example_trains_behind_every_convolution() -> None:
    plain = networks.resnet18(4)
    net = per_example.behind_convolutions(networks.resnet18(4))
    assert [c.out_channels for c in net.modules() if isinstance(c, torch.nn.Conv2d)] == [
        len(m.loc) for m in net.modules() if isinstance(m, per_example.PerExampleNoise)
    ]
    assert len([*net.parameters()]) == len([*plain.parameters()]) + 2 * 20  # a stem, 16 in blocks, 3 in shortcuts
    (F.cross_entropy(net(torch.randn(4, 3, 32, 32)), torch.arange(4)) + per_example.kl(net)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_an_answer_that_does_not_come_is_said() -> None:
    spread = {"median": 2e-3, "lower": 1e-3, "upper": 3e-3}
    answer = {"s": spread, "groups": 7, "tensors": 5e6, "resident": 9e6}
    removal = {"dither": {"result": "exact"}, "torch-pruning": {"result": "wrong", "difference": 0.25}}
    record = {"network": "a", "params": 10, "labels": answer, "attach": answer, "graph": None, "removal": removal}
    cells = dict(zip(HEADER, row(record), strict=True))
    assert cells["spaces, groups"] == "7, over 60 s"
    assert (cells["graph, ms"], cells["labels / graph"], cells["graph, MB"]) == ("over 60 s", "", "over 60 s")
    assert cells["labels, MB"] == "5.0 (9 resident)"
    assert (cells["right: dither"], cells["right: torch-pruning"]) == ("yes", "no: off by 0.25")
    never = row({**record, "removal": {"dither": {"result": "refused"}, "torch-pruning": None}})
    assert never[-2:] == ["removes nothing", "over 60 s"]
