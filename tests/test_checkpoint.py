"""save and load: bit for bit, atomic, without pickle, and clear about every file that does not fit."""

import errno
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dither
from dither import CheckpointError, _files, batchnorm, pruning
from dither._checkpoint import read_header
from dither._checksum import of_tensors, sealed


class Net(nn.Module):
    """Convolution, BatchNorm, tied weights, a scalar, an integer and an empty buffer."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.one = nn.Linear(4, hidden)
        self.two = nn.Linear(hidden, hidden)
        self.tied = nn.Linear(hidden, hidden)
        self.tied.weight = self.two.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("nothing", torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.scale * self.tied(self.two(self.one(x).relu()).relu())


class Other(Net):
    """Equal tensors, another class."""


def same_bits(a: nn.Module, b: nn.Module) -> None:
    left, right = a.state_dict(), b.state_dict()
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (left[name], right[name])]
        assert torch.equal(*bits), name


@pytest.fixture
def net() -> Net:
    net = Net()
    net(torch.randn(5, 1, 6, 6))  # running statistics that are not the initial ones
    return net


@pytest.fixture
def file(tmp_path: Path, net: Net) -> Path:
    path = tmp_path / "net.safetensors"
    dither.save(net, path)
    return path


def header_of(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as opened:
        return json.loads(opened.metadata()["dither"])


def rewrite(path: Path, text: str) -> None:
    """Change the header and keep the tensors."""
    save_file(load_file(path), path, metadata={"dither": text})


def resealed(path: Path, header: dict[str, object], tensors: dict[str, Tensor] | None = None) -> None:
    """Change the header (and the tensors), as somebody who can compute the checksums that belong to them."""
    tensors = load_file(path) if tensors is None else tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"dither": sealed(header, shapes, of_tensors(tensors))})


def table_of(path: Path) -> tuple[dict[str, dict[str, object]], bytes]:
    """The table of a safetensors file, and its data."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_table(path: Path, table: dict[str, dict[str, object]], data: bytes) -> None:
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_round_trip_is_bit_for_bit(net: Net, tmp_path: Path, dtype: torch.dtype) -> None:
    net.to(dtype)
    with torch.no_grad():
        net.one.bias[:3] = torch.tensor([float("nan"), float("-inf"), -0.0])
    dither.save(net, tmp_path / "a.safetensors")
    fresh = Net()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    again = dither.load(fresh, tmp_path / "a.safetensors")
    same_bits(again, net)
    assert again is not fresh
    assert all(torch.equal(before[name], value) for name, value in fresh.state_dict().items())


def test_tied_weights_are_stored_once_and_stay_tied(file: Path) -> None:
    assert "tied.weight" not in load_file(file)
    again = dither.load(Net(), file)
    assert again.tied.weight is again.two.weight


def test_weights_tied_only_in_the_file_load_into_separate_ones(file: Path, net: Net) -> None:
    untied = Net()
    untied.tied.weight = nn.Parameter(torch.zeros(6, 6))
    again = dither.load(untied, file)
    same_bits(again, net)
    assert again.tied.weight is not again.two.weight


def test_weights_tied_only_in_the_network_are_refused(net: Net, tmp_path: Path) -> None:
    net.tied.weight = nn.Parameter(torch.zeros(6, 6))
    dither.save(net, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"\"t\w+\.weight\" shares its tensor"):
        dither.load(Net(), tmp_path / "a.safetensors")


def test_views_strides_and_modes(net: Net, tmp_path: Path) -> None:
    net.to(memory_format=torch.channels_last).eval()
    net.one.weight = nn.Parameter(torch.randn(4, 6).t())  # a transposed view
    net.nothing = net.one.weight.detach()[2:4, 1:3]  # overlaps another tensor without being it
    dither.save(net, tmp_path / "a.safetensors")
    fresh = Net().to(memory_format=torch.channels_last)
    fresh.nothing = torch.zeros(2, 2)
    again = dither.load(fresh, tmp_path / "a.safetensors")
    same_bits(again, net)
    assert again.training
    assert again.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not again.one.weight._is_view()


def test_parameters_stay_parameters(file: Path) -> None:
    fresh = Net()
    fresh.conv.weight.requires_grad_(False)
    again = dither.load(fresh, file)
    assert not again.conv.weight.requires_grad
    again(torch.randn(5, 1, 6, 6)).sum().backward()
    assert again.two.weight.grad is not None


def test_dtype_of_the_file_wins_and_the_parameter_trains(net: Net, tmp_path: Path) -> None:
    dither.save(net.to(torch.bfloat16), tmp_path / "a.safetensors")
    again = dither.load(Net(), tmp_path / "a.safetensors")
    again(torch.randn(5, 1, 6, 6, dtype=torch.bfloat16)).sum().backward()
    assert again.two.weight.grad.dtype == torch.bfloat16


