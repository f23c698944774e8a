"""Distributions of multiplicative noise, after the conventions of ``torch.distributions``."""

from ._evidence import evidence_change as evidence_change
from ._log_uniform import LogUniform as LogUniform
from ._truncated_log_normal import TruncatedLogNormal as TruncatedLogNormal
