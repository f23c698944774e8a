"""What S samples of a network say: probabilities and how much to doubt them."""

from ._ensemble import Ensemble as Ensemble
from ._gather import gather as gather
from ._predict import predict as predict
from ._prediction import Prediction as Prediction
