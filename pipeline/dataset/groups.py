"""Groups, the recordings that videos are cut from, and the choice of videos for ``val``.

``dataset.groups`` says how a group is known: by the naming of UCF101, HMDB51 or Kinetics (``auto``
tries all three), by a regular expression with one group that is searched in the sample_id, by a
column of the lists, or not at all (``none``). A group that is not known is an empty text.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection
from pathlib import PurePosixPath

from pipeline.dataset.manifest import VideoRecord

VAL_SHARE = 0.2  # share of groups that becomes val, where layout "folders" has no split folders
UCF_CLASS = re.compile(r"^.+/(?=g\d+$)")  # the class before the number
STEMS = {
    # g01 of two classes are two recordings, so the class is part of the name.
    "ucf": re.compile(r"(?:v_)?(.+)_(g\d+)_c\d+"),
    # A film is one recording in all classes, and so is a video of YouTube.
    "hmdb": re.compile(r"(.+)_[fhlu]_[cn]m_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+"),
    "kinetics": re.compile(r"(.{11})_\d{6}_\d{6}"),
}
RULES = {"auto": tuple(STEMS), "none": (), **{name: (name,) for name in STEMS}}
GROUP_COLUMN = "group"  # the column of a list that names groups; read under "auto", too


def group_column(groups: str) -> str:
    """Return the column of the lists that names groups, if the lists have it."""
    return GROUP_COLUMN if groups in RULES or "(" in groups else groups


def group_of(groups: str, sample_id: str, class_name: str, in_list: str) -> str:
    """Name the recording that a video was cut from; empty if that is not known.

    ``in_list`` is the value of the group column, if the list has one. ``class_name`` is cut off the
    file names of HMDB51.
    """
    if "(" in groups:
        match = re.search(groups, sample_id)
        return (match[1] or "") if match else ""
    if groups not in RULES or (groups == "auto" and in_list):
        return in_list
    path = PurePosixPath(sample_id)
    for rule in RULES[groups]:
        if match := STEMS[rule].fullmatch(path.name):
            group = "/".join(match.groups())
            return _film(group, path.parent.name, class_name) if rule == "hmdb" else group
    return ""


def _film(stem: str, *classes: str) -> str:
    """Return a name of HMDB51 without the class at its end."""
    for name in filter(None, classes):
        if stem.endswith(ending := "_" + name.replace(" ", "_")):
            return stem.removesuffix(ending)
    return stem


def choose_val(
    videos: Collection[VideoRecord], share: float, *, by_parts: bool
) -> tuple[set[str], str]:
    """Choose the sample_ids of val by hash, and say how: whole groups, or videos of each class.

    ``g07`` of all classes stay together, since in some data sets they are one recording. Adding a
    video can move others, so lists are better for a data set that grows. With ``by_parts`` a video
    of unknown group is a group of its own; without, one such video means that videos are chosen.
    """
    groups = {video.sample_id: UCF_CLASS.sub("", video.group) for video in videos}
    num_unknown = sum(not group for group in groups.values())
    if num_unknown == 0 or (by_parts and num_unknown < len(groups)):
        units = {sample_id: group or sample_id for sample_id, group in groups.items()}
        names = set(units.values())
        chosen = _choose_share(names, share)
        how = f"{len(chosen)} of {len(names)} groups, chosen by their names"
        if num_unknown:
            how += f" ({num_unknown} videos of no known group count as groups of their own)"
        return {sample_id for sample_id, unit in units.items() if unit in chosen}, how
    by_class: defaultdict[int, list[str]] = defaultdict(list)
    for video in videos:
        by_class[video.label_number].append(video.sample_id)
    chosen = set().union(*(_choose_share(names, share) for names in by_class.values()))
    how = (
        f"random by video, since the groups of {num_unknown} videos are not known: videos of one"
        " recording may be on both sides. dataset.groups says which videos belong together"
    )
    return chosen, how


def _choose_share(names: Collection[str], share: float) -> set[str]:
    """Choose a share of names by their hash, though at least one and never all."""
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(ordered[: min(len(ordered) - 1, max(1, round(share * len(ordered))))])
