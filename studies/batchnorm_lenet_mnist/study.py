"""SBN on LeNet-5 and MNIST: the LeNet-5 rows of the paper's table 1, and what the paper left out.

Paper:   SBN 0.53 % error, NLL 0.025; ensemble of 6 0.40 %, 0.016, with SBN 0.015; dropout 0.42 %, 0.014, with SBN the
         same (expected.toml)
Ours:    single network: 0.54 ± 0.03 % error, NLL 0.0180 ± 0.0010, notMNIST AUROC 0.953 ± 0.007
         SBN: 0.54 ± 0.03 % error, NLL 0.0175 ± 0.0008, notMNIST AUROC 0.954 ± 0.006
         ensemble of 6: 0.46 % error, NLL 0.0133, notMNIST AUROC 0.968
         ensemble of 6 + SBN: 0.45 % error, NLL 0.0134, notMNIST AUROC 0.969
         single network, weight decay: 0.49 ± 0.04 % error, NLL 0.0166 ± 0.0008, notMNIST AUROC 0.983 ± 0.002
         SBN, weight decay: 0.49 ± 0.04 % error, NLL 0.0163 ± 0.0006, notMNIST AUROC 0.983 ± 0.002
         means over networks (results.json)
Run:     python -m studies.batchnorm_lenet_mnist --net plain --seed 0     # each net and seed; then --collect
Differs: 55,000 training images (5,000 are held out for temperatures and choices); 8 epochs, dropout 20, not 50;
         statistics fitted in one pass over an epoch, not by a moving average. Weight decay is not the paper's.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from dither.training import Images, load_images
from studies.batchnorm_lenet_mnist.collect import collect
from studies.batchnorm_lenet_mnist.settings import FULL, METHODS, SMOKE
from studies.command import folders, study_parser
from studies.doubt.run import questions_of, run_one
from studies.pruning_lenet_mnist.study import enlarged_digits, mnist

OUTSIDE = Path("../shared/data/notmnist")


def main(arguments: list[str] | None = None) -> None:
    parser = study_parser(
        "batchnorm_lenet_mnist",
        __doc__,
        smoke="a minute on enlarged digits",
        collect="ensembles, times, tables and figures of what is there",
        data=("data",),
    )
    parser.add_argument("--net", nargs="+", choices=sorted(FULL.nets), default=sorted(FULL.nets))
    parser.add_argument("--method", nargs="+", choices=sorted(METHODS), help="default: all methods")
    parser.add_argument("--ood", default=str(OUTSIDE), help="folder or hub name of notMNIST (split test, 28x28 grey)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    settings = SMOKE if given.smoke else FULL
    out, target = folders("batchnorm_lenet_mnist", given)
    images = enlarged_digits() if given.smoke else mnist(given.data)
    outside = quarter_turn(images["test"]) if given.smoke else load_images(given.ood, "test")
    if given.collect:
        questions = questions_of(images, outside, settings)
        train, _ = images["train"].split_last(settings.validation)
        collect(out, target, settings, questions, train)
        return
    for net in given.net:
        for seed in given.seed or settings.nets[net].seeds:
            run_one(net, seed, out, images, outside, settings, methods=given.method or list(METHODS))


def quarter_turn(images: Images) -> Images:
    """Images on their side: something else, where there is no second data set."""
    return dataclasses.replace(images, pixels=images.pixels.rot90(1, (2, 3)), name="turned digits")
