"""Channels that go while the network trains: the same training, interrupted or not, on what is left."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import nn

import dither
from dither import pruning
from dither.training import Batches, Engine, Fit, Images, Noise, Penalty, Progress, Recipe, Run, Shrinking, load_images
from dither.training import make_model as make

FIT = Fit(epochs=4, batch_size=16, lr=3e-3, decay_from=0.5, weight_decay=0.1)
RECIPE = Recipe(
    model="digits",
    data="digits",
    base=Fit(epochs=2, batch_size=32, lr=3e-3),
    prune=Fit(epochs=4, batch_size=32, lr=3e-3),
    noise=Noise(gate_lr=0.3, kl_weights="macs", kl_weight=0.05, features=("fc1",), init_log_scale=-3.0, shrink_every=1),
    finetune=Fit(epochs=1, batch_size=32),
    validation=100,
    channels_last=True,
)


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "train").split_last(1437 - 100)[0]


def engine(folder: Path) -> Engine:
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Engine(Accelerator(cpu=True), folder, Progress(), seed=1, checkpoint_steps=4)


def gated(images: Images) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10))
    net = pruning.attach(net, images.float_batch(slice(0, 2)), features=True)
    with torch.no_grad():  # as if trained for a while: some units drown in every epoch
        for gate in pruning.gates(net).values():
            gate.log_scale.copy_(torch.linspace(-3.0, 0.5, gate.num_features)[torch.randperm(gate.num_features)])
            gate.loc.fill_(-0.5)
    return net


def groups(net: nn.Module) -> list:
    return pruning.param_groups(net, lr=3e-3, gate_lr=0.1, weight_decay=0.1)


def penalty(net: nn.Module) -> torch.Tensor:
    return pruning.kl(net) / 100


def fit(folder: Path, images: Images, *, every: int = 1) -> nn.Module:
    x = images.float_batch(slice(0, 2))
    shrinking = Shrinking(every, lambda net: pruning.plan(net, x), x) if every else None
    options = {"groups": groups, "penalty": Penalty(penalty), "shrinking": shrinking}
    return engine(folder).fit(gated(images), images, images, FIT, "prune", **options)


def width(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_the_loop_is_shrink_between_epochs(tmp_path: Path, images: Images) -> None:
    """Against a loop that is written out, without Accelerate and without checkpoints."""
    trained = fit(tmp_path, images, every=2)
    net, x, steps = gated(images).train(), images.float_batch(slice(0, 2)), 24
    optimizer = torch.optim.AdamW(groups(net), lr=3e-3, betas=FIT.betas)
    set_seed(1)
    for step in range(steps):
        if step == 12:
            before = width(net)
            net, optimizer = pruning.shrink(net, pruning.plan(net, x), x, optimizer=optimizer)
            assert width(net) < before
        batch, labels = list(Batches(images, FIT, seed=1).epoch(step // 6))[step % 6]
        for group, rate in zip(optimizer.param_groups, (3e-3, 0.1), strict=True):
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        (F.cross_entropy(net(batch), labels) + penalty(net)).backward()
        optimizer.step()
    assert trained.dither_shrunk["kept"] == net.dither_shrunk["kept"]
    for (name, expected), got in zip(net.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=name)


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def unstopped(images: Images, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return fit(folder, images), folder


SLOW = pytest.mark.slow


@pytest.mark.parametrize("stop", [6, *(pytest.param(stop, marks=SLOW) for stop in (5, 7, 15))])
def test_a_stopped_training_goes_on_across_removals(
    tmp_path: Path, images: Images, unstopped: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Stopped before, at and after removals (after 6, 12 and 18 steps), and again: the same bits as without a stop."""
    (whole, folder), shown = unstopped, Progress.step
    for again in (stop, stop + 8):

        def die(self: Progress, step: int, *args: object, again: int = again) -> None:
            shown(self, step, *args)
            if step == again:
                raise StoppedError

        monkeypatch.setattr(Progress, "step", die)
        with pytest.raises(StoppedError):
            fit(tmp_path / "stopped", images)
    monkeypatch.setattr(Progress, "step", shown)
    resumed = fit(tmp_path / "stopped", images)
    assert resumed.dither_shrunk["before"]["before"] is not None
    assert json.dumps(resumed.dither_shrunk) == json.dumps(whole.dither_shrunk)
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    histories = [(at / "history.jsonl").read_text() for at in (folder, tmp_path / "stopped")]
    assert histories[0] == histories[1]


