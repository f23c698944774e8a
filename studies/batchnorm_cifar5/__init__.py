"""Stochastic Batch Normalization of VGG-11 and ResNet-18 on five classes of CIFAR-10, asked about the other five."""
