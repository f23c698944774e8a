"""What was done, step by step, what it came to, and which command does what has not been done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from ..training import Fit
from ._folder import Folder

_WEIGHTS = {
    "macs": "each channel by its multiply-accumulates",
    "latency": "each channel by the time that it takes",
    "sbpa": "with the paper's factors for speed",
}


@dataclass(frozen=True)
class Step:
    """A step of a run.

    Attributes:
        title: what it is.
        state: "done", "under way" or "not done".
        text: settings and findings, sentences.
        command: what does it, or goes on; None where it is done.
    """

    title: str
    state: str
    text: Sequence[str]
    command: str | None = None


@dataclass(frozen=True)
class Tile:
    """A number to be seen first: what, the number, and what it was before."""

    what: str
    number: str
    before: str


def steps(folder: Folder) -> list[Step]:
    """Training, noise, removal, fine-tuning, doubt: those that the recipe asks for or that were done."""
    recipe = folder.recipe
    found = [_stretch(folder, "base", "Train the original network", recipe.base, _trained(folder))]
    found.append(_stretch(folder, "prune", "Train under noise", recipe.prune, [_noise(folder)]))
    found.append(_removal(folder))
    if recipe.finetune.epochs:
        found.append(_stretch(folder, "finetune", "Fine-tune what is left", recipe.finetune, []))
    return [*found, *_doubts(folder)]


def tiles(folder: Folder) -> list[Tile]:
    """Error, size and time, before and after; none before there is a report."""
    if folder.report is None:
        return []
    a, b = folder.report.original, folder.report.small
    return [
        Tile("error on the test images", f"{b['error_pct']:.2f} %", f"was {a['error_pct']:.2f} %"),
        Tile("fewer multiply-accumulates", f"{b['macs_ratio']:.1f}x", f"{a['macs']:,} to {b['macs']:,}"),
        Tile("fewer parameters", f"{b['params_ratio']:.1f}x", f"{a['params']:,} to {b['params']:,}"),
        *(
            Tile(
                f"faster, batch {size}",
                f"{b[f'latency_ratio_b{size}']:.1f}x",
                f"{a[f'latency_ms_b{size}']:.3g} to {b[f'latency_ms_b{size}']:.3g} ms",
            )
            for size in (1, 64)
        ),
    ]


def left(folder: Folder) -> list[tuple[str, int, int]]:
    """(name, kept, total) of every width that could change."""
    if folder.plan is None:
        return []
    choices = (*folder.plan.spaces, *folder.plan.columns)
    return [(choice.name, len(choice.kept), choice.total) for choice in choices if choice.reason is None]


def _stretch(folder: Folder, name: str, title: str, fit: Fit, text: list[str]) -> Step:
    done = max((row["epoch"] for row in folder.history if row["stretch"] == name), default=0)
    epochs = _count(fit.epochs, "epoch")
    settings = [f"{epochs}, batches of {fit.batch_size}, rate {fit.lr:g}"]
    settings += [f"images shifted by up to {_count(fit.shift, 'pixel')}"] if fit.shift else []
    settings += ["half of the images mirrored"] if fit.flip else []
    settings += [f"weight decay {fit.weight_decay:g}"] if fit.weight_decay else []
    text = [f"{', '.join(settings)}.", *text]
    complete = done >= fit.epochs and (name != "base" or "base" in folder.files)
    if complete:
        return Step(title, "done", text)
    verb = f"dither train --out {folder.command}" if name == "base" else f"dither prune {folder.command}"
    if name == "base":
        verb += f" --recipe {folder.command}/recipe.json"
    if not done:
        return Step(title, "not done", text, verb)
    return Step(title, "under way", [*text, f"{done} of {epochs} done."], verb)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _trained(folder: Folder) -> list[str]:
    recipe = folder.recipe
    text = [f"Seed {recipe.seed}."]
    if recipe.classes is not None:
        text.append(f"Only the classes {', '.join(map(str, recipe.classes))} of the data.")
    if recipe.validation:
        text.append(f"The last {recipe.validation:,} training images are held out.")
    return text


def _noise(folder: Folder) -> str:
    noise = folder.recipe.noise
    if noise.target is not None:
        ((name, share),) = noise.target.items()
        return f"Noise on every channel, steered to {100 * share:g} % of the {name}."
    each = (
        "" if noise.kl_weights is None else f", {_WEIGHTS.get(str(noise.kl_weights), 'with a factor for every gate')}"
    )
    return f"Noise on every channel; {noise.kl_weight:g} times its KL divergence is added to the loss{each}."


def _removal(folder: Folder) -> Step:
    title, command = "Remove what drowned in its noise", f"dither prune {folder.command}"
    if folder.report is None or folder.plan is None:
        return Step(title, "not done", [], command)
    if folder.stale:
        text = ["The recipe was changed since: what this page shows belongs to the settings before."]
        return Step(title, "under way", text, command)
    removal, records = folder.report.values["removal"], folder.report.values["records"]
    text = [
        f"Outputs changed by {removal['max_output_difference']:.1e} of the largest one, "
        f"and the error by {removal['error_change_pct']:.2f} points."
    ]
    if len(records) > 2:
        before = records[1]
        text.append(f"Before fine-tuning: error {before['error_pct']:.2f} %, likelihood loss {before['nll']:.4f}.")
    return Step(title, "done", text)


def _doubts(folder: Folder) -> list[Step]:
    found: list[Step] = []
    rest = "" if folder.recipe.classes is None else " --ood rest"
    for name, words, option in (("base", "original", ""), ("small", "pruned", " --small")):
        title, command = f"Let the {words} network doubt", f"dither doubt {folder.command}{option}{rest}"
        if name in folder.doubts:
            text = folder.doubts[name].sentences()
            if name in folder.curves:
                found.append(Step(title, "done", text))
            else:
                text = [*text, "It was measured with an older dither, which kept no curves; the command does it again."]
                found.append(Step(title, "under way", text, command))
        elif name in folder.files and _has_batchnorm(folder):
            found.append(Step(title, "not done", ["Sample the statistics of its BatchNorm layers."], command))
    return found


def _has_batchnorm(folder: Folder) -> bool:
    try:
        net: nn.Module = folder.fresh()
    except ValueError:
        return False  # a network of the user's own that cannot be imported from here
    return any(isinstance(module, _BatchNorm) for module in net.modules())


def loading(folder: Folder) -> str | None:
    """Python that loads the smallest network that is there; None where there is none."""
    name = next((name for name in ("small", "base") if name in folder.files), None)
    if name is None:
        return None
    classes = folder.recipe.classes
    arguments = json.dumps(folder.recipe.model) + ("" if classes is None else f", classes={len(classes)}")
    file = json.dumps(f"{folder.command.strip(chr(39))}/{name}.safetensors")
    lines = ("import dither", "from dither.training import make_model", "")
    return "\n".join((*lines, f"net = dither.load(make_model({arguments}), {file}).eval()"))
