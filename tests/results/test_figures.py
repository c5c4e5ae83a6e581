"""Figures can be drawn at every size, and tables say what the arrays say."""

import csv
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from dvflnet.metrics import CalibrationBins
from pipeline.results.figures import (
    MIN_IN_BIN,
    ShownVideo,
    _wide_bins,
    compare_results,
    confusion_figure,
    per_class_table,
    predictions_figure,
    reliability_figure,
)
from pipeline.results.intervals import Interval


def texts_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def drawn(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@pytest.mark.parametrize("num_classes", [2, 8, 101])
def test_confusion_names_every_class(num_classes: int) -> None:
    names = [f"class {label}" for label in range(num_classes)]
    figure = confusion_figure(np.arange(num_classes**2).reshape(num_classes, -1) % 9, names)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert drawn(figure).startswith(b"\x89PNG")


def test_confusion_counts_and_survives_a_class_without_videos() -> None:
    figure = confusion_figure(np.array([[3, 1], [0, 0]]), ["left", "right"])
    assert texts_of(figure) == ["3", "1"]
    assert figure.axes[0].get_title(loc="left") == "3 of 4 videos right (75.0%)"


def test_per_class_table_starts_with_the_worst() -> None:
    confusion = np.array([[9, 1, 0], [3, 5, 2], [0, 0, 4]])
    rows = list(csv.DictReader(io.StringIO(per_class_table(confusion, ["a", "b, c", "d"]))))
    assert [row["class"] for row in rows] == ["b, c", "a", "d"]
    assert rows[0]["top1"] == "0.5000"
    assert rows[0]["most_confused_with"] == "a"
    assert rows[2]["most_confused_with"] == ""


def test_reliability_names_the_calibration_error() -> None:
    bins = CalibrationBins(*torch.tensor([[0.0, 10.0], [0.0, 8.0], [0.0, 6.0]]))
    figure = reliability_figure({"student": bins, "teacher": bins})
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == [
        "student, calibration error 20.0%",
        "teacher, calibration error 20.0%",
    ]
    assert drawn(figure)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=15).filter(any))
def test_points_of_a_reliability_diagram_are_of_enough_videos_and_none_is_lost(counts):
    right = [count // 2 for count in counts]
    bins = CalibrationBins(*(torch.tensor(v, dtype=torch.float64) for v in (counts, counts, right)))
    axes, _ = reliability_figure({"student": bins}).axes
    _, points = axes.lines  # behind the diagonal
    wide = list(_wide_bins(np.array(counts), np.array(right)))
    assert np.concatenate(wide, axis=1).tolist() == [counts, right]
    sizes = [part[0].sum() for part in wide]
    assert len(points.get_xdata()) == len(sizes)
    assert min(sizes) >= min(MIN_IN_BIN, sum(counts))


@pytest.mark.parametrize("num_videos", [1, 14])
def test_predictions_show_what_each_network_saw(num_videos: int) -> None:
    frames = np.zeros((8, 20, 30, 3), np.uint8)
    predictions = {"student": ("right", 0.7), "teacher": ("left", 0.99)}
    video = ShownVideo(frames, "left", predictions)
    figure = predictions_figure([video] * num_videos)
    expected = ["true: left", "student: right  70%", "teacher: left  99%"]
    assert texts_of(figure) == expected * num_videos
    assert drawn(figure)


def test_the_comparison_shows_each_network_s_own_numbers() -> None:
    scores = {"top1": 0.712, "top5": 0.9, "nll": 1.02, "ece": 0.113}
    cost = {"model/params_millions": 22.214723, "model/gmacs": 27.14, "train/seconds": 95.0}
    large = cost | {"model/params_millions": 157.08, "model/gmacs": 220.6}
    last = {f"last/{name}": value for name, value in scores.items()}
    taught = cost | last | {"last/top1": 0.75, "last/agreement": 0.82}
    taught |= {f"teacher/{name}": value for name, value in scores.items()} | {"teacher/top1": 0.941}
    large, vfl, dvfl = (
        {"name": name, "metrics": metrics, "link": "here"}
        for name, metrics in (("teacher", large), ("v", cost | last), ("d", taught))
    )
    evaluation = {
        "intervals": {"num_units": 24, "unit": "groups"},
        "networks": {
            name: {"top1": 0.7, "top1_interval": [0.6, 0.8]} for name in ("teacher", "v", "d")
        },
        "differences": [
            {"network": "d", "against": name, "top1": Interval(0.038, low, 0.1)._asdict()}
            for name, low in (("teacher", -0.3), ("v", 0.01))
        ],
    }
    students = {"VFL-Net (labels)": vfl, "DVFL-Net (cache)": dvfl}
    text = compare_results(large, students, evaluation)
    assert text.splitlines()[1:5] == [
        f"model             params (M)  GMAC  top-1  {'95 % over 24 groups':>19}"
        "   NLL    ECE  agreement  train time",
        *(
            f"{start}  {'60.0% to 80.0%':>19}  1.02  11.3%  {agreement:>9}  1 min 35 s"
            for start, agreement in (
                ("teacher                  157   221  94.1%", "-"),
                ("VFL-Net (labels)        22.2  27.1  71.2%", "-"),
                ("DVFL-Net (cache)        22.2  27.1  75.0%", "82.0%"),
            )
        ),
    ]
    assert "top-1 on val by +3.8 points (+1.0 to +10.0, 95 % over 24 groups), its neg" in text
    assert "weights of each student's last epoch" in text
