"""The study's program on the digits: every method, at equal cost, decided by Torch-Pruning where it says so."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import dither
from dither.training import evaluate, make_model
from studies.pruning_against_the_field import collect, rivals, settings, study, tables
from studies.pruning_against_the_field.removal import Channels, drawn, quantiles, renew
from studies.pruning_against_the_field.tables import pick

NETS = ("lenet5", "studies.networks:vgg16_quarter", "studies.networks:resnet18_16")
FIELDS = {"net", "method", "size", "seed", "error_pct", "nll", "widths", "macs_ratio", "params_ratio", "training"}


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network that looks trained: its BatchNorms are all different."""
    torch.manual_seed(0)
    net = make_model(name).eval()
    for layer in net.modules():
        if isinstance(layer, _BatchNorm):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias, 0, 0.3)
    return net, torch.rand(2, 1, 28, 28) if name == "lenet5" else torch.rand(2, 3, 32, 32)


@pytest.mark.parametrize("name", NETS)
def test_removal_is_that_of_torch_pruning(name: str) -> None:
    import torch_pruning

    net, example = network(name)
    channels = Channels(net, example)
    score = quantiles({space: torch.rand(size) for space, size in channels.sizes.items()})
    plan = channels.within(score, 0.3)
    ours = channels.cut(plan, net)
    gone = {c.name: sorted(set(range(c.total)) - set(c.kept)) for c in plan.spaces if c.reason is None}
    theirs = copy.deepcopy(net)
    modules = dict(theirs.named_modules())
    graph = torch_pruning.DependencyGraph().build_dependency(theirs, example)
    for space, indices in gone.items():
        layer = modules[space]
        conv = isinstance(layer, nn.Conv2d)
        remove = torch_pruning.prune_conv_out_channels if conv else torch_pruning.prune_linear_out_channels
        graph.get_pruning_group(layer, remove, indices).prune()
    assert not torch.equal(ours(example), net(example))
    torch.testing.assert_close(ours(example), theirs(example), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_space_has_a_score_and_every_budget_is_met(name: str) -> None:
    net, example = network(name)
    channels = Channels(net, example)
    batches = [(example, torch.tensor([0, 1]))]
    for method in rivals.NAMES:
        if method == "bn_scale" and name == "lenet5":
            continue
        scores = rivals.scores(method, net, example, batches)
        assert {space: len(score) for space, score in scores.items()} == channels.sizes
        for share in (0.4, 0.1):
            cost = dither.compare(net, channels.cut(channels.within(scores, share), net), example[:1], batch_sizes=())
            assert 0.97 * share < 1 / cost.macs_ratio <= share


def test_l1_is_the_norm_of_the_filters_relative_to_their_layer() -> None:
    net, example = network("lenet5")
    norms = net.conv1.weight.detach().double().abs().sum((1, 2, 3))
    found = rivals.scores("l1", net, example, [])["conv1"]
    torch.testing.assert_close(found, norms / norms.mean(), rtol=1e-5, atol=0)


def test_uniform_widths_are_uniform() -> None:
    net, example = network("studies.networks:vgg16_quarter")
    channels = Channels(net, example)
    plan = channels.within(quantiles({n: torch.arange(size) for n, size in channels.sizes.items()}), 1 / 4)
    *fractions, _ = sorted(len(c.kept) / c.total for c in plan.spaces if c.reason is None)
    assert fractions[-1] - fractions[0] < 0.02  # the rest of the budget goes to the layer where a unit costs least


def test_drawn_channels_have_the_widths_that_are_asked_for() -> None:
    first, again, other = (drawn({"a": 3}, {"a": 40}, seed)["a"] for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 3
    assert sorted(first) == list(first)


def test_new_weights_have_the_initial_law_of_the_new_width() -> None:
    net, example = network("lenet5")
    channels = Channels(net, example)
    small = channels.cut(channels.keeping({"conv1": (0,), "conv2": tuple(range(50)), "fc1": tuple(range(500))}), net)
    renew(small, 0)
    bound = 1 / (1 * 5 * 5) ** 0.5  # fan-in of one channel; at full width it is that of 20
    assert 0.95 * bound < small.conv2.weight.abs().max() <= bound


def test_rates_follow_one_curve() -> None:
    case = settings.CASES["vgg16"]
    noise, fine = case.recipe("sbp", 5.0, 0).prune, case.training("sbp")
    whole = case.training("l1")
    assert noise.epochs + fine.epochs == whole.epochs == case.after
    steps = 10 * case.after
    ours = [noise.lr * noise.lr_factor(i, 10 * noise.epochs) for i in range(10 * noise.epochs)]
    ours += [fine.lr * fine.lr_factor(i, 10 * fine.epochs) for i in range(10 * fine.epochs)]
    assert ours == pytest.approx([whole.lr * whole.lr_factor(i, steps) for i in range(steps)])
    assert case.training("scratch").epochs == case.base.epochs + case.after
    assert {(f.batch_size, f.shift, f.flip, f.weight_decay) for f in map(case.training, settings.METHODS)} == {
        (case.base.batch_size, case.base.shift, case.base.flip, case.base.weight_decay)
    }


def strip(record: dict[str, object]) -> dict[str, object]:
    """Without what is measured anew."""
    return {key: value for key, value in record.items() if not key.startswith("latency")}


@pytest.mark.slow
def test_smoke_from_training_to_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--smoke", "--out", str(tmp_path), "--threads", "1"]
    study.main(arguments)
    study.main([*arguments, "--collect"])
    case = settings.SMOKE["digits"]
    first = json.loads((tmp_path / "results.json").read_text())["records"]
    shutil.rmtree(tmp_path / "digits-0" / "3x" / "l1")  # the run is elsewhere: its row stays, and is timed again
    study.main([*arguments, "--collect"])
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    assert [strip(r) for r in records] == [strip(r) for r in first]
    assert all(r["latency_ms_b64"] > 0 for r in records)
    assert {r["method"] for r in records} == set(case.methods) == set(settings.METHODS)
    for r in records:
        assert set(r) >= FIELDS
        assert 0.97 * r["size"] < r["macs_ratio"] < 1.1 * r["size"]
    by = {r["method"]: r for r in records}
    assert by["random"]["widths"] == by["scratch"]["widths"] == by["sbp"]["widths"] != by["uniform"]["widths"]
    assert by["random"]["kept"] != by["sbp"]["kept"]
    assert "fc1[in]" in by["sbp_columns"]["widths"].keys() - by["sbp"]["widths"].keys()
    assert (tmp_path / "digits.png").stat().st_size > 1000
    shown = capsys.readouterr().out
    assert (
        f"| L1 | {by['l1']['macs_ratio']:.2f}x | {by['l1']['removed_error_pct']:.2f} | {by['l1']['error_pct']:.2f} |"
        in shown
    )
    study.main(arguments)  # makes what was taken away
    images = study.part(study.load(case, None), case, choosing=False)["test"]
    for r in records:
        saved = tmp_path / "digits-0" / f"{r['size']:g}x" / r["method"] / "small.safetensors"
        assert evaluate(dither.load(make_model(case.model), saved), images).error_pct == r["error_pct"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("history.jsonl")}
    study.main(arguments)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("history.jsonl")}


def test_rows_at_the_widths_of_an_earlier_sbp_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    records = json.loads((collect.HERE / "results.json").read_text())["records"]
    assert collect.up_to_date(records) == records
    assert not capsys.readouterr().out

    follow = ("random", "scratch")
    mine = [r for r in pick(records, net="lenet5", seed=0) if r["method"] in ("sbp", "uniform", *follow)]
    again = [{**r, "widths": {**r["widths"], "conv1": 1}} if r["method"] == "sbp" else r for r in mine]
    assert collect.up_to_date(again) == [r for r in again if r["method"] not in follow]
    assert "4 rows are left out" in capsys.readouterr().out


def test_collecting_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished row"):
        study.main(["--collect", "--out", str(tmp_path)])


def test_differences_are_taken_seed_by_seed() -> None:
    def row(method: str, seed: int, error: float) -> dict[str, object]:
        return {"method": method, "seed": seed, "size": 2.0, "error_pct": error}

    records = [row("sbp", 0, 1.0), row("sbp", 1, 3.0), row("l1", 0, 1.4), row("l1", 1, 3.6), row("l1", 2, 9.0)]
    assert tables.difference(records, "l1", 2.0) == (pytest.approx(0.5), pytest.approx(0.1), 2)
    assert tables.answer(records, 2.0) == "Errors at 2x, 2 seeds: none is lower than SBP's."
    assert "taylor" not in tables.answer(records, 2.0)
    lower = tables.answer([*records, row("taylor", 0, 0.8)], 2.0)
    assert lower == "Errors at 2x, 2 seeds: lower than SBP's: Taylor (-0.20 [1 of 2 seeds])."


def test_one_line_compares_the_same_seeds() -> None:
    def row(method: str, seed: int) -> dict[str, object]:
        return {"method": method, "seed": seed}

    records = [
        row("sbp", 0),
        row("sbp", 1),
        row("l1", 0),
        row("l1", 2),
        row("bmrs_u", 0),
        row("base", 0),
        row("base", 1),
    ]
    assert tables.in_common(records) == [row("sbp", 0), row("l1", 0), row("bmrs_u", 0), row("base", 0)]


def test_committed_networks_are_those_in_the_results() -> None:
    path = collect.HERE / "results.json"
    if not path.exists():
        pytest.skip("the study has no results yet")
    records = [r for r in json.loads(path.read_text())["records"] if r["method"] == "sbp"]
    for name, size in {(r["net"], r["size"]) for r in records}:
        case = settings.CASES[name]
        small = dither.load(make_model(case.model), collect.HERE / "artifacts" / f"{name}-{size:g}x.safetensors")
        cost = dither.cost(small, torch.zeros(1, *case.shape), repeats=1, warmup=0)
        assert (cost.params, cost.macs) in {(r["params"], r["macs"]) for r in records if r["net"] == name}


@pytest.mark.slow
def test_the_channels_in_the_results_make_networks_of_the_size_in_the_results() -> None:
    records = json.loads((collect.HERE / "results.json").read_text())["records"]
    for name in {r["net"] for r in records}:
        base = collect.Base(settings.CASES[name])
        for r in (r for r in records if r["net"] == name):
            cost = dither.cost(base.cut(r["kept"]), base.example, batch_sizes=())
            assert (cost.params, cost.macs) == (r["params"], r["macs"])


def test_held_out_images_are_never_trained_on() -> None:
    case = settings.SMOKE["digits"]
    images = study.load(case, None)
    real, choosing = (study.part(images, case, choosing=choosing) for choosing in (False, True))
    assert torch.equal(torch.cat([real["train"].pixels, choosing["test"].pixels]), images["train"].pixels)
    assert real["test"] is images["test"]
    assert len(choosing["test"]) == case.held_out
    for option, value in (("--rate", "1e-2"), ("--under-noise", "3")):
        with pytest.raises(SystemExit):
            study.main(["--smoke", option, value])


def test_fewer_passes_have_the_same_share_under_noise() -> None:
    case = study.changed(settings.CASES["lenet5"], rate=3e-3, passes=10)
    assert (case.after, case.under_noise) == (10, 6)
    assert (case.rate("l1"), case.rate("uniform"), case.scope) == (3e-3, 3e-3, settings.CASES["lenet5"].scope)


@pytest.mark.parametrize("under_noise", [2, 5, 9])
def test_rates_follow_one_curve_however_long_the_noise_is(under_noise: int) -> None:
    case = study.changed(settings.CASES["vgg16"], under_noise=under_noise)
    noise, rest, whole = case.recipe("sbp", 5.0, 0).prune, case.training("sbp"), case.training("l1")
    assert noise.epochs == under_noise
    assert noise.epochs + rest.epochs == whole.epochs == case.after
    assert noise.lr == rest.lr == whole.lr
    for step in range(101 * case.after):  # 101 steps a pass
        begun = 101 * noise.epochs
        part = noise.lr_factor(step, begun) if step < begun else rest.lr_factor(step - begun, 101 * rest.epochs)
        assert part == pytest.approx(whole.lr_factor(step, 101 * case.after))


def test_noise_must_end_before_the_rate_falls() -> None:
    with pytest.raises(ValueError, match="under_noise <= decay_after"):
        study.changed(settings.CASES["vgg16"], under_noise=12)
