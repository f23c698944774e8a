"""``dither train``: the original network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ._common import CheckpointSteps, Deterministic, Threads, clear_errors, make_console

if TYPE_CHECKING:
    from torch import nn

    from dither.training import Recipe


def train(
    out: Annotated[Path, typer.Option(help="Run folder.")],
    model: Annotated[
        str,
        typer.Option(
            help="lenet5, lenet_500_300, digits; with BatchNorm lenet5_bn, lenet5_bn_dropout, digits_bn; "
            "or package.module:callable for your own."
        ),
    ] = "digits",
    data: Annotated[
        Optional[str],  # noqa: UP045 (typer on 3.10)
        typer.Option(help="'digits', a folder that Hugging Face datasets reads, or a hub name such as ylecun/mnist."),
    ] = None,
    recipe: Annotated[Optional[Path], typer.Option(help="JSON file with settings; options win over it.")] = None,  # noqa: UP045
    epochs: Annotated[Optional[int], typer.Option(min=0)] = None,  # noqa: UP045
    batch_size: Annotated[Optional[int], typer.Option(min=1)] = None,  # noqa: UP045
    lr: Annotated[Optional[float], typer.Option(help="Learning rate of AdamW.")] = None,  # noqa: UP045
    shift: Annotated[Optional[int], typer.Option(min=0, help="Augmentation: random shift in pixels.")] = None,  # noqa: UP045
    validation: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Hold out this many of the last training images and measure epochs on them."),
    ] = None,
    classes: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Train on these classes only, as in 0-4 or 0,2,5; the rest is for dither doubt --ood rest."),
    ] = None,
    seed: Annotated[Optional[int], typer.Option(help="Of weights, data order and noise.")] = None,  # noqa: UP045
    mixed_precision: Annotated[Optional[str], typer.Option(help="no, bf16 or fp16.")] = None,  # noqa: UP045
    threads: Threads = None,
    checkpoint_steps: CheckpointSteps = None,
    deterministic: Deterministic = False,
) -> None:
    """Train a network and leave it in a run folder. The same command goes on after an interruption."""
    with clear_errors():
        import dataclasses

        from dither.training import Recipe, Run, default_recipe, evaluate

        settings = Recipe.read(recipe) if recipe else default_recipe(model)
        fit = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "shift": shift}
        base = dataclasses.replace(settings.base, **{k: v for k, v in fit.items() if v is not None})
        given = {
            "data": data,
            "validation": validation,
            "seed": seed,
            "mixed_precision": mixed_precision,
            "classes": None if classes is None else _numbers(classes),
        }
        settings = dataclasses.replace(settings, base=base, **{k: v for k, v in given.items() if v is not None})
        console = make_console()
        run = Run(
            out,
            settings,
            console=console,
            threads=threads,
            checkpoint_steps=checkpoint_steps,
            deterministic=deterministic,
        )
        net = run.base()
        split = "validation" if settings.validation else "test"
        score = evaluate(net, run.images(split).to(run.accelerator.device), accelerator=run.accelerator)
        console.print(
            f"{settings.model} on {settings.data}, {score.count:,} {split} images: error {score.error_pct:.2f} %, "
            f"negative log-likelihood {score.nll:.4f}.\nNext: {_next(net, settings, out)}",
            highlight=False,
            soft_wrap=True,
        )


def _next(net: nn.Module, recipe: Recipe, out: Path) -> str:
    from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

    if not any(isinstance(module, _BatchNorm) for module in net.modules()):
        return f"dither prune {out}"
    return f"dither prune {out}, or dither doubt {out}{'' if recipe.classes is None else ' --ood rest'}"


def _numbers(text: str) -> tuple[int, ...]:
    """``0-4`` or ``0,2,5`` or both with commas.

    Raises:
        ValueError: If it is neither.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--classes {text!r} is no list of classes, expected numbers as in 0-4 or 0,2,5")
        found += range(int(first), int(last if dash else first) + 1)
    return tuple(found)
