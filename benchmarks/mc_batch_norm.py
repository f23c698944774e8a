"""MC BatchNorm with S = 16 samples: dither.predict beside a plain loop and torch-uncertainty's MCBatchNorm.

The same network, 16 mini-batches of 32 examples and law: each sample normalises with the statistics of one mini-batch,
the same in all layers. What is timed is what a user calls, to the mean of the probabilities, all in turns with one pass
of the plain network. torch-uncertainty knows BatchNorm2d only, so only those are drawn. Agreement is the largest
difference of a mean probability: as each has fitted (torch-uncertainty takes the unbiased variance, dither the biased
one, with which BatchNorm normalises in training), and after dither's statistics were put into its layers.

Run: python -m benchmarks.mc_batch_norm --threads 1, in an environment that has torch-uncertainty; see README.md
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dither
from benchmarks.networks import resnet18
from benchmarks.report import finish, milliseconds, options, times, waiting
from dither import batchnorm
from dither._cost import Spread, ratio, time_in_turns
from dither.prediction._choice import plan_of
from dither.training import LeNet5BatchNorm

NUM_SAMPLES, BATCH = 16, 32
RIVAL = "torch-uncertainty"
INSTALLED = importlib.util.find_spec("torch_uncertainty") is not None
Predict = Callable[[], Tensor]


def one_pass(model: nn.Module, x: Tensor) -> Predict:
    @torch.no_grad()
    def run() -> Tensor:
        return model(x).softmax(-1)

    return run


def loop(net: nn.Module, x: Tensor) -> Predict:
    @torch.no_grad()
    def run() -> Tensor:
        with dither.sampling(net):
            return torch.stack([net(x).softmax(-1) for _ in range(NUM_SAMPLES)]).mean(0)

    return run


def predict(net: nn.Module, x: Tensor) -> Predict:
    return lambda: dither.predict(net, x, NUM_SAMPLES).mean


def rival(wrapped: nn.Module, x: Tensor) -> Predict:
    @torch.no_grad()
    def run() -> Tensor:
        return wrapped(x).unflatten(0, (NUM_SAMPLES, -1)).softmax(-1).mean(0)

    return run


def fitted(model: nn.Module, data: Tensor) -> nn.Module:
    """Every sample normalises with the statistics of one of the mini-batches."""
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    net = batchnorm.convert(model, names)
    batchnorm.fit(net, data.split(BATCH), law=batchnorm.Empirical(joint=True), records=NUM_SAMPLES)
    return net


def fitted_rival(model: nn.Module, data: Tensor) -> Any:
    """The wrapper of torch-uncertainty, fitted to the same mini-batches."""
    from torch_uncertainty.post_processing import MCBatchNorm

    wrapped: Any = MCBatchNorm(num_estimators=NUM_SAMPLES, mc_batch_size=BATCH, device=data.device)
    wrapped.mc_batch_norm_layers = []  # otherwise a list of its class, with the layers of all other networks
    wrapped.set_model(model)
    with torch.no_grad():
        wrapped.fit(DataLoader(TensorDataset(data, torch.zeros(len(data))), BATCH))
    return wrapped.eval()


def with_statistics_of(wrapped: Any, net: nn.Module) -> Any:
    """A copy of the wrapper of torch-uncertainty that normalises with what dither has fitted."""
    same = copy.deepcopy(wrapped)
    for name, layer in same.model.named_modules():
        if hasattr(layer, "means"):
            statistics: Any = net.get_submodule(name).statistics
            layer.means.copy_(statistics.records_mean[:, 0])
            layer.vars.copy_(statistics.records_log_var[:, 0].exp())
    return same


def main() -> None:
    chosen = options(__doc__ or "", repeats=30)
    if not INSTALLED and not chosen.smoke:
        raise SystemExit(f"{RIVAL} is not installed here; benchmarks/README.md says how")
    width, large = (4, 4) if chosen.smoke else (32, 64)
    cases = [("LeNet-5", LeNet5BatchNorm(), (1, 28, 28)), (f"ResNet-18, width {width}", resnet18(width), (3, 32, 32))]
    names = ["predict", "loop", *([RIVAL] * INSTALLED)]
    table = [["network", "batch", "one pass, ms", *(f"{name} / one pass" for name in names), "how"]]
    table[0] += [f"predict / {RIVAL}", "difference, as fitted", "difference, same statistics"] if INSTALLED else []
    records: list[dict[str, Any]] = []
    for network, model, shape in cases:
        plain = model.to(chosen.device).eval()
        data = torch.randn(NUM_SAMPLES * BATCH, *shape, device=chosen.device)
        drawn = fitted(plain, data)
        net = copy.deepcopy(drawn)
        batchnorm.set_law(net, batchnorm.Bank())  # sample s is mini-batch s, as in the rival
        wrapped = fitted_rival(plain, data) if INSTALLED else None
        for batch in (1, large):
            x = torch.randn(batch, *shape, device=chosen.device)
            runs = [one_pass(plain, x), predict(net, x), loop(drawn, x)] + ([rival(wrapped, x)] if INSTALLED else [])
            predict(net, x)()  # measures and remembers
            seconds = time_in_turns([waiting(chosen, run) for run in runs], chosen.repeats, chosen.warmup)
            ratios = [ratio(s, seconds[0]) for s in seconds[1:]]
            how = str(plan_of(net))
            record: dict[str, Any] = {"network": network, "batch": batch, "num_samples": NUM_SAMPLES, "how": how}
            for name, s in zip(["one pass", *names], seconds, strict=True):
                record[f"{name}_s"] = asdict(Spread.of(s))
            row = [network, str(batch), milliseconds(Spread.of(seconds[0])), *map(times, ratios), how]
            if INSTALLED:
                wanted, same = predict(net, x)(), with_statistics_of(wrapped, net)
                gaps = [float((rival(w, x)() - wanted).abs().max()) for w in (wrapped, same)]
                against = ratio(seconds[1], seconds[3])
                record |= {"difference_as_fitted": gaps[0], "difference_same_statistics": gaps[1]}
                record |= {"predict_over_rival": asdict(against), RIVAL: version(RIVAL)}
                row += [times(against), *(f"{gap:.1g}" for gap in gaps)]
            records.append(record)
            table.append(row)
    made_by = f", {RIVAL} {version(RIVAL)}" if INSTALLED else ""
    finish("mc_batch_norm", chosen, records, table, f"rounds in turns{made_by}; median (quartiles)")


if __name__ == "__main__":
    main()
