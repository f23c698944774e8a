"""The numbers of known classes that follow their tensors: ``groups``, ``num_heads``, ``split_size`` and the like.

A module may keep the size of a tensor as a Python number. Those of torch's own layers, and the number of heads of any
attention, are computed from the slices that stay. Whatever else a model keeps is found by the trial (`_trial.py`). It
also tries what is done here: a number that its class means otherwise costs those channels, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..noise._noise import LogNormalNoise
from ._fewer_heads import FewerHeads
from ._libraries import NAMED, OUTER, qualified


class ShrinkError(ValueError):
    """A network would not be the same after channels are removed; it names what is in the way."""


@dataclass(frozen=True)
class Slices:
    """The indices that stay, by the id of a tensor and its dimension."""

    kept: Mapping[int, Mapping[int, Tensor]]

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self.kept

    def index(self, tensor: Tensor, dim: int) -> Tensor:
        """What stays along one dimension, ascending."""
        index = self.kept.get(id(tensor), {}).get(dim)
        return torch.arange(tensor.shape[dim]) if index is None else index.cpu()

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape that is left."""
        return tuple(len(self.index(tensor, dim)) for dim in range(tensor.ndim))

    def parts(self, tensor: Tensor, dim: int, count: int, what: str) -> Tensor:
        """Which of ``count`` equal parts of a dimension are left, all of them with the same number of indices.

        Raises:
            ShrinkError: If parts of unequal size would be left.
        """
        part, sizes = torch.unique(self.index(tensor, dim) // (tensor.shape[dim] // count), return_counts=True)
        if len(set(sizes.tolist())) > 1:
            raise ShrinkError(f"{what} would be left with {sizes.min()} to {sizes.max()} channels each")
        return part


# --- layers of torch -------------------------------------------------------------------------------------------------
def _conv(m: Any, s: Slices) -> None:
    m.groups = len(s.parts(m.weight, 0, m.groups, f"the {m.groups} groups of a convolution"))
    rows, columns = s.shape(m.weight)[:2]
    m.in_channels, m.out_channels = (rows, columns * m.groups) if m.transposed else (columns * m.groups, rows)


def _group_norm(m: Any, s: Slices) -> None:
    m.num_groups = len(s.parts(m.weight, 0, m.num_groups, f"the {m.num_groups} groups of a GroupNorm"))
    (m.num_channels,) = s.shape(m.weight)


def _norm(m: Any, s: Slices) -> None:
    tensor = m.weight if m.affine else m.running_mean
    (m.num_features,) = s.shape(tensor)
    if isinstance(
        fitted := getattr(m, "statistics", None), nn.Module
    ):  # of dither.batchnorm: no pass in eval reads them
        for name, value in list(fitted.named_buffers()):
            if value.ndim > 1:  # (..., channels)
                setattr(fitted, name, value.index_select(-1, s.index(tensor, 0).to(value.device)))


def _layer_norm(m: Any, s: Slices) -> None:
    m.normalized_shape = s.shape(m.weight)


def _linear(m: Any, s: Slices) -> None:
    m.out_features, m.in_features = s.shape(m.weight)


def _bilinear(m: Any, s: Slices) -> None:
    m.out_features, m.in1_features, m.in2_features = s.shape(m.weight)


def _embedding(m: Any, s: Slices) -> None:
    m.num_embeddings, m.embedding_dim = s.shape(m.weight)


def _prelu(m: Any, s: Slices) -> None:
    (m.num_parameters,) = s.shape(m.weight)


def _noise(m: Any, s: Slices) -> None:
    (m.num_features,) = s.shape(m.loc)


def _recurrent(m: Any, s: Slices) -> None:
    gates = len(m.weight_ih_l0) // m.hidden_size
    rows = {tuple(s.index(getattr(m, n), 0).tolist()) for n in m._flat_weights_names if n.startswith("weight_ih")}
    if len(rows) > 1:  # also where as many stay by chance: other noise would leave other numbers
        raise ShrinkError(f"one {type(m).__name__} has one hidden_size for all its layers and directions")
    m.input_size, m.hidden_size = s.shape(m.weight_ih_l0)[1], s.shape(m.weight_ih_l0)[0] // gates
    if m.proj_size:
        m.proj_size = s.shape(m.weight_hr_l0)[0]


def _cell(m: Any, s: Slices) -> None:
    m.input_size, m.hidden_size = s.shape(m.weight_ih)[1], s.shape(m.weight_hh)[1]


def _attention(m: nn.MultiheadAttention, s: Slices) -> None:
    if m.bias_k is not None:
        raise ShrinkError("nn.MultiheadAttention with add_bias_kv cannot lose channels")
    if type(m) not in (nn.MultiheadAttention, FewerHeads):
        raise ShrinkError(f"{type(m).__name__}, a nn.MultiheadAttention with code of its own, cannot lose channels")
    heads = m.num_heads
    if m._parameters["in_proj_weight"] is not None:  # pyright: ignore[reportPrivateUsage]
        sizes = m.rows if isinstance(m, FewerHeads) else (m.embed_dim,) * 3
        index, begin = s.index(m.in_proj_weight, 0), 0
        kept = []
        for size in sizes:
            kept.append((index[(index >= begin) & (index < begin + size)] - begin) // (size // heads))
            begin += size
    else:
        weights = m.q_proj_weight, m.k_proj_weight, m.v_proj_weight
        kept = [s.index(w, 0) // (len(w) // heads) for w in weights]
    counts = [torch.unique(part, return_counts=True) for part in kept]
    left, _ = counts[0]
    if any(not torch.equal(part, left) or len(set(count.tolist())) > 1 for part, count in counts):
        raise ShrinkError("the heads of a nn.MultiheadAttention would be left with unequal numbers of channels")
    FewerHeads.become(m, left.tolist(), (len(kept[0]), len(kept[1]), len(kept[2])))
    m.embed_dim = s.shape(m.out_proj.weight)[0]


LAYERS: list[tuple[type[nn.Module], Callable[[Any, Slices], None]]] = [
    (nn.modules.conv._ConvNd, _conv),  # pyright: ignore[reportPrivateUsage]
    (nn.GroupNorm, _group_norm),
    (nn.modules.batchnorm._NormBase, _norm),  # pyright: ignore[reportPrivateUsage]
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (nn.Embedding, _embedding),
    (nn.EmbeddingBag, _embedding),
    (nn.PReLU, _prelu),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (nn.MultiheadAttention, _attention),
    (LogNormalNoise, _noise),
]


# --- attention of any library ----------------------------------------------------------------------------------------
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nheads", "heads")
INNER = ("all_head_size", "attn_dim", "split_size", "inner_dim", "key_attn_dim", "val_attn_dim")
PACKED = (1, 2, 3)  # projections in one tensor: queries, keys and values


def _heads(m: nn.Module, s: Slices) -> None:
    """Where the first projection in a module that counts its heads loses whole heads, they are counted again.

    Nothing is known of the class: whether its code means this by the number is found by the trial.
    """
    own = [name for name in HEADS if isinstance(vars(m).get(name), int) and vars(m)[name] > 1]
    if not own or any(name in vars(inner) for inner in m.modules() if inner is not m for name in HEADS):
        return
    index, total = next(_rows(m, s), (torch.arange(0), 0))
    for packed in PACKED if len(index) < total else ():
        parts = int(vars(m)[own[0]]) * packed
        if total % parts == 0:
            part, sizes = torch.unique(index // (total // parts), return_counts=True)
            if len(part) % packed == 0 and bool((sizes == total // parts).all()):
                for name in [*own, *(n for n in INNER if isinstance(vars(m).get(n), int))]:
                    setattr(m, name, vars(m)[name] * len(index) // total)
                return


def _rows(m: nn.Module, s: Slices) -> Iterator[tuple[Tensor, int]]:
    """What stays of the outputs of each layer in a module, and how many there were."""
    for layer in m.modules():
        weight = layer._parameters.get("weight")  # pyright: ignore[reportPrivateUsage]
        if weight is not None and weight.ndim > 1:
            dim = int(hasattr(layer, "nf"))  # Conv1D of transformers stores inputs first
            yield s.index(weight, dim), weight.shape[dim]


def adapt(net: nn.Module, slices: Slices) -> None:
    """Set the numbers that known classes keep to what stays, in place; the tensors are not touched.

    Args:
        net: The network before its tensors are cut.
        slices: What stays of each tensor.

    Raises:
        ShrinkError: If a class cannot express what would be left.
    """
    for module in net.modules():
        own = [*module._parameters.values(), *module._buffers.values()]  # pyright: ignore[reportPrivateUsage]
        if any(tensor in slices for tensor in own):
            for kind, tell in LAYERS:
                if isinstance(module, kind):
                    tell(module, slices)
            if (named := NAMED.get(qualified(module))) is not None:
                with suppress(AttributeError):  # another version of the library: the trial finds what that costs
                    named(module, slices)
        if not isinstance(module, nn.MultiheadAttention):
            _heads(module, slices)
    for module in net.modules():
        if (outer := OUTER.get(qualified(module))) is not None:
            with suppress(AttributeError):
                outer(module)
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, FewerHeads) for m in module.modules()):
            module.use_nested_tensor = False  # only its fused kernels take nested tensors, and they want all heads


# --- layers without tensors: their sizes are seen at run time, and travel with the record -----------------------------
FOLLOWERS = ("timm.BlurPool2d",)
NORMS = (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)  # pyright: ignore[reportPrivateUsage]


@contextmanager
def following(net: nn.Module) -> Generator[None]:
    """Let layers that have a size but no tensor take the size of what they are given, in place, while ``net`` runs."""
    handles = [m.register_forward_pre_hook(_follow) for m in net.modules() if _is_bare(m)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


SIZES = ("num_features", "num_channels", "num_groups", "channels")

Numbers = dict[str, dict[str, int]]
"""The sizes of layers that have no tensor, by module name, as JSON-able values."""


def tell(net: nn.Module, sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Set what `numbers` returned, in place.

    Raises:
        ValueError: If it is something else: a file may say anything.
    """
    for name, values in sizes.items():
        layer = net.get_submodule(name)
        if not _is_bare(layer) or not all(
            n in SIZES and hasattr(layer, n) and type(value) is int and value > 0 for n, value in values.items()
        ):
            raise ValueError(f'the record has sizes of "{name}", a {type(layer).__name__}, that it cannot have.')
        vars(layer).update(values)


def numbers(net: nn.Module) -> Numbers:
    """The sizes of layers that have no tensor, as they are now."""
    return {
        name: {n: int(getattr(m, n)) for n in SIZES if hasattr(m, n)} for name, m in net.named_modules() if _is_bare(m)
    }


def _is_bare(module: nn.Module) -> bool:
    if qualified(module) in FOLLOWERS:
        return isinstance(vars(module).get("channels"), int)
    return isinstance(module, NORMS) and not any(True for _ in (*module.parameters(), *module.buffers()))


def _follow(module: nn.Module, args: tuple[Any, ...]) -> None:
    m: Any = module
    if isinstance(module, nn.GroupNorm):
        channels = args[0].shape[1]
        m.num_groups, m.num_channels = max(m.num_groups * channels // m.num_channels, 1), channels
    elif not isinstance(module, NORMS):
        m.channels = args[0].shape[1]
    else:
        m.num_features = args[0].shape[args[0].dim() - m._get_no_batch_dim()]
