"""Writers, kills, growth, garbage and readers in any order: the store is what the model says.

``make test`` runs a few short histories, ``make chaos`` many long ones.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline.errors import FingerprintMismatch, StoreIncomplete
from pipeline.logits import generations
from pipeline.logits.examine import examine
from pipeline.logits.generations import find_garbage, find_generation, list_generations
from pipeline.logits.store import open_store
from pipeline.storage.files import delete
from pipeline.storage.sealed.store import fragment_name
from tests.logits.imaginary import Plan, Teacher, Video, Writer, cache

MAX_VIDEOS, MAX_VIEWS = 9, 4


class Machine(RuleBasedStateMachine):
    """One root, up to two writers at work on it, and a model of what they have left there.

    The model is the plans that are sealed, and nothing else: what a sealed store must hold, to the
    byte, is what another root gets from one undisturbed writer.
    """

    once: Path  # of this run's undisturbed stores, which histories share

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.once))
        self.root = str(self.folder / "store")
        self.teacher = Teacher()
        self.writers: list[tuple[Writer, Iterator[str]]] = []
        self.sealed: set[Plan] = set()
        self.settled: set[Plan] = set()  # of which a writer wrote down what they inherit

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(format=st.sampled_from(["parquet", "zarr"]), num_views=st.integers(1, 2))
    def start(self, format: Any, num_views: int) -> None:
        videos = tuple(Video(f"v{n}", split="val" if n == 4 else "train") for n in range(5))
        self.plan = Plan((*videos, Video("bad", good=False)), num_views, format)
        self.plans = [self.plan]

    # --- what users want ----------------------------------------------------------------------

    @precondition(lambda self: self.plan.num_views < MAX_VIEWS)
    @rule()
    def grow_views(self) -> None:
        self._want(Plan(self.plan.videos, self.plan.num_views + 1, self.plan.format))

    @precondition(lambda self: len(self.plan.videos) < MAX_VIDEOS)
    @rule(split=st.sampled_from(["train", "val"]), good=st.booleans())
    def grow_videos(self, split: str, good: bool) -> None:
        name = f"v{len(self.plan.videos) * 7 % 10}{len(self.plan.videos)}"  # a row anywhere
        videos = (*self.plan.videos, Video(name, split=split, good=good))
        self._want(Plan(videos, self.plan.num_views, self.plan.format))

    def _want(self, plan: Plan) -> None:
        self.plan = plan
        self.plans.append(plan)

    # --- writers, up to two at a time, of one plan or of two -----------------------------------

    @precondition(lambda self: len(self.writers) < 2)
    @rule(place=st.integers(0, 9))
    def start_writer(self, place: int) -> None:
        plan = self.plans[-1 - place % len(self.plans)]
        writer = Writer(self.root, plan, self.teacher)
        self.writers.append((writer, writer.steps()))

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 1), num_steps=st.integers(1, 6))
    def work(self, which: int, num_steps: int) -> None:
        place = which % len(self.writers)
        for _ in range(num_steps):
            if not self._step(place):
                break

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 1))
    def finish(self, which: int) -> None:
        while self._step(which % len(self.writers)):
            pass

    def _step(self, place: int) -> bool:
        """Let a writer do its next step; return whether it is still at work."""
        writer, steps = self.writers[place]
        try:
            if next(steps) == "inherit":
                self.settled.add(writer.plan)
            return True
        except StopIteration:
            self.sealed.add(writer.plan)
        except FingerprintMismatch:
            raced = writer.home == self.root  # for an empty root; the loser has to start anew
            assert raced or not self._covers_the_first(writer.plan)
        del self.writers[place]
        return False

    @precondition(lambda self: not self.writers)
    @rule(place=st.integers(0, 9))
    def cache_alone(self, place: int) -> None:
        """Run one writer to its end: it runs the cells that no other has, and nothing else."""
        plan, before = self.plans[-1 - place % len(self.plans)], Counter(self.teacher.forwards)
        self.start_writer(place)
        self.finish(0)
        run = self.teacher.forwards - before
        if plan not in self.sealed:  # it was refused
            assert not run
            return
        missing = set(plan.cells.values()) - set(before)
        if plan in self.settled:  # maybe before others had what they have now
            assert missing <= set(run) <= set(plan.cells.values())
        else:
            assert run == Counter(missing)

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 1), torn=st.integers(0, 400))
    def kill(self, which: int, torn: int) -> None:
        """Kill a writer, half way through its next file."""
        writer, steps = self.writers.pop(which % len(self.writers))
        steps.close()
        path = Path(writer.home or self.root, fragment_name(torn % 5))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp").write_bytes(b"PAR1" * torn)

    # --- other jobs -------------------------------------------------------------------------------

    @rule()
    def collect_garbage(self) -> None:
        """Collect with no regard for age: writers are between two files, whatever they do."""
        if Path(self.root, "identity.json").exists():
            for found in find_garbage(self.root, written_before=time.time() + 1e6):
                assert found.kind == "temporary file"
                assert delete(found.uri)

    @precondition(lambda self: self.sealed)
    @rule(place=st.integers(0, 9))
    def examine(self, place: int) -> None:
        plan = self._some_sealed(place)
        store = open_store(find_generation(self.root, plan.spec.identity))
        assert not examine(store, plan.manifest.records, plan.config.views).findings

    @precondition(lambda self: self.sealed)
    @rule(place=st.integers(0, 9))
    def read(self, place: int) -> None:
        plan = self._some_sealed(place)
        store = open_store(find_generation(self.root, plan.spec.identity))
        store.verify()
        assert store.root_digest == self._undisturbed(plan)
        good = (store.read_all().status == 1).sum()
        assert good == len(plan.cells)

    @rule()
    def another_config_is_refused(self) -> None:
        if Path(self.root, "identity.json").exists():
            before = list_generations(self.root)
            videos = tuple(Video(v.name, v.split, 1, v.good) for v in self.plan.videos)
            for plan in (
                Plan(self.plan.videos, self.plan.num_views, self.plan.format, seed=1),
                Plan(videos, self.plan.num_views, self.plan.format),
            ):
                with pytest.raises(FingerprintMismatch):
                    Writer(self.root, plan, Teacher()).finish()
            assert list_generations(self.root) == before

    @invariant()
    def nothing_is_half_read(self) -> None:
        for plan in getattr(self, "plans", ()):
            try:
                store = open_store(find_generation(self.root, plan.spec.identity))
            except (StoreIncomplete, FingerprintMismatch):
                assert plan not in self.sealed
            else:
                assert store.root_digest == self._undisturbed(plan)

    def _covers_the_first(self, plan: Plan) -> bool:
        there = generations.read_spec(self.root).fingerprint
        first = next(known for known in self.plans if known.spec.fingerprint == there)
        return set(first.videos) <= set(plan.videos) and first.num_views <= plan.num_views

    def _some_sealed(self, place: int) -> Plan:
        plans = [plan for plan in self.plans if plan in self.sealed]
        return plans[place % len(plans)]

    def _undisturbed(self, plan: Plan) -> str:
        """Return the root digest that one undisturbed writer gets for a plan elsewhere."""
        key = plan.spec.fingerprint + plan.format
        if key not in _DIGESTS:
            job = cache(str(self.once / key[:16] / plan.format), plan)
            assert job.seal is not None
            _DIGESTS[key] = job.seal.root_digest
        return _DIGESTS[key]


_DIGESTS: dict[str, str] = {}  # of undisturbed stores


def explore(folder: Path, **settings: Any) -> None:
    Machine.once = folder
    run_state_machine_as_test(
        Machine,
        settings=hypothesis.settings(
            deadline=None, suppress_health_check=list(hypothesis.HealthCheck), **settings
        ),
    )


def test_some_histories(tmp_path: Path) -> None:
    explore(tmp_path, max_examples=8, stateful_step_count=25, derandomize=True)


@pytest.mark.chaos
@pytest.mark.timeout(7200)
def test_many_long_histories(tmp_path: Path) -> None:
    explore(tmp_path, max_examples=500, stateful_step_count=60)
