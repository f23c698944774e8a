"""shrink: carry a plan out, physically."""

from __future__ import annotations

from typing import overload

from torch import nn
from torch.optim import Optimizer

from ..._inputs import Inputs
from ..._processes import unwrapped
from ..cutting._cut import keep_slots, own, twin
from ..cutting._known import numbers
from ..cutting._plain import FixedScale
from ..labels import analyse
from ..noise._gates import find_bank, ungate
from ..planning._decision import choose, features_left, select, to_json
from ..planning._plan import Plan
from ._apply import apply_shrunk
from ._fold import absorb, fold
from ._masked import Answers, baked, fixed, fold_gates, means, verify
from ._resize import resize


@overload
def shrink(net: nn.Module, plan: Plan, example_inputs: Inputs, *, optimizer: None = None) -> nn.Module: ...
@overload
def shrink(
    net: nn.Module, plan: Plan, example_inputs: Inputs, *, optimizer: Optimizer
) -> tuple[nn.Module, Optimizer]: ...
def shrink(
    net: nn.Module, plan: Plan, example_inputs: Inputs, *, optimizer: Optimizer | None = None
) -> nn.Module | tuple[nn.Module, Optimizer]:
    """A physically smaller network of plain layers that computes what `masked` computes.

    Eθ is folded into the weights; dropped channels, and every slice of every tensor that goes with them, are cut out.
    The result is compared with the masked network on the example inputs and on another batch size before it is
    returned; a network that differs never leaves this function. Dtype, device, mode, ``requires_grad`` and memory
    format are kept.

    **With an optimizer**, training goes on: the smaller network keeps its noise, and the optimizer its state (momentum,
    Adam's moments, step counts) and its parameter groups, cut along. Given the draws of the units that stay, both
    networks have the same outputs and gradients, and an optimizer that works on single elements (SGD, Adam, AdamW,
    RMSprop ...) takes the same steps. Where a step looks at a whole tensor (Muon, LAMB), it goes on from the same
    state. Gradients that wait for their step are cut along too. Use the returned pair from then on::

        net, optimizer = pruning.shrink(net, pruning.plan(net, x), x, optimizer=optimizer)
        scheduler.optimizer = optimizer  # a scheduler goes on with the new optimizer

    What must be made anew is what points to the old parameters: averaged copies (EMA), wrappers (DataParallel), hooks
    on parameters.

    Args:
        net: What `attach` returned, trained, or a network with hand-placed noise. It is not changed. In
            DistributedDataParallel, the network inside is meant, and what is returned must be wrapped again.
        plan: What to keep.
        example_inputs: As for `attach`.
        optimizer: The optimizer that trains ``net``. It is not changed.

    Returns:
        A new module of the same class. Its attribute ``dither_shrunk`` tells `dither.save` what was cut. With an
        optimizer, the smaller network with its noise and an optimizer of the same class for it.

    Raises:
        ValueError: If the plan was made for another network, if the optimizer trains none of its parameters, or if a
            tensor of the optimizer's state cannot be cut along (it is named).
        ShrinkError: If the smaller network is not the same function.

    Example:
        >>> import torch
        >>> from dither.pruning import attach, gates, plan
        >>> net = attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
        >>> with torch.no_grad():
        ...     _ = gates(net)["0"].log_scale[:12].fill_(3.0)
        >>> shrink(net, plan(net, torch.zeros(1, 8)), torch.zeros(1, 8))
        Sequential(
          (0): Linear(in_features=8, out_features=4, bias=True)
          (1): ReLU()
          (2): Linear(in_features=4, out_features=4, bias=True)
        )
    """
    net = unwrapped(net)
    if optimizer is not None:
        return resize(net, plan, example_inputs, optimizer)
    theta = means(net, plan)
    analysis = analyse(ungate(twin(net)), example_inputs)
    answers = Answers.of(fixed(twin(net), theta), example_inputs)
    # What noise by hand leaves behind is merged at full size; gates are folded into what is left of the weights.
    small = baked(net, theta) if plan.sites else ungate(twin(net))
    chosen = choose(plan, analysis)
    sites = {name: m for name, m in small.named_modules() if isinstance(m, FixedScale) and name in plan.sites}
    folded = fold(small, analysis.spaces, sites)
    chosen, born = absorb(small, chosen)
    kept = keep_slots(chosen)
    kept |= {f"{layer}.bias": {0: kept[weight][0]} for layer, weight in born.items() if 0 in kept.get(weight, {})}
    for name in (n for n, gone in folded.items() if not gone):
        kept[f"{name}.scale"] = {0: features_left(name, chosen, len(sites[name].scale))}
    selects = select(kept, {c.name.removesuffix("[in]"): c.kept for c in plan.columns}, small)
    record = {"kept": to_json(kept), "selects": selects, "scales": folded, "biases": list(born)}
    own(apply_shrunk(small, record), net)
    if not plan.sites:
        fold_gates(small, net, kept, theta)
    verify(answers, small)
    before = getattr(net, "dither_shrunk", None)  # shrunk once already: both steps rebuild it from the original
    before_gates = bank.baked if (bank := find_bank(net)) else []
    record = {**record, "numbers": numbers(small), "baked": before_gates, "plan": plan.to_dict(), "before": before}
    small.dither_shrunk = record  # pyright: ignore[reportArgumentType]
    return small
