"""Teacher, VFL-Net and DVFL-Net side by side, from the results of their runs."""

from __future__ import annotations

from typing import Any

from pipeline.results.figures import ModelScore, comparison_table


def compare_results(
    teacher: dict[str, Any], vflnet: dict[str, Any], dvflnet: dict[str, Any]
) -> str:
    """Lay three results out as a table, with the verdict in a sentence.

    Args:
        teacher: what ``run_train_teacher`` returned. Its scores are taken from the logit store, by
            the students' runs, so that they are those of the logits that were distilled.
        vflnet: what ``run_train_student`` returned for labels alone.
        dvflnet: the same with the cache.

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
