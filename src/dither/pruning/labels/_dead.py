"""What hand-placed noise makes zero, and how far that zero travels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a tag carries what is dead, and a call carries tags
    from ._ledger import Call
    from ._tags import Tag

# f(0) = 0: what noise has made zero stays zero. The first also scale: f(cx) = c f(x) for c > 0.
SCALES = {"relu", "leaky_relu", "_prelu_kernel", "neg", "abs", "rrelu_with_noise"}
KEEPS_ZERO = SCALES | {
    *("tanh", "gelu", "silu", "hardswish", "elu", "mish", "celu", "hardtanh", "relu6", "hardshrink", "softshrink"),
    *("sin", "asinh", "atan", "erf", "sign", "sqrt", "square", "expm1", "log1p"),
}


@dataclass(frozen=True)
class Dead:
    """What becomes exactly zero when hand-placed noise drops a channel.

    Attributes:
        sites: The noise modules that must all drop the channel; empty where a dropped channel is not zero.
        linear: Whether the way from the noise scales: f(cx) = c f(x) for c > 0, so that Eθ can move along it.
        why: Where ``sites`` is empty: what ended it, for the error message.
        follows: Where ``sites`` is empty: whether the value changes with the noise all the same, as sigmoid(θx) does.
    """

    sites: frozenset[str] = frozenset()
    linear: bool = True
    why: str = "it is not multiplied by noise"
    follows: bool = False


ALIVE = Dead()


def still_dead(c: Call, tags: list[Tag]) -> Dead:
    """Whether f(x, y, ...) is zero where noise dropped the channel of its arguments."""
    dead = [tag.dead for tag in tags]
    touched = [d for d in dead if d.sites]
    if not touched:
        return next((d for d in dead if d is not ALIVE), ALIVE)
    name = c.name.removesuffix("_")
    if name == "mul" or (name == "div" and dead[0].sites and len(touched) == 1):
        alone = len(touched) == 1 and not any(d.follows for d in dead)
        return touched[0] if alone else replace(touched[0], linear=False)
    if name in ("add", "sub"):
        if len(touched) < len(c.args[:2]):
            return Dead(why=f"{c.what} adds something that the noise does not multiply")
        alike = all(d.linear for d in dead) and dead[0].sites == dead[1].sites
        return Dead(dead[0].sites | dead[1].sites, alike)
    if name == "hardtanh" and not c.arg(1, "min_val", -1.0) <= 0 <= c.arg(2, "max_val", 1.0):
        return Dead(why=f"{c.what} does not keep zero at zero")
    if name in KEEPS_ZERO and dead[0].sites:
        return dead[0] if name in SCALES else replace(dead[0], linear=False)
    return Dead(why=f"{c.what} does not keep zero at zero")


def all_dead(dead: list[Dead]) -> Dead:
    """Dead where all of these are."""
    for d in dead:
        if not d.sites:
            return d
    return replace(dead[0], sites=frozenset[str]().union(*(d.sites for d in dead)), linear=all(d.linear for d in dead))
