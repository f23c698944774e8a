"""Noise on the weights of whoever reads a channel: W(θ∘x) = (W diag θ) x."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..._inputs import outputs
from ..._processes import unwrapped
from ._noise import LogNormalNoise, thetas, unsharded


class Bank:
    """All gates of a network, drawn in one call before each forward pass of its root.

    Every reader of a channel multiplies by the same draw, and the cost does not grow with the depth of the network.
    `enter` and `leave` are forward hooks of the root. The bank is a plain object, so that it travels with
    ``copy.deepcopy``.

    Args:
        layers: The gates by name.
        whole: Channel spaces without gates that the label run would allow to lose channels, and why they may not.
    """

    def __init__(self, layers: dict[str, LogNormalNoise], whole: dict[str, str] | None = None) -> None:
        self.layers = layers
        self.whole = whole or {}
        self.baked: list[str] = []  # tensors that were parametrized before
        self.fixed: Tensor | None = None
        self._theta: Tensor | None = None
        self._state: tuple[Any, ...] = ()
        self._inside = False
        self._again: Tensor | None = None  # θ of the forward pass whose backward pass runs
        self._open = 0  # forward passes that wait for their backward pass

    @torch.compiler.disable  # the draw stays eager: compiling its special functions costs minutes and gains nothing
    def enter(self, module: nn.Module, args: Any) -> None:
        """Draw for this forward pass; in eval mode θ is computed only when a gate has changed.

        Outside of compiled graphs: one graph break at the root, and everything behind it is one graph.

        Raises:
            RuntimeError: If `torch.nn.DataParallel` runs a replica of the network.
        """
        if getattr(module, "_is_replica", False):
            raise RuntimeError(
                "torch.nn.DataParallel runs replicas of this network in threads, and its gates have one draw: "
                "use torch.nn.parallel.DistributedDataParallel, one process for each device."
            )
        if self.draws:
            self._theta, self._state = self.compute(), ()
        elif self._theta is None or not self._unchanged():
            self._theta, self._state = self.compute(), self.state()
        self._inside = True
        if not _in_backward():
            self._again = None
            if self._theta.requires_grad:
                self._open += 1
                self._theta.register_hook(self._close)

    @torch.compiler.disable
    def leave(self, module: nn.Module, args: Any, out: Any) -> None:
        """The forward pass is over, also after an error; its backward pass will begin at what it returns."""
        self._inside = False
        theta = self._theta

        def begin(gradient: Tensor) -> None:
            self._again = theta

        for tensor in outputs(out):
            if tensor.grad_fn is not None:
                tensor.register_hook(begin)

    def _close(self, gradient: Tensor) -> None:
        """A backward pass has reached θ, its end."""
        self._open = max(self._open - 1, 0)

    @property
    def draws(self) -> bool:
        """Whether any gate draws."""
        return any(layer.draws for layer in self.layers.values())

    def state(self) -> tuple[Any, ...]:
        """What θ in eval mode depends on. Values, not versions: ``p.data.copy_(...)`` of an averaged model has none."""
        settings = [(layer.threshold, layer.log_low, layer.log_high) for layer in self.layers.values()]
        values = [unsharded(p.detach()) for layer in self.layers.values() for p in (layer.loc, layer.log_scale)]
        return settings, torch.cat(values)

    def _unchanged(self) -> bool:
        if not self._state:
            return False
        (settings, values), (known, then) = self.state(), self._state
        alike = settings == known and values.dtype == then.dtype and values.device == then.device
        return alike and torch.equal(values, then)

    def compute(self) -> Tensor:
        """θ of all gates, and a 1 at the end for columns without a gate."""
        theta = thetas(list(self.layers.values()))
        return torch.cat([theta, theta.new_ones(1)])

    def theta(self) -> Tensor:
        """θ of this forward pass.

        The backward pass sees it too, so that a checkpointed block is computed again with the noise of its forward
        pass, also where several forward passes of the root wait for theirs. A layer that is called without its root
        gets a draw of its own.

        Raises:
            RuntimeError: If a checkpointed block is computed again and it cannot be told for which forward pass.
        """
        if self.fixed is not None:
            return self.fixed
        if self._theta is None:
            return self.compute()
        if self._inside:
            return self._theta
        if _in_backward():
            return self._drawn_before(self._theta)
        return self.compute() if self.draws or not self._unchanged() else self._theta

    def _drawn_before(self, last: Tensor) -> Tensor:
        """θ for a block that is computed again; without a gradient of the root's output, that of the last pass."""
        if self._again is not None:
            return self._again
        if self._open > 1:
            raise RuntimeError(
                f"a checkpointed block is computed again, but {self._open} forward passes wait for their backward pass "
                "and none of their outputs has a gradient, so the noise of the block is not known: call backward() "
                "after each forward pass, or compute the loss from what the network returns."
            )
        return last

    def offsets(self) -> dict[str, int]:
        """Where each gate begins in θ."""
        ends = torch.tensor([0] + [layer.num_features for layer in self.layers.values()]).cumsum(0).tolist()
        return dict(zip(self.layers, ends, strict=False))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_theta": None, "_state": (), "_inside": False, "_again": None, "_open": 0}


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # pyright: ignore[reportPrivateUsage]


