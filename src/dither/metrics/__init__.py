"""How good probabilities are, and how well an uncertainty knows what it does not know.

Functions of tensors: probabilities (N, K), class numbers (N,), uncertainties (N,). They compute in float64 and answer
with numbers.
"""

# calibration
from ._calibration import ece as ece
from ._calibration import reliability as reliability

# probabilities
from ._classification import accuracy as accuracy
from ._classification import brier as brier
from ._classification import entropy as entropy
from ._classification import nll as nll

# inside and outside the distribution
from ._outside import aupr as aupr
from ._outside import auroc as auroc
from ._outside import ecdf as ecdf
from ._outside import fpr95 as fpr95

# samples
from ._samples import nll_by_samples as nll_by_samples

# leaving the uncertain to somebody else
from ._selective import aurc as aurc
from ._selective import risk_coverage as risk_coverage

# everything at once
from ._table import classification_table as classification_table

# temperature
from ._temperature import apply_temperature as apply_temperature
from ._temperature import calibrated_nll as calibrated_nll
from ._temperature import fit_temperature as fit_temperature
