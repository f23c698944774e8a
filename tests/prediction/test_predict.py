"""predict: the same samples whatever the way, and nothing of the caller's is changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

import dither
from dither import batchnorm, pruning
from dither.prediction import _choice, _predict
from dither.prediction._choice import Plan, _key, _run
from dither.prediction._link import softmax
from dither.prediction._sampler import Batch, Sampler
from tests.prediction.networks import Apply, Normal, Shift, conv_net


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(net: nn.Module, x: Tensor, samples: int, seed: int = 0) -> Tensor:
    """A plain loop over the samples of the test's own source, for networks without other noise."""
    source = next(m.source for m in net.modules() if isinstance(m, Shift))
    generator = seeded(seed)
    torch.randint(2**63 - 1, (samples,), generator=generator)  # the seeds come first
    source.prepare(samples, generator)
    out: list[Tensor] = []
    with torch.no_grad(), dither.sampling(net):
        for sample in range(samples):
            source.choose(sample)
            out.append(net(x).softmax(1))
    source.release()
    return torch.stack(out)


def bn_net(dropout: float = 0.0) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Dropout(dropout) if dropout else nn.Identity(),
        nn.Flatten(), nn.Linear(96, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    net = batchnorm.convert(model)
    batchnorm.fit(net, [torch.randn(16, 1, 8, 8) for _ in range(8)])
    return net.eval()


def gated_net() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    net = pruning.attach(model, torch.zeros(1, 5)).eval()
    with torch.no_grad():
        for gate in pruning.gates(net).values():
            gate.log_scale.fill_(0.0)
    return net


# --- the samples -----------------------------------------------------------------------------------------------------
def test_samples_are_those_of_a_plain_loop() -> None:
    net, x = conv_net(), torch.randn(3, 1, 8, 8)
    truth = by_hand(net, x, 6)
    for _ in range(2):  # the first time it measures
        torch.testing.assert_close(dither.predict(net, x, 6, generator=seeded()).probs, truth)


NETS = {"own": conv_net, "bn": bn_net, "bn and dropout": lambda: bn_net(0.5)}
# With the channels last, dropout in a loop would draw in another order: predict keeps the layout there, see below.
WAYS = [(name, plan) for name in NETS for plan in (Plan(), Plan(replay=True), Plan(fold=2), Plan(fold=6))]
WAYS += [(name, Plan(channels_last=True, fold=fold)) for name in ("own", "bn") for fold in (1, 4)]


@pytest.mark.parametrize(("name", "plan"), WAYS, ids=[f"{name}, {plan}" for name, plan in WAYS])
def test_every_way_gives_the_same_samples(name: str, plan: Plan) -> None:
    net, x = NETS[name]().double(), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    sampler = Sampler(net, 6, seeded())
    batch = Batch(x, 3, softmax)
    with sampler.ready():
        plain = torch.stack([sampler.plain(batch, s) for s in range(6)])
        found = _run(sampler, batch, replace(plan, calls=sampler.calls(batch, 0)))
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12)
    assert bool((plain[0] != plain[1]).any())


@pytest.mark.parametrize("make", [conv_net, bn_net, lambda: conv_net(dropout=0.5)], ids=["own", "bn", "dropout"])
def test_the_same_generator_gives_the_same_bits_the_first_time_and_later(make) -> None:
    net, x = make(), torch.randn(3, 1, 8, 8)
    first, *later = [dither.predict(net, x, 8, generator=seeded()).probs for _ in range(4)]
    assert all(torch.equal(p, first) for p in later)
    assert not torch.equal(dither.predict(net, x, 8, generator=seeded(1)).probs, first)


