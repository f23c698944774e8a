"""NLL against the number of samples: groups that share nothing."""

from __future__ import annotations

import pytest
import sklearn.metrics
import torch

from dither import metrics


def test_groups_share_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = (2 * torch.randn(7, 40, 3, generator=generator, dtype=torch.float64)).softmax(-1)
    target = torch.arange(40) % 3
    numbers, mean, spread = metrics.nll_by_samples(probs, target, (1, 3, 7))
    truth = {size: [group_nll(probs, target, i, size) for i in range(7 // size)] for size in (1, 3, 7)}
    assert numbers.tolist() == [1, 3, 7]
    assert mean.tolist() == pytest.approx([torch.tensor(v).mean().item() for v in truth.values()], rel=1e-6)
    assert spread.tolist() == pytest.approx(
        [torch.tensor(truth[1]).std().item(), torch.tensor(truth[3]).std().item(), 0.0], rel=1e-5
    )
    assert mean[0] > mean[1] > mean[2]  # Jensen


def group_nll(probs: torch.Tensor, target: torch.Tensor, i: int, size: int) -> float:
    return sklearn.metrics.log_loss(target, probs[size * i : size * (i + 1)].mean(0))


@pytest.mark.parametrize(("total", "numbers"), [(1, [1]), (2, [1, 2]), (7, [1, 2, 4]), (8, [1, 2, 4, 8])])
def test_powers_of_two_by_default(total: int, numbers: list[int]) -> None:
    found, _, _ = metrics.nll_by_samples(torch.full((total, 2, 2), 0.5), torch.tensor([0, 1]))
    assert found.tolist() == numbers


def test_bad_input() -> None:
    target = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"probs has shape \(2, 2\), expected \(S, N, K\)"):
        metrics.nll_by_samples(torch.full((2, 2), 0.5), target)
    for numbers in ((0, 1), (1, 5), ()):
        with pytest.raises(ValueError, match="expected numbers from 1 to the 4 samples"):
            metrics.nll_by_samples(torch.full((4, 2, 2), 0.5), target, numbers)
