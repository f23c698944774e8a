"""predict: S samples of a network's output."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from .._inputs import Inputs, map_tensors, split_batch, tensors
from .._processes import unwrapped
from ._choice import run_samples
from ._ensemble import Ensemble
from ._identical import check_different
from ._link import Link, check_finite, softmax
from ._prediction import Prediction
from ._sampler import Batch, Sampler, describe

# Without max_batch: bytes of input in one pass, and rows on a CPU, where more only fall out of its caches.
CHUNK_BYTES = 16 << 20
CHUNK_ROWS = 256


def predict(
    net: nn.Module,
    x: Inputs | Iterable[Any],
    num_samples: int = 16,
    *,
    generator: torch.Generator | None = None,
    max_batch: int | None = None,
    link: Link | None = None,
) -> Prediction:
    r"""S samples of what ``net`` says about ``x``.

    A sample is one network: batch statistics and gates are drawn once for it and hold for every row, chunk and batch,
    so the answer does not depend on how rows are batched. (Dropout draws for every value on its own: its masks are the
    same again for every chunk and batch of one size.) Modes, the state of the global random generators and the network
    are left as they were, after an error too.

    Args:
        net: A network with BatchNorm that was converted and fitted, gates, dropout or any mixture; an `Ensemble`; or,
            with ``num_samples=1``, any network. In several processes each predicts a part, see `gather`.
        x: A tensor, a tuple of positional arguments or a dict of keyword arguments, the batch in dimension 0. Or a
            loader: any other iterable of batches, which may be tensors, tuples (input, target) or dicts. A loader is
            streamed, its samples are not kept.
        num_samples: S, for each member of an ensemble.
        generator: Where draws come from; the same state gives the same samples. None takes torch's global generator.
        max_batch: Most rows in one forward pass, samples that are folded into the batch included; more are cut into
            chunks. None leaves it to what was measured.
        link: From what the network returns to a tensor (B, ...). None is the softmax over dimension 1 of the logits.
            ``torch.nn.Identity()`` for regression.

    Returns:
        The `Prediction`.

    Raises:
        ValueError: If ``num_samples`` or ``max_batch`` is below 1, the network has nothing that draws, all samples
            come out identical, there is no input, or inputs or outputs are not finite.
        RuntimeError: If a converted network was not fitted.
        TypeError: If ``x`` is neither inputs nor a loader.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3)).eval()
        >>> prediction = predict(net, torch.ones(2, 4), num_samples=8)
        >>> prediction.probs.shape, prediction.mean.shape, prediction.mutual_information.shape
        (torch.Size([8, 2, 3]), torch.Size([2, 3]), torch.Size([2]))
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, expected at least 1")
    if max_batch is not None and max_batch < 1:
        raise ValueError(f"max_batch is {max_batch}: that is not room for one row; expected at least 1")
    net = unwrapped(net)  # DistributedDataParallel talks to processes that may have no batch
    nets = [unwrapped(member) for member in net.members] if isinstance(net, Ensemble) else [net]
    if not isinstance(x, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"x is a {describe(x)}, expected a tensor, a tuple, a dict or a loader")
    samplers = [Sampler(member, num_samples, generator) for member in nets]
    if num_samples > 1 and not isinstance(net, Ensemble) and not samplers[0].layers:
        raise ValueError(
            f"{describe(net)} has nothing that draws, so {num_samples} samples would be one. Looked for BatchNorm that "
            "was converted (dither.batchnorm.convert), noise of dither.pruning and nn.Dropout. Pass num_samples=1 for "
            "a single pass."
        )
    _warn_of_training(net)
    with ExitStack() as stack:
        ready = [stack.enter_context(sampler.ready()) for sampler in samplers]
        if _is_inputs(x):
            samples = _samples(ready, x, max_batch, link or softmax)
            return Prediction(samples, members=len(ready), draw=_draw(ready))
        return _stream(ready, x, max_batch, link or softmax)


