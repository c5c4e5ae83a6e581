"""Does distillation pay, and what does it hang on? Students by the hundred, from a few caches.

    python -m benchmarks.study FOLDER               everything: hours on one core
    python -m benchmarks.study FOLDER main views    some panels

Videos are drawn, as for configs/demo.yaml, but of a seed and of 48 scenes of val that nothing was
chosen on; the teacher comes from a set of its own. Students run in the loop of the jobs, without
Ray. Each is a line of FOLDER/students.jsonl, so the same command goes on where it stopped;
``benchmarks.study_page`` makes the tables.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.__main__ import origin
from benchmarks.section import options, say
from dvflnet.mixing import own_shares
from pipeline.config.load import load_config
from pipeline.dataset.manifest import UNLABELLED
from pipeline.logits.mirror import Mirror
from pipeline.networks.build import load_network
from pipeline.networks.teacher import read_teacher
from pipeline.results.sweep import answers_by_video
from pipeline.training.loop import EpochResult, Worker, train
from pipeline.training.plan import open_plan_mirror, plan_student
from pipeline.training.step import Training
from pipeline.training.train_plan import TrainPlan
from pipeline.views.loader import ClipLoader, ClipRequest
from pipeline.views.view import keyed_hash

CPU = torch.device("cpu")
LABELS = ("loss.distill_weight=0", "train.fresh_views=false")  # the cached views, again and again
FRESH = ("loss.distill_weight=0", "train.fresh_views=true")
LONG = ("train.epochs=40", "train.evaluate_every_epochs=40")  # four times the demo's
PLAIN, MIXED = "drawn_5", "drawn_5_mixed"  # folders
MANY_SCENES = ("dataset.generated.num_groups=128", "dataset.generated.num_val_groups=48")
MIX = ("views.num_views=16", "views.mix.group_size=64")
SETS = {
    PLAIN: ("dataset.generated.seed=5", *MANY_SCENES, "views.num_views=64"),
    MIXED: ("dataset.generated.seed=5", *MANY_SCENES, *MIX),
}


@dataclass(frozen=True)
class Arm:
    """Students that differ only in their seed.

    ``targets`` names the function that replaces the cached logits. ``num_views``: of those cached.
    ``wrong_labels``: the share of labels of train that are another class's.
    """

    panel: str
    name: str
    settings: tuple[str, ...] = ()
    num_seeds: int = 5
    num_views: int = 4
    targets: str = "cached"
    wrong_labels: float = 0.0
    data: str = PLAIN


ARMS = (
    Arm("main", "labels", LABELS, 10),
    Arm("main", "whole cache", (), 10),
    Arm("main", "labels, smoothed by 0.1", (*LABELS, "loss.label_smoothing=0.1"), 10),
    Arm("main", "labels, new views each epoch", FRESH, 10),
    Arm("main", "cache of the labelled videos", ("train.learn_from=labelled",), 10),
    Arm("main", "self-training", (), 10, targets="own"),
    Arm("main", "all labels", (*LABELS, "train.labels_per_class=null"), 10),
    Arm("main", "all labels, new views each epoch", (*FRESH, "train.labels_per_class=null"), 10),
    *(Arm("views", f"{count} views", num_views=count) for count in (1, 2, 8, 16, 64)),
    Arm("targets", "of another view", targets="of_another_view"),
    Arm("targets", "in float32", targets="in_float32"),
    Arm("targets", "of a random head", targets="of_random_head"),
    Arm("noise", "labels, a fifth of them wrong", FRESH, wrong_labels=0.2),
    Arm("noise", "whole cache, a fifth of the labels wrong", wrong_labels=0.2),
    Arm("patience", "labels", LONG + LABELS, 3),
    Arm("patience", "labels, new views each epoch", LONG + FRESH, 3),
    Arm("patience", "whole cache, 4 views", LONG, 3),
    Arm("patience", "whole cache, 64 views", LONG, 3, num_views=64),
    Arm("mixing", "exact", num_views=16, data=MIXED),
    Arm("mixing", "linear", num_views=16, data=MIXED, targets="mixed_linearly"),
    *(
        Arm("losses", kind, (f"loss.kind={kind}",), 3)
        for kind in ("reverse_kl", "js", "dist", "published")
    ),
    Arm("losses", "forward_kl, standardised", ("loss.standardise=true",), 3),
    *(
        Arm("weights", f"w {w}, T {t}", (f"loss.distill_weight={w}", f"loss.temperature={t}"), 3)
        for w, t in itertools.product((0.5, 0.9, 1), (1, 2, 4))
        if (w, t) != (0.9, 2)  # the first panel's
    ),
)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("panels", nargs="*", metavar="PANEL", help=", ".join(panels()))
    arguments = parser.parse_args()
    unknown = set(arguments.panels) - set(panels())
    if unknown:
        parser.error(
            f"no such panel: {', '.join(sorted(unknown))}; choose of {', '.join(panels())}"
        )
    study = Study(arguments.folder.absolute())
    study.prepare()
    for panel in arguments.panels or panels():
        for arm, seed in students_of(panel):
            study.measure(arm, seed)


def panels() -> list[str]:
    return list(dict.fromkeys(arm.panel for arm in ARMS))


def students_of(panel: str) -> Iterator[tuple[Arm, int]]:
    """Yield the students of a panel, seed by seed, so that a cut run has whole comparisons."""
    arms = [arm for arm in ARMS if arm.panel == panel]
    for seed in range(max(arm.num_seeds for arm in arms)):
        yield from ((arm, seed) for arm in arms if seed < arm.num_seeds)


@dataclass(frozen=True)
class Study:
    """A folder with videos, caches and what was measured."""

    folder: Path

    def prepare(self) -> None:
        """Make the teacher and the caches by the jobs; what is done stays."""
        teacher = [f"artefacts={self.folder}/teacher", *self._videos("teacher_videos")]
        for job in ("generate_videos", "index_videos", "train_teacher"):
            self._run(job, "configs/demo_teacher.yaml", teacher)
        for data in SETS:
            for job in ("generate_videos", "index_videos", "cache_teacher"):
                self._run(job, "configs/demo.yaml", self._settings(data))

    def measure(self, arm: Arm, seed: int) -> None:
        """Train a student and note its answers, unless that was done."""
        notes = self.folder / "students.jsonl"
        lines = notes.read_text().splitlines() if notes.exists() else []
        known = {(it["panel"], it["arm"], it["seed"]) for it in map(json.loads, lines)}
        if (arm.panel, arm.name, seed) in known:
            return
        plan = self.plan(arm, seed)
        mirror = open_plan_mirror(plan)
        assert mirror is not None
        logits = getattr(self, arm.targets)(plan, mirror, arm)
        _, result = trained(plan, replace(mirror, logits=logits))
        labels = torch.tensor(plan.labels(plan.val_rows))
        note = {
            "panel": arm.panel,
            "arm": arm.name,
            "seed": seed,
            "origin": origin(),
            "steps": result.step,
            "clips": plan.order.num_steps * plan.order.global_batch_size,
            "seconds": round(result.seconds, 2),
            "metrics": {name: round(value, 4) for name, value in result.val.items()},
            "answers": answers_by_video(result.val_logits, labels),
            "groups": [plan.manifest.records[row].group for row in plan.val_rows],
        }
        with notes.open("ab", buffering=0) as file:  # whole, even beside another panel's run
            file.write(f"{json.dumps(note)}\n".encode())
        say(f"{arm.panel}: {arm.name}, seed {seed}: {result.val['val/top1']:.3f}")

    def plan(self, arm: Arm, seed: int) -> TrainPlan:
        settings = [*self._settings(arm.data), *arm.settings, f"train.seed={seed}"]
        plan = plan_student(load_config("configs/demo.yaml", settings))
        if arm.wrong_labels:
            values = {field.name: getattr(plan, field.name) for field in fields(plan)}
            plan = WrongLabels(**values, share=arm.wrong_labels)
        if plan.recipe.policy.seed != plan.config.views.seed:  # new views: as many as there are
            return plan
        return replace(plan, recipe=replace(plan.recipe, num_views=arm.num_views))

    # --- targets, each (N, V, K) in the order of the store ----------------------------------------

    def cached(self, plan: TrainPlan, mirror: Mirror, arm: Arm) -> NDArray[np.floating]:
        return mirror.logits

    def of_another_view(self, plan: TrainPlan, mirror: Mirror, arm: Arm) -> NDArray[np.floating]:
        """The teacher's logits of the next view of the same video."""
        logits = mirror.logits.copy()
        logits[:, : arm.num_views] = np.roll(logits[:, : arm.num_views], 1, axis=1)
        return logits

    def in_float32(self, plan: TrainPlan, mirror: Mirror, arm: Arm) -> NDArray[np.floating]:
        return with_logits_of(teacher(plan), plan, mirror)

    def of_random_head(self, plan: TrainPlan, mirror: Mirror, arm: Arm) -> NDArray[np.floating]:
        network = teacher(plan)
        torch.manual_seed(0)
        *_, head = (module for module in network.modules() if isinstance(module, nn.Linear))
        head.reset_parameters()
        return with_logits_of(network, plan, mirror)

    def own(self, plan: TrainPlan, mirror: Mirror, arm: Arm) -> NDArray[np.floating]:
        """The logits of the best student from labels, with the same seed."""
        (best,) = (arm for arm in ARMS if (arm.panel, arm.settings) == ("main", FRESH))
        by_labels = self.plan(best, plan.recipe.train.seed)
        network, _ = trained(by_labels, mirror)
        return with_logits_of(network, plan, mirror)

    def mixed_linearly(self, plan: TrainPlan, mirror: Mirror, arm: Arm) -> NDArray[np.floating]:
        """The mixture of the probabilities of both unmixed clips, softened as the loss does."""
        plain = open_plan_mirror(self.plan(replace(arm, data=PLAIN), 0))
        assert plain is not None
        assert plan.clips.groups is not None
        groups, logits = plan.clips.groups, mirror.logits.astype(np.float32)
        temperature = plan.recipe.loss.temperature
        soft = torch.from_numpy(plain.logits[:].astype(np.float32) / temperature).log_softmax(-1)
        for row in plan.learnt_rows:
            for index in range(arm.num_views):
                view = groups.view(row, index, num_frames=plan.recipe.num_frames)
                mixed, partner = soft[row, index], groups.partner(row, index)
                if partner is not None and view.mix is not None:
                    share = own_shares(torch.tensor([view.mix.as_row]), plan.recipe.side)
                    parts = share.log() + mixed, (1 - share).log() + soft[partner, index]
                    mixed = torch.logaddexp(*parts)
                logits[row, index] = temperature * mixed.numpy()
        return logits

    # --- settings of the jobs ---------------------------------------------------------------------

    def _settings(self, data: str) -> list[str]:
        videos = data.removesuffix("_mixed")
        weights = self.folder / "teacher/teacher/last.safetensors"
        return [
            f"artefacts={self.folder}/{data}",
            *self._videos(f"{videos}_videos"),
            f"teacher.weights={weights}",
            *SETS[data],
        ]

    def _videos(self, name: str) -> list[str]:
        root = self.folder / name
        return [f"dataset.root={root}", f"dataset.annotations={root}/splits"]

    def _run(self, job: str, config: str, settings: list[str]) -> None:
        command = [sys.executable, f"jobs/{job}.py", config, *settings, "--quiet"]
        subprocess.run([*command, f"tracking.uri=sqlite:///{self.folder}/mlflow.db"], check=True)


