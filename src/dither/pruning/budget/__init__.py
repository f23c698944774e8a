"""A requested cost instead of a threshold: the price of what is there, and training steered towards it."""
