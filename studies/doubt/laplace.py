"""Last-layer Laplace by laplace-torch: what a user would take who wants a posterior without training again."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dither.training import Images

MISSING = "laplace-torch is not installed: pip install 'dither[studies]'"


def available() -> bool:
    return importlib.util.find_spec("laplace") is not None


class LastLayerLaplace(nn.Module):
    """Logarithms of the probabilities that laplace-torch predicts, by its own defaults.

    A Gaussian on the weights of the last layer with the Kronecker-factored curvature of the training images, the prior
    precision that maximises the marginal likelihood, and the probit approximation of the mean probabilities.

    Args:
        net: the trained network; it is copied.
        train: the images it was trained on.
        batch_size: images in one pass.
    """

    def __init__(self, net: nn.Module, train: Images, batch_size: int = 250) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library compiles with torch.jit, and announces its own defaults
            from laplace import Laplace

            own = copy.deepcopy(net).eval().to(memory_format=torch.contiguous_format)  # it flattens with view
            self.posterior: Any = Laplace(own, "classification")
            images = TensorDataset(train.float_batch(slice(None)), train.labels)
            self.posterior.fit(DataLoader(images, batch_size=batch_size))
            self.posterior.optimize_prior_precision(method="marglik")

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities, (B, K); softmax gives the probabilities back."""
        with torch.autocast(x.device.type, enabled=False):  # variances do not survive bfloat16
            probs = self.posterior(x.float(), link_approx="probit")
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
