"""The rows of a network's head, put in the class order of a data set.

A head is a table of one row a class, and a file of weights need not say which. A wrong order gives
confidently wrong targets to the classes that changed places, so no order is ever assumed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.learning import AS_DATASET, ModelConfig
from pipeline.dataset.classes import read_classes
from pipeline.errors import ConfigError, WeightsMismatch
from pipeline.networks.foreign import own_state
from pipeline.networks.weight_files import WeightFile, read_weights
from pipeline.storage.files import exists

HEAD = ("head.weight", "head.bias")


def head_rows(head: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return for each wanted class the row of the head that stands for it.

    ``wanted`` are the classes of the data set, and may be fewer. Names match as they are spelt, or
    else without case, blanks, ``_`` and ``-``.

    Raises:
        ValueError: naming every class that the head lacks, or that two names could mean.
    """
    if len(set(head)) < len(head):
        twice = sorted({name for name in head if head.count(name) > 1})
        raise ValueError(f"classes of the head named twice: {', '.join(map(repr, twice))}")
    exact = {name: row for row, name in enumerate(head)}
    alike: dict[str, list[int]] = {}
    for row, name in enumerate(head):
        alike.setdefault(_folded(name), []).append(row)
    found = {
        name: [exact[name]] if name in exact else alike.get(_folded(name), []) for name in wanted
    }
    if missing := [name for name, rows in found.items() if not rows]:
        nearest = {name: difflib.get_close_matches(name, head, n=1) for name in missing[:10]}
        named = ", ".join(
            f"{name!r} (nearest: {close[0]!r})" if close else repr(name)
            for name, close in nearest.items()
        )
        raise ValueError(
            f"{len(missing)} of the {len(wanted)} classes of the data set are not among the "
            f"{len(head)} of the head: {named}{' ...' if len(missing) > 10 else ''}"
        )
    rows = [row for several in found.values() for row in several]
    if twice := sorted({head[row] for row in rows if rows.count(row) > 1}):
        raise ValueError(f"several classes of the data set could be {', '.join(map(repr, twice))}")
    if unclear := [name for name, several in found.items() if len(several) > 1]:
        raise ValueError(f"several classes of the head could be {', '.join(map(repr, unclear))}")
    return rows


def in_order(
    state: Mapping[str, Tensor], head: Sequence[str], wanted: Sequence[str]
) -> dict[str, Tensor]:
    """Return a state dict whose head has the wanted classes, in their order.

    A head that is in order already is left as it is, tensor by tensor.

    Raises:
        ValueError: if ``head`` does not name each row of the state's head, or lacks a class.
    """
    rows, count = head_rows(head, wanted), len(state.get("head.weight", head))
    if count != len(head):
        raise ValueError(f"its head has {count} classes, and {len(head)} are named for it")
    if rows == list(range(count)):
        return dict(state)
    return {name: tensor[rows] if name in HEAD else tensor for name, tensor in state.items()}


def read_ordered(
    uri: str, config: ExperimentConfig, model: ModelConfig, class_names: Sequence[str]
) -> WeightFile:
    """Read weights, with the rows of the head in the order of the data set.

    A foreign network may come with weights of its own, if there is no file; where the head's rows
    lie among its tensors is not known, so its logits are put in order instead.

    Without ``class_names`` the head's own order stays.

    Raises:
        WeightsMismatch: if the file names other classes, or the same in another order; or if it
            names none, and ``teacher.class_names`` is not given or does not fit.
    """
    wanted = tuple(class_names)
    own = model.foreign and uri == config.own_teacher_uri and not exists(uri)
    file = WeightFile(model.network, {}, {}) if own else read_weights(uri)
    if file.class_names:
        if wanted and file.class_names != wanted:
            pairs = enumerate(zip(file.class_names, wanted, strict=False))
            first = [f"class {i}: {a!r} there, {b!r} here; " for i, (a, b) in pairs if a != b][:1]
            raise WeightsMismatch(
                f"{uri} was trained on other classes or in another order ({''.join(first)}"
                f"{len(file.class_names)} there, {len(wanted)} here). "
                "Use the teacher of this data set."
            )
        return file
    head = tuple(head_names(file.uri, config, wanted))
    wanted = wanted or head
    named = replace(file, metadata={**file.metadata, "class_names": json.dumps(wanted)})
    try:
        if not model.foreign:
            return replace(named, state=in_order(file.state, head, wanted))
        if own:
            num_frames = config.clip.num_frames
            state = own_state(model.network, num_classes=len(head), num_frames=num_frames)
            named = replace(named, state=state)
        in_place = head_rows(head, wanted) == list(range(len(head)))
        return named if in_place else replace(named, head=head)
    except ValueError as error:
        raise WeightsMismatch(f"{uri} and teacher.class_names: {error}") from error


def head_names(uri: str, config: ExperimentConfig, class_names: Sequence[str]) -> Sequence[str]:
    """Return the class names of a head whose file names none, as the config has them."""
    given = config.teacher.class_names
    if given is None or (given == AS_DATASET and not class_names):
        missing = "" if given is None else "\n  There is no manifest here that names them."
        raise WeightsMismatch(
            f"{uri} names no classes, so the order of its head is not known.{missing}"
            "\n  Set teacher.class_names to the names in the head's order: a list, or a text file "
            f"with a name a line.\n  '{AS_DATASET}' claims that the order is the data set's."
        )
    if given == AS_DATASET:
        return class_names
    if not isinstance(given, str):
        return given
    if not exists(given):
        raise ConfigError(f"teacher.class_names: there is no file {given}")
    return tuple(read_classes(given).values())


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.casefold())