def test_nothing_is_removed_after_the_last_epoch(tmp_path: Path, images: Images) -> None:
    """That is what the plan is for; the gates that training ends with are those that it measures."""
    assert width(fit(tmp_path / "a", images, every=4)) == width(gated(images))
    assert width(fit(tmp_path / "b", images, every=3)) < width(gated(images))


def test_nothing_happens_where_nothing_goes(images: Images) -> None:
    net, x = gated(images), images.float_batch(slice(0, 2))
    optimizer = torch.optim.AdamW(groups(net))
    with torch.no_grad():
        pruning.gates(net)["1"].loc[0] = -0.1  # a plan of untrained noise warns
    done = Shrinking(1, lambda n: pruning.plan(n, x), x).carry_out(net, optimizer)
    assert done == (net, optimizer)
    with pytest.raises(ValueError, match="every is 0"):
        Shrinking(0, lambda n: pruning.plan(n, x), x)


def test_a_loop_of_the_users_own_is_stopped_and_goes_on(images: Images) -> None:
    """As the documentation of restructure has it: structure first, then the two state dicts."""
    net, x = gated(images).train(), images.float_batch(slice(0, 2))
    optimizer = torch.optim.AdamW(groups(net))

    def steps(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        torch.manual_seed(3)
        for batch, labels in Batches(images, FIT, seed=1).epoch(0):
            optimizer.zero_grad()
            (F.cross_entropy(net(batch), labels) + penalty(net)).backward()
            optimizer.step()

    for _ in range(3):
        steps(net, optimizer)
        net, optimizer = pruning.shrink(net, pruning.plan(net, x), x, optimizer=optimizer)
    fresh = gated(images).train()
    state = [net.state_dict(), optimizer.state_dict(), net.dither_shrunk]
    state = [{k: v.clone() for k, v in state[0].items()}, *torch_copy(state[1:])]
    steps(net, optimizer)
    back, again = pruning.restructure(fresh, torch.optim.AdamW(groups(fresh)), state[2])
    back.load_state_dict(state[0])
    again.load_state_dict(state[1])
    steps(back, again)
    for (name, a), b in zip(net.named_parameters(), back.parameters(), strict=True):
        assert torch.equal(a, b), name


def torch_copy(values: list) -> list:
    import copy

    return copy.deepcopy(values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "digits", RECIPE, threads=1)
    run.prune()
    return run


def test_a_run_reports_in_the_numbers_of_the_original(finished: Run) -> None:
    report = json.loads((finished.folder / "report.json").read_text())
    plan = pruning.Plan.from_dict(json.loads((finished.folder / "plan.json").read_text()))
    small = dither.load(make("digits"), finished.folder / "small.safetensors")
    assert plan.widths["conv1"] == (small.conv1.out_channels, 16)
    assert plan.widths["fc1"] == (small.fc1.out_features, report["totals"]["fc1"])
    assert report["totals"] == {"conv1": 16, "conv2": 32, "fc1": 64, "fc1[in]": 128}
    assert report["records"][1]["widths"] == {
        name: kept for name, (kept, _) in plan.widths.items() if name in report["totals"]
    }
    assert report["removal"]["max_output_difference"] < 1e-5
    assert small.dither_shrunk["before"] is not None  # something went in training
    rows = [json.loads(line) for line in (finished.folder / "history.jsonl").read_text().splitlines()]
    kept = [sum(row["kept"].values()) for row in rows if row["stretch"] == "prune"]
    assert kept == sorted(kept, reverse=True)


def test_a_finished_run_is_read_again(finished: Run) -> None:
    states = sorted((finished.folder / "checkpoint" / "prune").iterdir())
    weights = load_file(states[-1] / "model.safetensors")
    net = Run(finished.folder).gated()
    assert {name: tuple(t.shape) for name, t in net.state_dict().items()} == {
        n: tuple(t.shape) for n, t in weights.items()
    }
    assert torch.equal(net.state_dict()["conv1.weight"], weights["conv1.weight"])


def test_what_decided_in_training_cannot_be_changed_after_it(finished: Run) -> None:
    noise = dataclasses.replace(RECIPE.noise, threshold=2.0)
    with pytest.raises(ValueError, match="was made with noise"):
        Run(finished.folder, dataclasses.replace(RECIPE, noise=noise))
    with pytest.raises(ValueError, match="shrink_every is -1"):
        Noise(shrink_every=-1)
