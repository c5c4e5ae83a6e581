"""A blend is the mean of the teachers' probabilities, as a store like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, FingerprintMismatch, Status, StoreCorrupt
from pipeline.logits.blend import run_blend
from pipeline.logits.cells import centre
from pipeline.logits.examine import examine
from pipeline.logits.generations import open_experiment_store
from pipeline.logits.store import open_store
from tests.logits.imaginary import BAD_VIDEO, EXAMPLE, Plan, Teacher, write_store


def write_other(root: str, plan: Plan, lost: frozenset[object] = frozenset()) -> None:
    """Write the store of another teacher: other logits of the same views and pixels."""

    def compute(unit):
        cells = Teacher(lost=lost).run(plan, unit.coordinates)
        raw = -3 * cells.logits.astype(np.float32) + np.arange(5, dtype=np.float32)
        logits, offset = centre(raw)
        good = cells.status == Status.GOOD
        return replace(cells, logits=logits * good[:, None], logit_offset=offset * good)

    teacher = {**plan.spec.identity["teacher"], "weights_sha256": "cd" * 32}
    spec = replace(plan.spec, identity={**plan.spec.identity, "teacher": teacher})
    write_store(root, spec, plan.manifest.records, compute)


def probabilities(root: str) -> np.ndarray:
    exponentials = np.exp(open_store(root).read_all().logits.astype(np.float64))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@pytest.fixture
def roots(tmp_path: Path, bucket: str) -> tuple[str, str, str]:
    """Two stores, cut into other shards and in other formats, and a place, one of them on S3."""
    EXAMPLE.write_store(str(tmp_path / "a"))
    write_other(f"{bucket}/b", replace(EXAMPLE, format="zarr", clips_per_unit=6))
    return str(tmp_path / "a"), f"{bucket}/b", f"{bucket}/blend"


def test_it_holds_the_mean_and_students_and_the_doctor_take_it(roots):
    a, b, out = roots
    store = run_blend([a, b], [1, 3], out)
    grid, first = store.read_all(), open_store(a).read_all()
    good = grid.status == Status.GOOD
    mean = 0.25 * probabilities(a) + 0.75 * probabilities(b)
    np.testing.assert_allclose(probabilities(out)[good], mean[good], atol=1e-3)
    np.testing.assert_array_equal(grid.frame_crc, first.frame_crc)
    assert (grid.status == first.status).all()
    assert (grid.logits.max(axis=-1) == 0).all()
    records, config = EXAMPLE.manifest.records, EXAMPLE.config
    assert not examine(store, records, config.views).findings
    student = config.model_copy(update={"store": config.store.model_copy(update={"uri": out})})
    for digest in (None, "ab" * 32):
        opened = open_experiment_store(student, EXAMPLE.manifest, teacher_digest=digest)
        assert opened.root_digest == store.root_digest
    parts = store.spec.identity["teacher"]["blend"]
    assert [part["weight"] for part in parts] == [0.25, 0.75]
    assert [part["teacher"]["weights_sha256"] for part in parts] == ["ab" * 32, "cd" * 32]
    assert run_blend([a, b], [0.25, 0.75], out).seal == store.seal
    with pytest.raises(FingerprintMismatch, match="blend"):
        run_blend([a, b], [1, 1], out)


def test_it_goes_on_after_a_kill(tmp_path):
    a, b, out = (str(tmp_path / name) for name in "abc")
    EXAMPLE.write_store(a)
    write_other(b, EXAMPLE, lost=frozenset({("v_003_ü", "v_003_ü 0", 1)}))
    seal = run_blend([a, b], [1, 1], out).seal
    (tmp_path / "c" / "seal.json").unlink()
    (tmp_path / "c" / "logits.parquet" / "shard-00001.parquet").unlink()
    assert run_blend([a, b], [1, 1], out).seal == seal
    status = open_store(out).read_all().status
    lost = status[EXAMPLE.row_of("v_003_ü")]
    assert lost.tolist() == [1, Status.TIMED_OUT, 1, 0]  # good only where all are
    assert (status[EXAMPLE.row_of(BAD_VIDEO), :-1] == Status.UNREADABLE).all()


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [1, -1], [0, 0], [1, float("nan")]])
def test_other_weights_are_refused(weights, store_uri, tmp_path):
    with pytest.raises(ConfigError, match="none negative and not all 0"):
        run_blend([store_uri, store_uri], weights, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_other_views_videos_and_pixels_are_refused_by_name(store_uri, tmp_path):
    other, out = str(tmp_path / "other"), str(tmp_path / "out")
    fewer = replace(EXAMPLE, videos=EXAMPLE.videos[1:])
    for plan, named in ((replace(EXAMPLE, seed=5), r"views\.seed: 0 and 5"), (fewer, "dataset")):
        root = str(tmp_path / plan.spec.fingerprint)
        plan.write_store(root)
        with pytest.raises(ConfigError, match=named):
            run_blend([store_uri, root], [1, 1], out)

    def shifted(unit):
        cells = EXAMPLE.compute(unit)
        return replace(cells, frame_crc=cells.frame_crc + np.uint32(unit.number == 1))

    records = EXAMPLE.manifest.records
    write_store(other, EXAMPLE.spec, records, shifted)
    first = records[EXAMPLE.units[1].first_row].sample_id
    with pytest.raises(StoreCorrupt, match=rf"{first}(?s:.*)same views and pixels"):
        run_blend([store_uri, other], [1, 1], out)
    assert not Path(out, "seal.json").exists()
