"""From classes of labels to channel spaces: what can be removed, and what goes with it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ._constants import Constant, constants
from ._ledger import Ledger
from ._tags import Slot, Use
from ._union import CONSTANT


@dataclass(frozen=True)
class Space:
    """Channels that one set of slices holds: the i-th channel of all its ``slots`` is kept or removed as one.

    Attributes:
        name: The module that writes the channels first.
        size: Number of channels.
        writers: Output dimensions of convolutions and linear layers that produce the channels.
        readers: Input dimensions of convolutions and linear layers that contract them.
        slots: For each dimension of each tensor that goes with the channels, the channel of each index (-1: not one of
            these). Writers, readers and what lies between: biases, BatchNorm, depthwise filters.
        reason: Why no channel can be removed; None where they can.
        noise: Hand-placed noise that drops the channels, by module name.
        linear: Whether Eθ of that noise can be folded into the readers.
        constants: What readers get from channels that noise has dropped, where it is not zero.
        positions: For each buffer that holds positions among the channels, the channel of each position that it could
            name. Its values are renumbered when channels go.
    """

    name: str
    size: int
    writers: tuple[Slot, ...]
    readers: tuple[Slot, ...]
    slots: dict[Slot, Tensor] = field(repr=False)
    reason: str | None = None
    noise: dict[str, Tensor] = field(default_factory=dict, repr=False)
    linear: bool = True
    constants: tuple[Constant, ...] = field(default=(), repr=False)
    positions: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def written_by(self, layers: Collection[str]) -> bool:
        """Whether one of ``layers``, modules or parameters by name, writes these channels."""
        return any(name in layers or name.rpartition(".")[0] in layers for name, _ in self.writers)

    def __str__(self) -> str:
        names = [
            " ".join(dict.fromkeys(name.rpartition(".")[0] or name for name, _ in s))
            for s in (self.writers, self.readers)
        ]
        return f"{self.name:<28} {self.size:>6}  {names[0]} -> {names[1] or 'nobody'}" + (
            f"  [{self.reason}]" if self.reason else ""
        )


@dataclass(frozen=True)
class Analysis:
    """All channel spaces of a network.

    Attributes:
        spaces: In the order of the forward pass.
        columns: Layers whose input columns are flattened channels or network inputs.
        notes: What the reader should know about the run: values that the code asked for, parameters that it never used.
    """

    spaces: tuple[Space, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self.spaces)) or "no convolution or linear layer with a plain weight was run"


def spaces(run: Ledger, model: nn.Module) -> Analysis:
    """Group the classes that hold slices of the same tensors into spaces."""
    reasons, joints = run.union.reasons(), run.union.joints()
    starts = torch.tensor([int(labels[0]) for labels in run.slots.values() if len(labels)])
    names = [slot for slot, labels in run.slots.items() if len(labels)]
    roles: dict[Slot, list[Use]] = defaultdict(list)
    for use in run.uses:
        own = use.labels[use.labels > CONSTANT]
        for k in torch.unique(torch.searchsorted(starts, own, right=True) - 1).tolist():
            roles[names[k]].append(use)

    members: dict[int, list[Slot]] = defaultdict(list)  # class -> the tensor dimensions that hold slices of it
    roots = {slot: run.union.find(labels) for slot, labels in run.slots.items()}
    touched = set(torch.unique(torch.cat([roots[slot] for slot in roles] or [torch.zeros(0)])).tolist())
    for slot in names:
        for root in torch.unique(roots[slot]).tolist():
            if root in touched:
                members[root].append(slot)
    groups: dict[tuple[tuple[Slot, ...], str | None], list[int]] = defaultdict(list)
    for root, slots in members.items():
        groups[tuple(slots), reasons.get(root)].append(root)

    first = {slot: i for i, slot in enumerate(roles)}
    found = [_space(run, slots, reason, classes, roots, roles, joints) for (slots, reason), classes in groups.items()]
    kept = sorted((s for s in found if s.writers), key=lambda s: min(first[slot] for slot in s.writers))
    return Analysis(_rename(kept), _columns(run, model), _notes(run))


def _space(
    run: Ledger,
    slots: tuple[Slot, ...],
    reason: str | None,
    classes: list[int],
    roots: dict[Slot, Tensor],
    roles: dict[Slot, list[Use]],
    joints: dict[int, str],
) -> Space:
    index = torch.full((len(run.union.parent),), -1, dtype=torch.int64)
    index[torch.tensor(classes)] = torch.arange(len(classes))
    writers = tuple(s for s in roles if s in slots and any(u.writes for u in roles[s]))
    readers = tuple(s for s in roles if s in slots and any(not u.writes for u in roles[s]))
    reads = [u for s in readers for u in roles[s] if not u.writes]
    if reason is None and not readers:
        reason = "no layer reads them"
    if reason is None and set(writers) & set(readers):
        reason = "one tensor both writes and reads them"
    if reason is None and len(classes) == 1:
        reason = "they can only go all together" + (f": {joints[classes[0]]}" if classes[0] in joints else "")
    noise, positions = (
        {name: at for name, labels in named.items() if bool(((at := index[run.union.find(labels)]) >= 0).any())}
        for named in (run.sites, run.positions)
    )
    left: tuple[Constant, ...] = ()
    if reason is None and noise:
        left, reason = constants(run, {s: [u for u in roles[s] if not u.writes] for s in readers}, index)
    return Space(
        name=writers[0][0].removesuffix(".weight") if writers else "input",
        size=len(classes),
        writers=writers,
        readers=readers,
        slots={slot: index[roots[slot]] for slot in slots},
        reason=reason,
        noise=noise,
        linear=not left and all(u.shadow is not None and u.shadow.moves(noise) for u in reads),
        constants=left,
        positions=positions,
    )


def _rename(found: list[Space]) -> tuple[Space, ...]:
    """Names are unique: a layer whose channels fall into several spaces is numbered."""
    count = Counter(s.name for s in found)
    seen: Counter[str] = Counter()
    named: list[Space] = []
    for s in found:
        seen[s.name] += 1
        named.append(s if count[s.name] == 1 else replace(s, name=f"{s.name}#{seen[s.name]}"))
    return tuple(named)


def _notes(run: Ledger) -> tuple[str, ...]:
    """That other inputs may take another path, what this one does not reach, and what is no layer with a weight."""
    asked = [f"{name} in {module}" for module, name in run.asked.items()]
    told = {
        "The code asks for values of tensors ({}): the network was analysed on the path that the example takes.": asked,
        "The example does not reach {}: they stay as they are.": list(run.unused.values()),
        "The forward pass computes the weights of {}: what they read and write stays.": list(
            dict.fromkeys(run.computed)
        ),
    }
    return tuple(text.format(_few(names)) for text, names in told.items() if names)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _columns(run: Ledger, model: nn.Module) -> tuple[str, ...]:
    """Linear layers, called once, whose columns are network inputs or several positions of one channel."""
    reads = [u for u in run.uses if not u.writes]
    calls = Counter(u.module for u in reads)
    modules = dict(model.named_modules())
    plain = {name for name, m in modules.items() if type(m).forward is nn.Linear.forward}
    return tuple(u.module for u in reads if u.flat and calls[u.module] == 1 and u.module in plain)