def test_without_a_generator_samples_follow_the_global_seed() -> None:
    net, x = conv_net(dropout=0.5), torch.randn(3, 1, 8, 8)
    torch.manual_seed(1)
    first, second = dither.predict(net, x, 4).probs, dither.predict(net, x, 4).probs
    torch.manual_seed(1)
    assert torch.equal(dither.predict(net, x, 4).probs, first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("make", [conv_net, bn_net], ids=["own", "bn"])
@pytest.mark.parametrize("max_batch", [1, 2, 5, 12, 1000])
def test_samples_do_not_depend_on_max_batch(make, max_batch: int) -> None:
    net, x = make().double(), torch.randn(7, 1, 8, 8, dtype=torch.float64)
    whole = dither.predict(net, x, 4, generator=seeded()).probs
    parts = dither.predict(net, x, 4, generator=seeded(), max_batch=max_batch).probs
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_gates_are_the_same_for_every_chunk() -> None:
    net, x = gated_net().double(), torch.randn(7, 5, dtype=torch.float64)
    whole = dither.predict(net, x, 4, generator=seeded()).probs
    torch.testing.assert_close(dither.predict(net, x, 4, generator=seeded(), max_batch=2).probs, whole)
    assert bool((whole[0] != whole[1]).any())
    again = torch.cat([dither.predict(net, x[i : i + 1], 4, generator=seeded()).probs for i in range(7)], 1)
    torch.testing.assert_close(again, whole)


@pytest.mark.parametrize("max_batch", [1, 3, 6, 7, 100])
def test_no_pass_has_more_rows_than_max_batch(max_batch: int) -> None:
    seen: list[int] = []

    def watch(x: Tensor) -> Tensor:
        batched = torch._C._functorch.is_batchedtensor(x)
        seen.append(torch._C._functorch.get_unwrapped(x).numel() // 6 if batched else len(x))
        return x

    net = nn.Sequential(Shift(Normal(6)), Apply(watch), nn.Linear(6, 3)).eval()
    dither.predict(net, torch.randn(3, 6), 5, max_batch=max_batch)
    assert max(seen) <= max_batch


def test_large_inputs_are_cut_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    net = nn.Sequential(Apply(lambda x: (seen.append(len(x)), x)[1]), Shift(Normal(5)), nn.Linear(5, 3)).eval()
    x = torch.randn(600, 5)
    whole = dither.predict(net, x, 2, generator=seeded(), max_batch=600).probs
    seen.clear()
    torch.testing.assert_close(dither.predict(net, x, 2, generator=seeded()).probs, whole)
    assert max(seen) == _predict.CHUNK_ROWS
    monkeypatch.setattr(_predict, "CHUNK_BYTES", 5 * 4 * 7)
    seen.clear()
    dither.predict(net, x, 2)
    assert max(seen) == 7


def test_one_sample_and_a_network_that_does_not_draw() -> None:
    net, x = nn.Linear(4, 3).eval(), torch.randn(2, 4)
    prediction = dither.predict(net, x, 1)
    torch.testing.assert_close(prediction.mean, net(x).softmax(1).detach())
    assert prediction.num_samples == 1
    assert dither.predict(conv_net(), torch.randn(2, 1, 8, 8), 1).probs.shape == (1, 2, 3)


# --- the choice ------------------------------------------------------------------------------------------------------
def plans(net: nn.Module) -> list[Plan]:
    return list(_choice._plans[net].values())


def test_the_choice_is_made_once_for_each_shape() -> None:
    net = conv_net()
    for rows in (2, 2, 3, 2, 3):
        dither.predict(net, torch.randn(rows, 1, 8, 8), 4)
    assert len(plans(net)) == 2
    assert all(plan.seconds["loop"] > 0 and "fold" in plan.seconds for plan in plans(net))


def slow(monkeypatch: pytest.MonkeyPatch, fold: float) -> None:
    """Let a pass take a millisecond, and a folded one ``fold``."""

    def timed(batch: Batch, run):
        out = run()
        return out, fold if isinstance(out, Tensor) and out.ndim == 3 else 1e-3

    monkeypatch.setattr(_choice, "_timed", timed)


def test_the_fastest_way_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(Shift(Normal(5)), nn.Linear(5, 3)).eval()
    slow(monkeypatch, fold=1.0)
    dither.predict(net, torch.randn(2, 5), 4)
    slow(monkeypatch, fold=1e-5)
    dither.predict(net, torch.randn(3, 5), 4)
    assert [plan.fold for plan in plans(net)] == [1, 4]


def test_a_network_that_vmap_cannot_run_is_looped() -> None:
    net = nn.Sequential(Shift(Normal(5)), Apply(lambda x: x * 2 if float(x.sum()) > 0 else x), nn.Linear(5, 3)).eval()
    x = torch.randn(2, 5)
    torch.testing.assert_close(dither.predict(net, x, 6, generator=seeded()).probs, by_hand(net, x, 6))
    assert plans(net)[0].fold == 1


def test_a_batch_that_cannot_be_folded_is_looped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch takes a path that vmap can run, the second one asks for a number that depends on the draw."""
    slow(monkeypatch, fold=1e-5)
    look = Apply(lambda x: x * 2 if look.always or float(x.sum()) > 0 else x)
    look.always = True
    net, x = nn.Sequential(Shift(Normal(5)), look, nn.Linear(5, 3)).eval(), torch.randn(2, 5)
    dither.predict(net, x, 6)
    assert plans(net)[0].fold == 6
    look.always = False
    torch.testing.assert_close(dither.predict(net, x, 6, generator=seeded()).probs, by_hand(net, x, 6))
    assert plans(net)[0].fold == 1


def test_folding_that_gives_something_else_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Normal):
        def give(self, tensors) -> None:
            super().give(None if tensors is None else [2 * tensors[0]])

    slow(monkeypatch, fold=1e-5)
    net, x = nn.Sequential(Shift(Wrong(5)), nn.Linear(5, 3)).eval(), torch.randn(2, 5)
    torch.testing.assert_close(dither.predict(net, x, 6, generator=seeded()).probs, by_hand(net, x, 6))
    assert plans(net)[0].fold == 1


def test_random_numbers_that_no_layer_owns_are_drawn_as_in_the_loop() -> None:
    net = nn.Sequential(Shift(Normal(5)), Apply(lambda x: x + torch.rand(x.shape[1])), nn.Linear(5, 3)).eval()
    x = torch.randn(2, 5)
    whole = dither.predict(net, x, 4, generator=seeded()).probs
    assert torch.equal(dither.predict(net, x, 4, generator=seeded(), max_batch=2).probs, whole)
    assert plans(net)[0].fold == 1


def test_dropout_keeps_the_layout_of_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are drawn in the order of memory: with the channels last they would be others than those of the loop."""
    monkeypatch.setattr(_choice, "_GAIN", 100.0)
    for net, moved in ((conv_net(), True), (conv_net(dropout=0.5), False)):
        dither.predict(net, torch.randn(2, 1, 8, 8), 4)
        assert plans(net)[0].channels_last is moved


@pytest.mark.parametrize("autocast", [False, True])
def test_another_layout_may_differ_by_the_rounding_of_the_precision(
    autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounded(x: Tensor) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        return x + 2e-3 * x.abs().amax() * last

    monkeypatch.setattr(_choice, "_GAIN", 100.0)
    x = torch.randn(2, 1, 8, 8)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), Apply(rounded), nn.Flatten(), Shift(Normal(72)), nn.Linear(72, 3)).eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        dither.predict(net, x, 4)
    assert plans(net)[0].channels_last is autocast


def test_a_way_that_answers_in_another_precision_is_not_used() -> None:
    class Widening(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.double() if is_batchedtensor(x) else x

    net = nn.Sequential(Shift(Normal(5)), nn.Linear(5, 3), Widening()).eval()
    out = dither.predict(net, torch.randn(4, 5), 4, link=nn.Identity()).probs
    assert out.dtype == torch.float32
    assert plans(net)[0].fold == 1


def test_the_choice_knows_threads_and_dtype() -> None:
    sampler = Sampler(conv_net(), 4, None)
    with sampler.ready():
        keys = [
            _key(sampler, Batch(torch.randn(2, 1, 8, 8).to(t), 2, softmax), None)
            for t in (torch.float32, torch.float64)
        ]
        hash(keys[0])
        assert keys[0] != keys[1]
        assert keys[0] == _key(sampler, Batch(torch.randn(2, 1, 8, 8), 2, softmax), None)


# --- what goes in ----------------------------------------------------------------------------------------------------
class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shift = nn.Linear(4, 6), nn.Linear(2, 6), Shift(Normal(6))

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        return scale * self.shift(self.a(left) + self.b(right))


def test_several_inputs_by_position_and_by_name() -> None:
    net, left, right = TwoInputs().eval(), torch.randn(5, 4), torch.randn(5, 2)
    by_position = dither.predict(net, (left, right), 3, generator=seeded(), max_batch=5).probs
    by_name = dither.predict(net, {"right": right, "left": left}, 3, generator=seeded(), max_batch=5).probs
    torch.testing.assert_close(by_name, by_position)
    cut = dither.predict(net, {"left": left, "right": right, "scale": 1.0}, 3, generator=seeded(), max_batch=2).probs
    torch.testing.assert_close(cut, by_position)


def batches(x: Tensor, kind: str) -> Iterator[object]:
    for part in x.split(3):
        y = torch.zeros(len(part), dtype=torch.long)
        yield {"tensor": part, "tuple": (part, y), "list": [part, y], "dict": {"image": part, "label": y}}[kind]


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "dict"])
def test_a_loader_gives_the_statistics_of_the_whole(kind: str) -> None:
    net, x = bn_net().double(), torch.randn(8, 1, 8, 8, dtype=torch.float64)
    whole = dither.predict(net, x, 4, generator=seeded())
    streamed = dither.predict(net, batches(x, kind), 4, generator=seeded())
    for name in ("mean", "variance", "mean_se", "entropy", "mutual_information", "mutual_information_se"):
        torch.testing.assert_close(getattr(streamed, name), getattr(whole, name), rtol=1e-8, atol=1e-10)
    assert (len(streamed), streamed.num_samples) == (8, 4)
    with pytest.raises(ValueError, match="Pass a tensor to predict"):
        _ = streamed.probs


