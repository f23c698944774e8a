"""What a network says about images in memory, with and without samples, and how long that takes."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..metrics import entropy
from ..prediction import predict
from ._data import Images
from ._evaluate import predict_logits

ROWS = 500  # images per pass: S samples of them fit into any memory that trained the network
_ROUNDS = 3  # networks are timed in turns on one pass of rows; the median counts


@dataclass(frozen=True)
class Answers:
    """What a network says about N images.

    Attributes:
        probs: probabilities, (N, K); the mean over samples.
        entropy: of ``probs``, (N,), nats.
        information: mutual information, (N,), nats; None without samples.
    """

    probs: Tensor
    entropy: Tensor
    information: Tensor | None = None


def parts(images: Images) -> Iterator[Tensor]:
    """The images as batches that the networks read."""
    return (images.float_batch(slice(begin, begin + ROWS)) for begin in range(0, len(images), ROWS))


def ask(net: nn.Module, images: Images) -> Answers:
    """One pass of the mean network."""
    probs = predict_logits(net, images, batch_size=ROWS).softmax(1)
    return Answers(probs, entropy(probs))


def ask_samples(
    net: nn.Module, images: Images, num_samples: int, seed: int, progress: Callable[[str], object]
) -> Answers:
    """S samples, streamed; the same seed draws the same S networks for every set of images."""

    def told() -> Iterator[Tensor]:
        for number, x in enumerate(parts(images)):
            progress(f"{images.name}: {number * ROWS:,} of {len(images):,} images")
            yield x

    found = predict(net, told(), num_samples, generator=torch.Generator().manual_seed(seed))
    return Answers(found.mean, found.entropy, found.mutual_information)


def seconds_per_1000(asks: Mapping[str, Callable[[Images], Answers]], images: Images) -> dict[str, float]:
    """Seconds for 1,000 images: a pass of rows, in turns, median."""
    rows = dataclasses.replace(images, pixels=images.pixels[:ROWS], labels=images.labels[:ROWS])
    seconds: dict[str, list[float]] = {name: [] for name in asks}
    for _ in range(_ROUNDS):
        for name, asked in asks.items():
            began = time.perf_counter()
            asked(rows).probs.sum().item()  # waits for the device
            seconds[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(values) / len(rows) for name, values in seconds.items()}


def paired_change(before: Answers, after: Answers, labels: Tensor) -> dict[str, float]:
    """Mean difference of the negative log-likelihood and its standard error, image by image."""
    tiny = torch.finfo(before.probs.dtype).tiny
    logs = [answers.probs.clamp_min(tiny).double().log().gather(1, labels[:, None]) for answers in (before, after)]
    difference = (logs[0] - logs[1]).flatten()
    return {"nll": difference.mean().item(), "nll_se": (difference.std() / len(difference) ** 0.5).item()}
