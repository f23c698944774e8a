"""LeNet-5 with BatchNorm, pruned by SBP and sampled by SBN: small, fast and aware of what it does not know."""
