"""The files that people copy from: every config loads, no setting is dead, every name exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config, resolved_yaml

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "pipeline" / "config" / "schema.py"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GUIDES = [path for name in ("README.md", "CONTRIBUTING.md") if (path := ROOT / name).exists()]

# A path below one of our folders, not the tail of a longer path; or the target of a relative link.
FOLDERS = "benchmarks|configs|docs|dvflnet|jobs|pipeline|tests"
NAMED_FILE = re.compile(rf"(?<![\w/~.-])(?:{FOLDERS})/[\w./*-]*[\w*/]|(?<=\]\()(?![a-z]+:|#)[^)#]+")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_loads_and_loads_back_equal(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(resolved_yaml(config))
    assert load_config(resolved) == config


def test_every_setting_is_read() -> None:
    sources = {*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "jobs").glob("*.py")} - {SCHEMA}
    read = {name for path in sources for name in attributes(ast.parse(path.read_text()))}
    for prop in properties(ExperimentConfig.__name__):
        if prop.name in read:  # it reads settings for those who read it
            read |= set(attributes(prop))
    dead = {dotted for dotted, name in settings(ExperimentConfig) if name not in read}
    assert not dead, f"no code reads {', '.join(sorted(dead))}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_guide_names_files_that_exist(guide: Path) -> None:
    names = {match.group() for match in NAMED_FILE.finditer(guide.read_text())}
    assert names
    missing = {name for name in names if not any(ROOT.glob(name))}
    assert not missing, f"{guide.name} names {', '.join(sorted(missing))}"


def attributes(tree: ast.AST) -> Iterator[str]:
    """Names ``x`` of all ``something.x`` that is read, not written."""
    return (
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


def properties(class_name: str) -> Iterator[ast.FunctionDef]:
    """The methods of a class of the schema."""
    for node in ast.parse(SCHEMA.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            yield from (inner for inner in node.body if isinstance(inner, ast.FunctionDef))


def settings(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted and bare names of all settings, sections themselves left out."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", name
