"""The public functions in any order, on any small network: exact, or refused in dither's own words.

    python -m tests.fuzz.calls --number 2000

What must hold after every call: what was given is as before (tensors, modes, gradients' flags, hooks), so is the state
of the global generator where nothing is drawn, and what comes back computes what it should. An error counts as dither's
own if the ``raise`` stands in dither's code; whatever else comes out of torch is a fault.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import io
import json
import pickle  # noqa: S403 (what users of torch do)
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from torch import Tensor, nn

import dither
from dither import batchnorm, pruning
from dither._inputs import call, evaluating, tensors
from dither.batchnorm import StochasticBatchNorm
from dither.pruning.noise._gates import find_bank, ungate
from tests.fuzz.networks import SUBJECTS, Subject

EACH = 20
HOW = settings(
    max_examples=EACH,
    stateful_step_count=10,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.3}
SOURCE = str(Path(dither.__file__).parent)
COUNTS: Counter[str] = Counter()
"""How often each function answered and how often, and why, it refused."""

WAYS = ("", "attach", "attach drown decide", "attach drown decide shrink", "drown decide", "drown decide shrink",
        "attach drown decide shrink attach drown decide", "attach train decide smaller train", "convert", "convert fit",
        "attach drown decide shrink convert fit", "convert fit attach drown decide", "attach drown decide smaller",
        "attach drown convert fit")  # fmt: skip
"""Where the network is when the calls in any order begin."""

contexts = st.sampled_from([nullcontext, nullcontext, torch.no_grad, torch.inference_mode])
building = st.sampled_from([nullcontext, nullcontext, torch.no_grad])
seeds = st.integers(0, 99)


def snapshot(net: nn.Module) -> dict[str, Any]:
    """All that a call may leave changed."""
    found: dict[str, Any] = {name: bits(t) for name, t in [*net.named_parameters(), *net.named_buffers()]}
    found |= {f"grad {name}": (t.requires_grad, t.grad is None) for name, t in net.named_parameters()}
    for name, module in net.named_modules():
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)
        found[f"module {name}"] = (type(module), module.training, hooks, getattr(module, "sampling", None))
    return found


def bits(tensor: Tensor) -> bytes:
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype}{tuple(tensor.shape)}{tensor.is_contiguous()}".encode() + values


def own(error: Exception) -> bool:
    """Whether it is dither that refuses, in one of the ways that its docstrings name."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, (ValueError, TypeError, RuntimeError)) and last.startswith(SOURCE)


