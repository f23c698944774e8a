"""What a user of torch.distributions expects, beside the numbers."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence

from dither.distributions import LogUniform, TruncatedLogNormal

# loc and scale of laws that are inside, half, in both tails, at both bounds, narrow.
LOC = [-3.0, 0.0, -22.0, 3.0, -5.0, -1.0]
SCALE = [0.5, 1.0, 1.5, 0.7, 9.0, 0.01]


def leaves(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.tensor(LOC, dtype=dtype, requires_grad=True), torch.tensor(SCALE, dtype=dtype, requires_grad=True)


def draw(q: TruncatedLogNormal) -> Tensor:
    torch.manual_seed(3)
    return q.rsample((2,))


STATISTICS: dict[str, Callable[[TruncatedLogNormal], Tensor]] = {
    "kl": lambda q: kl_divergence(q, LogUniform(-21.0, 0.5)),
    "entropy": lambda q: q.entropy(),
    "mean": lambda q: q.mean,
    "stddev": lambda q: q.stddev,
    "snr": lambda q: q.snr.log(),
    "rsample": draw,
    "icdf": lambda q: q.icdf(torch.tensor([[0.1], [0.8]], dtype=torch.float64)),
    "cdf": lambda q: q.cdf(torch.tensor([[1e-8], [0.04], [0.9]], dtype=torch.float64)),
    "log_prob": lambda q: q.log_prob(torch.tensor([[1e-8], [0.04], [0.9]], dtype=torch.float64)),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_gradcheck(name: str) -> None:
    function = STATISTICS[name]
    assert torch.autograd.gradcheck(lambda loc, scale: function(TruncatedLogNormal(loc, scale)), leaves())


def test_gradcheck_of_the_arguments() -> None:
    q = TruncatedLogNormal(*(leaf.detach() for leaf in leaves()))
    u = torch.tensor([0.1, 0.3, 0.5, 0.6, 0.8, 0.9], dtype=torch.float64)
    theta = q.icdf(u).requires_grad_()
    scaled = torch.ones(6, dtype=torch.float64, requires_grad=True)  # relative steps: θ may be 1e-9
    assert torch.autograd.gradcheck(q.icdf, u.requires_grad_())
    assert torch.autograd.gradcheck(lambda s: q.cdf(s * theta.detach()), scaled)
    assert torch.autograd.gradcheck(lambda s: q.log_prob(s * theta.detach()), scaled)


def test_a_second_derivative_is_an_error_not_a_zero() -> None:
    loc, scale = leaves()
    divergence = kl_divergence(TruncatedLogNormal(loc, scale), LogUniform()).sum()
    (d_loc,) = torch.autograd.grad(divergence, loc, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(d_loc.sum(), loc)


def test_divergence_by_the_bounds_of_the_prior() -> None:
    q = TruncatedLogNormal(*leaves())
    bound = kl_divergence(q, LogUniform()).detach()
    wider = kl_divergence(q, LogUniform(-25.0, 5.0)).detach()
    torch.testing.assert_close(wider, bound + torch.log(torch.tensor(1.5, dtype=torch.float64)))
    for low, high in [(-19.0, 5.0), (-25.0, -0.5)]:
        assert kl_divergence(q, LogUniform(low, high)).isposinf().all()
        assert kl_divergence(LogUniform(), LogUniform(low, high)).isposinf()


def test_a_bound_means_the_same_as_number_and_as_float32_tensor() -> None:
    bound = -6.907755  # is rounded up in float32
    q = TruncatedLogNormal(torch.zeros(3), 1.0, bound, 0.0)
    assert kl_divergence(q, LogUniform(torch.tensor(bound), torch.tensor(0.0))).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtype_and_shape_are_the_callers(dtype: torch.dtype) -> None:
    loc, scale = leaves(dtype)
    q = TruncatedLogNormal(loc, scale)
    results = [q.mean, q.variance, q.stddev, q.snr, q.mode, q.entropy(), kl_divergence(q, LogUniform()), q.rsample()]
    for result in results:
        assert result.dtype == dtype
        assert result.shape == (6,)
        assert result.isfinite().all()
    assert q.rsample((4, 2)).shape == (4, 2, 6)
    assert q.sample((4,)).requires_grad is False


def test_shapes_broadcast_and_numbers_are_accepted() -> None:
    q = TruncatedLogNormal(torch.zeros(3, 1), 1.0, torch.tensor([-20.0, -10.0]), 0.0)
    assert q.batch_shape == (3, 2)
    assert q.mean.shape == (3, 2)
    assert TruncatedLogNormal(0, 1).mean.shape == ()
    assert TruncatedLogNormal(0, 1).mean.dtype == torch.float32
    assert q.rsample((5,)).shape == (5, 3, 2)
    assert TruncatedLogNormal(torch.zeros(0), torch.ones(0)).rsample((2,)).shape == (2, 0)


@pytest.mark.parametrize("law", [TruncatedLogNormal(torch.zeros(3, 1), 2.0), LogUniform(torch.full((3, 1), -5.0), 0.0)])
def test_expand(law: Distribution) -> None:
    wide = law.expand((4, 3, 2))
    assert type(wide) is type(law)
    assert wide.batch_shape == (4, 3, 2)
    torch.testing.assert_close(wide.mean, law.mean.expand(4, 3, 2))
    value = torch.full((4, 3, 2), 0.5)
    torch.testing.assert_close(wide.log_prob(value), law.log_prob(torch.tensor(0.5)).expand(4, 3, 2))
    assert wide.rsample().shape == (4, 3, 2)


def test_outside_the_support() -> None:
    for q in (TruncatedLogNormal(-1.0, 1.0, -2.0, -1.0), LogUniform(-2.0, -1.0)):
        outside = torch.tensor([0.0, 0.1, 0.5, 2.0])
        with pytest.raises(ValueError, match="support"):
            q.log_prob(outside)
        lenient = type(q).expand(q, (4,))
        lenient._validate_args = False
        assert lenient.log_prob(outside).tolist() == [-torch.inf] * 4
        assert q.cdf(outside).tolist() == [0.0, 0.0, 1.0, 1.0]
        ends = q.icdf(torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(ends, torch.tensor([-2.0, -1.0]).exp())
        assert q.icdf(torch.tensor([-0.1, 1.1])).isnan().all()
        assert isinstance(q.support, constraints.interval)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.0), r"scale of TruncatedLogNormal must be positive and finite, got 0.0 at index \(\)"),
        ((torch.zeros(2), torch.tensor([1.0, -1.0])), r"got -1.0 at index \(1,\) \(1 of 2 .*log_scale.exp\(\)"),
        ((float("nan"), 1.0), "loc of TruncatedLogNormal must be a finite number, got nan.*learning rate"),
        ((0.0, float("nan")), "scale .* got nan"),
        ((0.0, 1.0, 0.0, 0.0), "expected finite bounds with log_low < log_high, got log_low=0.0 and log_high=0.0"),
        ((0.0, 1.0, 1.0, -1.0), "log_low < log_high"),
        ((0.0, 1.0, -torch.inf, 0.0), "finite bounds"),
        ((0.0, 1.0, torch.tensor(-20.0, requires_grad=True), 0.0), r"requires grad.*bound.detach\(\)"),
    ],
)
def test_bad_parameters(arguments: tuple[Tensor | float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        TruncatedLogNormal(*arguments)


def test_bad_bounds_of_the_prior() -> None:
    with pytest.raises(ValueError, match=r"log_low < log_high, got log_low=0\.0 and log_high=-20\.0"):
        LogUniform(0.0, -20.0)


def test_a_law_that_is_kept_sees_its_parameters_change() -> None:
    loc, scale = leaves()
    q, p = TruncatedLogNormal(loc, scale), LogUniform()
    before = kl_divergence(q, p).detach()
    with torch.no_grad():
        loc.sub_(1.0)
    after = kl_divergence(q, p)
    torch.testing.assert_close(after, kl_divergence(TruncatedLogNormal(loc, scale), p))
    assert not torch.allclose(after, before)


def test_copies_and_modes_of_torch() -> None:
    q = TruncatedLogNormal(*(leaf.detach().float() for leaf in leaves()))
    truth = draw(q), kl_divergence(q, LogUniform())
    other = copy.deepcopy(q)
    torch.testing.assert_close((draw(other), kl_divergence(other, LogUniform())), truth)
    with torch.inference_mode():
        inside = TruncatedLogNormal(q.loc.clone(), q.scale.clone())
        torch.testing.assert_close((draw(inside), kl_divergence(inside, LogUniform())), truth)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close((draw(q), kl_divergence(q, LogUniform())), truth, rtol=0.0, atol=0.0)


def test_under_torch_func() -> None:
    loc, scale = (leaf.detach() for leaf in leaves())

    def divergence(loc: Tensor, scale: Tensor) -> Tensor:
        return kl_divergence(TruncatedLogNormal(loc, scale, validate_args=False), LogUniform()).sum()

    expected = torch.autograd.functional.jacobian(divergence, (loc, scale))
    torch.testing.assert_close(torch.func.grad(divergence, argnums=(0, 1))(loc, scale), expected)
    per_unit = torch.func.vmap(torch.func.grad(divergence))(loc, scale)
    torch.testing.assert_close(per_unit, expected[0])


# torch's own tracer instantiates autograd functions that have a setup_context.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_break() -> None:
    loc, scale = leaves(torch.float32)

    def step(loc: Tensor, scale: Tensor) -> Tensor:
        q = TruncatedLogNormal(loc, scale)
        return kl_divergence(q, LogUniform()).sum() + q.icdf(torch.full((6,), 0.3)).sum()

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    eager = torch.autograd.grad(step(loc, scale), [loc, scale])
    torch.testing.assert_close(compiled(loc, scale), step(loc, scale))
    torch.testing.assert_close(torch.autograd.grad(compiled(loc, scale), [loc, scale]), eager)
