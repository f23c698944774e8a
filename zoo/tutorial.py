"""Run the example with torchvision in docs/tutorials/your_network.md, which the usual environment cannot run.

Run: python -m zoo.tutorial
"""

from __future__ import annotations

import re

from zoo.jobs import ROOT


def main() -> None:
    text = (ROOT / "docs" / "tutorials" / "your_network.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(compile(code, "your_network.md", "exec"), {})
    print("docs/tutorials/your_network.md: the example with torchvision runs")


if __name__ == "__main__":
    main()
