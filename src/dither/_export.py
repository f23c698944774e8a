"""Export a network as ONNX or as a program of torch.export, and compare what the file computes with PyTorch."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ._checkpoint import describe, unwrapped
from ._files import write_atomically
from ._header import FORMAT, CheckpointError, Header, parse
from ._inputs import Inputs, call, evaluating, tensors, varied, with_batch
from ._onnx import Runtime, read_notes, require, to_bytes
from ._sampling import Stochastic
from ._trace import input_names, named_outputs, quiet, trace

if TYPE_CHECKING:
    from ._cost import Comparison, Cost

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference on the scale of each output. Other programs fuse and reorder, and that adds up with depth."""

Run = Callable[[Inputs], list[Tensor]]


class ExportError(ValueError):
    """A network that cannot be exported, or a file that would compute something else. Nothing was written."""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote, and how far it is from PyTorch.

    Attributes:
        path: The file.
        inputs: Names of the inputs, in order.
        outputs: Names of the outputs, in order.
        batch_sizes: Numbers of rows with which file and network were compared.
        difference: Largest difference of any output, on the scale of that output.
        bytes: Size of the file.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    difference: float
    bytes: int

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.batch_sizes))
        return (
            f"{self.path}: {', '.join(self.inputs)} -> {', '.join(self.outputs)}; {self.bytes:,} bytes\n"
            f"compared with PyTorch at batch {sizes}: largest difference {self.difference:.1e} of the output"
        )


def export(
    net: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Inputs,
    *,
    dynamic_batch: bool = True,
    output_names: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    cost: Cost | Comparison | None = None,
) -> Exported:
    """Write a network that runs without dither and without its class: ``*.onnx``, or ``*.pt2`` of ``torch.export``.

    The file is run before it gets its name, ONNX in onnxruntime, the program as ``torch.export.load`` gives it back, on
    the example inputs and, with a dynamic batch, on other numbers of rows. A file that computes something else, or that
    cannot be run here, is not written. The network is exported in eval mode and stays as it is.

    Args:
        net: A plain network: shrunk, or any other; also what `batchnorm.freeze` returned.
        path: The file. Its suffix says what is written.
        example_inputs: A tensor, a tuple of arguments or a dict of keyword arguments, on the device of ``net``.
        dynamic_batch: Whether the file takes any number of rows: of dimension 0 of the first tensor, and of all tensors
            that have as many.
        output_names: One for each tensor that is returned. None takes the keys and fields of what is returned, and
            "output" for a single tensor. (A ``*.pt2`` returns what the network does; of objects that ``torch.export``
            does not know, a tuple of their tensors.)
        metadata: JSON values to keep in the file, as in `save`.
        cost: What `cost` or `compare` measured, to keep in the file, as in `save`.

    Returns:
        Names, size and the difference that was found. Print it.

    Raises:
        ImportError: If the file is ONNX and the extra is not installed.
        CheckpointError: If the metadata is not JSON.
        ExportError: If the suffix is unknown, the network draws or cannot be traced, or the file would not compute the
            same, or cannot be written.

    Example:
        >>> import tempfile, dither
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = dither.export(net, folder + "/net.pt2", torch.zeros(2, 8))
        ...     program = torch.export.load(made.path)
        >>> made.inputs, made.outputs, made.batch_sizes
        (('input',), ('output',), (2, 3, 1))
        >>> program.module()(torch.zeros(5, 8)).shape
        torch.Size([5, 4])
    """
    path, net = Path(path), unwrapped(net)
    if path.suffix not in _WRITERS:
        raise ExportError(f"{path} ends in {path.suffix!r}; known are {', '.join(_WRITERS)}.")
    if path.suffix == ".onnx":
        require("dither.export to ONNX")
    _check(net)
    text = describe(net, path, None, shared={}, metadata=metadata, cost=cost)
    with evaluating(net):
        batches = _batches(net, example_inputs, dynamic_batch)
        named = named_outputs(call(net, batches[0]))
        expected = [list(named_outputs(call(net, batch)).values()) for batch in batches]
        limit = min((TOLERANCE.get(t.dtype, 1.0) for t in named.values()), default=1.0)
        if not difference(list(named.values()), expected[0]) <= limit:
            raise ExportError("two passes over the same inputs differ: the network draws random numbers in eval().")
        names = list(named) if output_names is None else list(output_names)
        if len(set(names)) != len(named):
            raise ExportError(f"output_names are {names}; the network returns {', '.join(named)}.")
        with _reasons(path, net):
            program = trace(net, batches[0], dynamic_batch=len(batches) > 1, flat=path.suffix == ".onnx")
            content, run = _WRITERS[path.suffix](program, input_names(net, batches[0]), names, text)
            found = [run(batch) for batch in batches]
    worst = max(difference(a, b) for a, b in zip(expected, found, strict=True))
    if not worst <= limit:
        raise ExportError(
            f"cannot export to {path}: the file would compute something else than the network (they differ by "
            f"{worst:.2g} of the output, {limit:g} is allowed). Nothing was written."
        )
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ExportError(str(error)) from error
    inputs, sizes = input_names(net, batches[0]), (next(len(t) for t in tensors(b) if t.ndim) for b in batches)
    return Exported(path, tuple(inputs), tuple(names), tuple(sizes), worst, len(content))


