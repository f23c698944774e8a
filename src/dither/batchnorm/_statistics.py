"""What `fit` found out about one layer: the law of its mini-batch statistics, as buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_NAMES = ("loc_mean", "scale_mean", "loc_log_var", "scale_log_var")
_RECORDS = ("records_mean", "records_log_var")
_SCALARS = ("num_batches", "fitted_batch_size", "batch_size")


class Statistics(nn.Module):
    r"""Moments of :math:`\mu_B` and :math:`\log\sigma^2_B` of one BatchNorm layer over training mini-batches.

    Buffers of a `StochasticBatchNorm`, so they are saved, loaded and moved with it.

    Args:
        loc_mean: Mean of μ_B over batches, (sites, C). A layer that is called more than once in a pass of its network
            has a site for each call.
        scale_mean: Standard deviation of μ_B, (sites, C).
        loc_log_var: Mean of log σ²_B (biased batch variance), (sites, C).
        scale_log_var: Standard deviation of log σ²_B, (sites, C).
        num_batches: How many batches were looked at.
        batch_size: Examples in each of them.
        records_mean: μ_B of single batches, (K, sites, C), for the laws that need them.
        records_log_var: log σ²_B of the same batches, (K, sites, C).
    """

    loc_mean: Tensor
    scale_mean: Tensor
    loc_log_var: Tensor
    scale_log_var: Tensor
    records_mean: Tensor
    records_log_var: Tensor
    num_batches: Tensor
    fitted_batch_size: Tensor
    batch_size: Tensor

    def __init__(
        self,
        loc_mean: Tensor,
        scale_mean: Tensor,
        loc_log_var: Tensor,
        scale_log_var: Tensor,
        *,
        num_batches: int,
        batch_size: float,
        records_mean: Tensor | None = None,
        records_log_var: Tensor | None = None,
    ) -> None:
        super().__init__()
        for name, value in zip(_NAMES, (loc_mean, scale_mean, loc_log_var, scale_log_var), strict=True):
            self.register_buffer(name, value)
        for name, value in zip(_RECORDS, (records_mean, records_log_var), strict=True):
            self.register_buffer(name, loc_mean.new_empty(0, *loc_mean.shape) if value is None else value)
        device = loc_mean.device
        self.register_buffer("num_batches", torch.tensor(num_batches, device=device))
        # float32 whatever the layer is: half precision holds no batch size above 2048 exactly.
        for name in ("fitted_batch_size", "batch_size"):
            self.register_buffer(name, torch.tensor(float(batch_size), dtype=torch.float32, device=device))

    @classmethod
    def like(cls, tensors: dict[str, Tensor], device: torch.device) -> Statistics:
        """Statistics with the shapes and dtypes of stored ones, for ``load_state_dict`` to fill.

        Raises:
            ValueError: If some of the tensors are missing.
        """
        if missing := [name for name in (*_NAMES, *_RECORDS, *_SCALARS) if name not in tensors]:
            raise ValueError(f"the stored statistics have no {missing[0]!r}")
        empty = {name: torch.empty_like(tensors[name], device=device) for name in (*_NAMES, *_RECORDS)}
        made = cls(
            *(empty[name] for name in _NAMES),
            num_batches=0,
            batch_size=1.0,
            **{name: empty[name] for name in _RECORDS},
        )
        for name in _SCALARS:
            setattr(made, name, torch.empty_like(tensors[name], device=device))
        return made

    @property
    def sites(self) -> int:
        """How often the layer is called in one pass of its network."""
        return self.loc_mean.shape[0]

    @property
    def num_records(self) -> int:
        """K, the number of batches whose own statistics are kept."""
        return self.records_mean.shape[0]

    def extra_repr(self) -> str:
        """What `print` shows."""
        parts: dict[str, Any] = {
            "num_features": self.loc_mean.shape[1],
            "num_batches": int(self.num_batches),
            "batch_size": f"{float(self.batch_size):g}",
        }
        if self.sites != 1:
            parts["sites"] = self.sites
        if self.num_records:
            parts["num_records"] = self.num_records
        return ", ".join(f"{name}={value}" for name, value in parts.items())
