"""Training: image data in memory, the networks of the papers, recipes, and an engine on Accelerate."""

from ._batches import Batches as Batches
from ._batches import shift_images as shift_images
from ._data import Images as Images
from ._data import load_images as load_images
from ._defaults import default_recipe as default_recipe
from ._doubt import doubt as doubt
from ._doubt_report import DoubtReport as DoubtReport
from ._engine import Engine as Engine
from ._engine import NonFiniteLoss as NonFiniteLoss
from ._engine import Penalty as Penalty
from ._evaluate import Score as Score
from ._evaluate import evaluate as evaluate
from ._evaluate import predict_logits as predict_logits
from ._models import DigitsBatchNorm as DigitsBatchNorm
from ._models import DigitsNet as DigitsNet
from ._models import LeNet5 as LeNet5
from ._models import LeNet5BatchNorm as LeNet5BatchNorm
from ._models import LeNet500300 as LeNet500300
from ._models import make_model as make_model
from ._models import model_names as model_names
from ._progress import Progress as Progress
from ._recipe import Fit as Fit
from ._recipe import Noise as Noise
from ._recipe import Recipe as Recipe
from ._report import Report as Report
from ._run import Run as Run
