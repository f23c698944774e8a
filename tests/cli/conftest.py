"""The commands in an empty folder, with the quick recipe of the test file beside them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dither.cli import app


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("DITHER_TRACEBACK", raising=False)
    (tmp_path / "quick.json").write_text(request.module.QUICK.to_json())
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
