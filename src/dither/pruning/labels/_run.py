"""The label run: which channels of a network belong together, who writes them and who reads them.

Nothing is traced, exported or pattern-matched. Every index of every parameter's every dimension gets a label, an
integer, and the network is run once, eagerly, on its example inputs. Every tensor in that run carries labels of its own
shape beside its values (`_table.py` lists what each operator does to them):

- a convolution or a matrix product *reads* the labels along the contracted dimension, that is: unites them with the
  labels of its weight's input dimension, and *writes* the labels of its weight's output dimension;
- an operator that moves data (view, permute, cat, split ...) is executed on the labels themselves;
- an elementwise operator unites the labels that meet: residual adds, gates, biases, BatchNorm;
- an operator that combines numbers along a dimension (softmax, LayerNorm, Q Kᵀ) unites the labels along it: heads and
  groups go as a whole;
- anything else *pins* the labels that it touches, and the plan says so.

What ends in one class can only be kept or removed together, and a class names every slice of every tensor that goes
with it. Parameters are followed by identity, so that functional calls, layers used twice and tied weights need no code.
"""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from ..._inputs import Inputs, call, evaluating, outputs, tensors, varied
from ..noise._noise import LogNormalNoise
from ._ledger import Call, Ledger
from ._spaces import Analysis, spaces
from ._steps import along_time, decomposed, few_steps
from ._table import apply


class Run(TorchDispatchMode):
    """Applies the rule of every operator that runs, and knows which module is running. Use `analyse`."""

    def __init__(self, model: nn.Module, by_position: Collection[str] = ()) -> None:
        super().__init__()
        self.ledger = Ledger(model, by_position)
        self.model = model
        self.names = {id(m): name for name, m in model.named_modules()}
        self.paused = 0
        self.cut_short: list[tuple[Tensor, int] | None] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.paused:
            apply(call := Call(self.ledger, func, args, kwargs or {}, out))
            if self.ledger.noisy:
                self.ledger.shadows.cast(call)
        return out

    def _noise(self, name: str, layer: LogNormalNoise, before: Tensor, after: Tensor) -> None:
        """Hand-placed noise: it keeps the labels, and the shadow behind it is zero."""
        x = self.ledger.of(before)
        if name in self.ledger.sites:
            self.ledger.union.pin(x.labels, f'"{name}" is called twice')
        self.ledger.sites[name] = self.ledger.union.along(x.labels, layer.dim, f'noise "{name}"')
        self.ledger.set(after, x.labels)
        self.ledger.shadows.drop(before, after, name)
        for parameter in layer.parameters():
            self.ledger.uses_of(parameter)

    @contextmanager
    def _pause(self) -> Generator[None]:
        """Operators in here are none of the network's."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1

    def _few_steps(self, layer: nn.RNNBase, args: Any) -> Any:
        """The arguments of a recurrent layer with few steps instead of all, where they are alike to labels."""
        time = None if self.ledger.noisy else along_time(layer, args)
        if time is not None:
            with self._pause():
                tag = self.ledger.of(args[0])
                time = None if tag.fields or self.ledger.union.varies(tag.labels)[time] else time
        self.cut_short.append(None if time is None else (args[0], time))
        return None if time is None else (few_steps(args[0], time), *args[1:])

    def _all_steps(self, layer: nn.RNNBase, args: Any, kwargs: Any, few: Any) -> Any:
        """What the layer returns for all steps, with the labels of what it has returned for a few."""
        if (given := self.cut_short.pop()) is None:
            return None
        x, time = given
        with self._pause():
            with decomposed(False):
                out = layer.forward(x, *args[1:], **kwargs)
            for short, tensor in zip(tensors(few), tensors(out), strict=True):
                labels = self.ledger.of(short).labels
                if short.shape != tensor.shape:  # the output; the last hidden states are no longer than they were
                    labels = self.ledger.union.together(labels, [time], f'"{self.names[id(layer)]}" joins its steps')
                    labels = labels.narrow(time, 0, 1)
                self.ledger.set(tensor, labels)
        return out

    @contextmanager
    def watching(self) -> Generator[None]:
        """Know the running module by name, and take hand-placed noise as a site instead of looking inside it."""

        def before(module: nn.Module, args: Any) -> None:
            self.ledger.stack.append(self.names.get(id(module), type(module).__name__) or "the network")
            self.paused += isinstance(module, LogNormalNoise)

        def after(module: nn.Module, args: Any, out: Any) -> None:
            name = self.ledger.stack.pop()
            if isinstance(module, LogNormalNoise):
                self._noise(name, module, args[0], out)
                self.paused -= 1

        handles = [hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after)]
        for layer in (module for module in self.model.modules() if isinstance(module, nn.RNNBase)):
            handles.append(layer.register_forward_pre_hook(self._few_steps))
            handles.append(layer.register_forward_hook(self._all_steps, prepend=True, with_kwargs=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()


def analyse(model: nn.Module, example_inputs: Inputs) -> Analysis:
    """Run ``model`` once on labels, in eval mode and without gradients, and say which channels belong together.

    The path that the example inputs take is the path that is analysed.

    Args:
        model: Any module; its modes come back at the end.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.

    Returns:
        Every channel space with its writers, its readers and why it must stay whole, if so; print it.

    Raises:
        ValueError: If the network does not run on the example inputs.

    Example:
        >>> import torch
        >>> print(analyse(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8)))
        0                                16  0 -> 2
        2                                 4  2 -> nobody  [the network returns them]
    """
    first = _run(model, example_inputs)
    ledger = first.ledger
    stuck = [name for name, rows in ledger.grouped.items() if not ledger.union.free(rows) or _one_class(ledger, rows)]
    if not stuck:
        return spaces(ledger, model)
    second = _run(model, example_inputs, by_position=stuck)  # whole groups cannot go there: the same positions of each
    return spaces(second.ledger, model)


def _one_class(ledger: Ledger, labels: Tensor) -> bool:
    return not any(ledger.union.varies(labels))


def _run(model: nn.Module, example_inputs: Inputs, by_position: Collection[str] = ()) -> Run:
    """One run on labels."""
    run, inputs = Run(model, by_position), varied(example_inputs)
    try:
        with evaluating(model), decomposed(), run.watching():
            out = call(model, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = [tuple(tensor.shape) for tensor in tensors(example_inputs)]
        raise ValueError(
            f'the network does not run on the example inputs (shapes {shapes}): in "{run.ledger.module}", {error}. '
            "Give inputs as you give them in training: a tensor, a tuple or a dict."
        ) from error
    for tensor in outputs(out):
        run.ledger.union.pin(run.ledger.of(tensor).labels, "the network returns them")
    run.ledger.settle()
    return run
