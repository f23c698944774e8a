"""Pictures of probabilities and uncertainties, readable at the size of a README. Every function returns a figure."""

from ._ecdf import entropy_ecdf as entropy_ecdf
from ._fit import statistics_figure as statistics_figure
from ._reliability import reliability_diagram as reliability_diagram
from ._risk import risk_coverage as risk_coverage
from ._samples import nll_by_samples as nll_by_samples
from ._style import save as save
