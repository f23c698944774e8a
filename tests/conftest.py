"""Shared by all tests: one thread per worker, one seed per test, no network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: xdist already uses every core
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> Iterator[int]:
    """Seed the global generator before every test; a test may use the number for its own generators."""
    value = 20171204
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(value)
        yield value


@pytest.fixture(autouse=True)
def checked_arguments() -> None:
    """torch.compile switches the argument checks of torch.distributions off for the whole process: on again."""
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture(autouse=True)
def unchanged_defaults() -> Iterator[None]:
    """Fail a test that leaves another default dtype or grad mode to the next one."""
    yield
    state = torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    assert state == (torch.float32, True), "the test changed torch's default dtype or grad mode and did not restore it"
