"""A whole run in a folder, on the digits."""

import dataclasses
import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import dither
from dither import pruning
from dither.training import Fit, Images, Noise, Recipe, Run, evaluate, load_images, make_model

ROOT = Path(__file__).parents[2]
RECIPE = Recipe(
    model="digits",
    data="digits",
    base=Fit(epochs=4, batch_size=32, lr=3e-3),
    prune=Fit(epochs=4, batch_size=32, lr=3e-3),
    noise=Noise(gate_lr=0.2, kl_weights="macs", kl_weight=0.02, features=("fc1",), init_log_scale=-3.0),
    finetune=Fit(epochs=1, batch_size=32),
    validation=100,
    channels_last=True,
)
RECORD = {
    *("net", "data", "method", "seed", "error_pct", "nll", "widths", "params", "macs", "bytes"),
    *("macs_ratio", "params_ratio", "latency_ms_b1", "latency_ms_b64", "latency_ratio_b1", "latency_ratio_b64"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    folder, text = tmp_path_factory.mktemp("runs") / "digits", StringIO()
    run = Run(folder, RECIPE, console=Console(file=text, width=200), threads=1)
    run.prune()
    return run, text.getvalue()


def test_a_run_leaves_all_its_files(finished: tuple[Run, str]) -> None:
    run, _ = finished
    names = {path.name for path in run.folder.iterdir()}
    files = {"base.safetensors", "small.safetensors", "plan.json", "plan.txt", "report.json", "report.md", "widths.png"}
    assert names == files | {"recipe.json", "commands.jsonl", "history.jsonl", "checkpoint", ".lock"}
    assert Recipe.read(run.folder / "recipe.json") == RECIPE


def test_the_report_describes_the_networks_that_were_saved(finished: tuple[Run, str]) -> None:
    run, _ = finished
    values = json.loads((run.folder / "report.json").read_text())
    assert [record["method"] for record in values["records"]] == ["original", "sbp, not fine-tuned", "sbp"]
    test = load_images("digits", "test")
    for record, name in ((values["records"][0], "base"), (values["records"][2], "small")):
        assert set(record) == RECORD
        net = dither.load(make_model("digits"), run.folder / f"{name}.safetensors")
        assert evaluate(net, test).error_pct == pytest.approx(record["error_pct"])
        assert evaluate(net, test).nll == pytest.approx(record["nll"], rel=1e-4)
        assert sum(p.numel() for p in net.parameters()) == record["params"]
    original, small = values["records"][0], values["records"][2]
    assert small["macs_ratio"] == original["macs"] / small["macs"] > 1
    assert small["widths"]["conv1"] == pruned_width(run) < 16
    assert values["removal"]["max_output_difference"] < 1e-5
    assert values["removal"]["error_change_pct"] == 0
    assert values["versions"]["torch"] == torch.__version__


def pruned_width(run: Run) -> int:
    plan = pruning.Plan.from_dict(json.loads((run.folder / "plan.json").read_text()))
    return plan.widths["conv1"][0]


def test_the_markdown_and_the_figure_can_be_read(finished: tuple[Run, str]) -> None:
    run, _ = finished
    text = (run.folder / "report.md").read_text()
    assert "| multiply-accumulates | 91,776 |" in text
    assert "| width of fc1[in] | 128 |" in text
    with Image.open(run.folder / "widths.png") as picture:
        assert picture.format == "PNG"
        assert picture.size[0] >= 1000


def test_the_history_has_a_row_per_epoch_measured_on_held_out_images(finished: tuple[Run, str]) -> None:
    run, _ = finished
    rows = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    expected = [*(("base", e) for e in range(1, 5)), *(("prune", e) for e in range(1, 5)), ("finetune", 1)]
    assert [(row["stretch"], row["epoch"]) for row in rows] == expected
    assert {(row["monitor"], row["count"]) for row in rows} == {("validation", 100)}
    assert rows[0]["loss"] > rows[3]["loss"]
    assert rows[4]["kl"] > rows[7]["kl"] > 0
    assert list(rows[4]["kept"]) == ["conv1", "conv2", "fc1", "fc1[in]"]


def test_what_is_shown_without_a_terminal_is_plain_lines(finished: tuple[Run, str]) -> None:
    _, text = finished
    last = next(line for line in text.splitlines() if line.startswith("prune") and "epoch 4/4" in line)
    for part in ("loss 0.", "KL ", "kept ", "error ", "left"):
        assert part in last
    assert "\x1b" not in text


def test_a_complete_run_is_read_and_not_done_again(finished: tuple[Run, str], monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = finished
    monkeypatch.setattr(Run, "gated", lambda self: pytest.fail("trained again"))
    again = Run(run.folder).prune()
    assert again.small["error_pct"] == json.loads((run.folder / "report.json").read_text())["records"][2]["error_pct"]


def test_another_recipe_in_the_same_folder_is_refused(finished: tuple[Run, str]) -> None:
    run, _ = finished
    for change, name in (
        ({"seed": 3}, "seed = 0"),
        ({"prune": Fit(epochs=9)}, "prune = Fit"),
        ({"noise": Noise()}, "noise = "),
    ):
        with pytest.raises(ValueError, match=f"was made with {name}.*use another folder"):
            Run(run.folder, dataclasses.replace(RECIPE, **change))


def test_the_plan_can_be_changed_without_training_again(finished: tuple[Run, str], tmp_path: Path) -> None:
    run, _ = finished
    copied = shutil.copytree(run.folder, tmp_path / "copy")
    shutil.rmtree(copied / "checkpoint" / "finetune")
    noise = dataclasses.replace(RECIPE.noise, multiple_of=16)
    rows = len((copied / "history.jsonl").read_text().splitlines())
    report = Run(copied, dataclasses.replace(RECIPE, noise=noise, finetune=Fit(epochs=0))).prune()
    assert report.small["widths"]["conv1"] == 16
    assert dither.load(make_model("digits"), copied / "small.safetensors").conv1.out_channels == 16
    assert len((copied / "history.jsonl").read_text().splitlines()) == rows


@pytest.mark.parametrize("shrink_every", [0, 1])
def test_all_stretches_train_in_bf16_in_one_process_or_in_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shrink_every: int
) -> None:
    linear, casts = F.linear, []

    def watched(*args: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            casts.append(torch.is_autocast_enabled("cpu"))
        return linear(*args)

    noise = dataclasses.replace(RECIPE.noise, shrink_every=shrink_every)
    short = dataclasses.replace(RECIPE.base, epochs=2)
    recipe = dataclasses.replace(
        RECIPE, base=short, prune=short, finetune=short, noise=noise, mixed_precision="bf16", channels_last=False
    )
    monkeypatch.setattr(F, "linear", watched)
    Run(tmp_path / "one", recipe, threads=1).prune()
    for step in (Run.base, Run.gated, Run.prune):
        step(Run(tmp_path / "several", recipe, threads=1))
    assert set(casts) == {True}
    one, several = (load_file(tmp_path / name / "small.safetensors") for name in ("one", "several"))
    assert all(torch.equal(one[name], several[name]) for name in one.keys() | several.keys())


def test_a_folder_without_a_recipe_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        Run(tmp_path)


def test_weights_for_gates_that_are_not_there_are_refused(tmp_path: Path) -> None:
    noise = Noise(kl_weights={"conv3": 2.0})
    recipe = dataclasses.replace(RECIPE, base=Fit(epochs=0), noise=noise)
    with pytest.raises(ValueError, match="gate 'conv3'; the gates are conv1, conv2, fc1"):
        Run(tmp_path, recipe).gated()


def test_the_kl_is_divided_by_the_number_of_training_images(tmp_path: Path) -> None:
    """One tiny step: the KL term in the history is KL / N with N without the held-out images."""
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    images = {"train": Images(pixels, torch.randint(0, 10, (40,)), 10)}
    recipe = dataclasses.replace(
        RECIPE,
        base=Fit(epochs=0),
        prune=Fit(epochs=1, batch_size=10, lr=1e-12),
        noise=Noise(gate_lr=1e-12, kl_weight=2.0, kl_weights={"conv1": 3.0}),
        validation=30,
    )
    net = Run(tmp_path, recipe, images=images).gated()
    row = json.loads((tmp_path / "history.jsonl").read_text())
    assert row["kl"] == pytest.approx(2.0 * pruning.kl(net, {"conv1": 3.0}).item() / 10, rel=1e-5)
