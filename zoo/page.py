"""From results to ``zoo/results.json`` and the page ``docs/zoo.md``."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from statistics import median
from typing import Any

from zoo.jobs import LIMITS, ROOT, Job, versions

RESULTS, PAGE = ROOT / "zoo" / "results.json", ROOT / "docs" / "zoo.md"
SECONDS = 3.0  # to analyse a network of at most 100 million parameters
REFUSED = 3  # torchvision classification models, at most
LOSING = 0.8  # share of timm and transformers models that lose parameters, at least
ENDS = {"exact": "right", "pass": "right", "memory": "crash"} | {e: e for e in ("refused", "wrong", "crash", "timeout")}
CLASSIFIERS, OTHERS = ("torchvision",), ("timm", "transformers")

HEAD = """# The zoo

{number} networks that people really use, with random weights and random BatchNorm statistics. For each one, `attach`
puts noise on every channel that can go, half of all these channels are dropped at random, and the network that `shrink`
returns is compared with the masked one (full size, zeros where the plan drops) in float64, on inputs and a batch size
that neither has seen.

- **difference**: the largest one of any output, on the scale of that output; "exact" is at most 1e-10.
- **removable**: the share of the parameters that lie in a row, a column or a filter of a channel that can go.
- **left**: the share of the parameters that is left after half of these channels went.
- **held back**: the share of the parameters that cannot go, by reason; one may have two, for its rows and its columns.
- **analysis**: `pruning.analyse` alone; **attach**: all of `pruning.attach`, that is the analysis, the trial whether
  the code of the network follows smaller sizes, and the gates. Seconds of the processor, one thread.
- **file**: whether the smaller network, saved and loaded into a fresh instance of its class, gives the same bits.
- **Torch-Pruning** removes half of the channels of each of its groups at random, as its documentation says: last layers
  ignored, heads of attention named, sizes of attention modules adapted afterwards. "pass" means that what is left
  computes what the network at full size computes with the same channels set to zero where they are read (to 1e-6 of the
  scale, in float64), "wrong" that it computes something else, without a word. Its analysis is the building of its
  graph. Limit: {limit} seconds of the processor.

