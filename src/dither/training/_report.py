"""The end of a run: what was removed, what it costs, what it gains; as JSON, Markdown and a figure."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._cost import Comparison, compare
from ..pruning import Plan
from ._checkpoints import write_text
from ._evaluate import predict_logits, score
from ._figure import draw_widths

if TYPE_CHECKING:
    from ._run import Run

BATCH_SIZES = (1, 64)


@dataclass(frozen=True)
class Report:
    """Results of one run as plain data.

    ``values`` has: ``records``, one per network, with net, data, method ("original" or "sbp"; "sbp, not fine-tuned"
    where that differs), seed, error_pct, nll, widths, params, macs, bytes, latency_ms_b1, latency_ms_b64 and ratios
    original divided by ours; ``totals``, the widths before; ``removal``, the largest difference between masked and
    shrunk outputs, relative to the largest output, and the change of error; ``machine`` and ``versions``; ``cost``,
    what `dither.compare` measured (from version 0.3 on).
    """

    values: dict[str, Any]

    @property
    def cost(self) -> Comparison:
        """The original and the final network, timed in turns."""
        return Comparison.from_dict(self.values["cost"])

    @property
    def original(self) -> dict[str, Any]:
        """The record of the original network."""
        return self.values["records"][0]

    @property
    def small(self) -> dict[str, Any]:
        """The record of the final, shrunk network."""
        return self.values["records"][-1]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The table of the report: what, original, shrunk, ratio or change."""
        a, b = self.original, self.small
        rows = [
            _row("error on the test images", a["error_pct"], b["error_pct"], 2, " %"),
            _row("negative log-likelihood", a["nll"], b["nll"], 4, ""),
            ("parameters", f"{a['params']:,}", f"{b['params']:,}", f"{b['params_ratio']:.2f}x fewer"),
            ("multiply-accumulates", f"{a['macs']:,}", f"{b['macs']:,}", f"{b['macs_ratio']:.2f}x fewer"),
        ]
        for size in BATCH_SIZES:
            key = f"latency_ms_b{size}"
            ratio = f"{b[f'latency_ratio_b{size}']:.2f}x faster"
            rows.append((f"time, batch {size}", f"{a[key]:.3f} ms", f"{b[key]:.3f} ms", ratio))
        widths = [(name, str(total), str(b["widths"][name])) for name, total in self.values["totals"].items()]
        return rows + [(f"width of {name}", total, kept, "") for name, total, kept in widths]

    def to_markdown(self) -> str:
        """The table with what is needed to judge it."""
        values, removal = self.values, self.values["removal"]
        lines = [
            f"# {self.small['net']} on {self.small['data']}, seed {self.small['seed']}",
            "",
            "| | original | shrunk | |",
            "|---|---:|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in self.rows()),
            "",
            f"Removing the dropped channels changed outputs by {removal['max_output_difference']:.1e} of the largest "
            f"one and the error by {removal['error_change_pct']:.2f} points.",
            f"Times are medians of one run on {values['machine']['cpu']}, {values['machine']['threads']} thread(s), "
            f"torch {values['versions']['torch']}.",
            "",
            "![widths before and after](widths.png)",
            "",
        ]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Writes report.json, report.md and widths.png; each is replaced in one step."""
        widths, totals = self.small["widths"], self.values["totals"]
        draw_widths({name: (widths[name], total) for name, total in totals.items()}, folder / "widths.png")
        write_text(folder / "report.md", self.to_markdown())
        write_text(folder / "report.json", json.dumps(self.values, indent=1) + "\n")


def make_report(run: Run, *, masked: nn.Module, shrunk: nn.Module, small: nn.Module, plan: Plan) -> Report:
    """Measures all networks of a run on the test images.

    Args:
        run: where recipe, images and the original network come from.
        masked: the full-size network that the plan means.
        shrunk: the network right after removal.
        small: the final network; ``shrunk`` itself, or what became of it.
        plan: what was removed.
    """
    recipe, base, device = run.recipe, run.base(), run.accelerator.device
    test = run.images("test").to(device)
    example = run.example()
    logits = {name: predict_logits(net, test) for name, net in {"masked": masked, "sbp": shrunk}.items()}
    choices = [choice for choice in (*plan.spaces, *plan.columns) if choice.reason is None]
    totals = {choice.name: choice.total for choice in choices}
    kept = {choice.name: len(choice.kept) for choice in choices}
    cost = compare(base, small, example, batch_sizes=BATCH_SIZES)
    common = {"net": recipe.model, "data": recipe.data, "seed": recipe.seed}

    def record(method: str, out: Tensor, widths: dict[str, int], costs: dict[str, Any]) -> dict[str, Any]:
        result = score(out, test)
        return {**common, "method": method, "error_pct": result.error_pct, "nll": result.nll, "widths": widths, **costs}

    records = [record("original", predict_logits(base, test), totals, _costs(cost, original=True))]
    final = predict_logits(small, test)
    if not torch.equal(final, logits["sbp"]):
        records.append(record("sbp, not fine-tuned", logits["sbp"], kept, _costs(cost, original=False)))
    records.append(record("sbp", final, kept, _costs(cost, original=False)))
    difference = (logits["masked"] - logits["sbp"]).abs().max() / logits["masked"].abs().max()
    change = score(logits["sbp"], test).error_pct - score(logits["masked"], test).error_pct
    return Report(
        {
            "records": records,
            "totals": totals,
            "cost": cost.to_dict(),
            "removal": {"max_output_difference": difference.item(), "error_change_pct": change},
            "plan_note": plan.note,
            "recipe": asdict(recipe),
            "machine": machine(),
            "versions": versions(),
        }
    )


def machine() -> dict[str, Any]:
    """What the times were measured on; nothing that names one machine."""
    threads = torch.get_num_threads()
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": threads, "system": platform.system()}


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    import accelerate

    return {"python": platform.python_version(), "torch": str(torch.__version__), "accelerate": accelerate.__version__}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _costs(cost: Comparison, *, original: bool) -> dict[str, Any]:
    mine = cost.original if original else cost.small
    values: dict[str, Any] = {
        "params": mine.params,
        "macs": mine.macs,
        "bytes": mine.bytes,
        "macs_ratio": 1.0 if original else cost.macs_ratio,
        "params_ratio": 1.0 if original else cost.params_ratio,
    }
    for size in BATCH_SIZES:
        values[f"latency_ms_b{size}"] = mine.latency[size].median * 1e3
        values[f"latency_ratio_b{size}"] = 1.0 if original else cost.speedup[size].median
    return values


def _row(name: str, before: float, after: float, digits: int, unit: str) -> tuple[str, str, str, str]:
    return name, f"{before:.{digits}f}{unit}", f"{after:.{digits}f}{unit}", f"{after - before:+.{digits}f}"
