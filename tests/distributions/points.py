"""Where the laws are tested: the range of training, the places where formulas break, and far beyond."""

import math
import random

import torch

from tests.oracles import TruncatedNormal

Point = tuple[float, float, float, float]  # loc, scale, log_low, log_high

BOUNDS = [(-20.0, 0.0), (-10.0, 2.0), (-100.0, 3.0), (-1000.0, 0.0), (-0.01, 0.0), (-2.0, -1.0)]


def fresh_points(seed: int, number: int, dtype: torch.dtype) -> list[Point]:
    """Seeded points, exact in ``dtype``: half in the box of training, the rest where precision is hard to keep."""
    draw = random.Random(seed)
    points = []
    for i in range(number):
        low, high = BOUNDS[0] if i % 2 == 0 else draw.choice(BOUNDS)
        loc, scale = draw.uniform(-20, 5), math.exp(draw.uniform(-20, 5))
        match i % 10:
            case 1:  # at a bound
                loc = draw.choice([low, high])
            case 3:  # within a few scales of a bound, on either side
                loc = draw.choice([low, high]) + scale * draw.uniform(-9, 9)
            case 5:  # scales from 1e-30 to 1e30
                scale = 10 ** draw.uniform(-30, 30)
            case 7:  # far from the interval, on either side
                loc = draw.choice([-1, 1]) * 10 ** draw.uniform(0, 6)
            case 9:  # where the forms for wide and for narrow laws meet
                scale = 0.25 * 2 ** draw.uniform(-2, 3)
        loc, scale = torch.tensor([loc, scale], dtype=dtype).tolist()
        points.append((loc, scale, low, high))
    return points


def oracle(point: Point) -> TruncatedNormal:
    return TruncatedNormal(*point)


def columns(points: list[Point], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """loc and scale as leaves of ``dtype``, and the bounds in float64."""
    loc, scale, low, high = torch.tensor(points, dtype=torch.float64).unbind(1)
    return loc.to(dtype).requires_grad_(), scale.to(dtype).requires_grad_(), low, high


def assert_within(
    got: torch.Tensor, truth: torch.Tensor, tolerance: float, floor: torch.Tensor | float, points: list[Point]
) -> None:
    """|got - truth| <= tolerance max(|truth|, floor) wherever the truth is finite in the dtype of ``got``."""
    limit = torch.finfo(got.dtype)
    expected = truth.abs() < limit.max
    error = (got.detach().double() - truth).abs()
    # Below the smallest normal number a dtype has fewer digits.
    scale = torch.maximum(truth.abs(), torch.as_tensor(floor, dtype=torch.float64)).clamp(min=limit.tiny)
    wrong = expected & ~(error <= tolerance * scale)
    if wrong.any():
        worst = torch.where(expected, torch.nan_to_num(error / scale, nan=math.inf), 0.0).argmax().item()
        raise AssertionError(
            f"{int(wrong.sum())} of {len(points)} points; worst at {points[worst]}: "
            f"got {got[worst].item()}, expected {truth[worst].item()}"
        )
