"""The reference of settings is complete and current."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import flattened, load_config
from pipeline.config.reference import DECIDES, decides, json_schema, settings_page
from pipeline.training.train_plan import NOT_PART_OF_KEY

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def test_files_are_current():
    """If this fails, write both anew with jobs/schema.py, with and without --page."""
    assert (ROOT / "configs/experiment.schema.json").read_text() == json_schema()
    assert (ROOT / "docs/settings.md").read_text() == settings_page()


def test_every_setting_has_a_meaning_and_what_it_decides():
    config = load_config(ROOT / "configs/demo.yaml", ["views.mix={}"])
    page = settings_page()
    for key in flattened(config):
        assert decides(key) in set(DECIDES.values())
        assert f"| `{key.split('.')[-1]}` |" in page, key
    for model in json.loads(json_schema())["$defs"].values():
        for name, values in model["properties"].items():
            assert values.get("description") or "$ref" in json.dumps(values), name


def test_what_decides_no_weights_is_in_no_key():
    assert {f"train.{name}" for name in NOT_PART_OF_KEY} == {
        key for key in DECIDES if key.startswith("train.")
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_name_the_schema_and_hold_to_it(path):
    first, *_ = path.read_text().splitlines()
    assert first == "# yaml-language-server: $schema=experiment.schema.json"
    known = json.loads(json_schema())["properties"]
    assert (
        yaml.safe_load(path.read_text()).keys()
        <= known.keys()
        == ExperimentConfig.model_fields.keys()
    )
