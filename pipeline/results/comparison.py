"""The comparison of teacher, VFL-Net and DVFL-Net, from the results of their runs."""

from __future__ import annotations

from typing import Any

from pipeline.text_table import text_table
from pipeline.tracking.progress import duration


def compare_results(
    teacher: dict[str, Any], vflnet: dict[str, Any], dvflnet: dict[str, Any]
) -> str:
    """Lay three results out as a table, with the verdict in a sentence.

    Args:
        teacher: result of ``run_training``. Its scores are taken from the student's run, so
            that they are those of the logits that were distilled.
        vflnet: result of ``run_training`` for labels alone.
        dvflnet: result of ``run_training`` with the cache.
    """
    runs = {"teacher": teacher, "VFL-Net (labels)": vflnet, "DVFL-Net (cache)": dvflnet}
    which = dvflnet.get("selection", "last")  # older results name none
    scores = [
        _scores(dvflnet, "teacher/"),
        _scores(vflnet, f"{which}/"),
        _scores(dvflnet, f"{which}/"),
    ]
    header = ("model", "params (M)", "GMAC", "top-1", "top-5", "NLL", "ECE")
    rows = [
        _row(name, run["metrics"], score)
        for (name, run), score in zip(runs.items(), scores, strict=True)
    ]
    _, vfl, dvfl = scores
    gain = 100 * (dvfl["top1"] - vfl["top1"])
    return "\n".join(
        [
            "",
            text_table([(*header, "agreement", "train time"), *rows]),
            "",
            f"Distillation changed the student's top-1 on val by {gain:+.1f} points, its negative "
            f"log-likelihood from {vfl['nll']:.2f} to {dvfl['nll']:.2f} and its calibration "
            f"error from {vfl['ece']:.1%} to {dvfl['ece']:.1%}. "
            f"These are the weights of each student's {which} epoch (train.selection).",
            f"Compare the runs: make ui, then {dvflnet['link']}",
        ]
    )


def _scores(result: dict[str, Any], prefix: str) -> dict[str, float]:
    metrics = result["metrics"].items()
    return {name.removeprefix(prefix): v for name, v in metrics if name.startswith(prefix)}


def _row(name: str, cost: dict[str, float], score: dict[str, float]) -> tuple[str, ...]:
    return (
        name,
        f"{cost['model/params_millions']:.3g}",
        f"{cost['model/gmacs']:.3g}",
        f"{score['top1']:.1%}",
        f"{score['top5']:.1%}",
        f"{score['nll']:.2f}",
        f"{score['ece']:.1%}",
        f"{score['agreement']:.1%}" if "agreement" in score else "-",
        duration(cost["train/seconds"]),
    )