def test_a_module_that_asks_for_its_version_gets_it(tmp_path: Path) -> None:
    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest) -> None:
            assert local_metadata["version"] == 2
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    net = nn.Sequential(Versioned(2, 3))
    dither.save(net, tmp_path / "net.safetensors")
    again = dither.load(nn.Sequential(Versioned(2, 3)), tmp_path / "net.safetensors")
    assert torch.equal(again[0].weight, net[0].weight)


def test_compiled_network_has_the_names_of_its_class(net: Net, tmp_path: Path) -> None:
    dither.save(torch.compile(net), tmp_path / "a.safetensors")
    same_bits(dither.load(Net(), tmp_path / "a.safetensors"), net)


def test_metadata_comes_back(net: Net, tmp_path: Path) -> None:
    dither.save(net, tmp_path / "a.safetensors", metadata={"error_pct": 0.71, "widths": [5, 10], "note": "σ"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"error_pct": 0.71, "widths": [5, 10], "note": "σ"}
    assert header.class_name == "Net"
    assert header.shapes["tied.weight"] == (6, 6)
    assert header.shrunk is None


def test_the_cost_report_comes_back(net: Net, tmp_path: Path) -> None:
    cost = dither.cost(net, torch.zeros(1, 1, 6, 6), batch_sizes=(1, 2), repeats=2)
    pair = dither.compare(net, net, torch.zeros(1, 1, 6, 6), batch_sizes=(1,), modes=("channels_last",), repeats=2)
    for report in (cost, pair):
        dither.save(net, tmp_path / "a.safetensors", cost=report)
        assert type(report).from_dict(read_header(tmp_path / "a.safetensors").cost) == report
    dither.save(net, tmp_path / "a.safetensors")
    assert read_header(tmp_path / "a.safetensors").cost is None


def test_file_is_plain_safetensors(file: Path) -> None:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert list(header["__metadata__"]) == ["dither"]
    assert header_of(file)["format"] == "dither"
    assert set(load_file(file)) == set(header) - {"__metadata__"}


# ---- nothing is lost


def leftovers(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p != path)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file(net: Net, file: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    before = file.read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, no_space)
    nn.init.zeros_(net.one.weight)
    with pytest.raises(CheckpointError, match=r"net\.safetensors: No space left on device\. The file that was there"):
        dither.save(net, file)
    assert file.read_bytes() == before
    assert leftovers(file) == []


def test_full_disk_while_writing(net: Net, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full, the kernel's own full disk")
    before = file.read_bytes()
    monkeypatch.setattr(_files, "open", lambda *_: full.open("wb"), raising=False)
    with pytest.raises(CheckpointError, match="No space left on device"):
        dither.save(net, file)
    assert file.read_bytes() == before
    assert leftovers(file) == []


def test_interrupt_leaves_nothing_behind(net: Net, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        dither.save(net, file)
    assert file.read_bytes() == before
    assert leftovers(file) == []


def test_missing_folder(net: Net, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent.*No such file or directory\. Nothing was written"):
        dither.save(net, tmp_path / "absent" / "net.safetensors")


def test_link_is_written_through(net: Net, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "latest.safetensors"
    link.symlink_to(tmp_path / "real" / "net.safetensors")
    dither.save(net, link)
    assert link.is_symlink()
    same_bits(dither.load(Net(), tmp_path / "real" / "net.safetensors"), net)


def test_mode_of_the_file_follows_the_umask(file: Path) -> None:
    other = file.with_name("other")
    other.touch()
    assert file.stat().st_mode == other.stat().st_mode


# ---- files that are not what they should be


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"net\.safetensors is no complete safetensors file"):
        dither.load(Net(), file)


def test_a_pickle_is_not_read(net: Net, file: Path) -> None:
    torch.save(net.state_dict(), file)
    with pytest.raises(CheckpointError, match="is no complete safetensors file"):
        dither.load(Net(), file)


def test_foreign_safetensors_file(file: Path) -> None:
    save_file({"weight": torch.zeros(3)}, file, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"not written by dither\.save \(its metadata is {'format': 'pt'}.*load_file"
    ):
        dither.load(Net(), file)
    save_file({"weight": torch.zeros(3)}, file)
    with pytest.raises(CheckpointError, match=r"its metadata is \{\}"):
        dither.load(Net(), file)


def test_future_version(file: Path) -> None:
    before = file.read_bytes()
    resealed(file, header_of(file) | {"version": 3})
    with pytest.raises(CheckpointError, match=r"format version 3, this dither reads 1 and 2\. Install a newer dither"):
        dither.load(Net(), file)
    for version in ("2", 2.0, True, 0, None):
        file.write_bytes(before)
        resealed(file, header_of(file) | {"version": version})
        with pytest.raises(CheckpointError, match=r"net\.safetensors is damaged \(its version is"):
            dither.load(Net(), file)


@pytest.mark.parametrize("changes", [{"shared": [1]}, {"shared": {"a": "absent"}}, None])
def test_damaged_header(file: Path, changes: dict[str, object] | None) -> None:
    if changes is None:
        rewrite(file, "{")
    else:
        resealed(file, header_of(file) | changes)
    with pytest.raises(CheckpointError, match=r"header of .*net\.safetensors is damaged \((JSON|\"(a|shared)\" is)"):
        dither.load(Net(), file)
    rewrite(file, json.dumps({"version": 1, "class": "Net"}))
    with pytest.raises(CheckpointError, match=r'is damaged \("shared" is NoneType\)\. Copy the file or save'):
        dither.load(Net(), file)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"version": ' + "9" * 5_000 + "}", "3", "null", '{"version": []}'])
def test_json_that_python_does_not_take(file: Path, text: str) -> None:
    rewrite(file, text)
    with pytest.raises(CheckpointError, match=r"header of .*net\.safetensors is damaged") as refused:
        dither.load(Net(), file)
    assert len(str(refused.value)) < 1_000


def test_a_flipped_bit_of_the_tensors_is_noticed(file: Path) -> None:
    content = file.read_bytes()
    begin = len(content) - len(table_of(file)[1])
    for at in range(begin, len(content), 7):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match=r"the tensors of .*net\.safetensors are damaged: their checksum"):
            dither.load(Net(), file)


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"note": "another"}},
        {"class": "Other"},
        {"law": {"name": "Cached"}},
        {"version": 1},
        {"checksums": {}},
    ],
)
def test_a_header_that_was_changed_alone(file: Path, changes: dict[str, object]) -> None:
    rewrite(file, json.dumps(header_of(file) | changes))
    for reads in (read_header, lambda path: dither.load(Net(), path)):
        with pytest.raises(
            CheckpointError, match=r"net\.safetensors is damaged \(its checksum is not that of the header"
        ):
            reads(file)