def _is_inputs(x: Any) -> TypeGuard[Inputs]:
    return isinstance(x, (Tensor, tuple, Mapping))


def _stream(samplers: list[Sampler], loader: Iterable[Any], max_batch: int | None, link: Link) -> Prediction:
    """Statistics of a loader's batches; the samples of a batch are forgotten before the next one comes."""
    parts: list[Prediction] = []
    net = samplers[0].net
    device = next((t.device for t in (*net.parameters(), *net.buffers())), None)
    for batch in loader:
        inputs: Any = split_batch(net, batch)[0]
        if device is not None:
            inputs = map_tensors(lambda t: t.to(device), inputs)
        samples = _samples(samplers, inputs, max_batch, link)
        parts.append(Prediction(samples, members=len(samplers), draw=_draw(samplers)).summarised())
    if not parts:
        raise ValueError("the loader yields no batch, there is nothing to predict")
    return Prediction.cat(parts)


def _draw(samplers: list[Sampler]) -> int | None:
    draws = tuple(sampler.draw for sampler in samplers)
    return None if draws == (None,) * len(draws) else hash(draws)


def _samples(samplers: list[Sampler], inputs: Inputs, max_batch: int | None, link: Link) -> Tensor:
    rows = _check(inputs)
    size = max_batch or _chunk(inputs, rows)
    chunks = [_rows(inputs, rows, begin, min(begin + size, rows)) for begin in range(0, rows, size)]
    num_samples = max(sampler.num_samples for sampler in samplers)
    members: list[Tensor] = []
    for sampler in samplers:
        batches = [Batch(chunk, min(size, rows - i * size), link) for i, chunk in enumerate(chunks)]
        parts = [run_samples(sampler, batch, max_batch) for batch in batches]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        check_finite(out)
        check_different(out, sampler, batches[0])
        members.append(out if len(out) == num_samples else out.expand(num_samples, *out.shape[1:]))
    return members[0] if len(members) == 1 else torch.cat(members)


def _chunk(inputs: Inputs, rows: int) -> int:
    """Rows of one pass where nothing else was said. It must not depend on what was measured: dropout draws by chunk."""
    found = [t for t in tensors(inputs) if t.ndim and t.shape[0] == rows]
    fitting = max(1, CHUNK_BYTES * rows // max(1, sum(t.numel() * t.element_size() for t in found)))
    return min(fitting, CHUNK_ROWS) if all(t.device.type == "cpu" for t in found) else fitting


def _warn_of_training(net: nn.Module) -> None:
    """Say that modules in train mode were put into eval mode. Dropout may have been left on, for this very purpose."""
    training = [name for name, m in net.named_modules() if m.training and (m is net or isinstance(m, _NormBase))]
    if training:
        which = "the network" if training[0] == "" else f'"{training[0]}"'
        warnings.warn(
            f"{which} is in train mode: predict runs it in eval mode with its stochastic layers drawing, and puts the "
            "mode back. Call net.eval() first to silence this.",
            stacklevel=3,
        )


def _check(inputs: Inputs) -> int:
    """The number of rows.

    Raises:
        ValueError: If there are none, or some are not finite.
    """
    found = [t for t in tensors(inputs) if t.ndim]
    if not found or not found[0].numel():
        shapes = ", ".join(str(tuple(t.shape)) for t in found) or "no tensor with a batch dimension"
        raise ValueError(f"the input is empty ({shapes}), there is nothing to predict")
    rows = found[0].shape[0]
    for tensor in found:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None])).any(1).sum())
            raise ValueError(f"{bad} of the {tensor.shape[0]} rows of the input hold NaN or infinity; leave them out")
    return rows


def _rows(inputs: Inputs, rows: int, begin: int, end: int) -> Any:
    """Some rows; scalars and tensors without that first dimension are left alone."""
    if end - begin == rows:
        return inputs
    return map_tensors(lambda t: t[begin:end] if t.ndim and t.shape[0] == rows else t, inputs)
