"""One stretch of training: what it computes, what it survives, what it says."""

import copy
import errno
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import GeneralTracker
from torch import nn

from dither.training import (
    Batches,
    Engine,
    Fit,
    Images,
    NonFiniteLoss,
    Penalty,
    Progress,
    _checkpoints,
    _sums,
    evaluate,
    load_images,
)

FIT = Fit(epochs=2, batch_size=16, lr=1e-2)
Make = Callable[..., Engine]


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "train").split_last(1437 - 100)[0]


@pytest.fixture
def make_engine(tmp_path: Path) -> Make:
    def make(folder: str = "run", checkpoint_steps: int | None = None, **options: object) -> Engine:
        AcceleratorState._reset_state()
        GradientState._reset_state()
        return Engine(
            Accelerator(cpu=True, **options), tmp_path / folder, Progress(), seed=1, checkpoint_steps=checkpoint_steps
        )

    return make


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


def states(engine: Engine, name: str = "base") -> list[str]:
    return sorted(path.name for path in (engine.folder / "checkpoint" / name).iterdir())


def test_the_loop_is_adamw_on_the_mean_loss(images: Images, make_engine: Make) -> None:
    """Against a loop that is written out, without Accelerate."""
    fit = Fit(epochs=3, batch_size=16, lr=1e-2, decay_from=0.5, weight_decay=0.1, label_smoothing=0.1, shift=1)
    trained = make_engine().fit(small_net(), images, images, fit, "base")
    net, steps = small_net(), 18
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        x, y = list(Batches(images, fit, seed=1).epoch(step // 6))[step % 6]
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y, label_smoothing=0.1).backward()
        optimizer.step()
    for expected, got in zip(net.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert not trained.training


def test_accumulated_gradients_are_those_of_the_larger_batch(images: Images, make_engine: Make) -> None:
    constant = {"epochs": 2, "lr": 1e-2, "decay_from": 1.0}
    large = make_engine("a").fit(small_net(), images, images, Fit(batch_size=32, **constant), "base")
    engine = make_engine("b", gradient_accumulation_steps=2)
    small = engine.fit(small_net(), images, images, Fit(batch_size=16, **constant), "base")
    for expected, got in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_the_penalty_is_added_and_grows(images: Images, make_engine: Make) -> None:
    """A penalty with a constant gradient moves an unused parameter by Adam's sign steps, scaled by nothing else."""
    seen: list[float] = []

    def value(net: nn.Module) -> torch.Tensor:
        seen.append(net.extra.item())
        return net.extra * 3.0

    net = small_net()
    net.extra = nn.Parameter(torch.tensor(1.0))
    engine = make_engine()
    fit = Fit(epochs=2, batch_size=16, lr=1e-2, decay_from=1.0)
    engine.fit(net, images, images, fit, "prune", penalty=Penalty(value, warmup=1.0))
    assert len(seen) == 12
    assert seen[0] == seen[1] == 1.0  # its factor is 0 at step 0
    assert all(later < earlier for earlier, later in itertools.pairwise(seen[1:]))
    rows = [json.loads(line) for line in (engine.folder / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[1]["kl"] == pytest.approx(3 * sum(seen[6:]) / 6, rel=1e-5)


def test_groups_have_rates_of_their_own(images: Images, make_engine: Make) -> None:
    net = small_net()
    before = net[1].weight.clone()
    groups = [{"params": [net[3].weight], "lr": 1e-2}]
    make_engine().fit(net, images, images, FIT, "base", groups=lambda _: groups)
    assert torch.equal(net[1].weight, before)
    assert not torch.equal(net[3].weight, small_net()[3].weight)


def test_bf16_trains_float32_weights_and_leaves_a_plain_network(images: Images, make_engine: Make) -> None:
    net = make_engine(mixed_precision="bf16").fit(
        small_net(), images, images, Fit(epochs=20, batch_size=16, lr=1e-2), "base"
    )
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert "forward" not in vars(net)
    assert evaluate(net, images).error_pct < 20


def test_a_copy_of_a_trained_network_is_trained_in_bf16_too(images: Images, make_engine: Make) -> None:
    engine, seen = make_engine(mixed_precision="bf16"), set()
    net = copy.deepcopy(engine.fit(small_net(), images, images, FIT, "base"))
    net[1].register_forward_hook(lambda layer, args, out: seen.add(out.dtype))
    engine.fit(net, images, images, FIT, "prune")
    assert seen == {torch.bfloat16}


def test_a_stretch_that_is_complete_is_not_trained_again(images: Images, make_engine: Make) -> None:
    first = make_engine().fit(small_net(), images, images, FIT, "base")
    again = make_engine().fit(nn.Sequential(*small_net()), images, images, FIT, "base")
    for expected, got in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(expected, got)


def test_the_two_newest_states_are_kept(images: Images, make_engine: Make) -> None:
    engine = make_engine(checkpoint_steps=2)
    engine.fit(small_net(), images, images, FIT, "base")
    assert states(engine) == ["step-00000010", "step-00000012"]


@pytest.mark.parametrize("bad_step", [0, 8])
def test_a_nan_loss_stops_names_the_step_and_keeps_the_state(images: Images, make_engine: Make, bad_step: int) -> None:
    engine, calls = make_engine(), []

    def value(net: nn.Module) -> torch.Tensor:
        calls.append(0)
        return net[3].bias.sum() * (math.nan if len(calls) == bad_step + 1 else 0.0)

    kept = "last good checkpoint is step-00000006" if bad_step else "no checkpoint was saved"
    place = rf"step {bad_step} of stretch 'prune' \(epoch {bad_step // 6 + 1}\)"
    message = rf"not finite at {place}.* gradient is '3.bias'.*{kept}"
    with pytest.raises(NonFiniteLoss, match=message):
        engine.fit(small_net(), images, images, FIT, "prune", penalty=Penalty(value))
    if bad_step:
        assert states(engine, "prune") == ["step-00000006"]


def test_a_nan_parameter_is_named(images: Images, make_engine: Make) -> None:
    net = small_net()
    net[1].bias.data[3] = math.inf
    with pytest.raises(NonFiniteLoss, match=r"first parameter with a NaN or infinite value is '1.bias'"):
        make_engine().fit(net, images, images, FIT, "base")


def test_without_space_the_older_state_survives(
    images: Images, make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, save, calls = make_engine(), _checkpoints._save_state, []

    def full_disk(accelerator: Accelerator, folder: Path) -> None:
        save(accelerator, folder)
        calls.append(0)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_checkpoints, "_save_state", full_disk)
    with pytest.raises(
        OSError, match=r"step 12 .*No space left on device; the last complete one, step-00000006, is kept"
    ):
        engine.fit(small_net(), images, images, FIT, "base")
    assert states(engine) == ["step-00000006"]
    resumed = make_engine().fit(small_net(), images, images, FIT, "base")
    whole = make_engine("other").fit(small_net(), images, images, FIT, "base")
    for expected, got in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, got)


def test_generators_that_did_not_come_back_are_noticed(images: Images, make_engine: Make) -> None:
    engine = make_engine()
    engine.fit(small_net(), images, images, FIT, "base")
    path = engine.folder / "checkpoint" / "base" / "step-00000012" / "position.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"random": "something else"}))
    _sums.write_sums(path.parent)
    with pytest.raises(RuntimeError, match="cannot restore the random generators"):
        make_engine().fit(small_net(), images, images, FIT, "base")


def test_trackers_get_every_epoch(images: Images, make_engine: Make) -> None:
    class Remember(GeneralTracker):
        name, requires_logging_directory, tracker = "remember", False, None

        def __init__(self) -> None:
            super().__init__()
            self.rows: list[tuple[int, dict]] = []

        def store_init_configuration(self, values: dict) -> None:
            pass

        def log(self, values: dict, step: int | None = None, **_: object) -> None:
            self.rows.append((step or 0, values))

    tracker = Remember()
    engine = make_engine(log_with=tracker)
    engine.accelerator.init_trackers("test")
    engine.fit(small_net(), images, images, FIT, "base")
    assert [step for step, _ in tracker.rows] == [6, 12]
    assert {"base/loss", "base/error_pct", "base/nll"} <= tracker.rows[0][1].keys()
