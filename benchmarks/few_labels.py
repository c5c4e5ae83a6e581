"""Does distillation pay on real clips with few labels, right or wrong? Draws of EgoGestAR.

    python -m benchmarks.few_labels FOLDER ~/data/egogestar                  labels as they are
    python -m benchmarks.few_labels FOLDER ~/data/egogestar --wrong 0.2      a fifth permuted

Every draw has labels, first weights and orders of its own; teacher, cache and students learn from
the same labels. Teacher and cache are made by the jobs, students in the loop of the jobs without
Ray. Each network is a line of FOLDER/networks.jsonl, so the same command goes on where it stopped.
Needs ``make install-examples``; a draw takes some ten minutes of one core.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.__main__ import origin
from benchmarks.section import options, print_section, say
from benchmarks.study import FRESH, LABELS, trained
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.logits.store import open_store
from pipeline.results.intervals import Interval, seeds_interval, units_of
from pipeline.results.sweep import answers_by_video
from pipeline.training.plan import open_plan_mirror, plan_student
from pipeline.views.view import EVALUATION_VIEW, keyed_hash

CONFIG = "configs/egogestar_few_labels.yaml"
BASELINE = "labels, new views each epoch"
STUDENTS = {
    BASELINE: FRESH,
    "cache of the labelled clips": ("train.learn_from=labelled",),
    "whole cache": (),
}
# What tells how good the others are; not measured where labels are wrong.
BOUNDS = {
    "labels, cached views": LABELS,
    "all labels, new views each epoch": (*FRESH, "train.labels_per_class=null"),
    "all labels, cached views": (*LABELS, "train.labels_per_class=null"),
}
TEACHER = "teacher"
Note = Mapping[str, Any]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path, help="videos in folders of classes, and splits/")
    parser.add_argument("--wrong", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--splits", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    folder, data = arguments.folder.absolute(), arguments.data.expanduser().absolute()
    for seed in arguments.draws:
        for split in arguments.splits:
            Draw(folder, data, arguments.wrong, split, seed).measure()
    notes = [note for note in read_notes(folder) if note["wrong"] == arguments.wrong]
    print_section(
        f"EgoGestAR from 40 labels, {arguments.wrong:.0%} of train's labels permuted",
        ("top-1", *(f"split {split}, by draw" for split in arguments.splits), "mean", "gain"),
        rows(notes, arguments.splits),
        f"±: 95 % over draws and scenes. gain: over {BASELINE!r}, draw by draw.",
    )


@dataclass(frozen=True)
class Draw:
    """A split of the videos, and the seed of all that is drawn."""

    folder: Path
    data: Path
    wrong: float
    split: int
    seed: int

    @property
    def own(self) -> Path:
        return self.folder / f"wrong{self.wrong:g}-split{self.split}-draw{self.seed}"

    def measure(self) -> None:
        known = {note["network"] for note in read_notes(self.folder) if self._has(note)}
        if known >= {TEACHER, *self._students}:
            return
        write_lists(self.data / "splits", self.own / "splits", self.split, self.wrong, self.seed)
        for job in ("index_videos", "prepare_frames", "train_teacher", "cache_teacher"):
            command = [sys.executable, f"jobs/{job}.py", CONFIG, *self._settings, "--quiet"]
            subprocess.run(command, check=True)
        if TEACHER not in known:
            self._note(TEACHER, *of_teacher(load_config(CONFIG, self._settings)))
        for name, settings in self._students.items():
            if name not in known:
                self._note(name, *self._of_student(settings))

    @property
    def _students(self) -> dict[str, tuple[str, ...]]:
        return STUDENTS if self.wrong else STUDENTS | BOUNDS

    @property
    def _settings(self) -> list[str]:
        return [
            f"artefacts={self.own}",
            f"dataset.root={self.data}",
            f"dataset.annotations={self.own}/splits",
            f"dataset.split_number={self.split}",
            f"teacher.train.seed={self.seed}",
            f"train.seed={self.seed}",
            f"tracking.uri=sqlite:///{self.own}/mlflow.db",
        ]

    def _of_student(self, settings: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
        plan = plan_student(load_config(CONFIG, [*self._settings, *settings]))
        mirror = open_plan_mirror(plan)
        _, result = trained(plan, mirror)
        groups = [plan.manifest.records[row].group for row in plan.val_rows]
        return result.val_logits, torch.tensor(plan.labels(plan.val_rows)), groups

    def _note(self, network: str, logits: Tensor, labels: Tensor, groups: list[str]) -> None:
        note = {
            "network": network,
            "wrong": self.wrong,
            "split": self.split,
            "seed": self.seed,
            "origin": origin(),
            "answers": answers_by_video(logits, labels),
            "groups": groups,
        }
        with (self.folder / "networks.jsonl").open("ab", buffering=0) as file:
            file.write(f"{json.dumps(note)}\n".encode())
        say(f"split {self.split}, draw {self.seed}, {network}: {top1(note):.1f}")

    def _has(self, note: Note) -> bool:
        mine = self.wrong, self.split, self.seed
        return (note["wrong"], note["split"], note["seed"]) == mine


def read_notes(folder: Path) -> list[Note]:
    path = folder / "networks.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_lists(source: Path, target: Path, split: int, wrong: float, seed: int) -> None:
    """Copy the lists of a split, with a share of train's labels permuted among each other.

    Which, the seed draws. Each of them gets the label of another class; classes keep their sizes.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in ("classInd.txt", f"testlist{split:02d}.txt"):
        (target / name).write_text((source / name).read_text())
    name = f"trainlist{split:02d}.txt"
    label_of = dict(line.split() for line in (source / name).read_text().splitlines())
    order = sorted(label_of, key=lambda path: keyed_hash(seed, "wrong", path))
    chosen = sorted(order[: round(wrong * len(order))], key=lambda path: int(label_of[path]))
    labels = [label_of[path] for path in chosen]
    shift = max(map(labels.count, labels), default=0)  # past the largest class
    permuted = dict(zip(chosen, labels[shift:] + labels[:shift], strict=True))
    assert all(label_of[path] != label for path, label in permuted.items())
    lines = [f"{path} {label}" for path, label in (label_of | permuted).items()]
    (target / name).write_text("\n".join(lines) + "\n")


