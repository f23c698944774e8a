"""One network through Torch-Pruning: half of the channels of every group at random, as its documentation says.

Its pruner is asked for its groups one by one. Before a group is removed, the columns that read its channels are set to
zero in a copy of the network at full size: what is left must compute what that copy computes.
"""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dither._inputs import tensors
from zoo.exact import FRESH, count, largest_difference, run, timed
from zoo.networks import Entry, doubled

TOLERANCE = 1e-6  # of the scale of the output, in float64; a right removal is below 1e-12
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
READERS = (nn.Linear, nn.MultiheadAttention, *CONVOLUTIONS)


def examine(entry: Entry, seed: int) -> dict[str, Any]:
    """What Torch-Pruning makes of a network, as JSON-able values.

    ``result`` is "pass", "wrong", "crash" (with ``stage`` and ``reason``) or "refused", where it removes nothing.
    """
    net = entry.build(seed)
    whole = copy.deepcopy(net)
    fresh = entry.inputs(2, seed + FRESH)
    params, stage = count(net), "build"
    record: dict[str, Any] = {"params": params}
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (it is Torch-Pruning that may use it)
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner, record["build_s"] = timed(lambda: pruner_of(net, entry, seed))
            stage = "prune"
            _, record["prune_s"] = timed(lambda: prune(pruner, net, whole))
            stage = "run"
            adapt(net, pruner.num_heads)
            wanted, got = (run(model.eval().double(), doubled(fresh)) for model in (whole, net))
    except Exception as error:  # whatever it raises is the result
        return {**record, "result": "crash", "stage": stage, "reason": f"{type(error).__name__}: {error}"[:300]}
    record |= {"params_left": count(net), "difference": largest_difference(wanted, got)}
    if count(net) == params:
        return {**record, "result": "refused"}
    return {**record, "result": "pass" if record["difference"] <= TOLERANCE else "wrong"}


def pruner_of(net: nn.Module, entry: Entry, seed: int) -> Any:
    """Its pruner with a random criterion; the last layers and the heads of attention named, as its examples do."""
    import torch_pruning as tp

    heads = {layer: number for module in net.modules() for layer, number in attention(module)}
    return tp.pruner.BasePruner(
        net,
        entry.inputs(1, seed),
        importance=tp.importance.RandomImportance(),
        pruning_ratio=0.5,
        ignored_layers=[m for m in net.modules() if _outputs(m) == entry.classes],
        num_heads=heads,
        in_channel_groups={},  # its defaults are dicts that all its pruners share
        out_channel_groups={},
        output_transform=lambda out: sum(t.sum() for t in tensors(out) if t.requires_grad),
    )


def attention(module: nn.Module) -> list[tuple[nn.Module, int]]:
    """The projections of an attention module with their number of heads, by the names in timm and transformers."""
    number = getattr(module, "num_heads", None) or getattr(module, "num_attention_heads", None)
    if not isinstance(number, int):
        return []
    names = ("qkv", "query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin")
    found = [(name, getattr(module, name, None)) for name in names]
    few = getattr(getattr(module, "config", None), "num_key_value_heads", None) or number
    return [(m, few if name in {"k_proj", "v_proj"} else number) for name, m in found if isinstance(m, nn.Linear)]


def adapt(net: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Tell attention modules their new sizes, as Torch-Pruning's examples for timm and transformers do."""
    for module in net.modules():
        for layer, _ in attention(module)[:1]:
            width = layer.out_features // (3 if layer is getattr(module, "qkv", None) else 1)
            number = heads[layer]
            for name in ("num_heads", "num_attention_heads"):
                if hasattr(module, name):
                    setattr(module, name, number)
            for name, value in (("head_dim", width // number), ("attention_head_size", width // number),
                                ("all_head_size", width), ("attn_dim", width)):  # fmt: skip
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, value)


def prune(pruner: Any, net: nn.Module, whole: nn.Module) -> None:
    """Remove every group, and silence the same channels in ``whole`` where they are read."""
    names = {module: name for name, module in net.named_modules()}
    originals: dict[str, Tensor] = {}  # by reader, the original number of each input channel that is left
    for group in pruner.step(interactive=True):
        for dependency, index in group:
            module = dependency.target.module
            if module not in names or not pruner.DG.is_in_channel_pruning_fn(dependency.handler):
                continue  # its own nodes for operators, or a parameter
            reader: Any = whole.get_submodule(names[module])
            if isinstance(reader, READERS) and not depthwise(reader):
                left = originals.setdefault(names[module], torch.arange(_inputs(reader)))
                gone = torch.tensor(sorted(set(map(int, index))), dtype=torch.int64)
                silence(reader, left[gone])
                stays = torch.ones(len(left), dtype=torch.bool)
                stays[gone] = False
                originals[names[module]] = left[stays]
        group.prune()


@torch.no_grad()
def silence(reader: Any, channels: Tensor) -> None:
    """Set the weights that read ``channels`` to zero."""
    if isinstance(reader, (nn.Linear, nn.MultiheadAttention)):
        weight = reader.weight if isinstance(reader, nn.Linear) else reader.in_proj_weight
        weight[:, channels] = 0
        return
    if reader.groups == 1:
        reader.weight.index_fill_(0 if reader.transposed else 1, channels, 0)
        return
    wide, rows = reader.in_channels // reader.groups, reader.out_channels // reader.groups
    for channel in channels.tolist():
        group, column = divmod(channel, wide)
        if reader.transposed:
            reader.weight[channel] = 0
        else:
            reader.weight[group * rows : (group + 1) * rows, column] = 0


def depthwise(reader: Any) -> bool:
    """A convolution of one channel at a time reads nothing: it passes its channels on."""
    return isinstance(reader, CONVOLUTIONS) and reader.groups == reader.out_channels > 1


def _inputs(reader: Any) -> int:
    if isinstance(reader, nn.MultiheadAttention):
        return reader.embed_dim
    return reader.in_features if isinstance(reader, nn.Linear) else reader.in_channels


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, CONVOLUTIONS) else None
