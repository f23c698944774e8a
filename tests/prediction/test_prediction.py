"""Prediction: what S samples say together, against plain Python."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dither import Prediction
from dither.prediction import _summary
from tests.prediction import oracles


def dirichlet(samples: int, rows: int, classes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, rows, classes, generator=generator, dtype=torch.float64).mul(2).softmax(2)


def by_row(fn, samples: Tensor) -> Tensor:
    return torch.tensor([fn(samples[:, i].tolist()) for i in range(samples.shape[1])], dtype=torch.float64)


def test_entropies_are_those_of_the_oracle() -> None:
    p = dirichlet(7, 5, 4)
    prediction = Prediction(p)
    torch.testing.assert_close(prediction.mean, by_row(oracles.average, p))
    torch.testing.assert_close(prediction.entropy, by_row(lambda s: oracles.entropy(oracles.average(s)), p))
    torch.testing.assert_close(prediction.expected_entropy, by_row(oracles.expected_entropy, p))
    torch.testing.assert_close(prediction.mutual_information, by_row(oracles.mutual_information, p))
    torch.testing.assert_close(prediction.variance, torch.from_numpy(p.numpy().var(0, ddof=1)))


def test_simple_standard_errors_are_those_of_a_mean() -> None:
    p = dirichlet(9, 3, 4)
    prediction = Prediction(p)
    truth = by_row(lambda s: oracles.standard_error([oracles.entropy(q) for q in s]), p)
    torch.testing.assert_close(prediction.expected_entropy_se, truth)
    truth = by_row(lambda s: [oracles.standard_error(column) for column in zip(*s, strict=True)], p)
    torch.testing.assert_close(prediction.mean_se, truth)


@pytest.mark.parametrize("name", ["entropy", "mutual_information", "expected_entropy"])
def test_delta_method_agrees_with_the_jackknife(name: str) -> None:
    """The two differ in the second order, which falls with 1/S."""
    statistics = {
        "entropy": lambda s: oracles.entropy(oracles.average(s)),
        "mutual_information": oracles.mutual_information,
        "expected_entropy": oracles.expected_entropy,
    }
    p = dirichlet(200, 6, 4)
    truth = by_row(lambda s: oracles.jackknife(statistics[name], s), p)
    torch.testing.assert_close(getattr(Prediction(p), f"{name}_se"), truth, rtol=0.02, atol=0)


def test_certain_samples_that_disagree() -> None:
    prediction = Prediction(torch.eye(2)[:, None])
    assert prediction.entropy.item() == pytest.approx(0.6931472)
    assert prediction.mutual_information.item() == pytest.approx(0.6931472)
    assert prediction.expected_entropy.item() == 0


def test_equal_samples_have_no_mutual_information() -> None:
    p = dirichlet(1, 50, 10).float().expand(16, -1, -1)
    prediction = Prediction(p)
    assert bool((prediction.mutual_information >= 0).all())
    assert float(prediction.mutual_information.max()) < 1e-6
    assert float(prediction.mean_se.max()) < 1e-6


def test_one_sample_shows_no_spread_and_no_nan() -> None:
    prediction = Prediction(dirichlet(1, 4, 3))
    names = ["variance", "mean_se", "entropy_se", "expected_entropy_se", "mutual_information_se", "mutual_information"]
    assert all(bool((getattr(prediction, name) == 0).all()) for name in names)


def test_sums_are_taken_in_float64_and_answered_in_the_dtype_of_the_samples() -> None:
    p = dirichlet(16, 4, 10).float()
    prediction = Prediction(p)
    assert prediction.entropy.dtype == prediction.mean.dtype == torch.float32
    torch.testing.assert_close(
        prediction.mutual_information, Prediction(p.double()).mutual_information.float(), rtol=0, atol=0
    )


def test_segmentation_has_an_entropy_for_each_pixel() -> None:
    p = dirichlet(5, 2 * 3 * 4, 6)
    images = p.view(5, 2, 12, 6).transpose(2, 3).reshape(5, 2, 6, 3, 4)
    prediction = Prediction(images)
    assert prediction.entropy.shape == (2, 3, 4)
    torch.testing.assert_close(prediction.entropy.flatten(), Prediction(p).entropy)
    torch.testing.assert_close(prediction.entropy_se.flatten(), Prediction(p).entropy_se)


def test_large_outputs_are_summarised_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    p = dirichlet(5, 7, 4)
    whole = Prediction(p)
    monkeypatch.setattr(_summary, "_CHUNK", 5 * 4 * 2)
    for name in ("mean", "entropy", "mutual_information_se"):
        torch.testing.assert_close(getattr(Prediction(p), name), getattr(whole, name), rtol=0, atol=0)


def test_standard_errors_are_those_of_sampling_given_the_members() -> None:
    """Two members, three samples each: the spread between the members is no Monte-Carlo error."""
    p = dirichlet(6, 1, 3)
    each = [oracles.standard_error(p[part, 0, 1].tolist()) for part in (slice(0, 3), slice(3, 6))]
    truth = (each[0] ** 2 + each[1] ** 2) ** 0.5 / 2
    assert Prediction(p, members=2).mean_se[0, 1].item() == pytest.approx(truth)
    assert bool((Prediction(p, members=6).mean_se == 0).all())


def test_regression_has_moments_and_says_why_there_is_no_entropy() -> None:
    prediction = Prediction(torch.randn(4, 3, 2))
    assert prediction.mean.shape == prediction.variance.shape == prediction.mean_se.shape == (3, 2)
    with pytest.raises(ValueError, match=r"entropy is defined for probabilities only.*sum 1"):
        _ = prediction.entropy
    with pytest.raises(ValueError, match="mutual_information_se is defined"):
        _ = prediction.mutual_information_se
    assert Prediction(torch.randn(4, 3)).variance.shape == (3,)


def test_joined_predictions() -> None:
    p = dirichlet(4, 6, 3)
    whole, parts = Prediction(p), [Prediction(p[:, :2]), Prediction(p[:, 2:])]
    joined = Prediction.cat(parts)
    assert torch.equal(joined.probs, p)
    streamed = Prediction.cat([part.summarised() for part in parts])
    assert len(joined) == len(streamed) == len(whole) == 6
    assert streamed.num_samples == 4
    for name in ("mean", "variance", "entropy", "entropy_se", "mutual_information_se"):
        torch.testing.assert_close(getattr(streamed, name), getattr(whole, name))
    with pytest.raises(ValueError, match="samples of a loader are not kept"):
        _ = streamed.probs
    with pytest.raises(ValueError, match="one number of samples"):
        Prediction.cat([Prediction(p), Prediction(p[:2])])
    with pytest.raises(ValueError, match="one number of samples"):
        Prediction.cat([])


def test_what_it_prints_and_where_it_lives() -> None:
    prediction = Prediction(dirichlet(1, 4, 3))
    assert repr(prediction) == "Prediction(1 sample of (4, 3))"
    assert prediction.to("cpu").summarised().to("cpu").entropy.device.type == "cpu"


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(S, B, \.\.\.\)"):
        Prediction(torch.zeros(3))
    with pytest.raises(ValueError, match="S >= 1"):
        Prediction(torch.zeros(0, 3, 2))
    with pytest.raises(ValueError, match="a summary and num_samples are needed"):
        Prediction(None)
    with pytest.raises(ValueError, match="5 samples cannot be shared by 2 members"):
        Prediction(torch.zeros(5, 3, 2), members=2)
