"""Stochastic Batch Normalization: the law of mini-batch statistics, drawn at test time."""

from ._bank import bank as bank
from ._convert import convert as convert
from ._convert import revert as revert
from ._correlated import Correlated as Correlated
from ._exact import exact_predict as exact_predict
from ._fit import fit as fit
from ._freeze import freeze as freeze
from ._laws import Bank as Bank
from ._laws import Cached as Cached
from ._laws import Empirical as Empirical
from ._laws import Factorized as Factorized
from ._laws import Law as Law
from ._layer import StochasticBatchNorm as StochasticBatchNorm
from ._report import FitReport as FitReport
from ._rescale import rescale as rescale
from ._source import set_law as set_law
from ._statistics import Statistics as Statistics
from ._tune import TuneReport as TuneReport
from ._tune import tune as tune
