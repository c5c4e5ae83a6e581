"""The evaluation of networks on the same videos: probabilities, metrics and differences.

A prediction is the mean of the probabilities of a video's views; the published code sums them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dvflnet.metrics import CalibrationBins, calibration_bins, confusion_matrix, evaluate_logits
from pipeline.networks.trained import TEACHER
from pipeline.results.intervals import Interval, Units, bootstrap_interval, units_of
from pipeline.text_table import text_table

SMALLEST = 1e-300  # A probability that came out as zero still needs a finite logarithm.

PREDICTION_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("sample_id", pa.string()),
        ("class", pa.string()),
        ("network", pa.string()),
        ("predicted", pa.string()),
        ("correct", pa.bool_()),
        ("probability", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """Probabilities of networks on the good videos of a split, N in the order of ``rows``."""

    protocol: str
    class_names: tuple[str, ...]
    rows: tuple[int, ...]
    sample_ids: tuple[str, ...]
    groups: tuple[str, ...]  # empty texts where they are not known
    labels: NDArray[np.int64]
    probabilities: Mapping[str, NDArray[np.float64]]  # name of the network -> (N, K)
    failures: Mapping[str, str]  # sample_id -> reason, of videos that could not be evaluated
    weights: Mapping[str, str]  # name of the network -> name of its weights file: last, best, ...
    split: str = "val"
    seen: tuple[str, ...] = ()  # sentences: how many of the videos the teacher was trained on

    @cached_property
    def units(self) -> Units:
        return units_of(self.groups)

    def metrics(self, name: str) -> dict[str, float]:
        """Return a network's metrics; with agreement and KL if the teacher is there to compare."""
        teacher = self.probabilities.get(TEACHER) if name != TEACHER else None
        return evaluate_logits(
            _log(self.probabilities[name]),
            torch.from_numpy(self.labels),
            None if teacher is None else _log(teacher),
        )

    def confusion(self, name: str) -> NDArray[np.int64]:
        """Return videos by label and prediction, ``(K, K)``."""
        labels = torch.from_numpy(self.labels)
        return np.asarray(confusion_matrix(_log(self.probabilities[name]), labels))

    def calibration(self, name: str) -> CalibrationBins:
        return calibration_bins(_log(self.probabilities[name]), torch.from_numpy(self.labels))

    def top1(self, name: str) -> Interval:
        return bootstrap_interval(self._correct(name), self.units)

    def difference(self, name: str, other: str) -> dict[str, Interval]:
        """Return the differences of ``top1`` and ``nll``, ``name`` minus ``other``, by video."""
        return {
            "top1": bootstrap_interval(self._correct(name) - self._correct(other), self.units),
            "nll": bootstrap_interval(self._nll(name) - self._nll(other), self.units),
        }

    def predictions(self) -> pa.Table:
        """Return a row for each video and network: the predicted class and all probabilities."""
        rows = [
            {
                "row": self.rows[number],
                "sample_id": self.sample_ids[number],
                "class": self.class_names[self.labels[number]],
                "network": name,
                "predicted": self.class_names[predicted],
                "correct": predicted == self.labels[number],
                "probability": row[predicted],
                "probabilities": row,
            }
            for name, probabilities in self.probabilities.items()
            for number, row in enumerate(probabilities)
            for predicted in [row.argmax()]
        ]
        return pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """All numbers, as plain JSON values."""
        names = list(self.probabilities)
        return {
            "split": self.split,
            "protocol": self.protocol,
            "num_videos": len(self.rows),
            "failed_videos": dict(self.failures),
            "teacher_seen": list(self.seen),
            "intervals": self.units.as_values(),
            "networks": {
                name: self.metrics(name)
                | {"weights": self.weights[name], "top1_interval": list(self.top1(name)[1:])}
                for name in names
            },
            "differences": [
                {"network": name, "against": other}
                | {metric: it._asdict() for metric, it in self.difference(name, other).items()}
                for number, name in enumerate(names)
                for other in names[:number]
            ],
        }

    @property
    def text(self) -> str:
        """The metrics as a table, and a sentence for each difference."""
        scores = ("top-5", "NLL", "ECE", "agreement", "KL to teacher")
        header = ("", "weights", "top-1", self.units.interval, *scores)
        table = text_table([header, *(_line(*item) for item in self.summary["networks"].items())])
        views = f"{self.protocol} clips x crops"
        title = f"{len(self.rows)} videos of {self.split}, {views}, {len(self.failures)} failed"
        verdicts = [f"{_verdict(it)}; {self.units.interval}" for it in self.summary["differences"]]
        return "\n".join([title, table, *verdicts, *filter(None, [self.units.note]), *self.seen])

    @property
    def headline(self) -> str:
        """One line, in Markdown: the best student, how far the teacher is, and the next one."""
        students = [name for name in self.probabilities if name != TEACHER] or [TEACHER]
        scores = self.summary["networks"]
        best, *others = sorted(students, key=lambda name: -scores[name]["top1"])
        top1 = Interval(scores[best]["top1"], *scores[best]["top1_interval"])
        parts = [
            f"**Best on {self.split}: {best}, top-1 {top1.mean:.1%}** ({top1.bounds('{:.1%}')})"
        ]
        # The teacher first: MLflow shows what fits a line.
        for name in [*({TEACHER} & self.probabilities.keys() - {best}), *others[:1]]:
            points = self.difference(best, name)["top1"].scaled(100)
            sure = "" if points.excludes_zero else ", maybe chance"
            parts.append(
                f"against {name} ({scores[name]['top1']:.1%}) {points.mean:+.1f} points "
                f"({points.bounds('{:+.1f}')}){sure}"
            )
        return "; ".join(parts)

    def note(self, name: str) -> str:
        """Return what is said of one network, in Markdown: its line, and how it differs."""
        found = [it for it in self.summary["differences"] if name in (it["network"], it["against"])]
        lines = [f"- {_verdict(it)}" for it in found]
        top1 = self.top1(name)
        head = f"**{name}**: top-1 {top1.mean:.1%} ({top1.bounds('{:.1%}')}) on {self.split}"
        return "\n".join([f"{head}; {self.units.interval}.", "", *lines])

    def _correct(self, name: str) -> NDArray[np.float64]:
        return np.asarray(self.probabilities[name].argmax(axis=1) == self.labels, np.float64)

    def _nll(self, name: str) -> NDArray[np.float64]:
        right = self.probabilities[name][np.arange(len(self.labels)), self.labels]
        return np.asarray(-np.log(np.maximum(right, SMALLEST)))


