"""A network and S draws of its statistics as one plain module that can be exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from .._sampling import Stochastic
from ..prediction._link import Link, softmax
from ..prediction._vmap import vmap
from ._bank import bank
from ._convert import revert
from ._laws import Bank
from ._layer import StochasticBatchNorm
from ._once import in_turn
from ._source import find_source


def freeze(
    net: nn.Module, num_samples: int, *, link: Link | None = None, generator: torch.Generator | None = None
) -> nn.Module:
    r"""A plain module that answers with S stored draws of the statistics of ``net``; nothing in it is random.

    With the probabilities :math:`p_s` of sample s,

    .. math:: \bar p = \tfrac1S \sum_s p_s, \qquad H(\bar p), \qquad H(\bar p) - \tfrac1S \sum_s H(p_s),

    as ``dither.predict`` computes them from the same draws. Each converted layer becomes one multiplication and one
    addition per value, with :math:`\gamma / \sqrt{\sigma_s^2 + \varepsilon}` and
    :math:`\beta - \mu_s \gamma / \sqrt{\sigma_s^2 + \varepsilon}` as buffers (S, sites, C); a layer that is called more
    than once in a pass has a site for each call. A subclass of BatchNorm with a ``forward`` of its own stays, and gets
    the drawn statistics as running statistics.

    All samples run in one call, and what does not depend on the draw is computed once, whatever shortcuts there are.
    Called from Python or compiled, the samples are folded: `torch.func.vmap` over the buffers, the input shared. An
    exported graph has them one after the other, because vmap makes a graph for one batch size only (its rules for
    convolutions and pools ask for a number); calls of torch functions with the very same arguments stand in it for the
    first sample only. A network that vmap cannot run (it writes into a tensor that the samples share, or branches on
    values) goes the second way in Python too, and so does one whose attribute ``folded`` is set to False: with many
    rows on a CPU that can be faster. Folded, memory is that of a batch of S·B behind the first converted layer.

    The module is made for inference: in eval mode, its parameters want no gradients. `dither.export` writes it to a
    file; ``torch.export``, ``torch.onnx.export(dynamo=True)`` and ``torch.compile`` take it too. ``state_dict`` holds
    the draws. It is called with the inputs of the net, the first one by position.

    Args:
        net: A fitted network, or a `bank`, whose first S samples are taken; left as it is.
        num_samples: S.
        link: From what the network returns to probabilities (B, K, ...). None is the softmax over dimension 1 of the
            logits.
        generator: Where the draws come from; None is torch's global generator. A bank has its draws already.

    Returns:
        The module. Its ``forward`` returns (mean (B, K, ...), entropy (B, ...), mutual information (B, ...)), the
        last two in nats.

    Raises:
        ValueError: If ``num_samples < 1``, the net is not converted, its law cannot be stored (`Cached`), a bank has
            fewer samples, or ``dither.predict`` would sample something else in the net too (dropout with p > 0, noise
            of ``dither.pruning``), so that a frozen net could not answer what it does.
        RuntimeError: If the net is not fitted.

    Source: draws as in `bank`. Oracle: ``dither.predict(bank, x, num_samples)``.

    Example:
        >>> from dither import batchnorm
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> net = batchnorm.convert(model)
        >>> _ = batchnorm.fit(net, torch.randn(320, 3).split(16))
        >>> mean, entropy, mutual_information = freeze(net, 8)(torch.randn(4, 3))
        >>> mean.shape, entropy.shape, mutual_information.shape
        (torch.Size([4, 2]), torch.Size([4]), torch.Size([4]))
    """
    source = find_source(net)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, expected a number >= 1")
    _check_only_statistics(net)
    drawn = net if isinstance(source.law, Bank) else bank(net, num_samples, generator=generator)
    source = find_source(drawn)
    fitted = source.checked()
    draws = source.law.draw(fitted, num_samples)
    plain = revert(net).eval().requires_grad_(False)
    made: dict[str, nn.Module] = {}
    for name, layer in drawn.named_modules():
        if not isinstance(layer, StochasticBatchNorm):
            continue
        parts = [fitted.part(layer.number, site) for site in range(fitted.sites(layer.number))]
        mean, var = (torch.stack([t[:, part] for part in parts], 1) for t in draws)
        made[name] = _frozen_layer(layer, plain.get_submodule(name), mean, var)
    return FrozenNet(_replaced(plain, made), link or softmax).eval()


class FrozenNet(nn.Module):
    """What `freeze` returns.

    Args:
        net: A network with `FrozenNorm` layers; the draws of one sample are given to it as its buffers.
        link: From its output to probabilities.
    """

    def __init__(self, net: nn.Module, link: Link) -> None:
        super().__init__()
        self.net = net
        self.link = link
        self.folded = True  # until vmap fails
        layers = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, FrozenNorm)]
        self.names = [f"{name}.{buffer}" for name, layer in layers for buffer in layer.draws]

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, entropy and mutual information of all samples."""

        def one(draw: dict[str, Tensor]) -> Tensor:
            for layer in self.net.modules():
                if isinstance(layer, FrozenNorm):
                    layer.begin()
            return self.link(functional_call(self.net, draw, (x, *args), kwargs, tie_weights=False))

        probs = self._samples(one, {name: self.net.get_buffer(name) for name in self.names})
        mean = probs.mean(0)
        entropy, expected = _entropy(mean, 1), _entropy(probs, 2).mean(0)
        return mean, entropy, (entropy - expected).clamp_min(0)

    def _samples(self, one: Callable[[dict[str, Tensor]], Tensor], draws: dict[str, Tensor]) -> Tensor:
        folded = self.folded and not _is_exporting()
        if folded:
            try:
                return vmap(one)(draws)
            except RuntimeError:  # what is wrong with the input is raised again by the loop
                pass
        count = next(iter(draws.values())).shape[0]
        probs = in_turn(one, [{name: values[s] for name, values in draws.items()} for s in range(count)])
        if folded:
            self.folded = False
        return torch.stack(probs)