def test_equal_tensors_have_equal_checksums_whatever_was_measured(net: Net, file: Path, tmp_path: Path) -> None:
    cost = dither.cost(net, torch.zeros(1, 1, 6, 6), batch_sizes=(1,), repeats=1)
    dither.save(net, tmp_path / "measured.safetensors", cost=cost)
    header, measured = read_header(file), read_header(tmp_path / "measured.safetensors")
    assert header.checksum == measured.checksum == header_of(file)["checksums"]["tensors"]
    with torch.no_grad():
        net.scale.neg_()
    dither.save(net, tmp_path / "other.safetensors")
    assert read_header(tmp_path / "other.safetensors").checksum != header.checksum


def test_a_file_of_version_1_is_read(file: Path, net: Net) -> None:
    """As dither 0.3 wrote it: without checksums."""
    header = header_of(file)
    del header["checksums"]
    rewrite(file, json.dumps(header | {"version": 1}))
    same_bits(dither.load(Net(), file), net)
    assert read_header(file).version == 1
    assert read_header(file).checksum is None


def test_header_that_lies_about_shapes(file: Path) -> None:
    table, data = table_of(file)
    table["conv.weight"]["shape"] = [5, 1, 3, 3]
    write_table(file, table, data)
    with pytest.raises(CheckpointError, match="is no complete safetensors file"):
        dither.load(Net(), file)
    table["conv.weight"]["shape"] = [1, 4, 3, 3]  # the right size in the wrong shape
    write_table(file, table, data)
    with pytest.raises(
        CheckpointError, match="its checksum is not that of the header that was saved, or there are other"
    ):
        dither.load(Net(), file)
    header = json.loads(table["__metadata__"]["dither"])
    shapes = {name: tuple(entry["shape"]) for name, entry in table.items() if name != "__metadata__"}
    table["__metadata__"]["dither"] = sealed(header, shapes, of_tensors(load_file(file)))
    write_table(file, table, data)
    with pytest.raises(CheckpointError, match=r'"conv.weight" has shape \(1, 4, 3, 3\) in the file and \(4, 1, 3, 3\)'):
        dither.load(Net(), file)


def test_wrong_class(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"net\.safetensors holds a Net, not a Other"):
        dither.load(Other(), file)


