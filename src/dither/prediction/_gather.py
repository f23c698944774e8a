"""gather: the predictions of several processes as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._processes import gathered
from ._prediction import Prediction


def gather(prediction: Prediction | None, index: Sequence[int] | Tensor) -> Prediction:
    """What all processes predicted, in the order of the data set, each example once; the same in every process.

    Every process of a job (`torch.distributed`) predicts a part of the data, with the same generator, and calls this::

        sampler = DistributedSampler(data, shuffle=False)
        generator = torch.Generator().manual_seed(0)  # in each process: all draw the same networks
        mine = dither.predict(net, DataLoader(data, 256, sampler=sampler), 16, generator=generator)
        every = dither.gather(mine, list(sampler))

    Samplers give some examples to two processes, so that all have as many; they count once, as the process of the
    lowest rank has them. Of a loader that Accelerate prepared, the positions are
    ``[i for batch in loader.batch_sampler for i in batch]``.

    Args:
        prediction: What `predict` gave here; None in a process that has no example.
        index: The position of each of its examples in the data set.

    Returns:
        The prediction for all examples, positions ascending.

    Raises:
        ValueError: If there are not as many positions as examples, the processes drew different networks, or no process
            has an example.
        RuntimeError: If another process failed.

    Example:
        >>> part = Prediction(torch.tensor([[[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]]))
        >>> gather(part, [2, 0, 2]).mean
        tensor([[0.5000, 0.5000],
                [0.2500, 0.7500]])
    """
    positions = torch.as_tensor(index, dtype=torch.int64).cpu().flatten()
    device = torch.device("cpu") if prediction is None else prediction.mean.device

    def checked() -> tuple[Prediction | None, Tensor]:
        examples = 0 if prediction is None else len(prediction)
        if examples != len(positions):
            raise ValueError(f"{len(positions)} positions were given for {examples} examples; give one for each")
        return None if prediction is None else prediction.to("cpu"), positions

    found = gathered(checked)
    parts = [part for part, _ in found if part is not None]
    if not parts:
        raise ValueError("no process predicted anything, there is nothing to gather")
    if len({part.draw for part in parts}) > 1:
        raise ValueError(
            "the processes drew different networks, so their predictions do not belong together: give predict the same "
            "generator in each, torch.Generator().manual_seed(0)"
        )
    whole = Prediction.cat(parts)
    return whole.rows(_first_of_each(torch.cat([place for _, place in found]))).to(device)


def _first_of_each(values: Tensor) -> Tensor:
    """Where each of the distinct values, ascending, stands first.

    Example:
        >>> _first_of_each(torch.tensor([5, 3, 5]))
        tensor([1, 0])
    """
    ordered, place = values.sort(stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return place[new]
