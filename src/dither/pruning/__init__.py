"""Structured Bayesian Pruning: learned noise on every channel; what drowns in it is removed, physically.

``attach`` → train with ``kl`` → ``plan`` → ``shrink``.
"""

# structure without values
from ._apply import apply_shrunk as apply_shrunk

# the noise, and the objective
from ._attach import attach as attach
from ._criteria import SNR as SNR
from ._criteria import BMRSNormal as BMRSNormal
from ._criteria import BMRSUniform as BMRSUniform
from ._criteria import Criterion as Criterion
from ._cut import ShrinkError as ShrinkError
from ._gates import gates as gates
from ._kl import kl as kl
from ._kl import param_groups as param_groups
from ._masked import masked as masked
from ._noise import LogNormalNoise as LogNormalNoise
from ._plain import FixedScale as FixedScale
from ._plain import SelectedLinear as SelectedLinear
from ._plan import Choice as Choice
from ._plan import Plan as Plan
from ._planning import plan as plan
from ._resize import overall as overall
from ._resize import restructure as restructure
from ._shrink import shrink as shrink
from ._target import Control as Control
from ._target import Target as Target
from ._weights import latency_weights as latency_weights
from ._weights import mac_weights as mac_weights
from ._weights import sbpa_weights as sbpa_weights

# what belongs together
from .labels import Analysis as Analysis
from .labels import Space as Space
from .labels import analyse as analyse
