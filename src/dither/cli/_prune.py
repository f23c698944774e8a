"""``dither prune``: attach, train under noise, plan, shrink, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ._common import CheckpointSteps, Deterministic, Threads, clear_errors, make_console, names, print_report


def prune(
    folder: Annotated[Path, typer.Argument(help="Run folder of dither train.")],
    epochs: Annotated[Optional[int], typer.Option(min=0, help="Epochs under noise.")] = None,  # noqa: UP045 (typer on 3.10)
    finetune_epochs: Annotated[Optional[int], typer.Option(min=0, help="Epochs of the shrunk network.")] = None,  # noqa: UP045
    batch_size: Annotated[Optional[int], typer.Option(min=1)] = None,  # noqa: UP045
    lr: Annotated[Optional[float], typer.Option(help="Learning rate of the weights.")] = None,  # noqa: UP045
    gate_lr: Annotated[Optional[float], typer.Option(help="Learning rate of the gates.")] = None,  # noqa: UP045
    kl_weight: Annotated[Optional[float], typer.Option(help="Factor on the KL; more removes more.")] = None,  # noqa: UP045
    kl_weights: Annotated[Optional[str], typer.Option(help="Factor per gate: macs, latency, sbpa or none.")] = None,  # noqa: UP045
    features: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Noise on single input columns of linear layers: all, none, or names with commas."),
    ] = None,
    skip: Annotated[Optional[str], typer.Option(help="Layers without noise, names with commas.")] = None,  # noqa: UP045
    threshold: Annotated[Optional[float], typer.Option(help="Signal-to-noise ratio above which a unit stays.")] = None,  # noqa: UP045
    shrink_every: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Remove channels every so many epochs of the training under noise; 0: at the end."),
    ] = None,
    multiple_of: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Round kept widths up to a multiple, or auto: as far up as costs no time here."),
    ] = None,
    target_macs: Annotated[Optional[float], typer.Option(help="Train to this fraction of the MACs.")] = None,  # noqa: UP045
    target_params: Annotated[Optional[float], typer.Option(help="Train to this fraction of the parameters.")] = None,  # noqa: UP045
    target_latency: Annotated[Optional[float], typer.Option(help="Train to this fraction of the time.")] = None,  # noqa: UP045
    threads: Threads = None,
    checkpoint_steps: CheckpointSteps = None,
    deterministic: Deterministic = False,
) -> None:
    """Prune the network of a run folder and write the report. The same command goes on after an interruption."""
    with clear_errors():
        import dataclasses

        from dither.training import Recipe, Run

        path = folder / "recipe.json"
        if not path.exists():
            raise FileNotFoundError(f"{folder} is no run folder: it has no recipe.json. Make one with dither train")
        old = Recipe.read(path)
        fit = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
        noise: dict[str, Any] = {
            "gate_lr": gate_lr,
            "kl_weight": kl_weight,
            "threshold": threshold,
            "shrink_every": shrink_every,
            "multiple_of": multiple(multiple_of),
            "target": target(macs=target_macs, params=target_params, latency=target_latency),
            "skip": names(skip),
            "features": {"all": True, "none": False}.get(features or "", names(features)),
        }
        new_noise = dataclasses.replace(old.noise, **{k: v for k, v in noise.items() if v is not None})
        if kl_weights is not None:
            new_noise = dataclasses.replace(new_noise, kl_weights=None if kl_weights == "none" else kl_weights)
        new_prune = dataclasses.replace(old.prune, **{k: v for k, v in fit.items() if v is not None})
        finetune = old.finetune
        if finetune_epochs is not None:
            finetune = dataclasses.replace(finetune, epochs=finetune_epochs)
        recipe = dataclasses.replace(old, prune=new_prune, noise=new_noise, finetune=finetune)
        console = make_console()
        run = Run(
            folder,
            recipe,
            console=console,
            threads=threads,
            checkpoint_steps=checkpoint_steps,
            deterministic=deterministic,
        )
        print_report(console, run.prune(), folder)


def multiple(text: str | None) -> int | str | None:
    """A number, "auto" or nothing."""
    if text is None or text == "auto":
        return text
    if not text.isdigit():
        raise ValueError(f"--multiple-of is {text!r}, expected a number >= 1 or auto")
    return int(text)


def target(**given: float | None) -> dict[str, float] | None:
    """The one target that was given, or none."""
    found = {name: value for name, value in given.items() if value is not None}
    if len(found) > 1:
        raise ValueError(f"give one of {', '.join(f'--target-{name}' for name in found)}")
    return found or None
