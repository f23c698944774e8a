"""Save a network as safetensors with a JSON header, and load it into a fresh instance of the user's own class.

There is no pickle in the file and none is read. The file is an ordinary safetensors file: its tensors are the
``state_dict``, and its metadata has one entry, ``"dither"``: the `Header` as JSON. (One entry, because safetensors
writes several in a random order, and equal networks should give equal files.)
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import type_before_parametrizations

from ._checksum import of_tensors, sealed
from ._files import write_atomically
from ._header import FORMAT as FORMAT
from ._header import VERSION as VERSION
from ._header import CheckpointError as CheckpointError
from ._header import Header as Header
from ._header import brief
from ._header import read as read
from ._header import read_header as read_header

if TYPE_CHECKING:
    from ._cost import Comparison, Cost

FULL_SIZE = "Pass a fresh, full-size network built as the original was."


def save(
    net: nn.Module,
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
    *,
    cost: Cost | Comparison | None = None,
) -> None:
    """Write a network to a safetensors file: its tensors, and a JSON header that says what was removed.

    The write is atomic: a temporary file in the same folder is written, flushed to the disk and renamed. Whatever goes
    wrong, the file that was there before survives. Tied weights are stored once. Works for plain and shrunk networks,
    for networks that still carry gates, and for converted and fitted BatchNorm, with the law.

    Args:
        net: The network. Every entry of its ``state_dict`` must be a dense tensor.
        path: The file, usually ``*.safetensors``. The folder must exist.
        metadata: JSON values to keep with the network, for example the error it reached.
        cost: What `cost` or `compare` measured, to keep with the network; ``dither inspect`` prints it.

    Raises:
        CheckpointError: If an entry of the state is no dense tensor, a gate is not finite or has exploded, the metadata
            is not JSON, or the disk says no.

    Example:
        >>> import tempfile, dither
        >>> net = torch.nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dither.save(net, folder + "/net.safetensors", metadata={"error_pct": 0.7})
        ...     again = dither.load(torch.nn.Linear(3, 2), folder + "/net.safetensors")
        >>> torch.equal(again.weight, net.weight)
        True
    """
    path = Path(path)
    net = unwrapped(net)
    if (found := _exploded(net)) is not None:
        raise CheckpointError(f"cannot save {path}: {found}, the noise has exploded. Go back to a good checkpoint.")
    stored, shared = _stored_tensors(net, path)
    text = describe(net, path, stored, shared=shared, metadata=metadata, cost=cost)
    try:
        write_atomically(path, to_bytes(stored, metadata={FORMAT: text}))
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"cannot save {path}: safetensors refuses a tensor: {error}") from error
    except OSError as error:
        raise CheckpointError(str(error)) from error


def load(net: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read a file of `save` into a fresh network of the same class; the answer is a new network.

    If the network was shrunk, pass an *original*, full-size instance: its structure is cut down first, from the header
    alone, without data. Then every tensor is filled, bit for bit; a tensor gets the dtype of the file and stays on the
    device of ``net``. All is checked before anything is filled, and ``net`` itself is never changed.

    Args:
        net: A network built as the saved one was; with gates (`pruning.attach`) if the saved one had gates, converted
            (`batchnorm.convert`) if the saved one was.
        path: The file.

    Returns:
        The network of the file, in the train/eval mode of ``net``.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is truncated, of another program or a newer version, or does not fit ``net``.

    Example:
        >>> import tempfile, dither
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dither.save(torch.nn.Linear(3, 2), folder + "/net.safetensors")
        ...     dither.load(torch.nn.Linear(4, 2), folder + "/net.safetensors")
        Traceback (most recent call last):
        dither._header.CheckpointError: .../net.safetensors does not fit this Linear:
        "weight" has shape (2, 3) in the file and (2, 4) in the network. Pass a network built as the saved one was.
    """
    header, values = read(path)
    net = unwrapped(net)
    _check_class(header, net, path)
    filled = _structured(header, copy.deepcopy(net), path)
    _make_room(header, filled, path)
    _check_fit(header, filled, path)
    _fill(filled, values, path)
    return filled


