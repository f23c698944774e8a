"""SBP and SBN together: is a pruned network that doubts cheaper than one pass of the dense network that does not?

Paper:   neither paper has it.
Ours:    dense, one pass: 0.54 ± 0.01 %, NLL 0.0174 ± 0.0006, AUROC 0.957 ± 0.004, 1.00 ± 0.00 passes
         dense + SBN: 0.55 ± 0.02 %, NLL 0.0169 ± 0.0009, AUROC 0.957 ± 0.008, 16.44 ± 0.23 passes
         pruned, one pass: 0.73 ± 0.08 %, NLL 0.0243 ± 0.0019, AUROC 0.942 ± 0.011, 0.32 ± 0.03 passes
         pruned + SBN: 0.71 ± 0.08 %, NLL 0.0243 ± 0.0022, AUROC 0.945 ± 0.011, 2.95 ± 0.20 passes
         pruned + SBN, last two layers: 0.72 ± 0.05 %, NLL 0.0243 ± 0.0015, AUROC 0.944 ± 0.016, 1.06 ± 0.01 passes
         error, NLL, notMNIST AUROC, time for 64 images in passes of the dense network: means over seeds
Run:     python -m studies.small_and_doubtful --seed 0 --threads 1     # each seed; then --collect
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from rich.console import Console

import dither
from dither.training import Images, Run, load_images, make_model
from studies.batchnorm_lenet_mnist.study import OUTSIDE, quarter_turn
from studies.doubt.evaluate import ask, score
from studies.doubt.run import files, questions_of, write_record
from studies.pruning_lenet_mnist.study import enlarged_digits, mnist
from studies.small_and_doubtful.collect import collect
from studies.small_and_doubtful.settings import FULL, METHODS, SMOKE, Plan, under


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.small_and_doubtful", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", nargs="+", type=int, help="default: all seeds of the study")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; results are equal for equal numbers only")
    parser.add_argument(
        "--data", help="folder or hub name of MNIST; default: the local copy if there is one, else the hub"
    )
    parser.add_argument("--ood", default=str(OUTSIDE), help="folder or hub name of notMNIST (split test, 28x28 grey)")
    parser.add_argument(
        "--dense", type=Path, help="folder with the dense networks (default: runs/batchnorm_lenet_mnist)"
    )
    parser.add_argument("--out", type=Path, help="folder of the runs (default: runs/small_and_doubtful)")
    parser.add_argument("--smoke", action="store_true", help="a minute on enlarged digits: does every step work?")
    parser.add_argument("--collect", action="store_true", help="measure times of finished runs, write all tables")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    plan, parent = (SMOKE, Path("runs/smoke")) if given.smoke else (FULL, Path("runs"))
    out, dense = given.out or parent / "small_and_doubtful", given.dense or parent / "batchnorm_lenet_mnist"
    images = enlarged_digits() if given.smoke else mnist(given.data)
    if given.collect:
        collect(out, Path(__file__).parent if not given.smoke else out, plan, images)
        return
    outside = quarter_turn(images["test"]) if given.smoke else load_images(given.ood, "test")
    for seed in given.seed or plan.seeds:
        run_one(seed, out, dense, images, outside, plan)


def run_one(seed: int, out: Path, dense: Path, images: dict[str, Images], outside: Images, plan: Plan) -> None:
    """Prunes one network and asks every method; what is complete is not done again."""
    console = Console()
    if all(files(out, name, seed)[0].exists() for name in METHODS):
        return
    folder, trained = out / str(seed), dense / f"plain-{seed}" / "base.safetensors"
    if trained.exists() and not (folder / "base.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained, folder / "base.safetensors")  # else it is trained here, by the same recipe
    recipe = plan.recipe(seed)
    run = Run(folder, recipe, console=console, images=images)
    report = run.prune()
    questions = questions_of(images, outside, plan.trained)
    small = dither.load(make_model(recipe.model), folder / "small.safetensors").eval()
    nets = {False: run.base(), True: small}
    for name, method in METHODS.items():
        path, kept = files(out, name, seed)
        if path.exists():
            continue
        costs = report.small if method.pruned else report.original
        net = under(nets[method.pruned], method, run.images("train"), plan, seed)
        answers = ask(
            net, questions, num_samples=plan.num_samples if method.sampled else 0, groups=plan.groups, seed=seed
        )
        answers.write(kept)
        record = {
            **{key: costs[key] for key in ("net", "data")},
            "ood": Path(outside.name.removesuffix(" (test)")).name,
            "method": name,
            "seed": seed,
            **score(answers, questions),
            **{key: costs[key] for key in ("widths", "params", "macs", "params_ratio", "macs_ratio")},
        }
        write_record(path, record)
        numbers = f"{record['error_pct']:.2f} %, NLL {record['nll']:.4f}, AUROC {record['ood_auroc']:.3f}"
        console.print(f"seed {seed}, {name}: {numbers}", highlight=False)
