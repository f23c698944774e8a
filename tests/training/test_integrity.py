"""Files that change by themselves, disks that are full, folders that two processes want: nothing is lost or used."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

import dither
from dither.training import Engine, Fit, Images, Progress, Recipe, Run, load_images
from dither.training._checkpoints import Checkpoints
from dither.training._launch import make_accelerator
from dither.training._lock import hold
from dither.training._record import git_state, record_command
from dither.training._sums import SUMS, find_damage, write_sums

ROOT = Path(__file__).parents[2]
FIT = Fit(epochs=3, batch_size=16, lr=1e-2)


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "train").split_last(1437 - 100)[0]


def accelerator() -> Accelerator:
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(cpu=True)


def fit(folder: Path, images: Images) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    return Engine(accelerator(), folder, Progress(), seed=1).fit(net, images, images, FIT, "base")


@pytest.fixture(scope="module")
def whole(images: Images, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A training of 18 steps that was finished, with the states of steps 12 and 18."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(folder, images), folder


@pytest.fixture
def copied(whole: tuple[nn.Module, Path], tmp_path: Path) -> Path:
    return shutil.copytree(whole[1], tmp_path / "run")


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def flip(path: Path, at: float = 0.5) -> None:
    """One bit of a file, at a fraction of its length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


FILES = ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "position.json", SUMS]


HARMS = [(name, "flipped at 0.7") for name in FILES]
HARMS += [("position.json", "flipped at 0"), ("model.safetensors", "truncated"), (SUMS, "truncated")]
HARMS += [("optimizer.bin", "removed"), (SUMS, "removed")]


@pytest.mark.parametrize(("name", "harm"), HARMS)
def test_a_damaged_state_is_set_aside_and_the_one_before_is_used(
    copied: Path, whole: tuple[nn.Module, Path], images: Images, name: str, harm: str
) -> None:
    states = copied / "checkpoint" / "base"
    newest = states / "step-00000018"
    if harm == "truncated":
        (newest / name).write_bytes((newest / name).read_bytes()[:-7])
    elif harm == "removed":
        (newest / name).unlink()
    else:
        flip(newest / name, float(harm.split()[-1]))
    content = {path.name: path.read_bytes() for path in newest.iterdir()}
    with pytest.warns(UserWarning, match=r"step-00000018 is damaged: .*goes on from step-00000012"):
        again = fit(copied, images)
    assert same(again, whole[0])
    assert {path.name: path.read_bytes() for path in (states / "damaged-step-00000018").iterdir()} == content
    assert sorted(path.name for path in states.iterdir() if path.name[0] == "s") == ["step-00000012", "step-00000018"]
    assert find_damage(newest) is None


def test_a_file_too_many_is_damage_and_the_file_is_named(copied: Path, images: Images) -> None:
    (copied / "checkpoint/base/step-00000018/more.bin").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"more.bin is not in SHA256SUMS"):
        fit(copied, images)


