"""The first few hundred damaged files of `python -m tests.fuzz.files`, and that its checks can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import nn

import dither
from dither import _export, _header
from dither._export import read_exported
from tests.fuzz import files, mutations, worker
from tests.fuzz.samples import SAMPLES

NUMBER = 400

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits of memory are those of POSIX")


def test_damaged_files_are_refused_or_give_what_was_saved(tmp_path: Path) -> None:
    found = list(files.outcomes(0, NUMBER, tmp_path))
    assert [case for case in found if case.get("outcome") == "FAULT"] == []
    assert found[-1]["memory"] < 200_000  # KiB; a header that is believed asks for more
    counts = Counter(case["outcome"] for case in found[:-1])
    assert sum(counts.values()) == NUMBER
    assert counts["refused"] > NUMBER / 2
    assert counts["same"] > NUMBER / 20  # blanks, brackets, notes: the damage was where nothing is


@pytest.fixture
def shrunk(tmp_path: Path) -> worker.Ready:
    return worker.Ready.of(next(s for s in SAMPLES if s.name == "shrunk"), tmp_path)


def test_a_wrong_load_would_be_seen(shrunk: worker.Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flipped = shrunk.content[:-1] + bytes([shrunk.content[-1] ^ 1])
    assert worker.attempt(shrunk, flipped, False, tmp_path / "a.safetensors") == "refused"
    good = _header.of_tensors(load(shrunk.content))
    monkeypatch.setattr(_header, "of_tensors", lambda _: good)
    with pytest.raises(worker.Fault, match=r"loaded, but other than saved: \["):
        worker.attempt(shrunk, flipped, False, tmp_path / "a.safetensors")


def test_a_process_that_dies_is_a_fault_of_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """import sys
for n in range(int(sys.argv[4]), int(sys.argv[5])):
    print(n, flush=True)
    if n == 3:
        import os
        os.abort()
    print('{"case": %d, "outcome": "refused"}' % n, flush=True)
"""
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'die.py'} $@\n")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "die.py").write_text(program)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = list(files.outcomes(1, 5, tmp_path))
    assert [case["case"] for case in found] == [1, 2, 3, 4, 5]
    assert [case["case"] for case in found if case["outcome"] == "FAULT"] == [3]
    assert "signal 6 ended the process" in found[2]["what"]


# ---- files that ask for much


def test_a_table_that_asks_for_petabytes(shrunk: worker.Ready, tmp_path: Path) -> None:
    table, _, data = mutations.parse(shrunk.content)
    sizes = [2**50], [2**31, 2**31], [2**62, 2**62], [0, 2**62, 2**62]
    for shape in sizes:
        table["6.weight"]["shape"] = shape
        for end in (table["6.weight"]["data_offsets"][1], 2**52, 2**64 - 1):
            table["6.weight"]["data_offsets"][1] = end
            content = mutations.assemble(table, None, data)
            assert worker.attempt(shrunk, content, False, tmp_path / "a.safetensors") == "refused"


def test_a_small_archive_that_holds_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"net/extra/{_export.NOTES}", b" " * 3_000_000)
    assert path.stat().st_size < 10_000
    with pytest.raises(dither.CheckpointError, match=r"the header of .* is damaged"):  # blanks are no JSON
        read_exported(path)
    monkeypatch.setattr(_export, "LARGEST_NOTES", 2_000_000)
    with pytest.raises(dither.CheckpointError, match="notes take 3,000,000 bytes, 2,000,000 are allowed"):
        read_exported(path)


def test_an_onnx_file_that_names_another_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    dither.export(nn.Linear(3, 2), tmp_path / "net.onnx", torch.zeros(1, 3), metadata={"note": "here"})
    model = onnx.load(tmp_path / "net.onnx")
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="elsewhere")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert read_exported(tmp_path / "net.onnx").metadata == {"note": "here"}


# ---- disks and folders that say no, for real


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user of the machine may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """As a user who may read the folder and not write to it; root may always, so root becomes somebody else."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


def test_read_only_folder(folder: Path) -> None:
    net, path = nn.Linear(3, 2), folder / "net.safetensors"
    dither.save(net, path)
    before = path.read_bytes()
    dither.export(net, folder / "net.pt2", torch.zeros(1, 3))  # what torch imports late, another user may not read
    (folder / "net.pt2").unlink()
    with read_only(folder):
        with pytest.raises(
            dither.CheckpointError, match=r"cannot save .*net\.safetensors: Permission denied\. The file "
        ):
            dither.save(nn.Linear(3, 2), path)
        with pytest.raises(
            dither.ExportError, match=r"net\.pt2: Permission denied\. Nothing was written\. Choose a folder"
        ):
            dither.export(net, folder / "net.pt2", torch.zeros(1, 3))
        assert torch.equal(dither.load(nn.Linear(3, 2), path).weight, net.weight)
    assert path.read_bytes() == before
    assert [p.name for p in folder.iterdir()] == ["net.safetensors"]


def test_file_that_may_not_be_read(folder: Path) -> None:
    path = folder / "net.safetensors"
    dither.save(nn.Linear(3, 2), path)
    path.chmod(0)
    with (
        read_only(folder),
        pytest.raises(dither.CheckpointError, match=r"cannot read .*net\.safetensors \(Permission denied"),
    ):
        dither.load(nn.Linear(3, 2), path)
    with pytest.raises(dither.CheckpointError, match=r"cannot read .* Is it a file, and may you read it"):
        dither.load(nn.Linear(3, 2), folder)


def test_disk_that_is_full_in_the_middle_of_a_file(tmp_path: Path) -> None:
    """The kernel stops the write half way, as at a quota."""
    program = f"""
import resource, signal, torch, dither
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
net, path = torch.nn.Linear(100, 100), {str(tmp_path / "net.safetensors")!r}
dither.save(net, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
before = open(path, "rb").read()
try:
    dither.save(torch.nn.Linear(100, 100), path)
except dither.CheckpointError as error:
    print(error)
assert open(path, "rb").read() == before
assert torch.equal(dither.load(torch.nn.Linear(100, 100), path).weight, net.weight)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "net.safetensors: File too large. The file that was there is untouched. Free some space" in ran.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
