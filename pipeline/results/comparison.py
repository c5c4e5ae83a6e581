"""The comparison of teacher, VFL-Net and DVFL-Net, from the results of their runs."""

from __future__ import annotations

from typing import Any

from pipeline.text_table import text_table
from pipeline.tracking.progress import duration


def compare_results(
    teacher: dict[str, Any], vflnet: dict[str, Any], dvflnet: dict[str, Any]
) -> str:
    """Lay the results of three training runs out as a table, with the verdict in a sentence.

    The teacher's scores are those of the logits that were distilled, from the student's run.
    """
    which = dvflnet.get("selection", "last")  # older results name none
    vfl, dvfl = _scores(vflnet, f"{which}/"), _scores(dvflnet, f"{which}/")
    rows = [
        ("model", "params (M)", "GMAC", "top-1", "top-5", "NLL", "ECE", "agreement", "train time"),
        _row("teacher", teacher["metrics"], _scores(dvflnet, "teacher/")),
        _row("VFL-Net (labels)", vflnet["metrics"], vfl),
        _row("DVFL-Net (cache)", dvflnet["metrics"], dvfl),
    ]
    gain = 100 * (dvfl["top1"] - vfl["top1"])
    return "\n".join(
        [
            "",
            text_table(rows),
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