class GatedWeight(nn.Module):
    """The parametrization ``weight -> weight * θ[index]`` along the input dimension ``dim`` of a reader.

    Args:
        bank: Where θ comes from.
        index: For each input column, positions in θ (one row for each factor); the last position of θ is 1.
        dim: The input dimension of the weight.
        owned: The gates that are registered here; every gate is registered at its first reader.
        order: The names of the module's own tensors as they were.
    """

    def __init__(
        self,
        bank: Bank,
        index: Tensor,
        dim: int,
        ndim: int,
        owned: dict[str, LogNormalNoise],
        order: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.order = list(order)
        self.bank = bank
        self.shape = [-1 if d == dim else 1 for d in range(ndim)]
        self.index = index
        self.gates = nn.ModuleDict({key(name): gate for name, gate in owned.items()})

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> GatedWeight:
        """Moves the positions too. Not a buffer: averages of buffers (EMA) round positions to wrong ones."""
        super()._apply(fn, recurse)
        self.index = fn(self.index)
        return self

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor(self.bank.theta()).to(weight.dtype)

    def factor(self, theta: Tensor, columns: Tensor | None = None) -> Tensor:
        """By what each column of the weight is multiplied, or each of those ``columns``."""
        index = self.index if columns is None else self.index[:, columns.to(self.index.device)]
        return (theta[index[0]] if len(index) == 1 else theta[index].prod(0)).view(self.shape)


def key(name: str) -> str:
    """A gate's name as `nn.ModuleDict` can hold it: no dots, and no name of its own methods ("keys", "values")."""
    plain = name.replace(".", "/")
    return f"{plain}/" if hasattr(nn.ModuleDict, plain) else plain


def find_bank(net: nn.Module) -> Bank | None:
    """The bank of an attached network, through wrappers (DataParallel, `torch.compile`) too."""
    for module in net.modules():
        for hook in module._forward_pre_hooks.values():  # pyright: ignore[reportPrivateUsage]
            if isinstance(bank := getattr(hook, "__self__", None), Bank):
                return bank
    return None


def gates(net: nn.Module) -> dict[str, LogNormalNoise]:
    """The noise layers of a network by name, in the order of the forward pass.

    Gates that `attach` made are called after the layer that writes their channels (``"conv1"``), gates on the columns
    of a reader after the reader (``"fc1[in]"``), layers placed by hand after themselves.

    Args:
        net: An attached network, or one with hand-placed `LogNormalNoise`; DistributedDataParallel is looked through.

    Returns:
        The layers; empty for a network without noise.

    Example:
        >>> gates(nn.Sequential(LogNormalNoise(4), nn.Linear(4, 2)))
        {'0': LogNormalNoise(4, dim=1, threshold=1.0, bounds=(-20.0, 0.0))}
    """
    net = unwrapped(net)
    bank = find_bank(net)
    found = dict(bank.layers) if bank else {}
    known = {id(layer) for layer in found.values()}
    for name, module in net.named_modules():
        if isinstance(module, LogNormalNoise) and id(module) not in known:
            found[name] = module
    return found


def gated_weights(net: nn.Module) -> list[tuple[nn.Module, str, GatedWeight]]:
    """Every (module, tensor name, parametrization) that carries gates."""
    found: list[tuple[nn.Module, str, GatedWeight]] = []
    for module in net.modules():
        if parametrize.is_parametrized(module):
            chains: Any = module.parametrizations
            found += [(module, name, p) for name, chain in chains.items() for p in chain if isinstance(p, GatedWeight)]
    return found


def ungate(net: nn.Module, theta: Tensor | None = None) -> nn.Module:
    """Take the gates off, in place: weights multiplied by ``theta`` (as `Bank.compute` gives it), or as they were."""
    bank = find_bank(net)
    if bank is None:
        return net
    bank.fixed = theta
    done: set[int] = set()
    for module, name, _ in gated_weights(net):
        chains: Any = module.parametrizations
        chain = chains[name]
        if len(chain) > 1:
            raise ValueError(f"{name} of {module} carries another parametrization beside its gate; remove that first.")
        if theta is not None and id(chain.original) not in done:  # a tied weight is folded once
            with torch.no_grad():
                chain.original.copy_(getattr(module, name))
        done.add(id(chain.original))
        restore(module, name, chain.original)
    for module in net.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):  # pyright: ignore[reportPrivateUsage]
            for handle, hook in list(hooks.items()):
                if hook in (refresh, forget) or isinstance(getattr(hook, "__self__", None), Bank):
                    del hooks[handle]
    return net


