"""Removal patterns: no two spaces always lose as many channels."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dither.pruning.attaching._patterns import counts

FEW = settings(max_examples=100, deadline=None, derandomize=True)


@FEW
@given(st.lists(st.integers(2, 40), max_size=30))
def test_no_width_can_be_taken_for_another(sizes: list[int]) -> None:
    drawn = counts(sizes)
    for i, j in permutations(range(len(sizes)), 2):
        if sizes[i] == sizes[j]:
            assert any(stay[i] > stay[j] for stay in drawn)
        else:
            assert any(stay[i] * sizes[j] != stay[j] * sizes[i] for stay in drawn)


@FEW
@given(st.lists(st.integers(2, 40), min_size=1, max_size=30))
def test_every_space_loses_some_and_keeps_some(sizes: list[int]) -> None:
    drawn = counts(sizes)
    assert len(drawn) >= 2
    for size, *stay in zip(sizes, *drawn, strict=True):
        assert 1 <= min(stay) < size
        assert max(stay) <= size


@pytest.mark.parametrize(("sizes", "most"), [([2] * 30, 7), ([64] * 20, 2), ([64] * 60, 3), ([3, 384] * 12, 6)])
def test_equal_widths_take_few_patterns(sizes: list[int], most: int) -> None:
    assert 2 <= len(counts(sizes)) <= most


@FEW
@given(st.lists(st.integers(2, 40), min_size=1, max_size=30))
def test_two_patterns_are_two_numbers(sizes: list[int]) -> None:
    """Values are tried with two patterns only: the second one must take other channels."""
    first, second = counts(sizes, 2)
    assert all(a != b for a, b in zip(first, second, strict=True))
