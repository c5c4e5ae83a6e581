"""What ``auto`` stands for: pools by what the cluster has, units by what is cached."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.load import load_config
from pipeline.errors import ConfigError
from pipeline.stages.cache import CachePlan, plan_cache, run_cache_teacher
from pipeline.stages.evaluate import plan_evaluation, run_evaluate
from pipeline.stages.index import plan_index, run_index_videos
from pipeline.stages.pool_sizes import pool_sizes, usable_cores
from pipeline.storage.sealed.store import open_for_writing
from tests.stages.conftest import index, write_teacher

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
AUTO = ("cluster.num_decoders=auto", "cluster.num_teachers=auto")
GPUS = ("cluster.use_gpu=true", *AUTO)


@pytest.mark.parametrize(
    ("words", "cores", "gpus", "decoders", "teachers"),
    [
        (AUTO, 2, 0, 1, 1),
        (AUTO, 4, 0, 1, 3),
        (AUTO, 64, 0, 8, 52),
        (("cluster.num_decoders=6", AUTO[1]), 16, 0, 6, 9),
        ((AUTO[0], "cluster.num_teachers=9"), 16, 0, 2, 9),
        ((*GPUS, "views.num_views=1"), 192, 4, 155, 4),
        ((*GPUS, "views.num_views=8"), 192, 4, 35, 4),
        ((*GPUS, "frames.source=prepared"), 192, 4, 9, 4),
        ((*GPUS, "views.num_views=8"), 12, 4, 12, 4),
        (("cluster.num_decoders=3", "cluster.num_teachers=2"), 0, 0, 3, 2),
    ],
)
def test_pools_by_what_the_cluster_has(
    words: tuple[str, ...], cores: int, gpus: int, decoders: int, teachers: int
) -> None:
    resources = {"CPU": float(cores), "GPU": float(gpus)}
    assert pool_sizes(load_config(DEMO, words), resources) == (decoders, teachers)


@given(st.integers(2, 10_000))
def test_on_cpu_every_usable_core_has_an_actor_but_perhaps_one(cores: int) -> None:
    decoders, teachers = pool_sizes(load_config(DEMO, AUTO), {"CPU": cores})
    assert usable_cores({"CPU": cores}) - 1 <= decoders + teachers <= cores - cores // 16


@pytest.mark.parametrize("value", ["0", "many", "1.5", "null"])
def test_what_is_neither_a_number_nor_auto_is_said_once(value: str) -> None:
    with pytest.raises(ConfigError, match="is an integer of at least 1, or auto, found") as error:
        load_config(DEMO, [f"cluster.num_teachers={value}"])
    assert str(error.value).count("\n") == 1


@pytest.fixture
def begin(write_experiment: Any, tmp_path: Path) -> Any:
    """Return a function that plans the store of an experiment and writes its identity."""
    path = write_experiment(tmp_path)
    config = load_config(path)
    index(config)
    write_teacher(config)

    def begin(*words: str) -> CachePlan:
        plan = plan_cache(load_config(path, words))
        open_for_writing(plan.root, plan.spec)
        return plan

    return begin


UNIT = "store.clips_per_unit=auto"


def test_a_store_that_goes_on_or_grows_keeps_its_unit(begin: Any) -> None:
    first = begin("store.clips_per_unit=12")
    assert begin(UNIT).units == first.units
    grown = begin(UNIT, "views.num_views=3")
    assert (grown.spec.clips_per_unit, grown.root != first.root) == (12, True)


def test_a_generation_has_a_unit_of_its_own(begin: Any) -> None:
    begin(UNIT)
    larger = "views.num_views=3"
    grown = begin("store.clips_per_unit=6", larger)
    assert begin(UNIT, larger).spec == grown.spec


def test_a_new_store_has_the_unit_that_is_chosen(begin: Any) -> None:
    assert begin(UNIT).spec.clips_per_unit == 64


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_stages_with_auto_end_as_with_numbers(
    write_experiment: Any, private_ray: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path)
    config = load_config(path, [*AUTO, UNIT])
    run_index_videos(plan_index(config), private_ray)
    write_teacher(config)
    store = run_cache_teacher(plan_cache(config), private_ray)
    assert "\npools        decoders " in capsys.readouterr().out
    numbers = load_config(path, ["store.clips_per_unit=64", f"store.uri={tmp_path}/other"])
    assert run_cache_teacher(plan_cache(numbers), private_ray).root_digest == store.root_digest
    weights = [config.teacher_weights_uri]
    summary = run_evaluate(plan_evaluation(config, networks=weights), private_ray)
    assert "\npools        decoders " in capsys.readouterr().out
    assert summary["num_videos"] == 8