def test_wrong_width_names_the_tensors(file: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r'"one.weight" has shape \(6, 4\) in the file and \(7, 4\).* more\. Pass'
    ):
        dither.load(Net(hidden=7), file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.safetensors"):
        dither.load(Net(), tmp_path / "absent.safetensors")


@pytest.mark.parametrize("bad", [{"when": object()}, {"a": {1, 2}}])
def test_metadata_that_is_no_json(net: Net, tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="metadata must be JSON"):
        dither.save(net, tmp_path / "a.safetensors", metadata=bad)


def test_state_that_has_no_values(net: Net, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match='"weight" has no dense values'):
        dither.save(nn.LazyLinear(3), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match='"scale" has no dense values'):
        dither.save(net.to("meta"), tmp_path / "a.safetensors")


def test_state_that_is_no_tensor(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

        def set_extra_state(self, state: object) -> None:
            pass

    with pytest.raises(CheckpointError, match='"_extra_state" is a dict, not a tensor'):
        dither.save(Extra(2, 2), tmp_path / "a.safetensors")


# ---- with gates, and shrunk


X = torch.zeros(2, 1, 6, 6)


def attached(net: nn.Module) -> nn.Module:
    noisy = pruning.attach(net, X)
    with torch.no_grad():
        for gate in pruning.gates(noisy).values():
            gate.log_scale[::2] = 3.0  # half of the channels drown
            gate.loc[::2] = -8.0
    return noisy


def test_network_with_gates(net: Net, tmp_path: Path) -> None:
    noisy = attached(net)
    dither.save(noisy, tmp_path / "a.safetensors")
    again = dither.load(pruning.attach(Net(), X), tmp_path / "a.safetensors")
    same_bits(again, noisy)
    x = torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(again.eval()(x), noisy.eval()(x), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"has gates: pass pruning\.attach"):
        dither.load(Net(), tmp_path / "a.safetensors")


def test_plain_file_into_gates(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no gates: pass the network without pruning\.attach"):
        dither.load(pruning.attach(Net(), X), file)


def shrunk(net: nn.Module) -> nn.Module:
    noisy = attached(net)
    return pruning.shrink(noisy, pruning.plan(noisy, X), X)


def test_shrunk_network_into_a_fresh_original(net: Net, tmp_path: Path) -> None:
    small = shrunk(net).eval()
    assert small.conv.weight.shape[0] == 2
    dither.save(small, tmp_path / "a.safetensors")
    fresh = Net().eval()
    again = dither.load(fresh, tmp_path / "a.safetensors")
    same_bits(again, small)
    assert fresh.conv.weight.shape[0] == 4
    x = torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)
    dither.save(again, tmp_path / "b.safetensors")  # and once more, from what was loaded
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    same_bits(dither.load(again, tmp_path / "b.safetensors"), small)


def test_twice_shrunk_network_with_selected_columns(tmp_path: Path) -> None:
    def make() -> nn.Sequential:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))

    x = torch.randn(4, 8)
    small = make()
    for features, drop in ((True, slice(0, 4)), (False, slice(5, 8))):
        noisy = pruning.attach(small, x, features=features)
        with torch.no_grad():
            for gate in pruning.gates(noisy).values():
                gate.loc[drop], gate.log_scale[drop] = -8.0, 3.0
        small = pruning.shrink(noisy, pruning.plan(noisy, x), x)
    dither.save(small, tmp_path / "a.safetensors")
    again = dither.load(make(), tmp_path / "a.safetensors")
    assert str(again) == str(small)
    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)


def test_shrunk_file_into_another_width(net: Net, tmp_path: Path) -> None:
    dither.save(shrunk(net), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="full-size network built as the original was"):
        dither.load(Net(hidden=2), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ([0, 99], "was shrunk from another"),
        ([0], r'tensors disagree: "conv\.weight" keeps 1 indices of dimension 0 and has shape \(2, 1, 3, 3\)'),
    ],
)
def test_kept_indices_that_lie(net: Net, tmp_path: Path, index: list[int], says: str) -> None:
    small = shrunk(net)
    small.dither_shrunk["kept"]["conv.weight"]["0"] = index
    dither.save(small, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=says):
        dither.load(Net(), tmp_path / "a.safetensors")


