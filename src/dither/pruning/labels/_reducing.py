"""Reductions, pools and softmax: labels stay where they are constant along what is combined."""

from __future__ import annotations

from dataclasses import replace

from ..._inputs import tensors
from ._dead import Dead
from ._ledger import Call
from ._moving import couple, stretch


def pool(c: Call) -> None:
    """Pools, interpolation and padding over the last 1, 2 or 3 dimensions."""
    over = next((n for n in (1, 2, 3) if f"{n}d" in c.name), c.args[0].ndim - 2)
    if any(c.run.union.varies(c.x.labels)[-over:]):
        return c.pin(c.args[0])
    for tensor in tensors(c.out):
        c.run.set(tensor, stretch(c.x.labels, tensor.shape), dead=c.x.dead)
    return None


def reduce(c: Call) -> None:
    """mean, sum, amax ... over some dimensions, kept or not."""
    ndim = c.args[0].ndim
    given = c.arg(1, "dim", ())
    given = () if isinstance(given, bool) else (given,) if isinstance(given, int) else given  # var(x, unbiased)
    over = {d % ndim for d in given or range(ndim)}
    varies = c.run.union.varies(c.x.labels)
    if any(varies[d] for d in over):
        return c.pin(c.args[0])
    dead = c.x.dead if c.name in ("mean", "sum", "amax", "amin") else Dead(why=f"{c.what} does not keep zero at zero")
    for tensor in tensors(c.out):
        labels = c.x.labels
        for d in sorted(over, reverse=True):
            labels = labels.select(d, 0) if tensor.ndim < ndim else labels.narrow(d, 0, 1)
        c.run.set(tensor, labels, dead=dead)
    return None


def along(c: Call) -> None:
    """softmax, cumsum, sort ... along one dimension."""
    dim = c.arg(1, "dim", -1)
    if type(dim) is not int or not c.args[0].ndim or c.run.union.varies(c.x.labels)[dim]:
        return c.pin(c.args[0])
    for tensor in tensors(c.out):
        dead = Dead(why=f"{c.what} does not keep zero at zero")
        c.run.set(tensor, stretch(c.x.labels, tensor.shape), dead=dead)
    return None


def glu(c: Call) -> None:
    """A · sigmoid(b) of the two halves."""
    dim = c.arg(1, "dim", -1)
    size = c.out.shape[dim]
    couple(c, dim, [size, size])
    c.run.set(c.out, c.x.labels.narrow(dim, 0, size), dead=replace(c.x.dead, linear=False))
