"""The table of the README is that of the committed results."""

import pytest

from studies import headlines


def test_readme_has_the_lines_of_the_committed_results() -> None:
    table = headlines.table()
    assert len(table.splitlines()) > 5
    assert table in (headlines.HERE.parent / "README.md").read_text(encoding="utf-8")


def test_every_study_with_a_row_exists() -> None:
    names = [name for question in headlines.QUESTIONS for name in question.studies]
    assert all((headlines.HERE / name / "README.md").exists() for name in names)


def test_the_lowest_error_of_each_row_is_bold() -> None:
    records = [
        {"net": "lenet5", "size": 15.0, "method": method, "seed": seed, "error_pct": error + seed}
        for method, error in (("sbp", 0.5), ("l1", 0.4), ("random", 0.4))
        for seed in (0, 1)
    ]
    (row,) = headlines.against_the_field({"records": records})
    assert row[:4] == ["LeNet-5, MNIST, 15x", "2", "1.00 ± 0.71", "**0.90 ± 0.71**"]
    assert row[-3:] == ["**0.90 ± 0.71**", "", ""]


@pytest.mark.parametrize(
    ("paper", "cell"),
    [
        ({"dropout": {"nll": 0.155}, "dropout + sbn": {"nll": 0.149}}, "0.155 -> 0.149"),
        ({"dropout + sbn": {"nll": 0.149}}, "no row -> 0.149"),
        ({}, "no row"),
    ],
    ids=["both", "only with SBN", "neither"],
)
def test_what_the_paper_does_not_have_is_said(paper: dict[str, dict[str, float]], cell: str) -> None:
    records = [
        {"method": method, "nll": nll, "nll_calibrated": nll - 0.01}
        for method, nll in (("dropout", 0.34), ("dropout + sbn", 0.33))
    ]
    (row,) = headlines.doubt({"records": records}, "ResNet-18, CIFAR-5", paper)
    assert row == [
        "ResNet-18, CIFAR-5, network with dropout",
        cell,
        "0.3400 -> 0.3300",
        "0.3300 -> 0.3200",
    ]


def test_a_question_without_results_has_no_table() -> None:
    question = headlines.Question(
        "Why?", "Because", ["a"], {"a_study_that_is_not_there": lambda results: iter([["1"]])}
    )
    assert question.table() == ""
