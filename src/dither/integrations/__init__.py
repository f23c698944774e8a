"""Pruning in other people's training loops: Lightning, the Trainer of transformers, and whatever holds a reference.

Each library is imported when its name is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._in_place import restructure_ as restructure_
    from ._in_place import shrink_ as shrink_
    from ._lightning import LightningPruning as LightningPruning
    from ._transformers import PruningLoss as PruningLoss
    from ._transformers import TrainerPruning as TrainerPruning

# Where each name lives, and the extra that installs what it needs.
_HOMES = {
    "LightningPruning": ("._lightning", "lightning"),
    "PruningLoss": ("._transformers", "transformers"),
    "TrainerPruning": ("._transformers", "transformers"),
    "restructure_": ("._in_place", ""),
    "shrink_": ("._in_place", ""),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, extra = _HOMES[name]
    try:
        value = getattr(import_module(home, __name__), name)
    except ModuleNotFoundError as error:
        if not extra:
            raise
        raise ImportError(f"{name} needs {error.name}: pip install 'dither[{extra}]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
