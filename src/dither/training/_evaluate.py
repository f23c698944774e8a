"""Error and negative log-likelihood of a classifier on images in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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


def evaluate(net: nn.Module, images: Images, *, batch_size: int = 1000, channels_last: bool = False) -> Score:
    """Error and negative log-likelihood of the mean network (``eval()``).

    Args:
        net: maps float images (B, C, H, W) in [0, 1] to logits (B, K).
        images: test images, on the device of the network.
        batch_size: images per forward pass.
        channels_last: memory format of the batches.

    Returns:
        The score.

    Raises:
        ValueError: If the network has less outputs than there are classes, or no (B, K) logits at all.

    Example:
        >>> from dither.training import load_images, make_model
        >>> evaluate(make_model("digits"), load_images("digits", "test")).count
        360
    """
    logits = predict_logits(net, images, batch_size=batch_size, channels_last=channels_last)
    return score(logits, images)


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