def test_tensors_of_another_file_under_this_header(net: Net, file: Path) -> None:
    """The header of a shrunk network on the tensors of the whole one, and a shared name that is there twice."""
    whole = load_file(file)
    dither.save(shrunk(net), file)
    rewritten = header_of(file)
    save_file(whole, file, metadata={"dither": json.dumps(rewritten)})
    with pytest.raises(CheckpointError, match=r"header of .* is damaged \(.* or there are other tensors\)"):
        dither.load(Net(), file)
    resealed(file, rewritten, whole)
    with pytest.raises(CheckpointError, match=r"header of .* and its tensors disagree: .* keeps 2 .* Another program"):
        dither.load(Net(), file)
    dither.save(net, file)
    stored = load_file(file)
    resealed(file, header_of(file), stored | {"tied.weight": torch.zeros(6, 6)})
    with pytest.raises(CheckpointError, match=r'"tied.weight" is said to be "two.weight", and is there itself'):
        read_header(file)


@pytest.mark.parametrize("record", [{}, {"kept": 3}, {"kept": {"absent": {"0": [0]}}}, [1]])
def test_record_that_is_damaged(net: Net, tmp_path: Path, record: object) -> None:
    small = shrunk(net)
    small.dither_shrunk = record
    dither.save(small, tmp_path / "a.safetensors")
    with pytest.raises(
        CheckpointError, match=r"a\.safetensors (was shrunk from another|is damaged \(.shrunk. is list)"
    ):
        dither.load(Net(), tmp_path / "a.safetensors")
    small.dither_shrunk = {"kept": {"conv.weight": {"0": 2}}}
    dither.save(small, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"the header of .*a\.safetensors is damaged"):
        dither.load(Net(), tmp_path / "a.safetensors")


# ---- with BatchNorm that draws


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


LAWS = [
    batchnorm.Factorized(),
    batchnorm.Empirical(joint=False),
    batchnorm.Correlated(rank=2, shrinkage=0.1),
    batchnorm.Cached(),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("banked", [False, True])
def test_fitted_network_with_its_law(law: batchnorm.Law, banked: bool, tmp_path: Path) -> None:
    net = batchnorm.convert(normed()).eval()
    batchnorm.fit(net, torch.randn(60, 2, 4, 4).split(6), law=law)
    batchnorm.rescale(net, batch_size=6)
    if banked and not law.looks_at_input:
        net = batchnorm.bank(net, 5)
    dither.save(net, tmp_path / "net.safetensors")
    again = dither.load(batchnorm.convert(normed()).eval(), tmp_path / "net.safetensors")
    x = torch.randn(3, 2, 4, 4)
    first, second = (dither.predict(n, x, 4, generator=torch.Generator().manual_seed(1)).probs for n in (net, again))
    assert torch.equal(first, second)
    assert again[1].source.law == net[1].source.law


def test_shrunk_and_fitted(tmp_path: Path) -> None:
    x = torch.randn(3, 2, 4, 4)
    noisy = pruning.attach(normed().eval(), x)
    for gate in pruning.gates(noisy).values():
        gate.loc.data[::2] = -15.0
    small = pruning.shrink(noisy, pruning.plan(noisy.eval(), x), x)
    net = batchnorm.convert(small)
    batchnorm.fit(net, torch.randn(60, 2, 4, 4).split(6))
    dither.save(net, tmp_path / "net.safetensors")
    again = dither.load(batchnorm.convert(normed()).eval(), tmp_path / "net.safetensors")
    first, second = (dither.predict(n, x, 4, generator=torch.Generator().manual_seed(1)).probs for n in (net, again))
    assert torch.equal(first, second)
    assert torch.equal(batchnorm.revert(again)(x), small(x))


def test_converted_files_and_networks_that_do_not_fit(tmp_path: Path) -> None:
    net = batchnorm.convert(normed()).eval()
    dither.save(net, tmp_path / "converted.safetensors")
    batchnorm.fit(net, torch.randn(60, 2, 4, 4).split(6))
    dither.save(net, tmp_path / "fitted.safetensors")
    with pytest.raises(CheckpointError, match=r"was converted: pass batchnorm\.convert\(net\)"):
        dither.load(normed(), tmp_path / "fitted.safetensors")
    assert dither.load(net, tmp_path / "converted.safetensors")[1].statistics is None
    assert type(dither.load(normed(), tmp_path / "converted.safetensors")[1]) is nn.BatchNorm2d
    header = header_of(tmp_path / "fitted.safetensors")
    for law, says in (
        ({"name": "Clairvoyant"}, "names the law 'Clairvoyant', known are Factorized"),
        ({"name": "Factorized", "rank": 2}, "the law Factorized with settings that it does not have"),
        ({"name": ["Factorized"]}, "unhashable"),
    ):
        resealed(tmp_path / "fitted.safetensors", header | {"law": law})
        with pytest.raises(CheckpointError, match=rf"fitted\.safetensors: .*{says}"):
            dither.load(net, tmp_path / "fitted.safetensors")