def hang(module: nn.Module, name: str, gated: GatedWeight) -> None:
    """Register a gate on a tensor."""
    parametrize.register_parametrization(module, name, gated, unsafe=True)
    if isinstance(module, nn.RNNBase):
        own: Any = type(module)  # parametrized, so no other module has this class
        own._apply = _moved


def _moved(module: nn.Module, *args: Any, **options: Any) -> nn.Module:
    """What ``to``, ``half``, ``cuda`` ... call: a recurrent layer then computes its list anew, and see `forget`."""
    plain: Any = nn.RNNBase
    plain._apply(module, *args, **options)
    forget(module, (), None)
    return module


def refresh(module: nn.Module, args: Any) -> None:
    """Before a recurrent layer runs: the list that it computes with holds the weights under this draw."""
    m: Any = module
    vars(module)["_flat_weights"] = [getattr(m, name) for name in m._flat_weights_names]


def forget(module: nn.Module, args: Any, out: Any) -> None:
    """After it ran: the list holds parameters again, for results of a graph cannot be copied."""
    m: Any = module
    chains: Any = m.parametrizations if parametrize.is_parametrized(module) else {}
    vars(module)["_flat_weights"] = [
        chains[name].original if name in chains else getattr(m, name) for name in m._flat_weights_names
    ]


def restore(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Make the parametrized tensor ``name`` a plain one again.

    Not `parametrize.remove_parametrizations`: that deletes the property from the module's class, which a deep copy
    shares with the module it was copied from, and so breaks the original.
    """
    chains: Any = module.parametrizations
    order: list[str] = next((p.order for p in chains[name] if isinstance(p, GatedWeight)), [])
    del chains[name]
    gated, plain = type(module), type(module).__mro__[1]
    if len(chains):  # the property of this tensor must go, those of the others stay
        plain = type(gated.__name__, (plain,), {k: v for k, v in vars(gated).items() if k != name})
    else:
        del module.parametrizations
    object.__setattr__(module, "__class__", plain)
    held = vars(module)["_parameters" if isinstance(tensor, nn.Parameter) else "_buffers"]
    others = {name: tensor, **held}
    held.clear()
    held.update({n: others.pop(n) for n in order if n in others})  # optimizers address parameters by position
    held.update(others)
    if isinstance(module, nn.RNNBase):
        forget(module, None, None)