def read_exported(path: str | os.PathLike[str]) -> Header:
    """What `export` wrote into a file beside the graph: class, plan, cost and metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the file is ONNX and the extra is not installed.
        CheckpointError: If it is no file of `export`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        notes = read_notes(os.fspath(path)) if path.suffix == ".onnx" else _read_program_notes(path)
    except ImportError:
        raise
    except Exception as error:  # zipfile and protobuf have exceptions of their own
        raise CheckpointError(f"{path} is no complete {path.suffix} file ({_first_line(error)}).") from error
    return parse(notes, {}, path)


def difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference of any output, on the scale of that output; infinite where they cannot be compared.

    An output that is the small difference of large numbers (a mutual information beside probabilities) carries their
    rounding, so no scale is taken to be below a hundredth of the largest.
    """
    scales = [_scale(a) for a in expected]
    worst = 0.0
    for a, b, scale in zip(expected, found, scales, strict=True):
        a, b = a.detach().cpu(), b.detach().cpu()
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        same = (a == b) | (a.isnan() & b.isnan())  # infinities too
        if not bool(same.all()):
            error = (a.double() - b.double()).abs().nan_to_num(torch.inf).masked_fill(same, 0).max()
            floor = max(scale, max(scales) / 100, 1e-300)
            worst = max(worst, float(error) / floor if a.is_floating_point() else float("inf"))
    return worst


def _scale(t: Tensor) -> float:
    """The largest finite number of a floating-point tensor."""
    return float(t.detach().double().nan_to_num(0, 0, 0).abs().max()) if t.numel() and t.is_floating_point() else 0.0


def _check(net: nn.Module) -> None:
    """Refuse what has another function than the file could have.

    Raises:
        ExportError: If so.
    """
    if isinstance(net, torch.jit.ScriptModule):
        raise ExportError(f"this {type(net).__name__} is scripted; export the nn.Module that it was made from.")
    for name, module in net.named_modules():
        if hasattr(module, "source") and hasattr(module, "statistics"):
            raise ExportError(
                f'"{name}" is a converted BatchNorm. Export batchnorm.freeze(net, num_samples), which answers with '
                "stored draws, or batchnorm.revert(net), which does not doubt."
            )
        if isinstance(module, Stochastic):
            raise ExportError(
                f'"{name}" is noise. Export what pruning.shrink returns, or pruning.masked(net, plan) at full size.'
            )
    if any(t.is_meta for t in (*net.parameters(), *net.buffers())):
        raise ExportError("the network is on the meta device and has no values; load them first.")


def _batches(net: nn.Module, inputs: Inputs, dynamic: bool) -> list[Inputs]:
    """The inputs, with noise where they are constant, and other numbers of rows if the batch is dynamic.

    Raises:
        ExportError: If the network itself runs with this number of rows only.
    """
    inputs = varied(inputs)
    call(net, inputs)  # what is wrong with the inputs is no fault of the batch
    rows = next((t.shape[0] for t in tensors(inputs) if t.ndim), 0)
    if not dynamic or not rows:
        return [inputs]
    batches: list[Inputs] = []
    for size in (max(rows, 2), max(rows, 2) + 1, 1):  # traced with the first; torch makes a constant of one row
        batches.append(with_batch(inputs, size))
        try:
            call(net, batches[-1])
        except Exception as error:  # whatever the user's code raises
            raise ExportError(
                f"the network runs with {rows} rows and not with {size} ({_first_line(error)}). Use "
                "dynamic_batch=False, or example inputs whose dimension 0 is the batch."
            ) from error
    return batches


@contextmanager
def _reasons(path: Path, net: nn.Module) -> Generator[None]:
    """Say what could not be exported, and how to go on.

    Raises:
        ExportError: Instead of what torch, onnx or onnxruntime raise: each has exceptions of its own.
    """
    try:
        yield
    except Exception as error:
        reason, advice = _first_line(error), ""
        if "batch" in str(error):
            advice = " If the code of the network asks for the number of rows, use dynamic_batch=False."
        elif path.suffix == ".onnx" and any(p.dtype != torch.float32 for p in net.parameters()):
            advice = " onnxruntime has few kernels for other numbers than float32: export net.float()."
        raise ExportError(f"cannot export to {path}: {reason}. Nothing was written.{advice}") from error


def _first_line(error: BaseException) -> str:
    """The beginning of the first cause, without the exporters' framing."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    place = re.search(r'raised this error:\s+File "(.+)", line (\d+).*\n\s*(.+)', str(error))  # as torch.export has it
    where = ", at {}:{} `{}`".format(*place.groups()) if place else ""
    return f"{type(error).__name__}: {lines[0].rstrip('.')}{where}"


def _onnx(
    program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], text: str
) -> tuple[bytes, Run]:
    content = to_bytes(program, inputs, outputs, {FORMAT: text})
    runtime = Runtime(content)
    return content, lambda batch: runtime(tensors(batch))


def _program(
    program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], text: str
) -> tuple[bytes, Run]:
    file = io.BytesIO()
    with quiet():
        torch.export.save(program, file, extra_files={NOTES: text})
        file.seek(0)
        again = torch.export.load(file).module()
    return file.getvalue(), lambda batch: tensors(call(again, batch))


def _read_program_notes(path: Path) -> dict[str, str]:
    """Extra files of a program: it is a zip archive, and nothing else in it is read."""
    with zipfile.ZipFile(path) as archive:
        found = [entry for entry in archive.infolist() if entry.filename.endswith(f"/{NOTES}")]
        if found and found[0].file_size > LARGEST_NOTES:  # little in the archive may be much outside of it
            raise ValueError(f"its notes take {found[0].file_size:,} bytes, {LARGEST_NOTES:,} are allowed")
        return {FORMAT: archive.read(found[0]).decode()} if found else {}


NOTES = f"{FORMAT}.json"
LARGEST_NOTES = 100_000_000  # as safetensors has it for a header
_WRITERS = {".onnx": _onnx, ".pt2": _program}
EXPORTED = tuple(_WRITERS)
