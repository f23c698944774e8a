"""What leaves the library: every shrunk network of the table survives its file, torch.export and torch.compile."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import dither
from dither import pruning
from dither._inputs import call, evaluating, tensors, with_batch
from tests.cases import CASES
from tests.pruning.test_cases import assert_same, drown_half

SHRINKABLE = [case for case in CASES if case.removable]
numbered = pytest.mark.parametrize("number", range(len(SHRINKABLE)), ids=lambda i: SHRINKABLE[i].name)
some_now = pytest.mark.parametrize(  # every fourth in the quick tests
    "number",
    [pytest.param(i, marks=[pytest.mark.slow] * (i % 4 > 0), id=case.name) for i, case in enumerate(SHRINKABLE)],
)
BRANCHING = "the path that the values choose"  # no graph can follow it


@functools.cache
def shrunk(number: int) -> nn.Module:
    case = SHRINKABLE[number]
    x = case.inputs()
    net = pruning.attach(case.build(), x)
    drown_half(net, seed=0)
    return pruning.shrink(net, pruning.plan(net, x), x)


def assert_same_bits(a: object, b: object) -> None:
    left, right = tensors(a), tensors(b)
    assert len(left) == len(right) > 0
    for x, y in zip(left, right, strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert torch.equal(x.contiguous().view(-1).view(torch.uint8), y.contiguous().view(-1).view(torch.uint8))


@numbered
def test_saved_and_loaded_into_the_users_own_class_bit_for_bit(number: int, tmp_path: Path) -> None:
    case, small = SHRINKABLE[number], shrunk(number)
    dither.save(small, tmp_path / "net.safetensors")
    again = dither.load(case.build(), tmp_path / "net.safetensors")
    kept, found = small.state_dict(keep_vars=True), again.state_dict(keep_vars=True)
    assert list(found) == list(kept)  # in the same order, as optimizers need it
    for name in kept:
        assert_same_bits(found[name], kept[name])
        assert found[name].requires_grad == kept[name].requires_grad
    assert str(again) == str(small)
    with torch.no_grad():
        assert_same_bits(case.run(again, 2), case.run(small, 2))
    dither.save(again, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "net.safetensors").read_bytes()


@some_now
def test_torch_export(number: int, tmp_path: Path) -> None:
    case, small = SHRINKABLE[number], shrunk(number)
    if case.name == BRANCHING:
        with pytest.raises(dither.ExportError, match="data-dependent"):
            dither.export(small, tmp_path / "net.pt2", case.inputs())
        return
    dither.export(small, tmp_path / "net.pt2", case.inputs())
    program = torch.export.load(tmp_path / "net.pt2").module()
    for size in (1, 5):
        batch = with_batch(case.inputs(2), size)
        with evaluating(small):
            assert_same(call(program, batch), call(small, batch))


@pytest.fixture
def forgetful() -> Iterator[None]:
    """All of these networks have one forward function, for which torch would not compile more than eight graphs."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@some_now
@pytest.mark.usefixtures("forgetful")
def test_torch_compile_reads_it_in_one_graph(number: int) -> None:
    case, small = SHRINKABLE[number], shrunk(number)
    recurrent = any(isinstance(m, nn.RNNBase) for m in small.modules())  # torch compiles around these
    compiled = torch.compile(small, backend="eager", fullgraph=case.name != BRANCHING and not recurrent)
    with torch.no_grad():
        assert_same(case.run(compiled, 2), case.run(small, 2))


@pytest.mark.slow
@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("name", ["dense block", "depthwise"])
def test_torch_compile_with_its_own_code_generator(name: str) -> None:
    number = next(i for i, case in enumerate(SHRINKABLE) if case.name == name)
    case, small = SHRINKABLE[number], shrunk(number)
    with torch.no_grad():
        assert_same(case.run(torch.compile(small), 2), case.run(small, 2))
