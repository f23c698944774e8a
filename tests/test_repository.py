"""What must hold of the repository itself: no pickle, nothing of one machine, a README whose example runs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout: the source distribution has no list of tracked files")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def calls_and_imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports or calls."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
    return found


def test_the_check_below_sees_pickle(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import torch, pickle\nfrom dill import loads\ntorch.load('x')\n")
    assert calls_and_imports(tmp_path / "a.py") == {"torch", "pickle", "dill.loads", "torch.load"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_source_uses_no_pickle(path: Path) -> None:
    bad = r"(c?[pP]ickle|dill|cloudpickle|joblib|marshal|shelve)(\..*)?|torch\.(load|save|jit\.load|serialization\..*)"
    assert [name for name in calls_and_imports(path) if re.fullmatch(bad, name)] == []


def test_files_name_no_machine() -> None:
    # Not the place where somebody happened to work, and no host: neither helps on another machine.
    bad = re.compile(r"(?<![\w.])/(home|root|work|tmp|Users|opt|mnt|var)/\w|[A-Z]:\\\\|\b(localhost|127\.0\.0\.1)\b")
    found: list[str] = []
    for path in tracked():
        if path.suffix in {".py", ".toml", ".md", ".yml", ".cff", ".txt", ".json"} and path != Path(__file__).resolve():
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            found += [
                f"{path.relative_to(ROOT)}:{i}: {line.strip()}" for i, line in enumerate(lines, 1) if bad.search(line)
            ]
    assert found == []


def test_no_file_of_source_is_too_long() -> None:
    assert [p.name for p in SOURCES if len(p.read_text(encoding="utf-8").splitlines()) > 350] == []


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)


def test_rooms_of_pruning_import_in_the_order_that_they_are_named_in() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = re.findall(r"`(\w+)`", re.search(r"import in this order:(.*?)\.\n", text, re.S)[1])
    pruning = ROOT / "src/dither/pruning"
    assert sorted(rooms) == sorted(p.parent.name for p in pruning.glob("*/__init__.py"))
    for number, room in enumerate(rooms):
        for path in (pruning / room).glob("*.py"):
            found = re.findall(r"^ *from \.\.(\w+)", path.read_text(encoding="utf-8"), re.M)
            assert set(found) <= set(rooms[:number]), path


@pytest.mark.parametrize(
    ("number", "printed"), [(0, ("kept/total", "original / small")), (1, ("tensor([[",))], ids=["prune", "doubt"]
)
def test_readme_examples_are_short_and_run(number: int, printed: tuple[str, ...], tmp_path: Path) -> None:
    assert len(python_blocks()) == 2
    example = python_blocks()[number]
    code = [line for line in example.splitlines() if line.strip() and not line.startswith(("import ", "from ", "#"))]
    assert len(code) <= 16
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert all(text in ran.stdout for text in printed), ran.stdout


def test_readme_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_files_named_in_the_documentation_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    named = {
        found
        for page in pages
        for found in re.findall(r"\b(?:tests|benchmarks|studies|src)/[\w./]+\w", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_version_is_the_same_everywhere() -> None:
    import dither

    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{dither.__version__}"' in project
    assert f"version: {dither.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"[{dither.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
