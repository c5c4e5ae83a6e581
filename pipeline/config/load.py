"""Reading an experiment from its YAML file and the words of a command line.

All problems are reported together, each with its dotted path and, for a misspelt key, the nearest
valid one.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import FileText
from pipeline.errors import ConfigError
from pipeline.storage.files import read_parsed


def load_config(
    path: str | Path, overrides: Sequence[str] = (), text: str | None = None
) -> ExperimentConfig:
    """Read a YAML file, override it by words ``section.key=value``, and check it.

    Paths in the file are relative to its folder, those of the words to the working directory.
    ``text`` is the content of a file that is not written yet. ConfigError with every problem found,
    not only the first.
    """
    try:
        text = read_parsed(str(path)).decode() if text is None else text
    except FileNotFoundError as error:
        raise ConfigError(f"there is no config file {path}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    folder = os.path.dirname(path)
    return parse_config(text, source=str(path), overrides=overrides, folder=folder)


def parse_config(
    text: str, *, source: str, overrides: Sequence[str] = (), folder: str = ""
) -> ExperimentConfig:
    """Parse and check the YAML text of an experiment; ``source`` names it in messages."""
    try:
        values = _Yaml(text, folder).get_single_data()
    except _MALFORMED as error:
        raise ConfigError(f"{source} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{source} must hold sections, found {reprlib.repr(values)}")
    problems = [problem for word in overrides if (problem := _apply_override(values, word))]
    try:
        config = ExperimentConfig.model_validate(values)
    except ValidationError as error:
        problems += [_explain(item) for item in error.errors()]
    if problems:
        with_words = " with the command line's settings" if overrides else ""
        raise ConfigError(
            "\n  ".join([f"{source}{with_words} is not a valid experiment:", *problems])
        )
    return config


def resolved_yaml(config: ExperimentConfig) -> str:
    """Write a config out in full; ``load_config`` of it gives an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_YamlDumper, sort_keys=False)


def flattened(config: ExperimentConfig) -> dict[str, Any]:
    """Map every dotted key of a config to its value."""
    return dict(leaves(config.model_dump(mode="json")))


def leaves(section: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested mappings under its dotted key."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# PyYAML raises the last three on a scalar that its tag does not fit, such as the date 2026-02-30.
_MALFORMED = (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError)
_MERGE = "tag:yaml.org,2002:merge"  # the key "<<"


class _Yaml(yaml.SafeLoader):
    """PyYAML's loader, which also refuses a key given twice and reads 1e-4 as a number.

    Texts know the folder of their file, for the paths among them.
    """

    def __init__(self, text: str, folder: str = "") -> None:
        super().__init__(text)
        self._folder = folder

    def construct_text(self, node: yaml.ScalarNode) -> FileText:
        text = FileText(self.construct_scalar(node))
        text.folder = self._folder
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != _MERGE]  # merged keys may be given again
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(twice)} given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


class _YamlDumper(yaml.SafeDumper):
    """PyYAML's dumper, which also quotes a text that ``_Yaml`` would read as a number."""


_Yaml.add_constructor("tag:yaml.org,2002:str", _Yaml.construct_text)
for _side in (_Yaml, _YamlDumper):  # PyYAML takes 1e-4, which has no point, for text
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def _apply_override(values: dict[str, Any], word: str) -> str | None:
    """Set one value in ``values``; return the problem, if there is one."""
    dotted, separator, text = word.partition("=")
    if not separator or not dotted:
        return f"override {word!r} is not of the form section.key=value"
    sections = _sections_with(dotted)
    if len(sections) > 1:
        return f"override {word!r}: which one? {', '.join(f'{it}.{dotted}' for it in sections)}"
    *parents, leaf = [*sections, *dotted.split(".")]
    section = values
    for parent in parents:
        inner = section.get(parent, {})
        if not isinstance(inner, dict):
            return f"override {word!r}: {parent} holds a value, not a section"
        section[parent] = dict(inner)  # a copy: by a YAML alias two sections may be one object
        section = section[parent]
    try:
        section[leaf] = _Yaml(text).get_single_data()
    except _MALFORMED as error:
        return f"override {word!r}: {error}"
    return None


def is_setting(name: str) -> bool:
    """Return whether an override may begin with this name."""
    section, *_ = name.split(".")
    return section in ExperimentConfig.model_fields or bool(_sections_with(name))


def _sections_with(key: str) -> list[str]:
    """Return the sections with a setting of this name; none if it is itself a section."""
    if key in ExperimentConfig.model_fields:
        return []
    return [name for name in ExperimentConfig.model_fields if key in _keys_beside([name, key])]


def _explain(item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(location[-1], _keys_beside(location), n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"{dotted}: there is no such key{hint}"
    if item["type"] == "missing":
        return f"{dotted}: is required"
    message = item["msg"].removeprefix("Value error, ")
    return f"{dotted}: {message}, found {_brief(item['input'])}" if dotted else message


def _brief(value: Any) -> str:
    """Return the ``repr`` of a value, cut short: aliases make it endless in a small YAML file."""
    return reprlib.repr(value)[:200] if isinstance(value, list | dict) else repr(value)


def _keys_beside(location: Iterable[str]) -> list[str]:
    section: type[BaseModel] = ExperimentConfig
    for name in list(location)[:-1]:
        field = section.model_fields.get(name)
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        section = models[0]
    return list(section.model_fields)
