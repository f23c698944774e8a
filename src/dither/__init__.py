"""dither: noise added on purpose. Prune networks with it, and let them doubt."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import batchnorm as batchnorm
    from . import distributions as distributions
    from . import figures as figures
    from . import integrations as integrations
    from . import metrics as metrics
    from . import pruning as pruning
    from . import training as training
    from ._checkpoint import CheckpointError as CheckpointError
    from ._checkpoint import load as load
    from ._checkpoint import save as save
    from ._cost import Comparison as Comparison
    from ._cost import Cost as Cost
    from ._cost import compare as compare
    from ._cost import cost as cost
    from ._export import Exported as Exported
    from ._export import ExportError as ExportError
    from ._export import export as export
    from ._processes import alone as alone
    from ._sampling import Stochastic as Stochastic
    from ._sampling import sampling as sampling
    from .prediction import Ensemble as Ensemble
    from .prediction import Prediction as Prediction
    from .prediction import gather as gather
    from .prediction import predict as predict

__version__ = "0.5.0"

# Where each name lives. It is imported when it is first used: `dither --help` does not wait for torch.
_HOMES = {
    **dict.fromkeys(("batchnorm", "distributions", "figures", "integrations", "metrics", "pruning", "training"), ""),
    **dict.fromkeys(("CheckpointError", "load", "save"), "._checkpoint"),
    **dict.fromkeys(("Comparison", "Cost", "compare", "cost"), "._cost"),
    **dict.fromkeys(("ExportError", "Exported", "export"), "._export"),
    "alone": "._processes",
    **dict.fromkeys(("Stochastic", "sampling"), "._sampling"),
    **dict.fromkeys(("Ensemble", "Prediction", "gather", "predict"), ".prediction"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(home, __name__), name) if home else import_module(f".{name}", __name__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
