"""Every one of the 757 reference points, which were computed with 120 digits by a program that is not ours."""

import csv
import os
from pathlib import Path

import pytest
import torch
from torch.distributions import kl_divergence

from dither.distributions import LogUniform, TruncatedLogNormal
from tests.distributions.points import assert_within

REFERENCE = Path(
    os.environ.get("DITHER_REFERENCE", Path(__file__).parents[3] / "shared" / "reference" / "truncated_log_normal.csv")
)
pytestmark = pytest.mark.skipif(
    not REFERENCE.exists(), reason=f"no reference table at {REFERENCE}; set DITHER_REFERENCE to its path"
)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)], ids=str)
def test_757_of_757(dtype: torch.dtype, tolerance: float) -> None:
    with REFERENCE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = {name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in rows[0]}
    points = list(zip(*(table[name].tolist() for name in ("loc", "log_scale", "log_low", "log_high")), strict=True))
    assert len(points) == 757

    loc, log_scale = table["loc"].to(dtype).requires_grad_(), table["log_scale"].to(dtype).requires_grad_()
    bounds = table["log_low"], table["log_high"]
    q = TruncatedLogNormal(loc, log_scale.exp(), *bounds)
    divergence = kl_divergence(q, LogUniform(*bounds))
    d_loc, d_log_scale = torch.autograd.grad(divergence.sum(), [loc, log_scale])

    # Near zero crossings the error is measured on the scale of 1e-3 nats.
    assert_within(divergence, table["kl_to_log_uniform"], tolerance, 1e-3, points)
    assert_within(d_loc, table["dkl_dloc"], tolerance, 1e-3, points)
    assert_within(d_log_scale, table["dkl_dlog_scale"], tolerance, 1e-3, points)
    assert_within(q.mean, table["mean"], tolerance, 0.0, points)
    assert_within(q.snr, table["snr"], tolerance, 0.0, points)