class FrozenNorm(nn.Module):
    """BatchNorm with drawn statistics, as one multiplication and one addition.

    Outside of a `FrozenNet` its buffers hold all samples; inside, those of one sample.

    Args:
        draws: What it holds of the draws by name, each (S, sites, C).
    """

    def __init__(self, **draws: Tensor) -> None:
        super().__init__()
        self.draws = list(draws)
        self.sites = next(iter(draws.values())).shape[1]
        self.site = 0
        for name, values in draws.items():
            self.register_buffer(name, values)

    def begin(self) -> None:
        """A pass of the network begins."""
        self.site = 0

    def current(self) -> list[Tensor]:
        """What belongs to this call, each (C,); the call is counted."""
        site = self.site
        if self.sites > 1:
            self.site = (site + 1) % self.sites
        return [self.get_buffer(name)[site] for name in self.draws]

    def forward(self, x: Tensor) -> Tensor:
        """The normalised input, of its dtype."""
        shape = (-1, *([1] * (x.ndim - 2)))
        scale, shift = (t.view(shape) for t in self.current())
        out = torch.addcmul(shift, x, scale)
        return out if out.dtype == x.dtype else out.to(x.dtype)


class FrozenOwnNorm(FrozenNorm):
    """A layer that does more than BatchNorm, or something before or after: run as it is, with drawn statistics."""

    def __init__(self, layer: nn.Module, **draws: Tensor) -> None:
        super().__init__(**draws)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """What the layer makes of the input."""
        return functional_call(self.layer, dict(zip(self.draws, self.current(), strict=True)), (x,))


def _is_exporting() -> bool:
    exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return exporting()


def _frozen_layer(layer: StochasticBatchNorm, plain: nn.Module, mean: Tensor, var: Tensor) -> FrozenNorm:
    """A layer with S draws (S, sites, C) in place of ``plain``, what the layer was before it was converted."""
    if not layer.plain or plain._forward_hooks or plain._forward_pre_hooks:  # pyright: ignore[reportPrivateUsage]
        for name, value in (("running_mean", mean), ("running_var", var)):
            setattr(plain, name, value[0, 0].clone())  # may be None so far; a pass puts a draw there
        return FrozenOwnNorm(plain, running_mean=mean, running_var=var)
    scale = torch.rsqrt(var + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight.detach()
    shift = -mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias.detach()
    return FrozenNorm(scale=scale, shift=shift)


def _replaced(net: nn.Module, layers: dict[str, nn.Module]) -> nn.Module:
    """``net`` with other modules in these places, and wherever else the same modules stand."""
    instead = {id(net.get_submodule(name)): layer for name, layer in layers.items()}
    for module in list(net.modules()):
        for name, child in module._modules.items():  # pyright: ignore[reportPrivateUsage]  # shared ones by each name
            if id(child) in instead:
                setattr(module, name, instead[id(child)])
    return instead.get(id(net), net)


def _entropy(p: Tensor, dim: int) -> Tensor:
    """In nats; 0 log 0 is 0."""
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(dim)


def _check_only_statistics(net: nn.Module) -> None:
    """Raise if something besides statistics would be drawn.

    Raises:
        ValueError: If so.
    """
    for name, module in net.named_modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise ValueError(
                f"{name!r} is dropout with p = {module.p:g}, which dither.predict samples and a frozen net cannot. "
                "To leave it out of both, set its p to 0 first."
            )
        if isinstance(module, Stochastic) and not isinstance(module, StochasticBatchNorm):
            raise ValueError(
                f"{name!r} is noise that dither.predict samples and a frozen net cannot: freeze the network that "
                "dither.pruning.shrink made, converted and fitted."
            )
