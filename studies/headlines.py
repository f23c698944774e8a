"""The tables of the README, from the results that are committed: ``python -m studies.headlines``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.fill import fill, spread
from studies.paper import paper_rows
from studies.pruning_against_the_field.tables import in_common, mean, pick
from studies.pruning_vgg_cifar10.settings import PLANS

HERE = Path(__file__).parent
Row = list[str]


@dataclass(frozen=True)
class Question:
    """One table.

    Attributes:
        text: what a reader asks.
        shown: what the numbers are.
        heads: of the columns.
        studies: what answers it; each makes rows of its results.
    """

    text: str
    shown: str
    heads: Row
    studies: dict[str, Callable[[Any], Iterator[Row]]]

    def table(self) -> str:
        """Empty where nothing was measured."""
        found = {name: rows for name, make in self.studies.items() if (rows := list(rows_of(name, make)))}
        links = ", ".join(f"[{name}](studies/{name}/README.md)" for name in found)
        lines = [self.heads, ["---"] * len(self.heads), *(row for rows in found.values() for row in rows)]
        return "\n".join([f"**{self.text}** {self.shown} ({links}).", "", *map(line, lines)]) if found else ""


def main() -> None:
    fill(HERE.parent / "README.md", "headlines", table())


def table() -> str:
    """The tables of all studies that have results."""
    return "\n\n".join(text for question in QUESTIONS if (text := question.table()))


def rows_of(study: str, make: Callable[[Any], Iterator[Row]]) -> Iterable[Row]:
    path = HERE / study / "results.json"
    return make(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def pruned_lenets(results: dict[str, Any]) -> Iterator[Row]:
    for net, title in (("lenet5", "LeNet-5, MNIST"), ("lenet_500_300", "LeNet-500-300, MNIST")):
        before, after = (pick(results["records"], net=net, method=method) for method in ("original", "sbp"))
        theirs = paper_rows("pruning_lenet_mnist", net=net)
        yield paper_row(title, theirs["original"], theirs["sbp"])
        error = f"{spread(before, 'error_pct')} -> {spread(after, 'error_pct')}"
        yield ["", "here", error, "", f"{spread(after, 'macs_ratio')}x", f"{spread(after, 'latency_ratio_b64')}x"]


def pruned_vgg(results: dict[str, Any]) -> Iterator[Row]:
    theirs = paper_rows("pruning_vgg_cifar10")
    yield paper_row("VGG-like, CIFAR-10", theirs["base"], theirs["sbp"])
    for net, row in dict.fromkeys((record["net"], record["row"]) for record in results["records"]):
        mine, longer = (pick(results["records"], net=net, row=name) for name in (row, "longer"))
        if row != "longer":
            yield [
                "",
                f"here, {net} width, {PLANS[net].rows[row].title}",
                f"{spread(mine, 'base_error_pct')} -> {spread(mine, 'error_pct')}",
                spread(longer, "error_pct") if longer else "",
                f"{spread(mine, 'macs_ratio')}x",
                f"{spread(mine, 'latency_ratio_b64')}x",
            ]


def paper_row(title: str, base: dict[str, Any], sbp: dict[str, Any]) -> Row:
    error = f"{base['error_pct']:.3g} -> {sbp['error_pct']:.3g}"
    return [title, "paper", error, "", f"{sbp['macs_ratio']:.3g}x", f"{sbp['latency_ratio']:.3g}x"]


FIELD = {
    "sbp": "SBP",
    "l1": "L1",
    "bn_scale": "BatchNorm scale",
    "taylor": "Taylor",
    "group_norm": "group norm",
    "random": "random, SBP's widths",
    "scratch": "from scratch, SBP's widths",
    "uniform": "from scratch, uniform",
}


def against_the_field(results: dict[str, Any]) -> Iterator[Row]:
    titles = {"lenet5": "LeNet-5, MNIST", "vgg16": "VGG-like, CIFAR-10", "resnet18": "ResNet-18, CIFAR-10"}
    for net, title in titles.items():
        for size in sorted({record["size"] for record in pick(results["records"], net=net, method="sbp")}):
            here = in_common(pick(results["records"], net=net, size=size))
            found = {name: mine for name in FIELD if (mine := pick(here, method=name))}
            best = min(mean(mine, "error_pct") for mine in found.values())
            cells = {name: spread(mine, "error_pct") for name, mine in found.items()}
            cells |= {name: f"**{cells[name]}**" for name, mine in found.items() if mean(mine, "error_pct") == best}
            yield [f"{title}, {size:g}x", str(len(found["sbp"])), *(cells.get(name, "") for name in FIELD)]


def random_labels(results: dict[str, Any]) -> Iterator[Row]:
    titles = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
    for data in dict.fromkeys(record["data"] for record in results["records"]):
        cells = [
            [{"last": r[key][-1]} for r in pick(results["records"], data=data, labels="random", method=method)]
            for method, key in (("sbp", "kept_pct"), ("sbp_removed", "kept_pct"), ("plain", "accuracy_pct"))
        ]
        if all(cells):
            paper = paper_rows("pruning_random_labels", data=data)["sbp"]["kept_pct"]
            yield [titles[data], f"{paper:.0f} %", *(f"{spread(cell, 'last', digits=1)} %" for cell in cells)]


def doubt(results: dict[str, Any], title: str, paper: dict[str, dict[str, Any]]) -> Iterator[Row]:
    theirs = {method: f"{row['nll']:.3f}" for method, row in paper.items()}
    for without, sampled, what in (
        ("single", "sbn", "network"),
        ("dropout", "dropout + sbn", "network with dropout"),
        ("ensemble", "ensemble + sbn", "ensemble of 6"),
    ):
        before, after = (pick(results["records"], method=method) for method in (without, sampled))
        if before and after:
            ours = [
                f"{spread(before, key, digits=4)} -> {spread(after, key, digits=4)}"
                for key in ("nll", "nll_calibrated")
            ]
            told = [theirs.get(method, "no row") for method in (without, sampled)]
            yield [f"{title}, {what}", " -> ".join(told if sampled in theirs else told[:1]), *ours]


def lenet_doubt(results: dict[str, Any]) -> Iterator[Row]:
    yield from doubt(results, "LeNet-5, MNIST", paper_rows("batchnorm_lenet_mnist"))


def cifar5_doubt(results: dict[str, Any]) -> Iterator[Row]:
    for net, title in (("vgg11", "VGG-11"), ("resnet18", "ResNet-18")):
        if net in results:
            yield from doubt(results[net], f"{title}, CIFAR-5", paper_rows("batchnorm_cifar5", network=net))


def both(results: dict[str, Any]) -> Iterator[Row]:
    for net, title in (("lenet5", "LeNet-5, MNIST"), ("vgg11", "VGG-11, CIFAR-5")):
        if net in results:
            found = {name: pick(results[net]["records"], method=name) for name in ("dense", *SAMPLED)}
            times = [f"{spread(found[name], 'time_of_dense_passes')}x" for name in SAMPLED]
            nll = [spread(found[name], "nll", digits=4) for name in ("dense", SAMPLED[0])]
            yield [title, *times, " -> ".join(nll)]


def sampled_vgg(results: dict[str, Any]) -> Iterator[Row]:
    for record in results["records"]:
        if "doubt" in record:
            told = record["doubt"]
            times = [f"{told[name]['time_of_dense_passes']:.2f}x" for name in ("all", "last two")]
            nll = [f"{told[name]['nll']:.4f}" for name in ("whole", "all")]
            yield [f"VGG-like, {record['net']} width, CIFAR-10", *times, " -> ".join(nll)]


SAMPLED = ("pruned + sbn", "pruned + sbn, last two")
QUESTIONS = [
    Question(
        "How much smaller, and what does it cost?",
        "Test error before -> after, and what a batch of 64 gains on a CPU",
        ["network", "", "error, %", "not pruned, trained on as long", "fewer MACs", "faster"],
        {"pruning_lenet_mnist": pruned_lenets, "pruning_vgg_cifar10": pruned_vgg},
    ),
    Question(
        "Is it better than what you would take instead?",
        "Test error in %, same multiply-accumulates, same budget, the lowest in bold; LeNet-5 has no BatchNorm",
        ["network, fewer MACs", "seeds", *FIELD.values()],
        {"pruning_against_the_field": against_the_field},
    ),
    Question(
        "Does it memorise random labels?",
        "Channels that stay",
        ["", "paper", "SBP", "SBP that removes while it trains", "labels that a plain network learns by heart"],
        {"pruning_random_labels": random_labels},
    ),
    Question(
        "Does SBN know better what it does not know?",
        "Negative log-likelihood without -> with it",
        ["", "paper", "here", "here, both calibrated"],
        {"batchnorm_lenet_mnist": lenet_doubt, "batchnorm_cifar5": cifar5_doubt},
    ),
    Question(
        "What do 16 samples of a pruned network cost?",
        "In passes of the dense one, batch of 64",
        ["", "all BatchNorms sampled", "the last two", "NLL: dense, one pass -> pruned, sampled"],
        {"small_and_doubtful": both, "pruning_vgg_cifar10": sampled_vgg},
    ),
]


if __name__ == "__main__":
    main()
