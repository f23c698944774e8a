"""Pruning against the field: the same base, budget and multiply-accumulates for everybody."""
