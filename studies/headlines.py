"""One line of every study for the README, from the results that are committed: ``python -m studies.headlines``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from studies.fill import fill, spread
from studies.pruning_against_the_field.settings import METHODS
from studies.pruning_against_the_field.tables import in_common, mean, pick

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
Records = list[dict[str, Any]]


def main() -> None:
    fill(HERE.parent / "README.md", "headlines", table())


def table() -> str:
    """The lines of all studies that have results."""
    rows = [
        f"| {cells[0]} | {cells[1]} | {cells[2]} | [{name}](studies/{name}/README.md) |"
        for name, lines in STUDIES.items()
        if (path := HERE / name / "results.json").exists()
        for cells in lines(json.loads(path.read_text(encoding="utf-8")))
    ]
    return "\n".join(["| | paper | here | study |", "|---|---|---|---|", *rows])


def pruned_lenets(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for net, title in (("lenet5", "LeNet-5"), ("lenet_500_300", "LeNet-500-300")):
        before, after = (pick(results["records"], net=net, method=method) for method in ("original", "sbp"))
        theirs = {row["method"]: row for row in expected("pruning_lenet_mnist") if row["net"] == net}
        yield (
            f"{title} on MNIST, pruned: error; multiply-accumulates; time on a CPU, batch 64",
            f"{theirs['original']['error_pct']:.2f} -> {theirs['sbp']['error_pct']:.2f} %; "
            f"{theirs['sbp']['macs_ratio']:.1f}x fewer; {theirs['sbp']['latency_ratio']:.1f}x",
            f"{spread(before, 'error_pct')} -> {spread(after, 'error_pct')} %; "
            f"{spread(after, 'macs_ratio')}x fewer; {spread(after, 'latency_ratio_b64')}x",
        )


def pruned_vgg(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    theirs = {row["method"]: row for row in expected("pruning_vgg_cifar10")}
    for net in dict.fromkeys(record["net"] for record in results["records"]):
        mine, longer = (pick(results["records"], net=net, row=row) for row in ("macs", "longer"))
        if mine:
            dense = f" (not pruned, trained on for as long: {spread(longer, 'error_pct')} %)" if longer else ""
            yield (
                f"VGG-like on CIFAR-10, {net} width, pruned with KL weights by MACs: the same",
                f"{theirs['base']['error_pct']:.1f} -> {theirs['sbp']['error_pct']:.1f} %; "
                f"{theirs['sbp']['macs_ratio']:.1f}x fewer; {theirs['sbp']['latency_ratio']:.1f}x",
                f"{spread(mine, 'base_error_pct')} -> {spread(mine, 'error_pct')} %{dense}; "
                f"{spread(mine, 'macs_ratio')}x fewer; {spread(mine, 'latency_ratio_b64')}x",
            )


def against_the_field(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    titles = {"lenet5": "LeNet-5 on MNIST", "vgg16": "VGG-like on CIFAR-10", "resnet18": "ResNet-18 on CIFAR-10"}
    criteria = {"l1": "L1", "bn_scale": "BatchNorm scale", "taylor": "Taylor", "group_norm": "group norm"}
    others = {"random": "random channels", "scratch": "SBP's widths from scratch", "uniform": "uniform from scratch"}
    for net, title in titles.items():
        for size in sorted({r["size"] for r in pick(results["records"], net=net, method="sbp")}):
            here = in_common(pick(results["records"], net=net, size=size))
            errors = {name: spread(mine, "error_pct") for name in METHODS if (mine := pick(here, method=name))}
            tried = [name for name in criteria if name in errors]
            if not tried:
                continue
            best = min(tried, key=lambda name: mean(pick(here, method=name), "error_pct"))
            shown = {"sbp": "SBP", best: f"best of {len(tried)} criteria ({criteria[best]})"}
            said = "; ".join(f"{what} {errors[name]}" for name, what in (shown | others).items() if name in errors)
            seeds = len(pick(here, method="sbp"))
            counted = "1 seed" if seeds == 1 else f"{seeds} seeds"
            yield f"{title} at {size:g}x fewer multiply-accumulates, same budget, {counted}: error, %", "", said


def random_labels(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    titles = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
    for data in dict.fromkeys(record["data"] for record in results["records"]):
        found = {r["method"]: r for r in pick(results["records"], data=data, labels="random")}
        if {"plain", "sbp", "sbp_removed"} <= found.keys():
            yield (
                f"{titles.get(data, data)} with random labels: channels that SBP keeps; what a plain network memorises",
                "nothing is kept",
                f"{found['sbp']['kept_pct'][-1]:.1f} %, and {found['sbp_removed']['kept_pct'][-1]:.1f} % if it removes "
                f"while it trains; {found['plain']['accuracy_pct'][-1]:.1f} % of the labels",
            )


def doubt(results: dict[str, Any], title: str, paper: Records) -> Iterator[tuple[str, str, str]]:
    theirs = {row["method"]: f"{row['nll']:.3f}" for row in paper}
    for without, sampled, what in (("single", "sbn", "network"), ("ensemble", "ensemble + sbn", "ensemble of 6")):
        before, after = (pick(results["records"], method=method) for method in (without, sampled))
        if before and after:
            raw, calibrated = (
                f"{spread(before, key, digits=4)} -> {spread(after, key, digits=4)}"
                for key in ("nll", "nll_calibrated")
            )
            said = f"{theirs.get(without, 'no row')} -> {theirs[sampled]}"
            yield f"{title}, {what}: NLL without and with SBN; both calibrated", said, f"{raw}; {calibrated}"


def lenet_doubt(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield from doubt(results, "LeNet-5 on MNIST", expected("batchnorm_lenet_mnist"))


def cifar5_doubt(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for net, title in (("vgg11", "VGG-11"), ("resnet18", "ResNet-18")):
        if net in results:
            yield from doubt(results[net], f"{title} on CIFAR-5", pick(expected("batchnorm_cifar5"), network=net))


def both(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for net, title in (("lenet5", "LeNet-5 on MNIST"), ("vgg11", "VGG-11 on CIFAR-5")):
        if net in results:
            every, last = (
                pick(results[net]["records"], method=method) for method in ("pruned + sbn", "pruned + sbn, last two")
            )
            yield (
                f"{title}: 16 samples of the pruned network, in passes of the dense one",
                "",
                f"{spread(every, 'time_of_dense_passes')}; {spread(last, 'time_of_dense_passes')} with the last two "
                "BatchNorms sampled",
            )


STUDIES: dict[str, Callable[[dict[str, Any]], Iterator[tuple[str, str, str]]]] = {
    "pruning_lenet_mnist": pruned_lenets,
    "pruning_vgg_cifar10": pruned_vgg,
    "pruning_against_the_field": against_the_field,
    "pruning_random_labels": random_labels,
    "batchnorm_lenet_mnist": lenet_doubt,
    "batchnorm_cifar5": cifar5_doubt,
    "small_and_doubtful": both,
}


def expected(study: str) -> Records:
    return tomllib.loads((HERE / study / "expected.toml").read_text(encoding="utf-8"))["row"]


if __name__ == "__main__":
    main()
