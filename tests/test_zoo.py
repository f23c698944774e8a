"""The zoo itself: it sees what is wrong, survives what crashes, and a handful of transformers are pruned exactly."""

from __future__ import annotations

import doctest
import json
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dither import pruning
from zoo import exact, jobs, page, rival, shares
from zoo.networks import Entry, randomise

SEED = 0


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


MLP = Entry("here", "mlp", mlp, (8,), classes=4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "units", "heads"),
    [
        ("bert", "bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.attention.self.value"),
        ("vit", "vit.layers.0.mlp.fc1", "vit.layers.0.attention.v_proj"),
        ("gpt2", "transformer.h.0.mlp.c_fc", "transformer.h.0.attn.c_attn"),
        ("llama", "model.layers.0.mlp.gate_proj", "model.layers.0.self_attn.v_proj"),
    ],
)
def test_hidden_units_and_heads_of_transformers_go_exactly(name: str, units: str, heads: str) -> None:
    from zoo.from_transformers import entries

    entry = next(e for e in entries() if e.name == name)
    result = exact.examine(entry, SEED)
    assert result["result"] == "exact", result
    assert result["params_left"] < 0.8 * result["params"]
    assert result["reloaded"] == "same"
    assert result["effect"] > 1e-3
    free = pruning.gates(pruning.attach(entry.build(SEED), entry.inputs(1, SEED)))
    assert any(units in gate for gate in free)
    assert any(heads.rpartition(".")[0] in gate for gate in free)


def test_a_network_that_is_not_the_masked_one_is_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exact.examine(MLP, SEED)["result"] == "exact"
    shrink = pruning.shrink

    def broken(*args: Any) -> nn.Module:
        small = shrink(*args)
        with torch.no_grad():
            small[4].bias += 1e-6
        return small

    monkeypatch.setattr(pruning, "shrink", broken)
    result = exact.examine(MLP, SEED)
    assert (result["result"], result["reloaded"]) == ("wrong", "same")
    assert page.missed({"networks": [{"key": MLP.key, "dither": result}]}) == ["neither exact nor refused: here/mlp"]


def test_a_network_that_loses_nothing_is_refused_with_the_reason() -> None:
    result = exact.examine(Entry("here", "line", lambda: nn.Linear(8, 4), (8,)), SEED)
    assert result["result"] == "refused"
    assert "the network returns them" in result["reason"]
    assert result["removable"] == 0


def test_a_file_that_gives_another_network_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact.dither, "load", lambda net, path: mlp())
    assert exact.examine(MLP, SEED)["reloaded"] == "other outputs"


def test_randomised_networks_hide_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    nn.init.zeros_(net[2].weight)
    randomise(net, SEED)
    values = [*net.parameters(), net[1].running_mean, net[1].running_var]
    assert all(len(t.unique()) > 1 for t in values)


def test_reasons_are_told_without_names_and_files() -> None:
    ran = doctest.testmod(shares)
    assert (ran.failed, ran.attempted >= 3) == (0, True)


def test_shares_count_every_parameter_once() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    analysis = pruning.analyse(net, torch.zeros(1, 8))
    whole = {s.name: s.reason for s in analysis.spaces if s.reason}
    total = 8 * 16 + 16 + 16 * 4 + 4
    found = shares.shares(net, analysis, whole)
    assert found == {"removable": (total - 4) / total, "pinned": {"the network returns them": 4 / total}}
    found = shares.shares(net, analysis, {**whole, "0": "somebody said so"})
    assert found["removable"] == 0
    assert found["pinned"] == {
        "somebody said so": (total - 4) / total,
        "the network returns them": (16 * 4 + 4) / total,
    }


@pytest.mark.parametrize(
    "reader",
    [
        nn.Conv2d(8, 6, 3),
        nn.Conv2d(8, 6, 3, groups=2),
        nn.ConvTranspose2d(8, 6, 3),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.Linear(8, 6),
    ],
    ids=str,
)
def test_silenced_columns_are_channels_set_to_zero(reader: nn.Module) -> None:
    gone = torch.tensor([1, 2, 6])
    x = torch.randn(2, 8) if isinstance(reader, nn.Linear) else torch.randn(2, 8, 5, 5)
    wanted = reader(x.index_fill(1, gone, 0))
    assert not torch.allclose(reader(x), wanted)
    rival.silence(reader, gone)
    torch.testing.assert_close(reader(x), wanted)


def test_another_recipe_is_another_network() -> None:
    recipes = [Entry("here", "line", partial(nn.Linear, 8, width), (8,)).recipe for width in (4, 4, 5)]
    assert recipes[0] == recipes[1] != recipes[2]
    assert jobs.code("dither") != jobs.code("rival")


def fine(job: jobs.Job) -> dict[str, Any]:
    return {"result": "exact"}


def raises(job: jobs.Job) -> dict[str, Any]:
    raise KeyError("who knows")


def greedy(job: jobs.Job) -> dict[str, Any]:
    return {"result": str(torch.empty(4 * jobs.MEMORY, dtype=torch.int8).shape)}


def endless(job: jobs.Job) -> dict[str, Any]:
    while True:
        pass


def killed(job: jobs.Job) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@pytest.mark.parametrize(
    ("task", "result", "reason"),
    [
        (fine, "exact", ""),
        (raises, "crash", "who knows"),
        (greedy, "memory", "allocate memory"),
        (endless, "timeout", ""),
        (killed, "crash", "exit code -9"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_whatever_becomes_of_a_process_is_a_result(task: Any, result: str, reason: str, tmp_path: Path) -> None:
    job = jobs.Job("dither", "here/mlp", SEED, tmp_path, made_by="this code", limit=20 if task is not endless else 1)
    assert not job.done(by_any=True)
    assert list(jobs.run_all([job], 1, task=task)) == [job]
    stored = json.loads(job.path.read_text(encoding="utf-8"))
    assert stored["result"] == result
    assert reason in stored.get("reason", "")
    assert job.done(by_any=False)
    assert not jobs.Job("dither", "here/mlp", SEED, tmp_path, made_by="other code", limit=1).done(by_any=False)


def test_the_page_is_what_the_results_say() -> None:
    values = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.render(values), "run: python -m zoo --page"
    assert not [n["key"] for n in values["networks"] if n["dither"]["result"] == "wrong"]


def test_the_readme_says_what_the_results_say() -> None:
    networks = json.loads(page.RESULTS.read_text(encoding="utf-8"))["networks"]
    ours, theirs = (Counter(page.ENDS[n[side]["result"]] for n in networks) for side in ("dither", "rival"))
    slow = theirs["crash"] + theirs["timeout"]
    text = " ".join((page.ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{len(networks)} networks of torchvision, timm and transformers" in text
    assert f"{ours['right']} exact (to 3e-15 of the scale), {ours['refused']} refused, none wrong" in text
    assert max(n["dither"].get("difference", 0.0) for n in networks) <= 3e-15
    assert max(n["dither"]["analyse_s"][1] for n in networks) < 3
    assert f"{theirs['right']} right, {theirs['wrong']} wrong without a word, {slow} crashed or over a minute" in text
    assert f"{theirs['refused']} unchanged" in text
