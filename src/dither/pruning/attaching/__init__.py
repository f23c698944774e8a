"""Noise onto a network that exists, wherever a trial shows that its channels could go."""