def test_a_list_of_batches_and_a_data_loader() -> None:
    net, x = conv_net(), torch.randn(8, 1, 8, 8)
    whole = dither.predict(net, x, 4, generator=seeded())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(8)), batch_size=3)
    for each in (loader, list(x.split(3))):
        torch.testing.assert_close(dither.predict(net, each, 4, generator=seeded()).entropy, whole.entropy)


# --- what comes out --------------------------------------------------------------------------------------------------
def test_links() -> None:
    net, x = nn.Sequential(nn.Linear(4, 6), Shift(Normal(6))).eval(), torch.randn(5, 4)
    logits = dither.predict(net, x, 3, generator=seeded(), link=nn.Identity())
    torch.testing.assert_close(logits.probs.softmax(2), dither.predict(net, x, 3, generator=seeded()).probs)
    with pytest.raises(ValueError, match="not >= 0 with sum 1"):
        _ = logits.entropy
    one = dither.predict(nn.Sequential(net, Apply(lambda y: y[:, 0])).eval(), x, 3, link=lambda y: y)
    assert one.mean.shape == one.variance.shape == (5,)


@pytest.mark.parametrize("wrap", [lambda y: {"out": y}, lambda y: {"logits": y}, lambda y: SimpleNamespace(logits=y)])
def test_outputs_that_hold_their_logits(wrap) -> None:
    net, x = nn.Sequential(nn.Linear(4, 6), Shift(Normal(6))).eval(), torch.randn(5, 4)
    truth = dither.predict(net, x, 3, generator=seeded()).probs
    torch.testing.assert_close(
        dither.predict(nn.Sequential(net, Apply(wrap)).eval(), x, 3, generator=seeded()).probs, truth
    )


