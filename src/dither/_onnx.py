"""ONNX: an exported program as the bytes of a file, and onnxruntime that runs them."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ._trace import quiet

NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31 - 2**20  # a protobuf file ends at 2 GiB; the graph needs room too


def require(what: str) -> None:
    """Raise if the packages of the extra are not there.

    Raises:
        ImportError: If so, with the command that installs them.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(f"{what} needs {', '.join(missing)}: pip install 'dither[export]'", name=missing[0])


def to_bytes(
    program: torch.export.ExportedProgram,
    input_names: Sequence[str],
    output_names: Sequence[str],
    notes: Mapping[str, str],
) -> bytes:
    """An ONNX file with its weights inside; ``notes`` are its metadata.

    The names are given here and not to the exporter: it writes a file that no program loads if an output is called
    like an inner value (torch 2.13, "mean"). Here inner values make way.

    Raises:
        ValueError: If there are not as many tensors as names, or the file would be too large.
    """
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if size > LARGEST:
        raise ValueError(f"its tensors take {size / 2**30:.1f} GiB and an ONNX file ends at 2; export net.half()")
    with quiet():
        made: Any = torch.onnx.export(program, (), verbose=False)
        graph = made.model.graph
        ends, names = [*graph.inputs, *graph.outputs], [*input_names, *output_names]
        if (len(graph.inputs), len(graph.outputs)) != (len(input_names), len(output_names)):
            raise ValueError(
                f"the graph has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, "
                f"the network reads {len(input_names)} tensors and returns {len(output_names)}"
            )
        for value in (*graph.initializers.values(), *(value for node in graph for value in node.outputs)):
            if value.name in names:
                value.name = f"{value.name}_inner"
        for value, name in zip(ends, names, strict=True):
            value.name = name
        _name_the_batch(ends)
        made.model.metadata_props.update(notes)
        file = io.BytesIO()
        made.save(file, external_data=False)
    return file.getvalue()


def read_notes(path: str) -> dict[str, str]:
    """The metadata of an ONNX file."""
    require(f"reading {path}")
    onnx: Any = importlib.import_module("onnx")
    graph = onnx.load(path, load_external_data=False)  # a file that was not written here may name any other
    return {entry.key: entry.value for entry in graph.metadata_props}


class Runtime:
    """An ONNX file in onnxruntime on the CPU, with as many threads as torch has: tensors in, tensors out.

    Args:
        content: The bytes of the file.
    """

    def __init__(self, content: bytes) -> None:
        onnxruntime: Any = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle, it must not slow what is timed
        options.log_severity_level = 3  # errors are raised anyway; its warnings are about its own optimisations
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def feed(self, inputs: Sequence[Tensor]) -> dict[str, Any]:
        """The inputs as arrays, by name."""
        names = [value.name for value in self.session.get_inputs()]
        return {name: t.detach().cpu().numpy() for name, t in zip(names, inputs, strict=True)}

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return [torch.from_numpy(array) for array in self.session.run(None, self.feed(inputs))]


def _name_the_batch(ends: Sequence[Any]) -> None:
    """The free dimension is called by a symbol of torch, such as s77."""
    for value in ends:
        for dim, size in enumerate(map(str, value.shape or ())):
            if size.isidentifier():
                value.shape[dim] = "batch"
