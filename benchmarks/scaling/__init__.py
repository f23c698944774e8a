"""How do memory and time grow with a network? ``python -m benchmarks.scaling``."""
