"""SBN of VGG-11 and ResNet-18 on five classes of CIFAR-10: the other rows of the paper's table, and what it left out.

Paper:   VGG-11: SBN 5.76 % error, NLL 0.302; ensemble of 6 4.81 %, 0.191, with SBN 0.162; dropout 5.32 %, 0.155, with
         SBN 5.38 %, 0.149. ResNet-18: SBN 4.35 %, 0.255; ensemble 3.37 %, 0.138, with SBN 3.34 %, 0.110 (expected.toml)
Ours:    VGG-11, single network: 13.20 ± 0.32 % error, NLL 0.5418 ± 0.0101, classes 5 to 9 AUROC 0.697 ± 0.004
         VGG-11, SBN: 13.01 ± 0.37 % error, NLL 0.4711 ± 0.0084, classes 5 to 9 AUROC 0.698 ± 0.005
         VGG-11, dropout, sampled: 11.49 ± 0.12 % error, NLL 0.3209 ± 0.0034, classes 5 to 9 AUROC 0.701 ± 0.003
         VGG-11, dropout + SBN: 11.33 ± 0.13 % error, NLL 0.3159 ± 0.0041, classes 5 to 9 AUROC 0.703 ± 0.003
         VGG-11, ensemble of 6: 9.94 % error, NLL 0.2997, classes 5 to 9 AUROC 0.727
         VGG-11, ensemble of 6 + SBN: 10.00 % error, NLL 0.2877, classes 5 to 9 AUROC 0.727
         ResNet-18, single network: 12.13 ± 0.53 % error, NLL 0.3649 ± 0.0097, classes 5 to 9 AUROC 0.695 ± 0.007
         ResNet-18, SBN: 12.04 ± 0.41 % error, NLL 0.3564 ± 0.0098, classes 5 to 9 AUROC 0.696 ± 0.008
         ResNet-18, dropout, sampled: 12.40 ± 0.65 % error, NLL 0.3437 ± 0.0093, classes 5 to 9 AUROC 0.685 ± 0.002
         ResNet-18, dropout + SBN: 12.33 ± 0.61 % error, NLL 0.3449 ± 0.0081, classes 5 to 9 AUROC 0.685 ± 0.001
         ResNet-18, ensemble of 6: 9.56 % error, NLL 0.2666, classes 5 to 9 AUROC 0.724
         ResNet-18, ensemble of 6 + SBN: 9.52 % error, NLL 0.2669, classes 5 to 9 AUROC 0.724
         means over networks (results.json)
Run:     python -m studies.batchnorm_cifar5 --network vgg11 --net plain --seed 0     # each network; then --collect
Differs: a quarter of VGG-11's channels, 16 channels in ResNet-18's first stage; 22,500 training images (2,500 are held
         out for temperatures and choices); fewer epochs than 200; bfloat16; statistics fitted in one pass over an
         epoch, not by a moving average. Which classes the paper's rows are about is our inference (README.md).
"""

from __future__ import annotations

import dataclasses

import torch

from dither.training import Images
from studies.batchnorm_cifar5.collect import collect
from studies.batchnorm_cifar5.settings import CLASSES, FULL, SMOKE, VGG11
from studies.cifar10 import cifar10, coloured_digits
from studies.command import folders, study_parser
from studies.doubt.run import questions_of, run_one


def main(arguments: list[str] | None = None) -> None:
    parser = study_parser(
        "batchnorm_cifar5",
        __doc__,
        smoke="a minute on coloured digits",
        collect="ensembles, times, tables and figures of what is there",
        data=("data",),
    )
    parser.add_argument("--network", nargs="+", choices=sorted(FULL), default=list(FULL))
    parser.add_argument("--net", nargs="+", choices=sorted(VGG11.nets), default=list(VGG11.nets))
    parser.add_argument("--method", nargs="+", choices=sorted(VGG11.methods), help="default: all methods")
    parser.add_argument("--untimed", action="store_true", help="with --collect: no times, because something else runs")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    every = {name: (SMOKE if given.smoke else FULL)[name] for name in given.network}
    out, target = folders("batchnorm_cifar5", given)
    images = coloured_digits() if given.smoke else cifar10(given.data)
    outside = other_classes(images["test"])
    if given.collect:
        questions = {name: questions_of(images, outside, settings) for name, settings in every.items()}
        seen = images["train"].only(CLASSES)
        train = {name: seen.split_last(settings.validation)[0] for name, settings in every.items()}
        collect(out, target, every, questions, train, clock=not given.untimed)
        return
    for name, settings in every.items():
        for net in (net for net in given.net if net in settings.nets):
            for seed in given.seed or settings.nets[net].seeds:
                methods = [m for m in given.method or settings.methods if m in settings.methods]
                run_one(net, seed, out / name, images, outside, settings, methods)


def other_classes(test: Images) -> Images:
    """Test images of the classes that no network has seen."""
    return dataclasses.replace(test.without(CLASSES), name="classes 5 to 9")