def test_without_an_intact_state_nothing_is_trained_and_nothing_changed(copied: Path, images: Images) -> None:
    for state in (copied / "checkpoint/base").iterdir():
        flip(state / "model.safetensors")
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    message = r"no state in .*base is as it was written \(step-00000018: model.safetensors .*; step-00000012: model"
    with pytest.raises(dither.CheckpointError, match=message):
        fit(copied, images)
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def rewrite(state: Path, **changes: object) -> None:
    values = json.loads((state / "position.json").read_text()) | changes
    (state / "position.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    write_sums(state)


def test_a_state_of_a_newer_version_is_no_damage(copied: Path, images: Images) -> None:
    state = copied / "checkpoint/base/step-00000018"
    rewrite(state, version=2)
    with pytest.raises(
        dither.CheckpointError, match=r"step-00000018 has version 2, this dither reads 1. Install a newer"
    ):
        fit(copied, images)
    assert state.exists()


def test_states_of_version_0_3_are_read(copied: Path, images: Images, whole: tuple[nn.Module, Path]) -> None:
    """They have neither checksums nor a version."""
    for state in (copied / "checkpoint/base").iterdir():
        rewrite(state, version=None)
        (state / SUMS).unlink()
    assert same(fit(copied, images), whole[0])


def test_the_checksums_are_those_of_sha256sum(whole: tuple[nn.Module, Path]) -> None:
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("no sha256sum here to compare with")
    state = whole[1] / "checkpoint/base/step-00000018"
    done = subprocess.run([tool, "--check", "--strict", SUMS], cwd=state, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.count(": OK") == len(list(state.iterdir())) - 1


FULL = """
import resource, sys
from dither.training import Run
run = Run(sys.argv[1], threads=1)
run.images("train")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
for attempt in (1, 2):
    try:
        run.base()
    except OSError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
"""


@pytest.mark.slow
def test_a_full_disk_says_what_is_kept_and_the_run_goes_on_later(tmp_path: Path) -> None:
    """Real writes that fail: first in the weights (by safetensors), then in Adam's moments (by torch.save)."""
    recipe = Recipe("digits", "digits", base=Fit(epochs=1, batch_size=64), prune=Fit(epochs=0))
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    command = [sys.executable, "-c", FULL, str(tmp_path), "40000", "90000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert line.startswith(f"cannot save the checkpoint of step 22 in {tmp_path / 'checkpoint' / 'base'}: ")
        assert line.endswith("there is no older one. Make room or make it writable; the same command then goes on")
    assert "File too large" in lines[0]
    assert list((tmp_path / "checkpoint/base").iterdir()) == []
    Run(tmp_path, threads=1).base()
    assert [path.name for path in (tmp_path / "checkpoint/base").iterdir()] == ["step-00000022"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("digits", "digits", base=Fit(epochs=0), prune=Fit(epochs=0))
    Run(tmp_path, recipe)
    before = (tmp_path / "recipe.json").read_text()
    replace = os.replace

    def read_only(source: object, target: object) -> None:
        if str(target).startswith(str(tmp_path)):
            raise OSError(errno.EROFS, "Read-only file system")
        replace(source, target)

    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(OSError, match=r"cannot save .*recipe.json: Read-only file system. The file .* is untouched"):
        Run(tmp_path, recipe)
    assert (tmp_path / "recipe.json").read_text() == before
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model": "digits", ', "recipe.json is no complete JSON object.*another folder"),
        ('{"model": "digits", "data": "digits", "speed": 3}', "recipe.json: recipe has the unknown setting 'speed'"),
        (b"\xff\x00", "recipe.json is no complete JSON object"),
    ],
)
def test_a_damaged_recipe_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        Run(tmp_path)
    assert path.read_bytes() == before


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, Recipe("digits", "digits", base=Fit(epochs=0), prune=Fit(epochs=0)))
    (tmp_path / "report.json").write_text('{"records": [')
    with pytest.raises(ValueError, match=r"report.json is no complete JSON object.*Remove it, and the same command"):
        run.prune()


def test_a_damaged_network_is_named_and_made_again_when_it_is_removed(tmp_path: Path) -> None:
    recipe = Recipe("digits", "digits", base=Fit(epochs=1, batch_size=256), prune=Fit(epochs=0))
    net, path = Run(tmp_path, recipe).base(), tmp_path / "base.safetensors"
    flip(path, 0.9)
    before = path.read_bytes()
    with pytest.raises(dither.CheckpointError, match=str(path)):
        Run(tmp_path, recipe).base()
    assert path.read_bytes() == before
    path.unlink()
    assert same(Run(tmp_path, recipe).base(), net)


HOLDER = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_belongs_to_one_process_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    recipe = Recipe("digits", "digits", base=Fit(epochs=0), prune=Fit(epochs=0))
    Run(tmp_path, recipe)
    command = [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = (tmp_path / "commands.jsonl").read_text()
        with pytest.raises(
            BlockingIOError, match=rf"{tmp_path} is in use by another process \(.*, process \d+, begun 2"
        ):
            Run(tmp_path, recipe)
        assert (tmp_path / "commands.jsonl").read_text() == before
    finally:
        other.kill()
        other.communicate()
    Run(tmp_path, recipe)


def test_one_process_can_open_a_folder_twice_and_gives_it_back(tmp_path: Path) -> None:
    recipe = Recipe("digits", "digits", base=Fit(epochs=0), prune=Fit(epochs=0))
    one, two = Run(tmp_path, recipe), Run(tmp_path, recipe)
    call = f"from filelock import FileLock; FileLock({str(tmp_path / '.lock')!r}, timeout=0).acquire()"
    del one
    held = subprocess.run([sys.executable, "-c", call], capture_output=True, check=False)
    assert b"Timeout" in held.stderr
    del two
    assert subprocess.run([sys.executable, "-c", call], check=False).returncode == 0


def test_the_lock_of_an_engine_is_given_back_after_an_error(tmp_path: Path, images: Images) -> None:
    with pytest.raises(ValueError, match="lower the batch_size"):
        Engine(accelerator(), tmp_path, Progress()).fit(nn.Linear(2, 2), images, images, Fit(1, 1000), "base")
    release = hold(tmp_path, accelerator())
    release()


def test_every_command_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("digits", "digits", base=Fit(epochs=0), prune=Fit(epochs=0), seed=11)
    monkeypatch.setattr(sys, "orig_argv", ["dither", "train", "--out", "a b"])
    for _ in range(2):
        Run(tmp_path, recipe)
    lines = [json.loads(line) for line in (tmp_path / "commands.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert lines[1]["command"] == "dither train --out 'a b'"
    assert (lines[1]["seed"], lines[1]["processes"], lines[1]["pid"]) == (11, 1, os.getpid())
    assert lines[1]["versions"].keys() >= {"python", "torch", "accelerate", "numpy", "dither"}
    assert lines[1]["versions"]["torch"] == torch.__version__
    assert lines[1]["deterministic"] is False


def test_the_state_of_the_sources_is_that_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = shutil.which("git")
    if tool is None:
        pytest.skip("no git here")

    def git(*arguments: str) -> str:
        names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            [tool, *names, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    (tmp_path / "untracked").write_text("1")
    assert git_state(tmp_path) == {"commit": commit, "changed": False}
    (tmp_path / "a.txt").write_text("2")
    assert git_state(tmp_path) == {"commit": commit, "changed": True}
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None


def test_a_run_begins_where_the_working_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, folder = tmp_path / "gone", tmp_path / "run"
    gone.mkdir()
    folder.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    record_command(folder, 0, make_accelerator(mixed_precision="no"))
    assert json.loads((folder / "commands.jsonl").read_text())["git"] is None


def test_deterministic_runs_say_so_and_refuse_what_is_not(tmp_path: Path) -> None:
    try:
        Run(tmp_path, Recipe("digits", "digits", base=Fit(epochs=0), prune=Fit(epochs=0)), deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
        assert json.loads((tmp_path / "commands.jsonl").read_text())["deterministic"] is True
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
    finally:
        torch.use_deterministic_algorithms(False)
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_the_state_that_is_used_is_found_once(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums of large states take seconds."""
    from dither.training import _checkpoints

    calls: list[Path] = []
    monkeypatch.setattr(_checkpoints, "find_damage", calls.append)
    checkpoints = Checkpoints(copied / "checkpoint/base", accelerator())
    assert checkpoints.position() == checkpoints.position()
    assert [path.name for path in calls] == ["step-00000018"]
