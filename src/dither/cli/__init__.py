"""The command line: ``dither demo``, ``train``, ``prune``, ``evaluate`` and ``inspect``.

One file per command. Torch and the rest of dither are imported when a command runs, so ``--help`` is immediate.
"""

try:
    import typer
except ModuleNotFoundError as error:
    raise SystemExit(f"the command line needs {error.name}: pip install 'dither[train]'") from error

from ._demo import demo
from ._evaluate import evaluate
from ._inspect import inspect
from ._prune import prune
from ._train import train

app = typer.Typer(
    name="dither",
    help="Make trained PyTorch networks smaller with learned noise (Structured Bayesian Pruning).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (demo, train, prune, evaluate, inspect):
    app.command()(command)


def main() -> None:
    """What the ``dither`` command runs."""
    app()
