"""A short run that kills its own process (kill -9) at a given point; test_resume.py starts it.

Usage: python -m tests.training.run_and_die FOLDER never | after:STRETCH:STEP | saving:STRETCH:STEP
"""

import os
import signal
import sys
from pathlib import Path

import torch

from dither.training import Fit, Noise, Progress, Recipe, Run, _checkpoints

RECIPE = Recipe(
    model="digits",
    data="digits",
    base=Fit(epochs=2, batch_size=64, lr=3e-3, shift=1),
    prune=Fit(epochs=3, batch_size=64, lr=3e-3, flip=True),
    noise=Noise(gate_lr=0.3, kl_weights="macs", kl_weight=0.05, kl_warmup=1.0, init_log_scale=-3.0, shrink_every=1),
    finetune=Fit(epochs=1, batch_size=64),
    gradient_accumulation_steps=2,
    seed=5,
)


def run(folder: Path) -> None:
    Run(folder, RECIPE, threads=1, checkpoint_steps=8).prune()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    folder, when = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    if when != "never":
        kind, stretch, at = when.split(":")
        current = {"name": ""}
        shown_stretch, shown_step, saved = Progress.stretch, Progress.step, _checkpoints._save_state

        def watch_stretch(self, name, *args):
            current["name"] = name
            return shown_stretch(self, name, *args)

        def watch_step(self, step, *args):
            current["step"] = step
            shown_step(self, step, *args)
            if kind == "after" and (current["name"], step) == (stretch, int(at)):
                die()

        def half_saved(accelerator, partial):
            saved(accelerator, partial)
            if kind == "saving" and (current["name"], current["step"]) == (stretch, int(at)):
                weights = partial / "model.safetensors"
                weights.write_bytes(weights.read_bytes()[:1000])
                die()

        Progress.stretch, Progress.step, _checkpoints._save_state = watch_stretch, watch_step, half_saved
    run(folder)


if __name__ == "__main__":
    main()
