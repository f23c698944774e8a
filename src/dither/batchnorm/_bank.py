"""Draws that are made once, with care, and kept."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ._fitted import Draws, Fitted
from ._laws import Bank, Gaussian, normal
from ._source import find_source
from ._statistics import Statistics


def bank(
    net: nn.Module,
    num_samples: int,
    *,
    antithetic: bool = True,
    moment_matched: bool = True,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""A copy of ``net`` that always draws the same S samples, in the same order.

    Predictions are then reproducible without a generator, and those of one example do not depend on what is asked
    beside it. The draws are buffers: ``state_dict`` keeps them.

    For laws that are functions of standard normal numbers z (`Factorized`, `Correlated`) they are chosen with care:
    antithetic pairs (z, -z) make the sample mean of every odd function of z exact, and moment-matched draws also have
    variance 1 in every coordinate. What is left of the Monte-Carlo error is that of higher moments.

    Args:
        net: A fitted network; left as it is.
        num_samples: S, at most the number of records for `Empirical`.
        antithetic: Whether sample 2i + 1 mirrors sample 2i. An odd S leaves a last sample without its mirror image.
        moment_matched: Whether every coordinate is shifted and scaled to mean 0 and mean square 1 over the S samples.
            Needs S >= 2.
        generator: Where randomness comes from; None is torch's global generator.

    Returns:
        The copy, with the law `Bank`; ``dither.predict(net, x, s)`` takes its first s samples.

    Raises:
        ValueError: If ``num_samples < 1``, the net is not converted or a bank already, the law cannot be stored
            (`Cached` looks at the example), or an empirical law has too few records.
        RuntimeError: If the net is not fitted.

    Example:
        >>> from dither import batchnorm, predict
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
        >>> net = batchnorm.convert(model)
        >>> _ = batchnorm.fit(net, torch.randn(320, 3).split(16))
        >>> frozen = batchnorm.bank(net, 8)
        >>> x = torch.randn(4, 3)
        >>> torch.equal(predict(frozen, x, 8).mean, predict(frozen, x, 8).mean)
        True
    """
    source = find_source(net)
    law = source.law
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, expected a number >= 1")
    if isinstance(law, Bank):
        raise ValueError("the network is a bank already: make the new one from the network that was fitted")
    if law.looks_at_input:
        raise ValueError(f"{law} looks at the example, its draws cannot be stored")
    fitted = source.checked()
    if isinstance(law, Gaussian):
        noise = _noise(fitted, law, num_samples, antithetic, moment_matched, generator)
        draws = law.transform(fitted, noise)
    else:
        draws = law.draw(fitted, num_samples, generator)
    return _with(net, draws, fitted)


def _noise(
    fitted: Fitted, law: Gaussian, num_samples: int, antithetic: bool, matched: bool, generator: torch.Generator | None
) -> Tensor:
    """Standard normal numbers (S, noise size), mirrored and matched as asked for."""
    size = law.noise_size(fitted)
    if not antithetic:
        noise = normal(fitted, (num_samples, size), generator)
    else:
        half = normal(fitted, ((num_samples + 1) // 2, size), generator)
        noise = torch.stack([half, -half], 1).flatten(0, 1)[:num_samples]
    if not matched or num_samples < 2:
        return noise
    noise = noise - noise.mean(0)
    return noise / noise.square().mean(0).sqrt()


def _with(net: nn.Module, draws: Draws, fitted: Fitted) -> nn.Module:
    """A copy whose records are the draws, at the batch size that they were made for."""
    made = copy.deepcopy(net)
    source = find_source(made)
    log_var = draws.var.log()
    for number, layer in enumerate(source.layers.values()):
        old = layer.statistics
        assert old is not None
        block, shape = fitted.blocks[number], (len(log_var), *old.loc_mean.shape)
        stored = Statistics(
            *(t[block].view(old.loc_mean.shape).clone() for t in fitted.moments),
            num_batches=int(old.num_batches),
            batch_size=fitted.batch_size,
            records_mean=draws.mean[:, block].reshape(shape).clone(),
            records_log_var=log_var[:, block].reshape(shape),
        )
        layer.statistics = stored.train(layer.training)
    source.law = Bank()
    return made
