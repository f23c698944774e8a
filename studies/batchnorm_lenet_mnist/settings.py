"""What is trained and what is asked of it. Choices were made on the last 5,000 training images (choice.md)."""

from __future__ import annotations

import dataclasses

from dither import batchnorm
from studies.doubt.settings import CORRELATED, INDEPENDENT, JOINT, Ensemble, Method, Net, Settings, Shown

FEW = (0, 1, 2)
METHODS = {
    "single": Method("single network", sampled=False),
    "sbn": Method("SBN", law=batchnorm.Factorized),
    "sbn, tuned": Method("SBN, batch size tuned", law=batchnorm.Factorized, tuned=True, seeds=FEW),
    "correlated": Method("correlated law", law=CORRELATED),
    "independent": Method("independent empirical law", law=INDEPENDENT, seeds=FEW),
    "mc batchnorm": Method("MC BatchNorm (joint empirical law)", law=JOINT),
    "dropout, mean network": Method("dropout net, one pass", "dropout", sampled=False),
    "dropout": Method("dropout, sampled", "dropout"),
    "dropout + sbn": Method("dropout + SBN", "dropout", law=batchnorm.Factorized),
    "single, weight decay": Method("single network, weight decay", "decay", sampled=False),
    "sbn, weight decay": Method("SBN, weight decay", "decay", law=batchnorm.Factorized),
}
ENSEMBLES = {
    "ensemble": Ensemble("ensemble of {n}", "single"),
    "ensemble + sbn": Ensemble("ensemble of {n} + SBN", "sbn"),
    "ensemble, weight decay": Ensemble("ensemble of {n}, weight decay", "single, weight decay"),
    "ensemble + sbn, weight decay": Ensemble("ensemble of {n} + SBN, weight decay", "sbn, weight decay"),
}
FULL = Settings(
    nets={
        "plain": Net("lenet5_bn", 8, (0, 1, 2, 3, 4, 5)),
        "dropout": Net("lenet5_bn_dropout", 20, (0, 1, 2)),
        "decay": Net("lenet5_bn", 8, (0, 1, 2, 3, 4, 5), weight_decay=0.3),
    },
    methods=METHODS,
    ensembles=ENSEMBLES,
    pairs=(
        ("sbn", "single"),
        ("sbn, weight decay", "single, weight decay"),
        ("ensemble + sbn", "ensemble"),
        ("ensemble + sbn, weight decay", "ensemble, weight decay"),
        ("dropout + sbn", "dropout"),
    ),
    headlines=("single", "sbn", "ensemble", "ensemble + sbn", "single, weight decay", "sbn, weight decay"),
    shown=Shown(
        entropy=("single", "sbn", "mc batchnorm", "dropout", "ensemble", "ensemble + sbn"),
        reliability=("single", "sbn", "dropout"),
        samples=("sbn", "mc batchnorm", "dropout"),
        names={
            "single": "single net",
            "mc batchnorm": "MC BatchNorm",
            "dropout": "dropout",
            "ensemble": "ensemble",
            "ensemble + sbn": "ensemble + SBN",
        },
    ),
    names=("MNIST", "notMNIST"),
    data="ylecun/mnist",
)
SMOKE = dataclasses.replace(
    FULL,
    nets={
        "plain": Net("lenet5_bn", 1, (0, 1)),
        "dropout": Net("lenet5_bn_dropout", 1, (0,)),
        "decay": Net("lenet5_bn", 1, (0,), weight_decay=0.3),
    },
    names=("digits", "turned digits"),
    data="digits",
    validation=237,
    num_samples=4,
    groups=2,
    records=64,
    tune_samples=2,
    checks=(1, 2, 4),
    timing_images=64,
    timing_repeats=2,
)