@dataclass(frozen=True)
class WrongLabels(TrainPlan):
    """A plan in which a share of train, drawn by name, has the label of another class."""

    share: float = 0.0

    def labels(self, rows: Sequence[int]) -> list[int]:
        records, num_classes = self.manifest.records, len(self.manifest.class_names)
        found = super().labels(rows)
        for place, row in enumerate(rows):
            drawn = keyed_hash(self.recipe.train.seed, "wrong", records[row].sample_id)
            is_wrong = drawn % 2**32 < self.share * 2**32
            if is_wrong and records[row].split == "train" and found[place] != UNLABELLED:
                found[place] = (found[place] + 1 + drawn // 2**32 % (num_classes - 1)) % num_classes
        return found


class Student(Worker):
    """Keeps the result of the last epoch."""

    result: EpochResult

    def report(self, epoch: EpochResult, training: Training) -> None:
        self.result = epoch


def trained(plan: TrainPlan, mirror: Mirror) -> tuple[nn.Module, EpochResult]:
    torch.set_num_threads(1)
    torch.manual_seed(plan.recipe.train.seed)
    network, worker = plan.build_network(), Student(CPU)
    train(plan, Training(network, plan.recipe, plan.schedule, CPU), worker, mirror=mirror)
    return network, worker.result


def teacher(plan: TrainPlan) -> nn.Module:
    config = plan.config
    file = read_teacher(config, plan.manifest.class_names)
    return load_network(config.teacher, file, num_frames=config.clip.num_frames)


def with_logits_of(network: nn.Module, plan: TrainPlan, mirror: Mirror) -> NDArray[np.floating]:
    """Replace the logits of the views that a plan shows by a network's, in float32."""
    recipe, logits = plan.recipe, mirror.logits.astype(np.float32)
    training = Training(network, recipe, plan.schedule, CPU)
    cells = [(row, view) for row in plan.learnt_rows for view in range(recipe.num_views)]
    requests = [
        [
            ClipRequest(row, record, recipe.view(record, view), recipe.frame_stride)
            for row, view in cells[start : start + 64]
            for record in [plan.manifest.records[row]]
        ]
        for start in range(0, len(cells), 64)
    ]
    with ClipLoader(1, plan.config.dataset.limits, side=recipe.side) as loader:
        for batch in loader.batches(requests):
            rows, views = zip(*(request.cell for request in batch.requests), strict=True)
            logits[rows, views] = centred(training.predict(batch)).numpy()
    return logits


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(dim=1, keepdim=True)


if __name__ == "__main__":
    main()
