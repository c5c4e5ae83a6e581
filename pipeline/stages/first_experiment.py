"""The first experiment on a folder of one's own videos: a YAML file, written once.

After that the file is the user's, to edit and to run again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pipeline.config.load import load_config
from pipeline.config.schema import DatasetConfig
from pipeline.dataset.annotations import read_annotations
from pipeline.errors import ConfigError, DatasetError
from pipeline.storage.files import absolute_uri, exists

Preset = Literal["small", "paper"]

FEW_VIDEOS = 2_000  # fewer do not train the published teacher from scratch
# A mirrored clip of such a class would be one of another class.
DIRECTION = re.compile(
    r"(?<![a-z])(left|right|(anti|counter)?-?clockwise|c?cw|east|west)(?![a-z])", re.IGNORECASE
)

HEADER = """\
# Written by jobs/distill.py for the videos in {root}. It is yours: edit it, and run
#
#   python jobs/distill.py {file}
#
# again, which does only what is new. All settings: docs/settings.md
artefacts: {artefacts}
dataset:
  name: {name}
  root: {root}
  layout: folders     # <class>/... or <train, val or test>/<class>/...
{unlabelled}"""

BODIES = {
    "small": """\
# Preset small: small networks on small pictures, trained here from scratch.
frames: {{source: prepared, short_side: 128}}
clip: {{num_frames: 8, side: 96}}
views:
  num_views: 8
  min_area: 0.5
  squash: true
  flip_probability: {flip}
  grey_probability: 0
teacher:
  variant: nano
  embed_dim: 32
  depths: [1, 1, 2, 1]
{weights}  optim: &optim
    kind: adamw
    lr: 1.0e-3
    lr_batch_size: null
    betas: [0.9, 0.98]
    weight_decay: 0.05
    warmup_epochs: 2
    max_grad_norm: 1
  train: &train {{epochs: 40, batch_size: 8, evaluate_every_epochs: 10}}
student: {{variant: nano, embed_dim: 16, depths: [1, 1, 2, 1]}}
loss: {{distill_weight: 0.7, temperature: 2}}
optim: *optim
train: {{<<: *train, fresh_views: true}}
""",
    "paper": """\
# Preset paper: the published networks and schedule; Base at 224 x 224 teaches nano. Of the recipe
# in configs/ucf101.yaml first weights, drop path and mixing (views.mix) are left out.
frames: {{source: prepared}}
views:
  flip_probability: {flip}
teacher:
  variant: base
{weights}student: {{variant: nano}}
train: {{fresh_views: true}}
""",
}
CLUSTER = "cluster: {{num_decoders: {decoders}, num_teachers: {teachers}, use_gpu: {gpu}}}\n"


def find_experiment(
    given: str,
    *,
    out: str | None,
    preset: Preset | None,
    teacher: str | None,
    unlabelled: str | None,
) -> tuple[str, str | None]:
    """Return the YAML file that ``jobs/distill.py`` was given, or plan one for a folder of videos.

    Beside it the text of a file that is new, for the caller to write once it is known to be valid.

    Raises:
        ConfigError: if a folder was given without --out, or its file there is of other videos.
        DatasetError: if the folder is not there, or the teacher's file is missing or is a folder.
    """
    if given.endswith((".yaml", ".yml")):
        return given, None
    if out is None:
        raise ConfigError(f"{given} is no .yaml file. If it has videos, say where to: --out run/")
    for name, uri in (("folder of videos", given), ("teacher", teacher), ("folder", unlabelled)):
        if uri is not None and not exists(absolute_uri(uri)):
            raise DatasetError(f"there is no {name} {uri}")
    if teacher is not None and os.path.isdir(absolute_uri(teacher)):
        raise DatasetError(f"--teacher {teacher} is a folder. Name the file of the weights in it.")
    import torch

    file = Path(out, "experiment.yaml")
    num_gpus = torch.cuda.device_count()
    return str(file), first_experiment(given, file, preset, teacher, unlabelled, num_gpus=num_gpus)


def first_experiment(
    root: str,
    file: Path,
    preset: Preset | None = None,
    teacher: str | None = None,
    unlabelled: str | None = None,
    *,
    num_gpus: int,
) -> str | None:
    """Return an experiment for the folder of class folders ``root``, and print what it decides.

    Args:
        root: folder or URI of the videos.
        file: the YAML file. If it is there already it is kept, and nothing returned.
        preset: by default chosen by the GPUs and the number of videos.
        teacher: weights file, or none to train one.
        unlabelled: folder of videos without labels, which the student learns from the teacher.
        num_gpus: number of GPUs on this machine.

    Raises:
        DatasetError: if there are no videos in class folders, or the others lie elsewhere.
        ConfigError: if the file is there already, of other videos.
    """
    more = absolute_uri(unlabelled) if unlabelled else None
    name = Path(root).name or "videos"
    dataset = DatasetConfig(name=name, root=root, layout="folders", unlabelled=more)
    if file.exists():
        if load_config(file).dataset.root != dataset.root:
            raise ConfigError(f"{file} is an experiment on other videos. Choose another --out.")
        print(f"{file} is there and is kept; --preset, --teacher, --unlabelled do not change it")
        return None
    annotated = read_annotations(dataset)
    num_videos = len(annotated.records)
    chosen, why = (
        _choose(num_videos, num_gpus, teacher) if preset is None else (preset, "asked for")
    )
    directed = directed_classes(annotated.class_names)
    reason = f"{', '.join(directed[:3])}: a mirrored clip would be of another class"
    num_cores = os.cpu_count() or 1
    values = {
        "root": _quoted(dataset.root),  # quoted: a name may be a number, or have a # in it
        "file": file,
        "artefacts": _quoted(str(file.resolve().parent / "artefacts")),
        "name": _quoted(dataset.name),
        "flip": f"0   # {reason}" if directed else "0.5",
        "unlabelled": f"  unlabelled: {_quoted(more)}\n" if more else "",
        "weights": f"  weights: {_quoted(absolute_uri(teacher))}\n" if teacher else "",
        "decoders": max(1, num_cores // 2) if not num_gpus else num_cores,
        "teachers": num_gpus or 1,
        "gpu": "true" if num_gpus else "false",
    }
    print(f"{num_videos} videos of {len(annotated.class_names)} classes in {dataset.root}")
    print(f"preset {chosen}: {why}")
    print(f"flips {f'off, {reason}' if directed else 'on: no class name has a direction'}")
    print(f"experiment: {file}")
    return "".join(part.format(**values) for part in (HEADER, BODIES[chosen], CLUSTER))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # YAML does not join the halves of an escaped emoji


def directed_classes(class_names: Iterable[str]) -> list[str]:
    """Return the class names with a direction in them, such as ``Swipe_left``."""
    apart = ((name, re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name)) for name in class_names)
    return [name for name, words in apart if DIRECTION.search(words)]


def _choose(num_videos: int, num_gpus: int, teacher: str | None) -> tuple[Preset, str]:
    if not num_gpus:
        return "small", "there is no GPU"
    if teacher is None and num_videos < FEW_VIDEOS:
        return "small", f"{num_videos} videos do not train the published teacher from scratch"
    return "paper", "there is a GPU"
