"""Slices out of tensors: what follows them in a network of known classes, and whether the rest is unchanged."""
