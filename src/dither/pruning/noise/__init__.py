"""Learned noise on the channels of a network, and what it costs: the KL term."""
