"""index_select by a buffer of positions, which must be renumbered when channels go."""

from __future__ import annotations

from ._ledger import Call
from ._moving import gather


def select(c: Call) -> None:
    """Executed on the labels; what the positions could name is remembered, for removal must renumber them.

    An index that the forward pass computes cannot be renumbered: then it must not be channels that it selects.
    """
    run, x, (_, dim, index) = c.run, c.x, c.args
    name = _name(c)
    if name is None or name in run.positions or x.fields or not run.union.varies(x.labels)[dim]:
        return gather(c)
    labels = x.labels.index_select(dim, index.to(x.labels.device))
    run.positions[name] = run.union.along(x.labels, dim, f"{c.what} selects at several positions")
    run.union.unite(run.slots[name, 0], run.union.along(labels, dim, c.what), f"{c.what} selects from network inputs")
    return run.set(c.out, labels)


def _name(c: Call) -> str | None:
    """The name of the buffer that is the index; None if it is computed."""
    fields = c.run.of(c.args[2]).fields
    first = int(fields[0].flatten()[0]) if fields and fields[0].numel() else -1
    owners = (name for (name, _), labels in c.run.slots.items() if len(labels) and int(labels[0]) == first)
    return next(owners, None)