def answer(net: nn.Module, x: Any) -> list[Tensor]:
    with evaluating(net):
        return [t.detach().clone() for t in tensors(call(net, x))]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    """To rounding; half precision is only asked to run."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        if (limit := TOLERANCE.get(a.dtype)) is not None and bool(b.isfinite().all()):
            scale = max(float(b.abs().max()), 1e-2) if b.numel() else 1.0
            torch.testing.assert_close(a, b, rtol=0, atol=limit * scale)


class Calls(RuleBasedStateMachine):
    """One network on its way through the library."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.files = 0
        self.plan: pruning.Plan | None = None
        self.decided = False  # on the noise as it is now
        self.optimizer: torch.optim.Optimizer | None = None
        self.steps: list[Callable[[nn.Module], nn.Module]] = []  # from a fresh network to what a file is loaded into

    def teardown(self) -> None:
        self.folder.cleanup()

    @initialize(
        subject=st.sampled_from(SUBJECTS),
        dtype=st.sampled_from([torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16]),
        training=st.booleans(),
        channels_last=st.booleans(),
        frozen=st.sampled_from(["", "", "", "0", "weight", "head", "norm"]),
        hooked=st.booleans(),
        way=st.sampled_from(WAYS),
    )
    def start(
        self,
        subject: Subject,
        dtype: torch.dtype,
        training: bool,
        channels_last: bool,
        frozen: str,
        hooked: bool,
        way: str,
    ) -> None:
        self.subject, self.dtype = subject, dtype
        torch.manual_seed(0)
        original = subject.make().to(dtype)
        if channels_last and subject.name != "groups":  # torch 2.13 crashes in the backward pass of its GroupNorm
            original = original.to(memory_format=torch.channels_last)
        for name, parameter in original.named_parameters():
            if frozen and frozen in name:
                parameter.requires_grad_(False)
        if hooked:
            original.register_forward_hook(doubled)
        self.original = original.train(training)
        self.net = copy.deepcopy(self.original)
        for name in way.split():
            self.go(name)

    def go(self, name: str) -> None:
        """A call with the most usual arguments, where it fits."""
        if name == "attach" and not self.noisy:
            self.attach(features=False, around=nullcontext)
        elif name == "drown" and self.noisy:
            self.drown(seed=0, share=0.5)
        elif name == "decide" and self.noisy:
            self.decide(around=nullcontext, multiple_of=1, threshold=None)
        elif name in ("shrink", "smaller") and self.noisy and self.plan is not None:
            self.shrink(around=nullcontext, keep_noise=name == "smaller")
        elif name == "train":
            self.train(seed=0)
        elif name == "convert" and not self.converted:
            self.convert(around=nullcontext)
        elif name == "fit" and self.converted:
            self.fit(law=None, seed=0, around=nullcontext)

    @property
    def x(self) -> Any:
        return self.batch(4, 1)

    def batch(self, rows: int, seed: int) -> Any:
        return self.subject.inputs(rows, seed, self.dtype)

    def ask(
        self,
        function: Callable[..., Any],
        *args: Any,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        draws: bool = False,
        mutates: bool = False,
        **options: Any,
    ) -> Any:
        """What ``function(net, ...)`` gives; None if it refuses."""
        before, generator, fused = snapshot(self.net), torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
        name, answered = function.__name__, None
        try:
            with around(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answered = function(self.net, *args, **options)
            COUNTS[name] += 1
        except Exception as error:
            if not own(error):
                raise
            COUNTS[f"{name} refused: {str(error)[:100]}"] += 1
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert torch.backends.mha.get_fastpath_enabled() == fused
        if not draws:
            assert torch.equal(generator, torch.get_rng_state()), f"{name} took numbers from the global generator"
        if not mutates:
            after = snapshot(self.net)
            changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
            assert changed == [], f"{name} changed {changed}"
        return answered

    @property
    def noisy(self) -> bool:
        return bool(pruning.gates(self.net))

    @property
    def converted(self) -> bool:
        return any(isinstance(m, StochasticBatchNorm) for m in self.net.modules())

    @rule(which=st.sampled_from(["attach", "plan", "convert", "fit", "revert", "freeze", "shrink"]), around=contexts)
    def misuse(self, which: str, around: Any) -> None:
        """What does not fit the network as it is now."""
        if which == "attach" and self.noisy:
            assert self.ask(pruning.attach, self.x) is None
        elif which == "convert" and self.converted:
            assert self.ask(batchnorm.convert) is None
        elif which == "plan" and not self.noisy:
            assert self.ask(pruning.plan, self.x, around=around) is None
        elif which == "shrink" and not self.noisy and self.plan is not None and self.plan.sites:
            assert self.ask(pruning.shrink, self.plan, self.x, around=around) is None
        elif not self.converted:
            assert which != "fit" or self.ask(batchnorm.fit, [self.x], around=around) is None
            assert which != "revert" or self.ask(batchnorm.revert) is None
            assert which != "freeze" or self.ask(batchnorm.freeze, 2, around=around) is None

    # ---- pruning
    @precondition(lambda self: not self.noisy)
    @rule(features=st.booleans(), around=building)
    def attach(self, features: bool, around: Any) -> None:
        made = self.ask(pruning.attach, self.x, features=features, around=around)
        if made is None:
            return
        assert pruning.gates(made)
        assert made.training == self.net.training
        assert_same(answer(ungate(copy.deepcopy(made)), self.batch(3, 2)), answer(self.net, self.batch(3, 2)))
        asked = {name: p.requires_grad for name, p in self.net.named_parameters()}
        for name, p in made.named_parameters():
            plain = name.replace("parametrizations.", "").removesuffix(".original")
            assert p.requires_grad == asked.get(plain, p.requires_grad), name
        if getattr(self.net, "dither_shrunk", None):  # a file of the smaller network comes between
            path = self.write()
            self.steps.append(lambda fresh: dither.load(fresh, path).to(self.dtype))
        self.steps.append(lambda fresh: pruning.attach(fresh, self.x, features=features))
        self.net, self.optimizer = made, None

    @precondition(lambda self: self.noisy)
    @rule(seed=seeds, share=st.sampled_from([0.0, 0.3, 0.6, 1.0]))
    def drown(self, seed: int, share: float) -> None:
        """In place of training."""
        self.decided = False
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for gate in pruning.gates(self.net).values():
                gone = torch.rand(gate.num_features, generator=generator) < share
                gate.loc[gone], gate.log_scale[gone] = -8.0, 3.0

    @precondition(lambda self: self.noisy)
    @rule(
        around=contexts, multiple_of=st.sampled_from([1, 1, 1, 2, 3]), threshold=st.sampled_from([None, 1.0, 0.2, 50.0])
    )
    def decide(self, around: Any, multiple_of: int, threshold: float | None) -> None:
        made = self.ask(pruning.plan, self.x, multiple_of=multiple_of, threshold=threshold, around=around)
        if made is not None:
            assert pruning.Plan.from_dict(made.to_dict()) == made
            assert str(made)
            self.plan, self.decided = made, True

    @precondition(lambda self: self.noisy and self.plan is not None)
    @rule(around=building, keep_noise=st.sampled_from([False, False, True]))
    def shrink(self, around: Any, keep_noise: bool) -> None:
        """Also with a plan that was made for what the network was some calls ago."""
        if keep_noise:
            return self.shrink_while_training(around)
        whole = self.ask(pruning.masked, self.plan, around=around)
        small = self.ask(pruning.shrink, self.plan, self.x, around=around)
        if small is None:
            return None
        assert whole is not None
        assert not pruning.gates(small)
        assert small.training == self.net.training
        assert_same(answer(small, self.batch(3, 5)), answer(whole, self.batch(3, 5)))
        if self.decided and plain(self.plan) and find_bank(self.net):
            assert_same(answer(self.net, self.batch(3, 5)), answer(whole, self.batch(3, 5)))
        if self.dtype in TOLERANCE:
            assert all(
                p.requires_grad == whole.get_parameter(n).requires_grad
                for n, p in small.named_parameters()
                if n in dict(whole.named_parameters())
            )
        self.net, self.optimizer, self.steps = (
            small,
            None,
            [step for step in self.steps if step in (batchnorm.convert, batchnorm.revert)],
        )
        return None

    def shrink_while_training(self, around: Any) -> None:
        optimizer = self.optimizer or torch.optim.Adam(self.net.parameters(), 1e-3)
        made = self.ask(pruning.shrink, self.plan, self.x, optimizer=optimizer, around=around)
        if made is not None:
            self.net, self.optimizer = made
            held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
            assert held == {id(p) for p in self.net.parameters()}

    @rule(seed=seeds)
    def train(self, seed: int) -> None:
        """A step of a plain loop."""
        self.decided = False
        mode = self.net.training
        self.net.train()
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)
        out = call(self.net, self.batch(4, seed))
        loss = out.float().square().mean() + (pruning.kl(self.net) / 100 if self.noisy else 0)
        if loss.requires_grad:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        for gate in pruning.gates(self.net).values():
            assert gate.loc.grad is not None or not (loss.requires_grad and gate.loc.requires_grad)
        self.net.train(mode)
        self.net.zero_grad()
        COUNTS["train"] += 1

    # ---- batch normalization
    @precondition(lambda self: not self.converted)
    @rule(around=building)
    def convert(self, around: Any) -> None:
        made = self.ask(batchnorm.convert, around=around)
        if made is not None:
            assert [bits(t) for t in answer(made, self.x)] == [bits(t) for t in answer(self.net, self.x)]
            self.net, self.optimizer = made, None
            self.steps.append(batchnorm.convert)

    @precondition(lambda self: self.converted)
    @rule(law=st.sampled_from([None, batchnorm.Factorized(), batchnorm.Empirical(), batchnorm.Correlated(rank=2),
                               batchnorm.Cached()]), seed=seeds, around=contexts)  # fmt: skip
    def fit(self, law: Any, seed: int, around: Any) -> None:
        before = snapshot(self.net)
        self.ask(batchnorm.fit, [self.loaded(6, seed + i) for i in range(4)], law=law, draws=True, mutates=True,
                 around=around)  # fmt: skip
        after = snapshot(self.net)
        changed = [key for key, value in before.items() if after.get(key) != value and ".statistics" not in f".{key}"]
        assert changed == []

    def loaded(self, rows: int, seed: int) -> Any:
        batch = self.batch(rows, seed)
        return batch if isinstance(batch, dict) else (batch, torch.zeros(rows))

    @precondition(lambda self: self.converted)
    @rule(around=building)
    def revert(self, around: Any) -> None:
        made = self.ask(batchnorm.revert, around=around)
        if made is not None:
            assert [bits(t) for t in answer(made, self.x)] == [bits(t) for t in answer(self.net, self.x)]
            self.net, self.optimizer = made, None
            self.steps.append(batchnorm.revert)

    @precondition(lambda self: self.converted)
    @rule(around=contexts, num_samples=st.integers(1, 4))
    def freeze(self, around: Any, num_samples: int) -> None:
        seed = torch.Generator().manual_seed(1)
        self.ask(batchnorm.freeze, num_samples, generator=seed, around=around)

    # ---- doubt
    @rule(around=contexts, num_samples=st.sampled_from([1, 2, 5]), max_batch=st.sampled_from([None, None, 1, 3]))
    def predict(self, around: Any, num_samples: int, max_batch: int | None) -> None:
        found = [
            self.ask(dither.predict, self.x, num_samples, generator=torch.Generator().manual_seed(7), around=around,
                     max_batch=max_batch)
            for _ in range(2)
        ]  # fmt: skip
        if found[0] is not None:
            assert found[0].probs.shape[:2] == (num_samples, 4)
            assert bits(found[0].probs) == bits(found[1].probs)

    @rule(around=contexts)
    def sample(self, around: Any) -> None:
        before = snapshot(self.net)
        if any(isinstance(m, StochasticBatchNorm) and m.statistics is None for m in self.net.modules()):
            return
        self.net.eval(), self.net.train(before["module "][1])
        before = snapshot(self.net)
        with around(), dither.sampling(self.net):
            call(self.net, self.x) if not self.net.training else None
        assert snapshot(self.net) == before

    # ---- files and copies
    def write(self) -> Path:
        self.files += 1
        path = Path(self.folder.name) / f"{self.files}.safetensors"
        dither.save(self.net, path)
        return path

    @rule(around=contexts, keep=st.booleans())
    def file(self, around: Any, keep: bool) -> None:
        """Save, and load into what the documentation says: a network built as this one was."""
        path = Path(self.folder.name) / "net.safetensors"
        path.unlink(missing_ok=True)
        self.ask(dither.save, path, around=around)
        if not path.exists():  # noise that is not finite
            return
        fresh = copy.deepcopy(self.original)
        for step in self.steps:
            fresh = step(fresh)
        with around() if around is not torch.inference_mode else nullcontext():
            again = dither.load(fresh.train(self.net.training), path)
        self.assert_equal(again)
        dither.save(again, path.with_name("again.safetensors"))
        assert path.read_bytes() == path.with_name("again.safetensors").read_bytes()
        COUNTS["load"] += 1
        if keep:
            self.net, self.optimizer = again, None

    def assert_equal(self, other: nn.Module) -> None:
        """The same network, bit for bit."""
        left, right = self.net.state_dict(), other.state_dict()
        assert left.keys() == right.keys()
        assert [name for name in left if bits(left[name].contiguous()) != bits(right[name].contiguous())] == []
        assert str(other) == str(self.net)
        assert_same(answer(other, self.batch(3, 4)), answer(self.net, self.batch(3, 4)))
        left, right = (json.dumps(getattr(net, "dither_shrunk", None)) for net in (other, self.net))
        assert left == right

    @rule(keep=st.booleans())
    def deep_copy(self, keep: bool) -> None:
        made = self.ask(copy.deepcopy)
        assert made is not None
        self.assert_equal(made)
        if keep:
            self.net, self.optimizer = made, None
        else:
            before = snapshot(self.net)
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter.zero_()
            call(made.train(), self.x)
            assert snapshot(self.net) == before, "a copy shares something with what it was copied from"

    @rule()
    def pickled(self) -> None:
        """torch refuses it for parametrized modules, and says so."""
        file = io.BytesIO()
        try:
            pickle.dump(self.net, file)
        except (RuntimeError, AttributeError, pickle.PicklingError) as error:
            if "parametrized" in str(error) or "local object 'weight_norm" in str(error):
                return
            raise
        self.assert_equal(pickle.loads(file.getvalue()))  # noqa: S301 (what torch users do)
        COUNTS["pickle"] += 1

    @rule()
    def state(self) -> None:
        """``state_dict`` into a copy whose values are others."""
        other = copy.deepcopy(self.net)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.5)
        other.load_state_dict(self.net.state_dict())
        self.assert_equal(other)

    # ---- what users do to their own network
    @rule(training=st.booleans())
    def mode(self, training: bool) -> None:
        self.net.train(training)
        self.original.train(training)

    @rule(dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
    def cast(self, dtype: torch.dtype) -> None:
        self.net, self.original = self.net.to(dtype), self.original.to(dtype)
        self.dtype, self.optimizer, self.decided = dtype, None, False

    @rule(which=seeds, value=st.booleans())
    def freeze_parameter(self, which: int, value: bool) -> None:
        parameters = list(self.net.parameters())
        parameters[which % len(parameters)].requires_grad_(value)

    @rule(around=contexts)
    def look(self, around: Any) -> None:
        self.ask(pruning.analyse, self.x, around=around)
        found = self.ask(dither.cost, self.x, batch_sizes=(1,), repeats=1, around=around)
        assert found is None or found.params > 0


def plain(plan: pruning.Plan) -> bool:
    """Whether the network in eval mode is what the plan means: nothing is kept for another reason than its SNR."""
    alive = all(choice.snr is None or choice.snr[-1] > 1 for choice in (*plan.spaces, *plan.columns))
    return alive and plan.criterion == "SNR(threshold=1.0)" and plan.multiple_of == 1


def doubled(module: nn.Module, args: Any, out: Tensor) -> Tensor:
    """A hook of the user, who has forgotten it."""
    return out * 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1000, help="networks, each with up to --steps calls")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--first", type=int, default=0, help="the first seed; there is one for every 20 networks")
    parser.add_argument("--shrink", action="store_true", help="look for the shortest calls that fail; takes minutes")
    options = parser.parse_args()
    faulthandler.enable()
    torch.set_num_threads(1)
    began, seeds_failed = time.perf_counter(), list[int]()
    how = settings(HOW, stateful_step_count=options.steps, derandomize=False, phases=HOW.phases[: 1 + options.shrink])
    for seed in range(options.first, options.first + -(-options.number // EACH)):
        machine = type("Seeded", (Calls,), {"_hypothesis_internal_use_seed": seed})
        try:
            run_state_machine_as_test(machine, settings=how)
        except Exception:
            traceback.print_exc()
            seeds_failed.append(seed)
        done = (seed - options.first + 1) * EACH
        print(f"seed {seed}: {done:,} networks, {time.perf_counter() - began:.0f} s", flush=True)
    for name, count in sorted(COUNTS.items()):
        print(f"{count:7,} {name.splitlines()[0]}")
    print(f"failed: {seeds_failed or 'none'}")
    return len(seeds_failed) > 0


if __name__ == "__main__":
    sys.exit(main())