def describe(
    net: nn.Module,
    path: Path,
    stored: Mapping[str, Tensor] | None,
    *,
    shared: Mapping[str, str],
    metadata: Mapping[str, Any] | None,
    cost: Cost | Comparison | None,
) -> str:
    """The header of a file, as JSON with its checksums.

    Args:
        net: The network.
        path: The file, for messages.
        stored: The tensors that the file holds beside the header; None if it has them in a format of its own.
        shared: Other names of the stored tensors.
        metadata: The caller's JSON values.
        cost: What was measured.

    Raises:
        CheckpointError: If the metadata is not JSON.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "class": type_before_parametrizations(net).__name__,
        "shared": dict(shared),
        "shrunk": _shrunk(net),
        **({"law": law} if (law := _law(net)) else {}),
        **({"cost": cost.to_dict()} if cost else {}),
        "metadata": dict(metadata or {}),
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in (stored or {}).items()}
    checksum = None if stored is None else of_tensors(stored)
    try:
        return sealed(header, shapes, checksum)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot save {path}: metadata must be JSON values: {error}") from error


def unwrapped(net: nn.Module) -> nn.Module:
    """The module inside what ``torch.compile`` returns, whose names are those of the user's class."""
    inner = getattr(net, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else net


def _exploded(net: nn.Module) -> str | None:
    """A gate that nobody should find in a file, in words."""
    if not any(hasattr(module, "log_scale") for module in net.modules()):
        return None  # so that plain networks are saved without the import
    from .pruning import gates
    from .pruning.noise._check import bad_gate

    return bad_gate(gates(net))


def _shrunk(net: nn.Module) -> dict[str, Any] | None:
    """What `pruning.shrink` left on the network, as JSON gives it back (lists for tuples, text for keys)."""
    return json.loads(json.dumps(getattr(net, "dither_shrunk", None)))


def _stored_tensors(net: nn.Module, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous CPU tensors to store, each shared one once, and ``{other name: stored name}``."""
    stored: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    names: dict[tuple[Any, ...], str] = {}
    for name, value in net.state_dict().items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f'cannot save {path}: "{name}" is a {type(value).__name__}, not a tensor')
        if is_lazy(value) or value.is_meta or value.layout != torch.strided:
            raise CheckpointError(
                f'cannot save {path}: "{name}" has no dense values (a lazy, meta or sparse tensor). '
                "Run the network once, or make the tensor dense, before saving."
            )
        place = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and place in names:
            shared[name] = names[place]
            continue
        names[place] = name
        stored[name] = value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    return stored, shared


def _check_class(header: Header, net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Networks of two classes can have equal tensors and different outputs."""
    name = type_before_parametrizations(net).__name__
    if name != header.class_name:
        raise CheckpointError(
            f"{os.fspath(path)} holds a {brief(header.class_name)}, not a {name}. Pass an instance of the saved class."
        )


def _structured(header: Header, net: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """``net`` cut down, in place, as the header says, unless it was loaded from such a file itself."""
    if header.shrunk is None or _shrunk(net) == header.shrunk:
        return net
    from .pruning import apply_shrunk

    try:
        small = apply_shrunk(net, _left(header.shrunk, _shrunk(net)))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{os.fspath(path)} was shrunk from another network than this {header.class_name} ({brief(repr(error))}). "
            f"{FULL_SIZE}"
        ) from error
    small.dither_shrunk = dict(header.shrunk)  # pyright: ignore[reportArgumentType] (a plain attribute)
    return small


def _left(record: Mapping[str, Any], done: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The steps of a record behind those that the network has been through: noise may be put on a shrunk one again."""
    before = record.get("before")
    if done is None or not isinstance(before, Mapping):
        return record
    return {**record, "before": None if before == done else _left(cast("Mapping[str, Any]", before), done)}


def _make_room(header: Header, net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Room for the statistics of converted BatchNorm layers, and the law that they are drawn from."""
    if not _is_converted(net):
        return
    from .batchnorm._stored import make_room

    try:
        make_room(net, header.shapes, header.law)
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{os.fspath(path)}: {brief(error)}. Save the network again, or install a newer dither."
        ) from error


def _is_converted(net: nn.Module) -> bool:
    return any(hasattr(module, "source") and hasattr(module, "statistics") for module in net.modules())


def _law(net: nn.Module) -> dict[str, Any] | None:
    if not _is_converted(net):
        return None
    from .batchnorm._stored import law_to_json

    return law_to_json(net)


def _check_fit(header: Header, net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Same names and shapes on both sides."""
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    wrong = [f'"{name}" is only in the file' for name in header.shapes if name not in shapes]
    wrong += [f'"{name}" is only in the network' for name in shapes if name not in header.shapes]
    wrong += [
        f'"{name}" has shape {header.shapes[name]} in the file and {shape} in the network'
        for name, shape in shapes.items()
        if name in header.shapes and header.shapes[name] != shape
    ]
    if wrong:
        gates = [any(".parametrizations." in f".{name}" for name in names) for names in (header.shapes, shapes)]
        advice = {
            (True, False): "The saved network has gates: pass pruning.attach(net, example_inputs).",
            (False, True): "The saved network has no gates: pass the network without pruning.attach.",
        }.get((gates[0], gates[1]), FULL_SIZE if header.shrunk else "Pass a network built as the saved one was.")
        fitted = any(".statistics." in f".{name}" for name in header.shapes)
        if fitted and not _is_converted(net):
            advice = "The saved network was converted: pass batchnorm.convert(net)."
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{os.fspath(path)} does not fit this {header.class_name}: {'; '.join(wrong[:3])}{more}. {advice}"
        )


def _fill(net: nn.Module, values: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Fill every tensor and look that it holds what the file holds (names that are tied here may differ there)."""
    state = net.state_dict(keep_vars=True)
    for name, tensor in state.items():
        if tensor.dtype != values[name].dtype:
            tensor.data = torch.empty_like(tensor, dtype=values[name].dtype, requires_grad=False)
    state.update(values)  # not a plain dict: it knows the versions of the modules, and some of them ask (MNASNet)
    net.load_state_dict(state)
    for name, tensor in net.state_dict().items():
        if not torch.equal(_bits(tensor), _bits(values[name])):
            raise CheckpointError(
                f'{os.fspath(path)} does not fit this network: "{name}" shares its tensor with another name here, but '
                "not in the file. Pass a network built as the saved one was."
            )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
