"""One draw for all BatchNorm layers of a network."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from .._sampling import Source
from ._fitted import Draws, Fitted
from ._laws import Bank, Factorized, Law

if TYPE_CHECKING:
    from ._layer import StochasticBatchNorm

Observer: TypeAlias = "Callable[[str, int, Tensor], tuple[Tensor, Tensor] | None]"


class StatisticsSource(Source):
    """The law of a converted network and the statistics of the current pass.

    All layers are drawn in one call at the start of a pass, so that a law may couple them and the cost does not grow
    with depth. `begin` is a forward pre-hook of the root. A plain object, so that it travels with ``copy.deepcopy``.

    Attributes:
        layers: The layers by name.
        law: What is drawn from.
        observer: Called with (name, site, input) of every layer while `observing`; it may answer with the statistics to
            normalise with.
        given: Draws that were given from outside, possibly batched by vmap; None without.
    """

    def __init__(self, layers: dict[str, StochasticBatchNorm]) -> None:
        self.layers = layers
        self.law: Law = Factorized()
        self.observer: Observer | None = None
        self.given: Draws | None = None
        self._held: Draws | None = None  # S samples
        self._sample = 0
        self._current: Draws | None = None  # the sample of this pass
        self._fitted: tuple[list[tuple[Tensor, int]], Fitted] | None = None
        self._calls: dict[int, int] = {}  # in this pass, by the layer's number

    def fitted(self) -> Fitted:
        """The statistics of all layers side by side.

        Raises:
            RuntimeError: If a layer is not fitted.
        """
        missing = [name for name, layer in self.layers.items() if layer.statistics is None]
        if len(missing) == len(self.layers):
            raise RuntimeError("the law of the batch statistics is not known: call dither.batchnorm.fit(net, loader)")
        if missing:
            raise RuntimeError(f"{missing[0]!r} was not reached by fit: convert without it, convert(layers=...)")
        found = [layer.statistics for layer in self.layers.values() if layer.statistics is not None]
        state = [(tensor, _version(tensor)) for statistics in found for tensor in statistics.buffers(False)]
        if self._fitted is None or not _same(self._fitted[0], state):
            self._fitted = state, Fitted(found)
        return self._fitted[1]

    def prepare(self, num_samples: int, generator: torch.Generator | None = None) -> None:
        self._held = self.law.draw(self.checked(), num_samples, generator)
        self._calls.clear()

    @property
    def varies(self) -> bool:
        fitted = self.checked()
        return bool((fitted.scale_mean > 0).any() or (fitted.scale_log_var > 0).any())

    @property
    def foldable(self) -> bool:
        return all(layer.plain for layer in self.layers.values())

    def choose(self, sample: int) -> None:
        self._sample, self._current = sample, None

    def tensors(self) -> list[Tensor]:
        if self._held is None:
            raise RuntimeError("no samples are held: prepare first")
        return list(self._held)

    def give(self, tensors: Sequence[Tensor] | None) -> None:
        self.given = None if tensors is None else Draws(*tensors)
        self._current = None
        self._calls.clear()

    def release(self) -> None:
        self._held = self._current = self.given = None

    def begin(self, module: nn.Module | None = None, args: Any = ()) -> None:
        """A pass of the root begins."""
        self._calls.clear()
        if self._held is None:
            self._current = None

    def site(self, layer: StochasticBatchNorm) -> int:
        """Which call of the layer in this pass this is; the call is counted."""
        number = self._calls.get(layer.number, 0)
        self._calls[layer.number] = number + 1
        return number

    def statistics(self, layer: StochasticBatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ² with which a layer normalises now, (C,), or (B, C) where the law looks at the example.

        A layer that is called more often than in the passes that were fitted is being called without its root: that
        begins a new pass.

        Raises:
            RuntimeError: If the layer was not called while the network was fitted, or `torch.nn.DataParallel` runs a
                replica of it.
        """
        if getattr(layer, "_is_replica", False):
            raise RuntimeError(
                "torch.nn.DataParallel runs replicas of this network in threads, and its layers have one draw: predict "
                "with the network inside (wrapped.module), in several processes with a part of the data each."
            )
        site = self.site(layer)
        current = self._current
        if current is None:
            current = self._current = _draw(self)
        fitted = self.checked() if self._fitted is None else self._fitted[1]
        sites = fitted.sites(layer.number)
        if not sites:
            raise RuntimeError(f"{layer.name!r} was not called while the network was fitted, so its law is not known")
        if site >= sites:
            self.begin()
            return self.statistics(layer, x)
        return self.law.statistics(fitted, current, fitted.part(layer.number, site), x)

    def draw(self) -> Draws:
        """The sample of a pass that begins."""
        if self.given is not None:
            return self.given
        if self._held is not None:
            return Draws(*(t[self._sample] for t in self._held))
        return Draws(*(t[0] for t in self.law.draw(self.checked(), 1)))

    def checked(self) -> Fitted:
        """What `fitted` gives, if the law can draw from it.

        Raises:
            RuntimeError: If the network is not fitted, or not for this law.
        """
        fitted = self.fitted()
        if self.law.needs_records and fitted.num_records < 2:
            raise RuntimeError(
                f"{self.law} needs the statistics of single batches, {fitted.num_records} are kept: "
                "call dither.batchnorm.fit(net, loader, law=...) or fit(..., records=512)"
            )
        return fitted

    @contextmanager
    def observing(self, observer: Observer) -> Generator[None]:
        """Every layer normalises with the statistics of its batch and shows its input; nothing is remembered."""
        if self.observer is not None:
            raise RuntimeError("the network is being fitted already")
        self.observer = observer
        self._calls.clear()
        try:
            yield
        finally:
            self.observer = None

    def __getstate__(self) -> dict[str, Any]:
        passing = {"observer": None, "given": None, "_held": None, "_current": None, "_fitted": None, "_calls": {}}
        return {**self.__dict__, **passing}


