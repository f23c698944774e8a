"""The study's program on coloured digits, and what was committed of the real one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dither
from dither import batchnorm
from dither.training import Images
from studies.batchnorm_batch_size import collect, study
from studies.batchnorm_batch_size.settings import FULL, LINES, SMOKE
from studies.doubt.evaluate import Questions
from studies.doubt.network import Network
from studies.doubt.settings import BATCH_SIZE


# On so few images a temperature may have no optimum, and a channel may be dead.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the held-out data have no best temperature", "ignore:dead channels")
def test_smoke_run_from_training_to_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--smoke", "--out", str(tmp_path), "--trained", str(tmp_path / "none")]
    study.main(given)
    study.main([*given, "--collect"])
    records = json.loads((tmp_path / "results.json").read_text())["records"]
    made = {(record["line"], record["batch_size"]): record for record in records}
    assert {line for line, _ in made} == {*LINES, "single", "sbn, tuned"}
    assert {size for line, size in made if line in LINES} == set(SMOKE.sizes)
    assert len({record["nll"] for (line, size), record in made.items() if size == 8}) == 3
    assert made["sbn, fitted", 16]["nll"] == made["sbn, rescaled", 16]["nll"]
    tuned = next(record for record in records if record["line"] == "sbn, tuned")
    lowest = min(zip(tuned["held_out_nll"], tuned["tried"], strict=True))[1]
    assert tuned["batch_size"] == lowest
    assert (tmp_path / "vgg11.png").stat().st_size > 1000
    assert "SBN, rescaled from 16" in capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    study.main(given)  # nothing is done twice
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}


def images(count: int, channels: int = 3) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, channels, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 5, 5)


def network() -> Network:
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 5))
    settings = SMOKE.networks["vgg11"].settings
    return Network(torch.nn.Sequential(*layers).eval(), settings.nets["plain"], images(320), settings, seed=0)


@pytest.mark.parametrize("name", LINES)
def test_smaller_batches_are_noisier_however_one_gets_there(name: str) -> None:
    net = network()
    x = images(20).float_batch(slice(None))

    def variance(size: int) -> float:
        noisy = study.at_size(net, LINES[name], size)
        with dither.sampling(noisy):
            return torch.stack([noisy(x) for _ in range(200)]).var(0).mean().item()

    torch.manual_seed(1)
    small, large = variance(8), variance(80)
    assert 5 < small / large < 20  # 10 for independent images; the standard error of this ratio is about 1


def test_refitting_looks_at_batches_of_that_size() -> None:
    net = network()
    sizes = {}
    for name, line in LINES.items():
        layer = study.at_size(net, line, 8)[1]
        assert isinstance(layer, batchnorm.StochasticBatchNorm)
        sizes[name] = (float(layer.statistics.fitted_batch_size), float(layer.statistics.batch_size))
    assert sizes == {"sbn, fitted": (8, 8), "sbn, rescaled": (BATCH_SIZE, 8), "mc batchnorm, fitted": (8, 8)}


def test_some_images_of_each_kind_with_their_labels() -> None:
    every = Questions(images(3), images(50), images(20))
    some = study.some(every, 10)
    assert some.sizes == [3, 10, 10]
    label_of = {
        row.numpy().tobytes(): label for row, label in zip(every.inside.pixels, every.inside.labels, strict=True)
    }
    kept = [label_of[row.numpy().tobytes()] for row in some.inside.pixels]
    assert torch.stack(kept).equal(some.inside.labels)


def committed() -> dict[str, Any]:
    path = collect.HERE / "results.json"
    if not path.exists():
        pytest.skip("the study has no results yet")
    return json.loads(path.read_text())


def test_committed_tables_are_those_of_the_results() -> None:
    records = committed()["records"]
    for name in {record["network"] for record in records}:
        mine = [record for record in records if record["network"] == name]
        assert collect.make_table(mine, FULL) in (collect.HERE / "README.md").read_text()
