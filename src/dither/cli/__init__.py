"""The command line: ``dither demo``, ``train``, ``prune``, ``doubt``, ``report``, ``evaluate`` and ``inspect``.

One file per command. Torch and the rest of dither are imported when a command runs, so ``--help`` is immediate.
"""

try:
    import typer
except ModuleNotFoundError as error:
    raise SystemExit(f"the command line needs {error.name}: pip install 'dither[train]'") from error

from ._demo import demo
from ._doubt import doubt
from ._evaluate import evaluate
from ._inspect import inspect
from ._prune import prune
from ._report import report
from ._train import train

app = typer.Typer(
    name="dither",
    help="Noise that makes PyTorch networks smaller (Structured Bayesian Pruning) and lets them doubt "
    "(Stochastic Batch Normalization).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (demo, train, prune, doubt, report, evaluate, inspect):
    app.command()(command)


def main() -> None:
    """What the ``dither`` command runs."""
    app()
