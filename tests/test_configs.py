"""The files that people copy from: every config loads, no setting is dead, every name exists."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config, resolved_yaml
from pipeline.config.schema import MixConfig
from pipeline.training.step import build_schedule

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "pipeline" / "config" / "schema.py"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
# What a student's distill_weight is in the published files; none is published for the last two.
RECIPES = {
    **dict.fromkeys(("ucf50", "ucf50_published", "hmdb51", "hmdb51_published"), 0.2),
    **dict.fromkeys(("ucf101", "ucf101_published"), 0.3),
    **dict.fromkeys(("ssv2", "kinetics400"), 0.2),
}
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


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_published_one(name: str) -> None:
    """As the repository of DVFL-Net has it, but for docs/decisions/0018."""
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    assert (config.clip.num_frames, config.clip.side, config.train.epochs) == (8, 224, 120)
    assert (config.teacher.variant, config.student.variant) == ("base", "nano")
    assert config.student.drop_path_rate == 0.1
    assert config.views.flip_probability == (0 if name == "ssv2" else 0.5)
    mix = config.views.mix
    assert mix == MixConfig(cutmix_probability=0.5, mixup_alpha=0.8, cutmix_alpha=1, group_size=24)
    loss = config.loss
    assert (loss.distill_weight, loss.temperature, loss.label_smoothing) == (RECIPES[name], 10, 0.1)
    assert config.train.fresh_views
    golden = json.loads((ROOT / "tests/golden/recipe-golden.json").read_text())["lr"]
    steps = golden["steps_per_epoch"]
    for learner in (config, config.teacher):  # teacher and student have one recipe
        optim = learner.optim
        assert (optim.kind, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 1e-4)
        assert optim.max_grad_norm == 5
        num_clips = learner.train.batch_size * config.cluster.num_workers
        schedule = build_schedule(
            optim, global_batch_size=num_clips, steps_per_epoch=steps, num_steps=120 * steps
        )
        for step, rate in list(golden["values"].items())[1:]:
            assert schedule.at(int(step)) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_a_block_for_a_small_machine(name: str) -> None:
    path = ROOT / "configs" / f"{name}.yaml"
    block = re.findall(r"^# (train|cluster): (\{.*?\})", path.read_text(), re.MULTILINE)
    words = [
        f"{section}.{key}={value}"
        for section, values in block
        for key, value in yaml.safe_load(values).items()
    ]
    small, large = load_config(path, words), load_config(path)
    assert len(block) == 2
    assert small.train.batch_size * small.train.accumulate == 24
    assert large.train.batch_size * large.cluster.num_workers == 24
    assert (small.train.epochs, small.train.fresh_views) == (120, True)


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
