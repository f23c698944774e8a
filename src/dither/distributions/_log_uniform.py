from torch.distributions import Distribution, constraints, kl
import torch
from dither.distributions._truncated_log_normal import TruncatedLogNormal


class LogUniform(Distribution):
    arg_constraints = {}

    def __init__(self, log_low=-20.0, log_high=0.0, validate_args=None):
        self.log_low = torch.as_tensor(log_low, dtype=torch.float64)
        self.log_high = torch.as_tensor(log_high, dtype=torch.float64)
        super().__init__(torch.Size(), validate_args=validate_args)


@kl.register_kl(TruncatedLogNormal, LogUniform)
def _kl(q, p):
    return (torch.log(p.log_high - p.log_low) - q._entropy_z()).to(q.loc.dtype)
