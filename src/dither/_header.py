"""What a file of `dither.save` says about the network in it, and whether its tensors agree."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

FORMAT = "dither"
VERSION = 1


class CheckpointError(ValueError):
    """A file that cannot be written or read, or that does not fit the network. The message says what to do."""


@dataclass(frozen=True)
class Header:
    """What a file says about the network in it.

    Attributes:
        class_name: Name of the network's class, without its module.
        shapes: Shape of every tensor in the file.
        shared: ``{name: name of the stored tensor}`` for names that share one tensor (tied weights).
        shrunk: What `pruning.shrink` kept, or None: ``{"kept": {tensor: {dim: [index]}}, "selects": …, "plan": …}``.
        law: What a network with converted BatchNorm draws from, ``{"name": "Factorized"}``, or None.
        cost: ``to_dict()`` of the `Cost` or `Comparison` that was saved with the network, or None.
        metadata: The caller's own JSON values.
    """

    class_name: str
    shapes: Mapping[str, tuple[int, ...]]
    shared: Mapping[str, str] = field(default_factory=dict[str, str])
    shrunk: Mapping[str, Any] | None = None
    law: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a file of `save`, without its tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is truncated, of another program or a newer version, or disagrees with itself.
    """
    return read(path, with_values=False)[0]


def read(path: str | os.PathLike[str], *, with_values: bool = True) -> tuple[Header, dict[str, Tensor]]:
    """Header and tensors (also under their shared names) of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is truncated, of another program or a newer version, or disagrees with itself.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(os.fspath(path), framework="pt") as opened:
            file = cast("_Opened", opened)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
            header = parse(file.metadata() or {}, shapes, path)
            values = {name: file.get_tensor(name) for name in shapes} if with_values else {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no complete safetensors file ({error}). It was truncated or is something else: save it again."
        ) from error
    return header, values | {name: values[stored] for name, stored in header.shared.items() if with_values}


class _Opened(Protocol):
    """What is used of the (untyped) object that ``safetensors.safe_open`` opens."""

    def keys(self) -> list[str]: ...
    def metadata(self) -> dict[str, str] | None: ...
    def get_tensor(self, name: str) -> Tensor: ...
    def get_slice(self, name: str) -> Any: ...


def parse(raw: Mapping[str, str], stored: Mapping[str, tuple[int, ...]], path: Path) -> Header:
    """The header from the metadata of a file with tensors of these shapes.

    Raises:
        CheckpointError: If there is none, it is of a newer version or damaged, or the tensors are others.
    """
    if FORMAT not in raw:
        raise CheckpointError(
            f"{path} was not written by dither.save (its metadata is {dict(raw)}). "
            "Read it with safetensors.torch.load_file and net.load_state_dict."
        )
    try:
        entries = cast("dict[str, Any]", json.loads(raw[FORMAT]))
        version = entries["version"]
        if version != VERSION:
            raise CheckpointError(
                f"{path} has format version {version}, this dither reads {VERSION}. Install a newer dither."
            )
        shared = cast("dict[str, str]", entries["shared"])
        shapes = {**stored, **{name: stored[holder] for name, holder in shared.items()}}
        header = Header(
            entries["class"],
            shapes,
            shared,
            entries["shrunk"],
            entries.get("law"),
            entries.get("cost"),
            entries["metadata"],
        )
        wrong = _disagreement(header, stored)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"the header of {path} is damaged ({error!r}). Save the network again.") from error
    if wrong:
        raise CheckpointError(
            f"the header of {path} and its tensors disagree: {wrong}. Another program has replaced one of them; "
            "load what dither.save wrote, or read the tensors alone with safetensors.torch.load_file."
        )
    return header


def _disagreement(header: Header, stored: Mapping[str, tuple[int, ...]]) -> str | None:
    """What the header says about the tensors and they do not have; None if there is nothing."""
    for name, holder in header.shared.items():
        if name in stored:
            return f'"{name}" is said to be "{holder}", and is there itself'
    kept = header.shrunk.get("kept") if isinstance(header.shrunk, Mapping) else None
    if not isinstance(kept, Mapping):
        return None  # what is wrong with such a record is said where it is carried out
    for name, dims in kept.items():
        shape = header.shapes.get(name)
        if shape is None or not isinstance(dims, Mapping):
            continue
        sizes = {str(dim): size for dim, size in enumerate(shape)}
        for dim, index in dims.items():
            if sizes.get(dim) != len(index):
                return f'"{name}" keeps {len(index)} indices of dimension {dim} and has shape {shape}'
    return None