def _line(name: str, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    agreement, kl = metrics.get("agreement"), metrics.get("kl_to_teacher")
    return (
        name,
        str(metrics["weights"]),
        f"{metrics['top1']:.1%}",
        Interval(metrics["top1"], *metrics["top1_interval"]).bounds("{:.1%}"),
        f"{metrics['top5']:.1%}",
        f"{metrics['nll']:.3f}",
        f"{metrics['ece']:.1%}",
        "-" if agreement is None else f"{agreement:.1%}",
        "-" if kl is None else f"{kl:.3f}",
    )


def _verdict(difference: Mapping[str, Any]) -> str:
    top1, nll = Interval(**difference["top1"]), Interval(**difference["nll"])
    points = top1.scaled(100)
    sure = "" if top1.excludes_zero else ", which may be chance"
    return (
        f"{difference['network']} against {difference['against']}: "
        f"top-1 {points.mean:+.1f} points ({points.bounds('{:+.1f}')}){sure}; "
        f"NLL {nll.mean:+.3f} ({nll.bounds('{:+.3f}')})"
    )


def _log(probabilities: NDArray[np.float64]) -> torch.Tensor:
    """Return logits whose softmax is ``probabilities``."""
    return torch.from_numpy(np.log(np.maximum(probabilities, SMALLEST)))
