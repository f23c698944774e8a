"""What a file of `dither.save` says about the network in it, and whether it is as it was written.

The header is JSON: the `Header`, the version of the format and checksums.

- Version 2 has the checksums of `_checksum.py`, and is not read without them.
- Version 1 (dither 0.3 and before) has none: a flipped bit in its tensors cannot be seen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ._checksum import CHECKSUMS, of_header, of_tensors

FORMAT = "dither"
VERSION = 2
READABLE = (1, 2)

_TYPES: dict[str, tuple[type, ...]] = {
    "class": (str,),
    "shared": (dict,),
    "shrunk": (dict, type(None)),
    "law": (dict, type(None)),
    "cost": (dict, type(None)),
    "metadata": (dict,),
}


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
        version: Of the format.
        checksum: Of the tensors, equal for equal networks; None in files of version 1 and of `export`.
    """

    class_name: str
    shapes: Mapping[str, tuple[int, ...]]
    shared: Mapping[str, str] = field(default_factory=dict[str, str])
    shrunk: Mapping[str, Any] | None = None
    law: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    version: int = VERSION
    checksum: str | None = None


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
        CheckpointError: If the file is truncated, of another program or a newer version, or its checksums are others.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with open(path, "rb"), safe_open(os.fspath(path), framework="pt") as opened:  # open() has the better errors
            file = cast("_Opened", opened)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
            header = parse(file.metadata() or {}, shapes, path)
            values = {name: file.get_tensor(name) for name in shapes} if with_values else {}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no complete safetensors file ({brief(error)}). It was truncated or is something else: save it "
            "again."
        ) from error
    except OSError as error:
        why = error.strerror or brief(error)
        raise CheckpointError(f"cannot read {path} ({why}). Is it a file, and may you read it?") from error
    if with_values and header.version > 1 and header.checksum != of_tensors(values):
        raise CheckpointError(
            f"the tensors of {path} are damaged: their checksum is not that of the tensors that were saved. Copy the "
            "file again from where it came, or save the network again."
        )
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
            f"{path} was not written by dither.save (its metadata is {brief(dict(raw))}). "
            "Read it with safetensors.torch.load_file and net.load_state_dict."
        )
    entries = _entries(raw[FORMAT], stored, path)
    shared = cast("dict[str, str]", entries["shared"])
    shapes = {**stored, **{name: stored[holder] for name, holder in shared.items()}}
    header = Header(
        entries["class"],
        shapes,
        shared,
        entries.get("shrunk"),
        entries.get("law"),
        entries.get("cost"),
        entries["metadata"],
        entries["version"],
        entries.get(CHECKSUMS, {}).get("tensors"),
    )
    try:
        wrong = _disagreement(header, stored)
    except (TypeError, AttributeError) as error:
        raise CheckpointError(_damage(path, error)) from error
    if wrong:
        raise CheckpointError(
            f"the header of {path} and its tensors disagree: {wrong}. Another program has replaced one of them; "
            "load what dither.save wrote, or read the tensors alone with safetensors.torch.load_file."
        )
    return header


def _entries(text: str, stored: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    """The JSON object, as it was written, with entries of the right types."""
    try:
        entries = json.loads(text)
        version = entries["version"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:  # ValueError: also of numbers with many digits
        raise CheckpointError(_damage(path, error)) from error
    if type(version) is not int or version < READABLE[0]:
        raise CheckpointError(_damage(path, f"its version is {version!r}"))
    if version not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise CheckpointError(
            f"{path} has format version {version}, this dither reads {known}. Install a newer dither."
        )
    if (version > 1 or CHECKSUMS in entries) and not _is_sealed(entries, stored):
        raise CheckpointError(
            _damage(path, "its checksum is not that of the header that was saved, or there are other tensors")
        )
    for name, kinds in _TYPES.items():
        if not isinstance(entries.get(name), kinds):
            raise CheckpointError(_damage(path, f'"{name}" is {type(entries.get(name)).__name__}'))
    for name, holder in entries["shared"].items():
        if not isinstance(holder, str) or holder not in stored:
            raise CheckpointError(_damage(path, f'"{name}" is said to be {holder!r}, which is not there'))
    return entries


def _is_sealed(entries: Mapping[str, Any], stored: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the header has the checksum that belongs to it and to tensors of these shapes."""
    try:
        return entries[CHECKSUMS]["header"] == of_header(entries, stored)
    except (KeyError, TypeError, AttributeError, RecursionError):
        return False


def _damage(path: Path, reason: object) -> str:
    """The message for a header that is not as it was written."""
    said = repr(reason) if isinstance(reason, BaseException) else reason
    return f"the header of {path} is damaged ({brief(said)}). Copy the file or save the network again."


def brief(reason: object) -> str:
    """A reason as one sentence for a person, however much of a damaged file it quotes."""
    text = str(reason)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


LONGEST = 400


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