def test_segmentation() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), Shift(Normal(6))).eval()
    prediction = dither.predict(net, torch.randn(2, 1, 5, 7), 3)
    assert prediction.probs.shape == (3, 2, 6, 5, 7)
    assert prediction.entropy.shape == prediction.mutual_information_se.shape == (2, 5, 7)


def test_half_precision_has_probabilities_in_float32() -> None:
    net = nn.Sequential(nn.Linear(4, 6), Shift(Normal(6))).eval().bfloat16()
    prediction = dither.predict(net, torch.randn(5, 4, dtype=torch.bfloat16), 3)
    assert prediction.probs.dtype == torch.float32
    assert prediction.entropy.shape == (5,)


# --- ensembles -------------------------------------------------------------------------------------------------------
def test_every_member_is_sampled() -> None:
    nets, x = [conv_net(), conv_net()], torch.randn(3, 1, 8, 8)
    prediction = dither.predict(dither.Ensemble(nets), x, 4)
    assert prediction.probs.shape == (8, 3, 3)
    assert prediction.members == 2
    assert bool((prediction.mean_se > 0).all())


def test_members_that_do_not_draw_run_once() -> None:
    runs: list[int] = []
    plain = nn.Sequential(Apply(lambda x: (runs.append(1), x)[1]), nn.Linear(6, 3)).eval()
    x = torch.randn(5, 6)
    alone = dither.predict(dither.Ensemble([plain, nn.Linear(6, 3).eval()]), x)
    assert alone.probs.shape == (2, 5, 3)
    assert len(runs) == 1
    assert bool((alone.mean_se == 0).all())
    assert bool((alone.mutual_information > 0).all())
    mixed = dither.predict(dither.Ensemble([plain, nn.Sequential(Shift(Normal(6)), plain).eval()]), x, 4)
    assert mixed.probs.shape == (8, 5, 3)
    torch.testing.assert_close(mixed.probs[:4], plain(x).softmax(1).detach().expand(4, -1, -1))


