"""Distributions of multiplicative noise, after the conventions of ``torch.distributions``."""

from dither.distributions._log_uniform import LogUniform as LogUniform
from dither.distributions._truncated_log_normal import TruncatedLogNormal as TruncatedLogNormal
