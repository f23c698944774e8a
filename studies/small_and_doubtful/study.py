"""SBP and SBN together: is a pruned network that doubts cheaper than one pass of the dense network that does not?

Paper:   neither paper has it.
Ours:    LeNet-5 on MNIST:
           dense, one pass: 0.54 ± 0.01 %, NLL 0.0174 ± 0.0006, AUROC 0.957 ± 0.004, 1.00 ± 0.00 passes
           dense + SBN: 0.55 ± 0.02 %, NLL 0.0169 ± 0.0009, AUROC 0.957 ± 0.008, 16.44 ± 0.23 passes
           pruned, one pass: 0.73 ± 0.08 %, NLL 0.0243 ± 0.0019, AUROC 0.942 ± 0.011, 0.32 ± 0.03 passes
           pruned + SBN: 0.71 ± 0.08 %, NLL 0.0243 ± 0.0022, AUROC 0.945 ± 0.011, 2.95 ± 0.20 passes
           pruned + SBN, last two layers: 0.72 ± 0.05 %, NLL 0.0243 ± 0.0015, AUROC 0.944 ± 0.016, 1.06 ± 0.01 passes
         VGG-11 on CIFAR-5:
           dense, one pass: 13.12 ± 0.37 %, NLL 0.5449 ± 0.0097, AUROC 0.699 ± 0.003, 1.00 ± 0.00 passes
           dense + SBN: 12.83 ± 0.46 %, NLL 0.4728 ± 0.0188, AUROC 0.698 ± 0.003, 16.59 ± 0.29 passes
           pruned, one pass: 14.94 ± 0.56 %, NLL 0.4180 ± 0.0132, AUROC 0.678 ± 0.002, 0.63 ± 0.02 passes
           pruned + SBN: 14.64 ± 0.35 %, NLL 0.4040 ± 0.0068, AUROC 0.682 ± 0.003, 10.54 ± 0.14 passes
           pruned + SBN, last two layers: 14.87 ± 0.55 %, NLL 0.4148 ± 0.0101, AUROC 0.679 ± 0.002, 1.34 ± 0.04 passes
         error, NLL, AUROC of what is outside, time for 64 images in passes of the dense network: means over seeds
Run:     python -m studies.small_and_doubtful --network vgg11 --seed 0 --threads 1     # each; then --collect
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from dither.training import Images, load_images
from studies.batchnorm_cifar5.study import other_classes
from studies.batchnorm_lenet_mnist.study import OUTSIDE, quarter_turn
from studies.borrowed import borrowed
from studies.cifar10 import cifar10, coloured_digits
from studies.command import folders, study_parser
from studies.doubt.evaluate import ask, score
from studies.doubt.run import files, questions_of, write_record
from studies.pruning_lenet_mnist.study import enlarged_digits, mnist
from studies.small_and_doubtful.collect import collect
from studies.small_and_doubtful.settings import FULL, METHODS, SMOKE, Plan, under


def main(arguments: list[str] | None = None) -> None:
    parser = study_parser(
        "small_and_doubtful",
        __doc__,
        smoke="a minute on enlarged digits",
        collect="measure times of finished runs, write all tables",
        data=("mnist", "cifar10"),
    )
    parser.add_argument("--network", nargs="+", choices=sorted(FULL), default=list(FULL))
    parser.add_argument("--ood", default=str(OUTSIDE), help="folder or hub name of notMNIST (split test, 28x28 grey)")
    parser.add_argument("--trained", type=Path, default=Path("runs"), help="folder with the runs of the dense networks")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    plans = {name: (SMOKE if given.smoke else FULL)[name] for name in given.network}
    out, target = folders("small_and_doubtful", given)
    images = {name: load(name, given) for name in plans}
    if given.collect:
        train = {name: trained_on(images[name]["train"], plan) for name, plan in plans.items()}
        collect(out, target, plans, train)
        return
    for name, plan in plans.items():
        for seed in given.seed or plan.seeds:
            run_one(seed, out / name, given.trained / plan.dense, images[name], plan)


def load(name: str, given: argparse.Namespace) -> dict[str, Images]:
    """Splits "train", "test" and "outside"."""
    if name == "vgg11":
        images = coloured_digits() if given.smoke else cifar10(given.cifar10)
        return {**images, "outside": other_classes(images["test"])}
    images = enlarged_digits() if given.smoke else mnist(given.mnist)
    return {**images, "outside": quarter_turn(images["test"]) if given.smoke else load_images(given.ood, "test")}


def trained_on(train: Images, plan: Plan) -> Images:
    """The images that the networks have seen."""
    seen = train if plan.trained.classes is None else train.only(plan.trained.classes)
    return seen.split_last(plan.trained.validation)[0]


def run_one(seed: int, out: Path, dense: Path, images: dict[str, Images], plan: Plan) -> None:
    """Prunes one network and asks every method; what is complete is not done again."""
    console = Console()
    if all(files(out, name, seed)[0].exists() for name in METHODS):
        return
    run = borrowed(out / str(seed), plan.recipe(seed), dense / f"plain-{seed}", images, console)
    report = run.prune()
    questions = questions_of(images, images["outside"], plan.trained)
    nets = {False: run.base().cpu(), True: run.small().cpu()}
    for name, method in METHODS.items():
        path, kept = files(out, name, seed)
        if path.exists():
            continue
        costs = report.small if method.pruned else report.original
        net = under(nets[method.pruned], method, run.images("train"), plan, seed)
        answers = ask(
            net,
            questions,
            num_samples=plan.num_samples if method.sampled else 0,
            groups=plan.groups,
            seed=seed,
            mixed_precision=plan.trained.mixed_precision,
        )
        answers.write(kept)
        record = {
            **{key: costs[key] for key in ("net", "data")},
            "ood": Path(questions.outside.name.removesuffix(" (test)")).name,
            "method": name,
            "seed": seed,
            **score(answers, questions),
            **{key: costs[key] for key in ("widths", "params", "macs", "params_ratio", "macs_ratio")},
        }
        write_record(path, record)
        numbers = f"{record['error_pct']:.2f} %, NLL {record['nll']:.4f}, AUROC {record['ood_auroc']:.3f}"
        console.print(f"seed {seed}, {name}: {numbers}", highlight=False)
