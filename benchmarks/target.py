"""Does training under a budget arrive at it?

The whole run of the command line, `dither prune --target-macs 0.3`, on the digits of scikit-learn, and on LeNet-5 if
``--data`` names a folder with MNIST: a base network, noise whose KL is steered, a plan within the budget, a shrunk
network. "By the gates alone" is the cost if every unit above the threshold stayed. Nothing is fine-tuned, and no
setting was chosen by an error. Runs are kept and found again in ``--folder``.

Run: python -m benchmarks.target --threads 1 --data path/to/mnist
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from benchmarks.report import finish, options
from dither.training import Fit, Recipe, Run, default_recipe

TARGETS = ({"macs": 0.3}, {"macs": 0.1}, {"params": 0.3})
ALONE = re.compile(r"By the threshold alone ([\d.]+), this plan ([\d.]+)")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="a folder with MNIST; without it LeNet-5 is left out")
    parser.add_argument("--folder", type=Path, default=Path("runs/target"), help="where the runs are kept")


def recipes(chosen: argparse.Namespace) -> dict[str, tuple[Recipe, tuple[dict[str, float], ...]]]:
    """Recipes with their targets, by the name of the row."""
    digits = default_recipe("digits")
    if chosen.smoke:
        digits = dataclasses.replace(digits, base=Fit(epochs=1), prune=Fit(epochs=2))
        return {"digits": (digits, TARGETS[:1])}
    found = {"digits": (digits, TARGETS)}
    if chosen.data:
        lenet = default_recipe("lenet5")
        lenet = dataclasses.replace(
            lenet,
            base=dataclasses.replace(lenet.base, epochs=6),
            prune=dataclasses.replace(lenet.prune, epochs=6),
            finetune=Fit(epochs=0),
        )
        found["LeNet-5, MNIST"] = (lenet, TARGETS[:1])
    return found


def measure(chosen: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for name, (recipe, targets) in recipes(chosen).items():
        for target in targets:
            for seed in range(chosen.seed, chosen.seed + (1 if chosen.smoke else chosen.repeats)):
                (quantity, share), *_ = target.items()
                noise = dataclasses.replace(recipe.noise, target=target, kl_weights=None)
                run = Run(
                    folder / f"{recipe.model}-{quantity}-{share}-{seed}",
                    dataclasses.replace(recipe, noise=noise, seed=seed),
                    threads=chosen.threads,
                    data=chosen.data if recipe.model == "lenet5" else None,
                )
                report = run.prune()
                said = ALONE.search(report.values["plan_note"])
                assert said, report.values["plan_note"]
                records.append(
                    {
                        "network": name,
                        "quantity": quantity,
                        "target": share,
                        "seed": seed,
                        "gates": float(said[1]),
                        "plan": report.small[quantity] / report.original[quantity],
                        "error_pct": [report.original["error_pct"], report.small["error_pct"]],
                        "epochs": [recipe.base.epochs, recipe.prune.epochs],
                    }
                )
                print(records[-1], file=sys.stderr, flush=True)
    return records


def main() -> None:
    chosen = options(__doc__, repeats=3, add=arguments)
    if chosen.smoke:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # two epochs are too short for any budget, as it says
            records = measure(chosen, Path(folder))
    else:
        records = measure(chosen, chosen.folder)
    table = [
        ["network", "epochs under noise", "target", "by the gates alone", "plan", "test error, %: original, shrunk"]
    ]
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in records:
        rows.setdefault((r["network"], r["epochs"][1], f"{r['quantity']} {r['target']}"), []).append(r)
    for (name, epochs, target), mine in rows.items():
        shares = [", ".join(f"{r[key]:.3f}" for r in mine) for key in ("gates", "plan")]
        errors = "; ".join("{:.2f}, {:.2f}".format(*r["error_pct"]) for r in mine)
        table.append([name, str(epochs), target, *shares, errors])
    chosen.data = "MNIST" if chosen.data else None
    del chosen.folder
    finish("target", chosen, records, table, "seeds, one after the other in each cell")


if __name__ == "__main__":
    main()
