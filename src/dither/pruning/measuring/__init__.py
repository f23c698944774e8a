"""What the layers of a network cost: multiply-accumulates and measured time."""
