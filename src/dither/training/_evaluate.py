"""Error and negative log-likelihood of a classifier on images in memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from ._data import Images


@dataclass(frozen=True)
class Score:
    """How well a network does on some images.

    Attributes:
        error_pct: wrong answers, in percent.
        nll: mean negative log-likelihood, in nats per image.
        count: number of images.
    """

    error_pct: float
    nll: float
    count: int


@torch.no_grad()
def predict_logits(net: nn.Module, images: Images, *, batch_size: int = 1000, channels_last: bool = False) -> Tensor:
    """Logits of the mean network (``eval()``), (N, K). The mode of the network is put back afterwards.

    Args:
        net: maps float images (B, C, H, W) in [0, 1] to logits (B, K).
        images: what to classify, on the device of the network.
        batch_size: images per forward pass; it changes memory and speed, not the result.
        channels_last: memory format of the batches.
    """
    training = [module for module in net.modules() if module.training]
    net.eval()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    try:
        parts: list[Tensor] = []
        for begin in range(0, len(images), batch_size):
            x = images.float_batch(slice(begin, begin + batch_size)).contiguous(memory_format=memory_format)
            parts.append(net(x))
        return torch.cat(parts)
    finally:
        for module in training:
            module.training = True


def evaluate(
    net: nn.Module,
    images: Images,
    *,
    batch_size: int = 1000,
    channels_last: bool = False,
    accelerator: Accelerator | None = None,
) -> Score:
    """Error and negative log-likelihood of the mean network (``eval()``).

    Args:
        net: maps float images (B, C, H, W) in [0, 1] to logits (B, K).
        images: test images, on the device of the network.
        batch_size: images per forward pass.
        channels_last: memory format of the batches.
        accelerator: shares the images among its processes, which all call this and all get the score. None: this
            process classifies all.

    Returns:
        The score.

    Raises:
        ValueError: If the network has less outputs than there are classes, or no (B, K) logits at all.

    Example:
        >>> from dither.training import load_images, make_model
        >>> evaluate(make_model("digits"), load_images("digits", "test")).count
        360
    """
    part = images if accelerator is None else _part(images, accelerator)
    logits = predict_logits(net, part, batch_size=batch_size, channels_last=channels_last)
    return score(logits if accelerator is None else _whole(logits, len(images), accelerator), images)


def score(logits: Tensor, images: Images) -> Score:
    """Score of given logits, (N, K), see :func:`evaluate`. Sums are taken in float64.

    Raises:
        ValueError: If the logits do not fit the labels.
    """
    if logits.ndim != 2 or logits.shape[1] < images.num_classes:
        got, expected = tuple(logits.shape), (len(images), images.num_classes)
        raise ValueError(f"the network gives outputs of shape {got} for {images.name}, expected {expected}")
    wrong = (logits.argmax(1) != images.labels).double().mean().item()
    return Score(100 * wrong, F.cross_entropy(logits.double(), images.labels).item(), len(images))


def _part(images: Images, accelerator: Accelerator) -> Images:
    """One stretch of the images, as long as those of the other processes or, at the end, shorter; never empty."""
    length = -(-len(images) // accelerator.num_processes)
    begin = min(accelerator.process_index * length, len(images) - 1)
    part = slice(begin, begin + length)
    return dataclasses.replace(images, pixels=images.pixels[part], labels=images.labels[part])


def _whole(logits: Tensor, count: int, accelerator: Accelerator) -> Tensor:
    """The logits of all processes, in the order of the images."""
    length = -(-count // accelerator.num_processes)
    padded = logits.new_zeros(length, *logits.shape[1:])
    padded[: len(logits)] = logits
    return cast(Tensor, accelerator.gather(padded))[:count]
