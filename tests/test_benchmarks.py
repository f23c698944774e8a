"""Every benchmark runs, in tiny sizes, and writes nothing then."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import networks, report

HERE = Path(networks.__file__).parent
NAMES = [p.stem for p in sorted(HERE.glob("*.py")) if p.stem not in {"__init__", "networks", "report"}]


SLOW = {"kills", "lost_process", "target", "integrations"}  # whole trainings, also as other processes


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in NAMES])
def test_smoke(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in [HERE / "README.md", *HERE.glob("results/*")]}
    monkeypatch.setattr(sys, "argv", [name, "--smoke", "--threads", "1"])
    importlib.import_module(f"benchmarks.{name}").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("| --- |")
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert before == {p: p.read_bytes() for p in [HERE / "README.md", *HERE.glob("results/*")]}
    assert f"<!-- bench:{name} -->" in (HERE / "README.md").read_text(encoding="utf-8")


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