# Draws stay eager under torch.compile: one break in the graph, at the first layer.
_draw = cast("Callable[[StatisticsSource], Draws]", torch.compiler.disable(StatisticsSource.draw))


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # pyright: ignore[reportPrivateUsage]


def _same(known: list[tuple[Tensor, int]], now: list[tuple[Tensor, int]]) -> bool:
    return len(known) == len(now) and all(a is b and v == w for (a, v), (b, w) in zip(known, now, strict=True))


def set_law(net: nn.Module, law: Law) -> nn.Module:
    """Changes the law that ``net`` draws from, in place.

    A ``state_dict`` holds the statistics and not the law; a file of `dither.save` holds both.

    Args:
        net: A network that `convert` returned, fitted or not.
        law: `Factorized`, `Empirical`, `Correlated` or `Cached`.

    Returns:
        The same network.

    Raises:
        ValueError: If the network is not converted, or a `bank` has frozen its draws.
        TypeError: If ``law`` is not a law; a class is not one, ``Factorized()`` is.

    Example:
        >>> from dither.batchnorm import Empirical, convert
        >>> net = set_law(convert(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))), Empirical(joint=True))
    """
    source = find_source(net)
    if not isinstance(law, Law):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the law is {law!r}, expected an object such as dither.batchnorm.Factorized()")
    if isinstance(source.law, Bank) and not isinstance(law, Bank):
        raise ValueError("the network is a bank, its draws are frozen: set the law of the network it was made from")
    source.law = law
    return net


def find_source(net: nn.Module) -> StatisticsSource:
    """The source of a converted network, through wrappers too.

    Raises:
        ValueError: If the network has no converted layer, or is made of several converted networks.
    """
    found = {id(s): s for m in net.modules() if isinstance(s := getattr(m, "source", None), StatisticsSource)}
    if not found:
        raise ValueError(f"{type(net).__name__} has no StochasticBatchNorm: call dither.batchnorm.convert(model) first")
    if len(found) > 1:
        raise ValueError(f"{type(net).__name__} holds {len(found)} converted networks: fit them one by one")
    return next(iter(found.values()))