`make test-zoo` writes this page, from `zoo/results.json`. {machine}; {versions}; seed {seed};
code of dither by its fingerprint: {code}.
"""


def collect(folder: Path, keys: Collection[str], seed: int) -> dict[str, Any]:
    """All results as one value, with the machine and the versions that they were made with."""
    networks: list[dict[str, Any]] = []
    codes: set[str] = set()
    absent = {side: [key for key in keys if not Job(side, key, seed, folder, "", 0).path.exists()] for side in LIMITS}
    for key in keys:
        sides = {side: Job(side, key, seed, folder, "", limit).path for side, limit in LIMITS.items()}
        read = {side: json.loads(p.read_text(encoding="utf-8")) for side, p in sides.items() if p.exists()}
        if "dither" in read:
            codes.add(read["dither"]["made_by"].split()[0])
            networks.append({"key": key, **{side: _without(result) for side, result in read.items()}})
    python = {"python": platform.python_version()}
    return {"machine": processor(), "versions": {**python, **versions()}, "seed": seed,
            "code": sorted(codes), "absent": absent, "networks": networks}  # fmt: skip


def write(values: dict[str, Any]) -> None:
    """Store the results and write the page."""
    RESULTS.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(values), encoding="utf-8")


def render(values: dict[str, Any]) -> str:
    """The page as Markdown."""
    networks = values["networks"]
    libraries = ", ".join(f"{name} {number}" for name, number in values["versions"].items())
    head = HEAD.format(number=len(networks), limit=LIMITS["rival"], machine=values["machine"], versions=libraries,
                       seed=values["seed"], code=", ".join(values["code"]))  # fmt: skip
    parts = [
        head,
        *([f"{values['note']}\n"] if "note" in values else []),
        "## Summary\n",
        _table(*_summary(networks)),
        _extremes(networks),
        _goals(values),
    ]
    parts += ["## What stays whole, and why\n", _table(*_reasons(networks))]
    for library in dict.fromkeys(_library(n) for n in networks):
        rows = [_row(n) for n in networks if _library(n) == library]
        parts += [f"## {library}\n", _table(COLUMNS, rows)]
    return "\n".join(parts)


def missed(values: dict[str, Any]) -> list[str]:
    """What should hold and does not; empty if all does."""
    networks = values["networks"]
    found = [f"no result of {side} yet: {', '.join(keys)}" for side, keys in values.get("absent", {}).items() if keys]
    bad = [n["key"] for n in networks if n["dither"]["result"] not in {"exact", "refused"}]
    found += [f"neither exact nor refused: {', '.join(bad)}"] if bad else []
    slow = [n["key"] for n in networks if n["dither"].get("analyse_s", (0, 0))[1] > SECONDS]
    found += [f"analysis takes more than {SECONDS:g} s: {', '.join(slow)}"] if slow else []
    refused = [n["key"] for n in networks if _library(n) in CLASSIFIERS and n["dither"]["result"] == "refused"]
    found += [f"more than {REFUSED} refused: {', '.join(refused)}"] if len(refused) > REFUSED else []
    other = [n for n in networks if _library(n) in OTHERS]
    losing = sum(n["dither"]["result"] == "exact" for n in other)
    found += [f"only {losing} of {len(other)} lose parameters"] if losing < LOSING * len(other) else []
    files = [n["key"] for n in networks if n["dither"].get("reloaded", "same") != "same"]
    return found + ([f"not the same after a trip through a file: {', '.join(files)}"] if files else [])


def line(job: Job) -> str:
    """One result in one line, for the terminal."""
    result = json.loads(job.path.read_text(encoding="utf-8"))
    numbers = [f"{name} {result[name][1]:.2f}" for name in ("analyse_s", "attach_s", "shrink_s", "build_s", "prune_s")
               if name in result]  # fmt: skip
    numbers += [f"{name} {result[name]:.3g}" for name in ("removable", "difference", "effect") if name in result]
    more = [str(result[name])[:300] for name in ("reason", "reloaded") if result.get(name, "same") != "same"]
    return " | ".join([job.side, job.key, result["result"], *numbers, *more])


def processor() -> str:
    """The processor by name and its number of cores."""
    import os

    names = [text.split(":", 1)[1].strip() for text in _lines(Path("/proc/cpuinfo")) if text.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


COLUMNS = ["network", "parameters", "spaces, of them free", "removable", "left", "analysis, s", "attach, s", "dither",
           "difference", "file", "Torch-Pruning", "s", "held back"]  # fmt: skip


def _row(network: dict[str, Any]) -> list[str]:
    d, r = network["dither"], network.get("rival", {})
    exact = "params_left" in d
    return [
        network["key"].partition("/")[2],
        f"{d['params'] / 1e6:.1f} M" if "params" in d else "",
        f"{d['spaces']}, {d.get('free', 0)}" if "spaces" in d else "",
        f"{d['removable']:.0%}" if "removable" in d else "",
        f"{d['params_left'] / d['params']:.0%}" if exact else "",
        f"{d['analyse_s'][1]:.2f}" if "analyse_s" in d else "",
        f"{d['attach_s'][1]:.2f}" if "attach_s" in d else "",
        d["result"] + (f": {_short(d['reason'])}" if "reason" in d else ""),
        f"{d['difference']:.0e}" if exact else "",
        {"same": "same", None: ""}.get(d.get("reloaded"), "differs"),
        r.get("result", "") + (f" ({r['stage']})" if "stage" in r else ""),
        f"{sum(r[name][1] for name in ('build_s', 'prune_s') if name in r):.1f}" if "build_s" in r else "",
        "; ".join(
            f"{share:.0%} {_short(reason, 80)}" for reason, share in d.get("pinned", {}).items() if share >= 0.01
        ),
    ]


def _summary(networks: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = [
        "",
        "networks",
        "",
        "right",
        "refused",
        "wrong",
        "crash",
        "timeout",
        "not run",
        "analysis, s: median, largest",
    ]
    rows: list[list[str]] = []
    for library in [*dict.fromkeys(map(_library, networks)), "all"]:
        own = [n for n in networks if library in {_library(n), "all"}]
        for side, name in (("dither", "dither"), ("rival", "Torch-Pruning")):
            results = [n.get(side, {}) for n in own]
            found = Counter(ENDS.get(r.get("result", ""), "not run") for r in results)
            knowing = {"dither": "analyse_s", "rival": "build_s"}[side]
            seconds = [r[knowing][1] for r in results if knowing in r]
            times = f"{median(seconds):.2f}, {max(seconds):.2f}" if seconds else ""
            first = [library, str(len(own))] if side == "dither" else ["", ""]
            rows.append([*first, name, *(str(found[end]) for end in header[3:-1]), times])
    return header, rows


def _goals(values: dict[str, Any]) -> str:
    found = missed(values)
    return "Missed:\n\n" + "".join(f"- {text}\n" for text in found) if found else "Every goal of the zoo held.\n"


def _extremes(networks: list[dict[str, Any]]) -> str:
    """How near the comparison came to its limits, and whether it could have seen anything."""
    exact = [n["dither"] for n in networks if n["dither"]["result"] == "exact"]
    if not exact:
        return ""
    least = min((d["effect"], n["key"]) for n in networks for d in [n["dither"]] if d["result"] == "exact")
    double, single = (max(d[name] for d in exact) for name in ("difference", "difference_32"))
    return (
        f"The largest difference of an exact network is {double:.1e} in float64, and {single:.1e} with the same "
        f"networks in float32. The comparison is not blind: without half of its channels a network differs by "
        f"{least[0]:.1e} of the scale or more (least: {least[1]}).\n"
    )


def _reasons(networks: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Reasons by the parameters that they hold, over all networks."""
    held: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for n in networks:
        for reason, share in n["dither"].get("pinned", {}).items():
            held[reason] += share
            times[reason] += 1
    mean = {reason: f"{share / times[reason]:.1%}" for reason, share in held.most_common(30)}
    rows = [[_short(reason), str(times[reason]), share] for reason, share in mean.items()]
    return ["reason", "networks", "share of their parameters, mean"], rows


def _table(header: list[str], rows: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|").replace("<", "&lt;") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *escaped]) + "\n"


def _short(text: str, limit: int = 160) -> str:
    """One line without files of this machine."""
    from zoo.shares import plain_paths

    text = plain_paths(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _without(result: dict[str, Any]) -> dict[str, Any]:
    """A result as it is published: no key twice, no files of this machine, rounded seconds."""
    from zoo.shares import plain_paths

    own = {k: v for k, v in result.items() if k not in {"key", "seed", "made_by"}}
    for name, value in own.items():
        if name.endswith("_s") and isinstance(value, list):
            own[name] = [round(v, 3) for v in value]
        elif name in {"reason", "reloaded"}:
            own[name] = plain_paths(value)
    return own


def _library(network: dict[str, Any]) -> str:
    return network["key"].partition("/")[0]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
