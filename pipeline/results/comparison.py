"""The comparison of teacher, VFL-Net and DVFL-Net, from the results of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.text_table import text_table
from pipeline.tracking.progress import duration


def compare_results(
    teacher: dict[str, Any], vflnet: dict[str, Any], dvflnet: dict[str, Any]
) -> str:
    """Lay three results out as a table, with the verdict in a sentence.

    Args:
        teacher: result of ``run_train_teacher``. Its scores are taken from the student's run, so
            that they are those of the logits that were distilled.
        vflnet: result of ``run_train_student`` for labels alone.
        dvflnet: result of ``run_train_student`` with the cache.

    """
    scores = [
        _score("teacher", teacher["metrics"], dvflnet["metrics"], prefix="teacher/"),
        _score("VFL-Net (labels)", vflnet["metrics"], vflnet["metrics"], prefix="last/"),
        _score("DVFL-Net (cache)", dvflnet["metrics"], dvflnet["metrics"], prefix="last/"),
    ]
    vfl, dvfl = scores[1:]
    gain = 100 * (dvfl.top1 - vfl.top1)
    return "\n".join(
        [
            "",
            comparison_table(scores),
            "",
            f"Distillation changed the student's top-1 on val by {gain:+.1f} points, its negative "
            f"log-likelihood from {vfl.nll:.2f} to {dvfl.nll:.2f} and its calibration "
            f"error from {vfl.ece:.1%} to {dvfl.ece:.1%}.",
            f"Compare the runs: make ui, then {dvflnet['link']}",
        ]
    )


def _score(
    model: str, cost: dict[str, float], metrics: dict[str, float], *, prefix: str
) -> ModelScore:
    return ModelScore(
        model=model,
        num_parameters=round(cost["model/params_millions"] * 1e6),
        num_macs=round(cost["model/gmacs"] * 1e9),
        top1=metrics[f"{prefix}top1"],
        top5=metrics[f"{prefix}top5"],
        nll=metrics[f"{prefix}nll"],
        ece=metrics[f"{prefix}ece"],
        agreement=metrics.get(f"{prefix}agreement"),
        train_seconds=cost["train/seconds"],
    )


@dataclass(frozen=True)
class ModelScore:
    """A row of the comparison: what a network costs and how good it is."""

    model: str
    num_parameters: int
    num_macs: int
    top1: float
    top5: float
    nll: float
    ece: float
    agreement: float | None = None  # with the teacher
    train_seconds: float | None = None


def comparison_table(scores: Sequence[ModelScore]) -> str:
    """Lay networks out as aligned text, a line each."""
    scores_header = ("top-1", "top-5", "NLL", "ECE", "agreement")
    header = ("model", "params (M)", "GMAC", *scores_header, "train time")
    return text_table([header, *map(_comparison_row, scores)])


def _comparison_row(score: ModelScore) -> tuple[str, ...]:
    return (
        score.model,
        f"{score.num_parameters / 1e6:.3g}",
        f"{score.num_macs / 1e9:.3g}",
        f"{score.top1:.1%}",
        f"{score.top5:.1%}",
        f"{score.nll:.2f}",
        f"{score.ece:.1%}",
        "-" if score.agreement is None else f"{score.agreement:.1%}",
        "-" if score.train_seconds is None else duration(score.train_seconds),
    )
