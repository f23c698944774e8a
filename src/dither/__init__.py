"""dither: noise added on purpose. Prune networks with it, and let them doubt."""

from . import distributions as distributions
from . import pruning as pruning
from ._checkpoint import CheckpointError as CheckpointError
from ._checkpoint import load as load
from ._checkpoint import save as save
from ._cost import Comparison as Comparison
from ._cost import Cost as Cost
from ._cost import compare as compare
from ._cost import cost as cost
from ._sampling import Stochastic as Stochastic
from ._sampling import sampling as sampling

__version__ = "0.1.0"
