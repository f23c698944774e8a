"""One process that reads damaged files, in little memory, and says what came of each; `files.py` starts it.

It prints two lines for a case: its number before it is tried, so that a process that dies has named what killed it, and
then the outcome as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors.torch import load as from_bytes
from torch import nn

import dither
from dither._checksum import CHECKSUMS, sealed
from dither.cli._inspect import inspect
from tests.fuzz.mutations import BYTES, mutate, text_of
from tests.fuzz.samples import EXPORTED, SAMPLES, Sample

ROOM = 2**30  # bytes of address space for reading one file of a few kB
LONGEST = 2_000  # characters of a message that a person should read


class Fault(AssertionError):
    """What must not happen, whatever is in the file."""


@dataclass
class Ready:
    """A sample, what it should give, and the network that it is loaded into."""

    sample: Sample
    content: bytes
    fresh: nn.Module
    loaded: dict[str, bytes]

    @classmethod
    def of(cls, sample: Sample, folder: Path) -> Ready:
        path = sample.write(folder)
        if sample.suffix != ".safetensors":
            return cls(sample, path.read_bytes(), nn.Identity(), {})
        fresh = sample.fresh().eval()
        return cls(sample, path.read_bytes(), fresh, everything(dither.load(fresh, path), sample))


def everything(net: nn.Module, sample: Sample) -> dict[str, bytes]:
    """All that a network computes with, and what it computes, as bytes."""
    with torch.no_grad():
        found = {**net.state_dict(), "the output": net(sample.inputs)}
        values = {name: bits(tensor) for name, tensor in found.items()}
    laws = [str(m.source.law) for m in net.modules() if hasattr(m, "source")]
    return values | {"the structure": f"{net}{laws}".encode()}


def bits(tensor: torch.Tensor) -> bytes:
    return (
        f"{tensor.dtype}{tuple(tensor.shape)}".encode()
        + tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    )


def attempt(ready: Ready, content: bytes, sealed: bool, path: Path) -> str:
    """What came of one file: "refused", "same" or "as written" (a header that somebody changed and sealed again).

    Raises:
        Fault: If it is anything else.
    """
    path.write_bytes(content)
    before = {name: bits(tensor) for name, tensor in ready.fresh.state_dict().items()}
    outcome = loaded(ready, content, sealed, path) if ready.sample.suffix == ".safetensors" else "same"
    refused = looked_at(path)
    if ready.sample.suffix != ".safetensors" and refused:
        outcome = "refused"
    if path.read_bytes() != content:
        raise Fault("the file was changed")
    if before != {name: bits(tensor) for name, tensor in ready.fresh.state_dict().items()}:
        raise Fault("the network that was given was changed")
    return outcome


def loaded(ready: Ready, content: bytes, sealed: bool, path: Path) -> str:
    """Through `dither.load`."""
    try:
        net = dither.load(ready.fresh, path)
    except dither.CheckpointError as error:
        if str(path) not in str(error) or len(str(error)) > LONGEST:
            raise Fault(f"the message does not name the file, or is too long: {str(error)[:200]}") from error
        return "refused"
    except Exception as error:
        raise Fault(f"load raised {type(error).__name__}: {str(error)[:200]}") from error
    try:
        found = everything(net, ready.sample)
    except Exception as error:
        raise Fault(f"loaded, but the network does not run: {type(error).__name__}: {str(error)[:200]}") from error
    if found == ready.loaded:
        return "same"
    if not sealed:
        wrong = [name for name in {**found, **ready.loaded} if found.get(name) != ready.loaded.get(name)]
        raise Fault(f"loaded, but other than saved: {wrong}")
    there = from_bytes(content)
    for name, tensor in net.state_dict().items():
        if name in there and bits(tensor) != bits(there[name]):
            raise Fault(f"loaded, but {name} is not what is in the file")
    return "as written"


def looked_at(path: Path) -> bool:
    """Through `dither inspect`; whether it was refused."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            inspect(path)
        except typer.Exit as end:
            if end.exit_code != 2 or path.name not in errors.getvalue() or len(errors.getvalue()) > LONGEST:
                raise Fault(f"inspect ended with {end.exit_code}: {errors.getvalue()[:200]}") from end
            return True
        except Exception as error:
            raise Fault(f"inspect raised {type(error).__name__}: {str(error)[:200]}") from error
    return False


def seal(header: dict[str, Any], table: dict[str, Any], first: bool) -> str:
    """The checksums that belong to a header, or a file of version 1, which has none."""
    shapes = {name: tuple(entry["shape"]) for name, entry in table.items() if name != "__metadata__"}
    sums = header.pop(CHECKSUMS, None)
    try:
        if first and header.get("version") == 2:
            return text_of(header | {"version": 1})
        return sealed(header, shapes, sums["tensors"])
    except (TypeError, KeyError, ValueError, RecursionError):  # the change has left nothing to seal
        return text_of(header)


def case(number: int, samples: list[Ready], folder: Path) -> dict[str, Any]:
    """Try one file. The number is the seed: of what is damaged, and how."""
    rng = random.Random(number)
    ready = rng.choice(samples)
    others = [r.content for r in samples if r.sample.suffix == ".safetensors"]
    if ready.sample.suffix == ".safetensors":
        how, content, sealed = mutate(ready.content, others, rng, seal)
    else:
        how, content, sealed = "bytes", damaged(ready.content, rng), False
    began = time.perf_counter()
    result: dict[str, Any] = {"case": number, "sample": ready.sample.name, "how": how}
    try:
        result["outcome"] = attempt(ready, content, sealed, folder / f"case{ready.sample.suffix}")
    except Fault as fault:
        result |= {"outcome": "FAULT", "what": str(fault)}
    return result | {"seconds": round(time.perf_counter() - began, 3)}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """For files that are no safetensors."""
    data = bytearray(content)
    rng.choice(BYTES)(data, rng)
    return bytes(data)


def limit_memory() -> None:
    """From here on this process gets so much more memory, and no more; a header may ask for any."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int)
    parser.add_argument("--exported", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = [Ready.of(sample, options.folder) for sample in (*SAMPLES, *(EXPORTED if options.exported else ()))]
    for ready in samples:  # everything that is imported late is there before memory is short
        attempt(ready, ready.content, False, options.folder / f"case{ready.sample.suffix}")
    limit_memory()
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(options.first, options.end):
        print(number, flush=True)
        print(json.dumps(case(number, samples, options.folder)), flush=True)
    print(json.dumps({"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - highest}), flush=True)


if __name__ == "__main__":
    main()