def test_ensembles_stream() -> None:
    net, x = dither.Ensemble([conv_net(), conv_net()]), torch.randn(5, 1, 8, 8)
    whole = dither.predict(net, x, 4, generator=seeded())
    streamed = dither.predict(net, list(x.split(2)), 4, generator=seeded())
    torch.testing.assert_close(streamed.mutual_information_se, whole.mutual_information_se)
    assert streamed.members == 2


def test_bad_ensembles() -> None:
    with pytest.raises(ValueError, match="at least one network"):
        dither.Ensemble([])
    with pytest.raises(ValueError, match="ensemble itself"):
        dither.Ensemble([dither.Ensemble([nn.Linear(2, 2)])])
    with pytest.raises(TypeError, match="a member is a str"):
        dither.Ensemble(["net"])
    outputs = dither.Ensemble([nn.Linear(2, 2), nn.Linear(2, 3)])(torch.zeros(4, 2))
    assert [tuple(o.shape) for o in outputs] == [(4, 2), (4, 3)]


# --- nothing is lost -------------------------------------------------------------------------------------------------
def state(net: nn.Module) -> tuple[object, ...]:
    modes = [
        (m.training, getattr(m, "sampling", None), "forward" in vars(m), len(m._forward_pre_hooks))
        for m in net.modules()
    ]
    return modes, torch.get_rng_state().tolist(), torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()


def test_everything_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = bn_net(0.5), torch.randn(3, 1, 8, 8)
    net[6].train()
    before = state(net), {name: t.clone() for name, t in net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # dropout that was left on is no reason for a warning
        dither.predict(net, x, 4, generator=seeded())
    assert state(net) == before[0]
    assert all(torch.equal(t, before[1][name]) for name, t in net.state_dict().items())

    def fail(*_: object) -> Tensor:
        raise KeyError("broken")

    net[3].forward = fail
    before = state(net)
    with pytest.raises(KeyError, match="broken"):
        dither.predict(net, x, 4, generator=seeded())
    assert state(net) == before
    assert net[1].source._held is None


def test_a_network_in_train_mode() -> None:
    net, x = bn_net().train(), torch.randn(3, 1, 8, 8)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.warns(UserWarning, match="the network is in train mode: predict runs it in eval mode"):
        found = dither.predict(net, x, 4, generator=seeded()).probs
    assert all(m.training for m in net.modules())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    torch.testing.assert_close(dither.predict(net.eval(), x, 4, generator=seeded()).probs, found)
    net[1].train()
    with pytest.warns(UserWarning, match='"1" is in train mode'):
        dither.predict(net, x, 4)


def test_inside_inference_mode_and_without_gradients() -> None:
    net, x = conv_net(), torch.randn(3, 1, 8, 8)
    probs = dither.predict(net, x, 4, generator=seeded()).probs
    assert not probs.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(dither.predict(net, x.clone(), 4, generator=seeded()).probs, probs)
