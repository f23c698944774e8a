"""Structured Bayesian Pruning of LeNet-5-Caffe and LeNet-500-300 on MNIST."""
