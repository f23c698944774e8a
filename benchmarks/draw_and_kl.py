"""What do a draw and the KL cost, with their gradients, for very many channels?

One LogNormalNoise layer, one forward and backward pass of ``noise(ones).sum() + kl``. Parameters as they are at the
start (loc 0, log_scale -5), and spread over everything that training visits. Target: at most 100 ms for 100,000.

Run: python -m benchmarks.draw_and_kl
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from benchmarks.report import finish, milliseconds, options, waiting
from dither import pruning
from dither._cost import Spread, time_in_turns


def draw_and_kl(noise: pruning.LogNormalNoise, x: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        noise.zero_grad()
        (noise(x).sum() + pruning.kl(noise)).backward()

    return run


def main() -> None:
    chosen = options(__doc__, repeats=50)
    channels = 100 if chosen.smoke else 100_000
    laws: dict[str, pruning.LogNormalNoise] = {}
    for name in ("initial", "spread"):
        noise = pruning.LogNormalNoise(channels).to(chosen.device)
        if name == "spread":
            with torch.no_grad():
                noise.loc.uniform_(-20, 2)
                noise.log_scale.uniform_(-6, 3)
        laws[name] = noise
    x = torch.ones(1, channels, device=chosen.device)
    runs = [waiting(chosen, draw_and_kl(noise, x)) for noise in laws.values()]
    spreads = [Spread.of(seconds) for seconds in time_in_turns(runs, chosen.repeats, chosen.warmup)]
    records = [{"parameters": n, "channels": channels, "s": asdict(s)} for n, s in zip(laws, spreads, strict=True)]
    rows = [[name, f"{channels:,}", milliseconds(s)] for name, s in zip(laws, spreads, strict=True)]
    finish("draw_and_kl", chosen, records, [["parameters", "channels", "draw + KL + gradients, ms"], *rows])


if __name__ == "__main__":
    main()
