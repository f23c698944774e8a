"""Stochastic Batch Normalization of LeNet-5 on MNIST, against dropout, ensembles and other laws."""
