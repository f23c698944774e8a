"""Structured Bayesian Pruning of a VGG-like network on CIFAR-10."""