def of_teacher(config: ExperimentConfig) -> tuple[Tensor, Tensor, list[str]]:
    """Return the cached logits of val ``(N, K)``, with labels ``(N,)`` and groups."""
    plan = plan_student(config)
    store = open_store(config.store_uri)
    (slot,) = store.spec.slots([EVALUATION_VIEW])
    logits = store.read_all().logits[list(plan.val_rows), slot].astype(np.float32)
    groups = [plan.manifest.records[row].group for row in plan.val_rows]
    return torch.from_numpy(logits), torch.tensor(plan.labels(plan.val_rows)), groups


def rows(notes: Sequence[Note], splits: Sequence[int]) -> list[tuple[str, ...]]:
    of = defaultdict[tuple[str, int], dict[int, Note]](dict)
    for note in notes:
        of[note["network"], note["split"]][note["seed"]] = note
    table = []
    for network in (*STUDENTS, *BOUNDS, TEACHER):
        draws = [of[network, split] for split in splits]
        if not all(draws):
            continue
        tops = [", ".join(f"{top1(own[seed]):.1f}" for seed in sorted(own)) for own in draws]
        means = [interval([own[seed] for seed in sorted(own)]) for own in draws]
        gains = []
        for split, own in zip(splits, draws, strict=True):
            base = of[BASELINE, split]
            both = sorted(own.keys() & base.keys())
            gains.append(interval([own[seed] for seed in both], [base[seed] for seed in both]))
        gain = "-" if network == BASELINE else of_splits(gains, "+.1f")
        table.append((network, *tops, of_splits(means), gain))
    return table


def top1(note: Note) -> float:
    return 100 * fmean(note["answers"]["top1"])


def interval(notes: Sequence[Note], base: Sequence[Note] = ()) -> Interval:
    """Return top-1 in percent over draws and scenes, or what it is over ``base``."""
    answers = np.array([note["answers"]["top1"] for note in notes], float)
    if base:
        answers -= np.array([note["answers"]["top1"] for note in base], float)
    return seeds_interval(100 * answers, units_of(notes[0]["groups"]))


def of_splits(intervals: Sequence[Interval], form: str = ".1f") -> str:
    """Return the mean of independent intervals, as text."""
    mean = fmean(it.mean for it in intervals)
    widths = [it.high - it.mean for it in intervals if it.high is not None]
    if len(widths) < len(intervals):
        return f"{mean:{form}}"
    return f"{mean:{form}} ± {hypot(*widths) / len(widths):.1f}"


if __name__ == "__main__":
    main()
