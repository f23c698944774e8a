"""What is trained and what is asked of it. Choices were made on the last 2,500 training images (choice.md)."""

from __future__ import annotations

import dataclasses

from dither import batchnorm
from studies.doubt.settings import JOINT, Ensemble, Method, Net, Settings, Shown

CLASSES = (0, 1, 2, 3, 4)
SEEDS, FEW = (0, 1, 2, 3, 4, 5), (0, 1, 2)
PLAIN = {
    "single": Method("single network", sampled=False),
    "sbn": Method("SBN", law=batchnorm.Factorized),
    "mc batchnorm": Method("MC BatchNorm (joint empirical law)", law=JOINT, seeds=FEW),
    "laplace": Method("last-layer Laplace (laplace-torch)", sampled=False, laplace=True),
}
DROPOUT = {
    "dropout, mean network": Method("dropout net, one pass", "dropout", sampled=False),
    "dropout": Method("dropout, sampled", "dropout"),
    "dropout + sbn": Method("dropout + SBN", "dropout", law=batchnorm.Factorized),
}
ENSEMBLES = {
    "ensemble": Ensemble("ensemble of {n}", "single"),
    "ensemble + sbn": Ensemble("ensemble of {n} + SBN", "sbn"),
}
SHORT = {
    "single": "single net",
    "mc batchnorm": "MC BatchNorm",
    "laplace": "Laplace",
    "dropout": "dropout",
    "ensemble": "ensemble",
    "ensemble + sbn": "ensemble + SBN",
}

VGG11 = Settings(
    nets={
        "plain": Net("studies.networks:vgg11_quarter", 20, SEEDS, flip=True),
        "dropout": Net("studies.networks:vgg11_quarter_dropout", 20, FEW, flip=True),
    },
    methods=PLAIN | DROPOUT,
    ensembles=ENSEMBLES,
    pairs=(("sbn", "single"), ("ensemble + sbn", "ensemble"), ("dropout + sbn", "dropout")),
    headlines=("single", "sbn", "dropout", "dropout + sbn", "ensemble", "ensemble + sbn"),
    shown=Shown(
        entropy=("single", "sbn", "mc batchnorm", "dropout", "ensemble", "ensemble + sbn"),
        reliability=("single", "sbn", "dropout"),
        samples=("sbn", "mc batchnorm", "dropout", "dropout + sbn"),
        names=SHORT,
    ),
    names=("classes 0 to 4", "classes 5 to 9"),
    data="uoft-cs/cifar10",
    classes=CLASSES,
    mixed_precision="bf16",
    validation=2500,
    timing_images=250,
)
RESNET18 = dataclasses.replace(
    VGG11,
    nets={
        "plain": Net("studies.networks:resnet18_16", 12, SEEDS, flip=True),
        "dropout": Net("studies.networks:resnet18_16_dropout", 12, (0, 1), flip=True),
    },
    shown=Shown(
        entropy=("single", "sbn", "mc batchnorm", "laplace", "ensemble", "ensemble + sbn"),
        reliability=("single", "sbn", "mc batchnorm"),
        samples=("sbn", "mc batchnorm"),
        names=SHORT,
    ),
)
FULL = {"vgg11": VGG11, "resnet18": RESNET18}
TITLES = {"vgg11": "VGG-11", "resnet18": "ResNet-18"}


def shortly(settings: Settings) -> Settings:
    """Two networks and one epoch of each, on a few images."""
    nets = {
        name: dataclasses.replace(net, epochs=1, seeds=(0, 1) if name == "plain" else (0,))
        for name, net in settings.nets.items()
    }
    return dataclasses.replace(
        settings,
        nets=nets,
        names=("digits 0 to 4", "digits 5 to 9"),
        data="digits",
        validation=100,
        num_samples=4,
        groups=2,
        records=32,
        checks=(1, 2, 4),
        timing_images=32,
        timing_repeats=2,
    )


SMOKE = {name: shortly(settings) for name, settings in FULL.items()}
