"""What `doubt` found: a network beside its stochastic self, as JSON, as a table and in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._json import read_json

# key of a record, words, format
_ROWS = (
    ("error_pct", "error on the test images", "{:.2f}%"),
    ("nll", "negative log-likelihood", "{:.4f}"),
    ("nll_calibrated", "the same after temperature", "{:.4f}"),
    ("temperature", "temperature", "{:.2f}"),
    ("brier", "Brier score", "{:.4f}"),
    ("ece", "calibration error (ECE)", "{:.2%}"),
    ("aurc", "area under risk-coverage", "{:.3%}"),
    ("ood_auroc", "unknown: AUROC by entropy", "{:.3f}"),
    ("ood_auroc_mutual_information", "unknown: AUROC by mutual information", "{:.3f}"),
    ("ood_aupr", "unknown: AUPR by entropy", "{:.3f}"),
    ("ood_fpr95", "unknown: FPR95 by entropy", "{:.1%}"),
    ("seconds_per_1000", "seconds for 1,000 images", "{:.2f}"),
)
METHODS = {"single": "single network", "sbn": "stochastic BatchNorm"}
_FIGURES = {
    "entropy.png": "entropy of known and unknown images",
    "reliability.png": "how often it is right, by how sure it is",
    "risk_coverage.png": "error when the most uncertain images are left out",
    "statistics.png": "batch statistics against the fitted law",
}


@dataclass(frozen=True)
class DoubtReport:
    """Results of :func:`dither.training.doubt` as plain data.

    ``folder`` holds ``report.json``, ``report.md`` and figures. ``values`` has: ``records``, one for the network as it
    is ("single") and one with stochastic BatchNorm ("sbn"), with net, data, method, seed, num_samples, the numbers of
    ``metrics.classification_table``, ood_auroc_mutual_information and seconds_per_1000; ``change``, the mean
    difference of the negative log-likelihood over the test images (sbn minus single) and its standard error over
    images; ``images``, how many there were; ``fit`` and ``tune``, what these printed; ``batch_size``, that of the
    noise; ``notes``, warnings of the way; ``figures``, names of files; ``settings``, ``machine`` and ``versions``.
    """

    folder: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> DoubtReport | None:
        """The report of a folder, or None where there is none."""
        path = folder / "report.json"
        return cls(folder, read_json(path, "Remove it, and measure again.")) if path.exists() else None

    @property
    def single(self) -> dict[str, Any]:
        """The record of the network as it is."""
        return self.values["records"][0]

    @property
    def sbn(self) -> dict[str, Any]:
        """The record of the network with stochastic BatchNorm."""
        return self.values["records"][1]

    def rows(self) -> list[tuple[str, ...]]:
        """The table: what, single network, stochastic BatchNorm. What was not measured is left out."""
        return [
            (words, *(_number(form, record.get(key)) for record in (self.single, self.sbn)))
            for key, words, form in _ROWS
            if key in self.sbn
        ]

    @property
    def change_in_words(self) -> str:
        """What the draws did to the likelihood, and how well that is known."""
        change = self.values["change"]
        numbers = f"{change['nll']:+.4f} ± {change['nll_se']:.4f}"
        return f"Change of the negative log-likelihood: {numbers} (standard error over test images)."

    def sentences(self) -> list[str]:
        """What the numbers come from, in words."""
        values, settings = self.values, self.values["settings"]
        counts = values["images"]
        asked = f"{counts['test']:,} test images"
        if "outside" in counts:
            what = "of classes that were left out" if settings["outside"] == "rest" else f"of {settings['outside']}"
            asked += f", {counts['outside']:,} unknown ones {what}"
        if "validation" in counts:
            what = "temperature" if values["tune"] is None else "temperature and size of the noise"
            asked += f"; {what} from {counts['validation']:,} held-out ones"
        where = (
            "all BatchNorm layers" if settings["layers"] is None else f"BatchNorm in {', '.join(settings['layers'])}"
        )
        return [
            f"{asked}.",
            f"Stochastic: {where}, {settings['num_samples']} samples, law {settings['law']}, "
            f"noise of batches of {values['batch_size']:g}.",
            self.change_in_words,
            *(f"Note: {note}" for note in values["notes"]),
        ]

    def to_markdown(self) -> str:
        """The table, the figures and what is needed to judge them."""
        values, record = self.values, self.sbn
        lines = [
            f"# {record['net']} on {record['data']}, seed {record['seed']}: does it know when it does not know?",
            "",
            "| | single network | stochastic BatchNorm |",
            "|---|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in self.rows()),
            "",
            *self.sentences(),
            f"Times are medians of 3 passes in turns, up to 500 images each, on {values['machine']['cpu']}, "
            f"{values['machine']['threads']} thread(s), torch {values['versions']['torch']}.",
            "",
            *(f"![{_FIGURES[name]}]({name})\n" for name in values["figures"]),
            "```text",
            values["fit"],
            *([] if values["tune"] is None else ["", values["tune"]]),
            "```",
            "",
        ]
        return "\n".join(lines)


def _number(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value).replace("%", " %")
