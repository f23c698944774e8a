"""The batch size of the noise: is that of the training the best one for SBN, and does it matter how one gets there?

Paper:   trains at batch 16 "small on purpose", fits at that size, and shows no other
Ours:    VGG-11, CIFAR-5: NLL 0.5449 ± 0.0097 without sampling, 0.4796 ± 0.0174 with SBN at 16
         VGG-11, CIFAR-5: NLL 0.4220 ± 0.0127 tuned (to 4, 4, 4)
         LeNet-5, MNIST: NLL 0.0171 ± 0.0008 without sampling, 0.0168 ± 0.0005 with SBN at 16
         LeNet-5, MNIST: NLL 0.0172 ± 0.0005 tuned (to 1024, 1024, 1024)
         means over networks (results.json)
Run:     python -m studies.batchnorm_batch_size --network vgg11 --seed 0 --threads 1     # each network; then --collect
Differs: nothing is trained: the networks are those of batchnorm_cifar5 and batchnorm_lenet_mnist. 20 samples; 5,000
         test images and 5,000 others.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dither import batchnorm
from dither.training import Images, load_images
from studies.batchnorm_batch_size.collect import collect
from studies.batchnorm_batch_size.settings import FULL, LINES, SMOKE, Line, Plan
from studies.batchnorm_cifar5.study import other_classes
from studies.batchnorm_lenet_mnist.study import OUTSIDE
from studies.borrowed import borrowed
from studies.cifar10 import cifar10, coloured_digits
from studies.command import folders, study_parser
from studies.doubt.evaluate import Questions, ask, precision, score
from studies.doubt.network import Network
from studies.doubt.run import questions_of, write_record
from studies.doubt.settings import BATCH_SIZE
from studies.pruning_lenet_mnist.study import mnist


def main(arguments: list[str] | None = None) -> None:
    parser = study_parser(
        "batchnorm_batch_size",
        __doc__,
        smoke="a minute on coloured digits",
        collect="write results.json, tables and figures",
        data=("cifar10", "mnist"),
    )
    parser.add_argument("--network", nargs="+", choices=sorted(FULL.networks), help="default: all")
    parser.add_argument("--line", nargs="+", choices=sorted(LINES), default=list(LINES), help="default: all")
    parser.add_argument("--ood", default=str(OUTSIDE), help="folder or hub name of notMNIST (split test, 28x28 grey)")
    parser.add_argument("--trained", type=Path, default=Path("runs"), help="folder with the runs of the other studies")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    plan = SMOKE if given.smoke else FULL
    out, target = folders("batchnorm_batch_size", given)
    if given.collect:
        collect(out, target, plan)
        return
    for name in given.network or plan.networks:
        if given.smoke or name == "vgg11":
            images = coloured_digits() if given.smoke else cifar10(given.cifar10)
            outside = other_classes(images["test"])
        else:
            images, outside = mnist(given.mnist), load_images(given.ood, "test")
        for seed in given.seed or plan.networks[name].seeds:
            run_one(name, seed, out, given.trained, images, outside, plan, given.line)


def run_one(
    name: str,
    seed: int,
    out: Path,
    trained: Path,
    images: dict[str, Images],
    outside: Images,
    plan: Plan,
    lines: list[str],
) -> None:
    """Asks one network at every batch size; what is complete is not done again."""
    asked, console = plan.networks[name], Console()
    settings = asked.settings
    folder = trained / asked.folder / f"plain-{seed}"
    run = borrowed(out / f"{name}-{seed}", settings.recipe("plain", seed), folder, images, console)
    network = Network(run.base().cpu(), settings.nets["plain"], run.images("train"), settings, seed)
    questions = some(questions_of(images, outside, settings), plan.images)

    def answer(line: str, size: float | None, net: torch.nn.Module, **more: Any) -> None:
        answers = ask(
            net,
            questions,
            num_samples=0 if size is None else plan.num_samples,
            groups=plan.groups,
            seed=seed,
            mixed_precision=settings.mixed_precision,
        )
        record = {"network": name, "seed": seed, "line": line, "batch_size": size, **more, **score(answers, questions)}
        write_record(file(line, size), record)
        at = "" if size is None else f" at {size:g}"
        numbers = f"NLL {record['nll']:.4f}, AUROC {record['ood_auroc']:.3f}"
        console.print(f"{name}, seed {seed}, {line}{at}: {numbers}", highlight=False)

    def file(line: str, size: float | None) -> Path:
        return out / "records" / f"{name}-{seed}-{line.replace(', ', '-').replace(' ', '_')}-{size or 0:g}.json"

    if not file("single", None).exists():
        answer("single", None, network.base)
    for line in lines:
        for size in plan.sizes:
            if not file(line, size).exists():
                answer(line, size, at_size(network, LINES[line], size))
    if not any(file("sbn, tuned", None).parent.glob(f"{name}-{seed}-sbn-tuned-*.json")):
        net = at_size(network, LINES["sbn, rescaled"], BATCH_SIZE)
        with precision(settings.mixed_precision):
            report = network.tune(net, questions.held_out)
        answer("sbn, tuned", report.best, net, tried=list(report.batch_sizes), held_out_nll=list(report.nll))


def at_size(network: Network, line: Line, size: int) -> torch.nn.Module:
    """The network with the noise of batches of this size."""
    if line.refit and size != BATCH_SIZE:
        net = batchnorm.convert(network.base)
        batchnorm.fit(net, network.epoch(size), records=network.settings.records)
        return batchnorm.set_law(net, line.law())
    net = batchnorm.set_law(network.fitted(), line.law())
    return batchnorm.rescale(net, batch_size=size)


def some(questions: Questions, count: int) -> Questions:
    """At most so many images of each kind, chosen at random: MNIST's first test images are the easier ones."""

    def chosen(images: Images) -> Images:
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
        return dataclasses.replace(images, pixels=images.pixels[rows], labels=images.labels[rows])

    return Questions(*(chosen(images) for images in (questions.held_out, questions.inside, questions.outside)))
