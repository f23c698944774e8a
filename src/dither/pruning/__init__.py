"""Structured Bayesian Pruning: learned noise on every channel; what drowns in it is removed, physically.

``attach`` → train with ``kl`` → ``plan`` → ``shrink``.
"""

# structure without values
# the noise, and the objective
from .attaching._attach import attach as attach
from .budget._target import Control as Control
from .budget._target import Target as Target
from .budget._weights import latency_weights as latency_weights
from .budget._weights import mac_weights as mac_weights
from .budget._weights import sbpa_weights as sbpa_weights
from .cutting._cut import ShrinkError as ShrinkError
from .cutting._plain import FixedScale as FixedScale
from .cutting._plain import SelectedLinear as SelectedLinear

# what belongs together
from .labels import Analysis as Analysis
from .labels import Space as Space
from .labels import analyse as analyse
from .noise._gates import gates as gates
from .noise._kl import kl as kl
from .noise._kl import param_groups as param_groups
from .noise._noise import LogNormalNoise as LogNormalNoise
from .planning._criteria import SNR as SNR
from .planning._criteria import BMRSNormal as BMRSNormal
from .planning._criteria import BMRSUniform as BMRSUniform
from .planning._criteria import Criterion as Criterion
from .planning._plan import Choice as Choice
from .planning._plan import Plan as Plan
from .planning._planning import plan as plan
from .shrinking._apply import apply_shrunk as apply_shrunk
from .shrinking._masked import masked as masked
from .shrinking._resize import overall as overall
from .shrinking._resize import restructure as restructure
from .shrinking._shrink import shrink as shrink
