"""Costs of networks: counted from what runs, measured where nothing else has run."""

import torch

from pipeline.results.costs import claims_table, costs_table, measure_models, own_subjects


def test_a_network_is_measured_in_a_process_of_its_own(dataset, tmp_path):
    held = torch.ones(100_000_000)  # 400 MB, which the measured process must know nothing of
    config = dataset.config(tmp_path, student={"num_frames": 2})
    (student,) = measure_models(own_subjects(config)[1:], num_threads=1)
    assert held.nbytes > student.peak_bytes - student.network_bytes
    assert student.clip == (2, 32, 32)
    assert student.num_flops == 2 * student.num_macs > 0
    assert 4 * student.num_parameters <= student.network_bytes < student.peak_bytes
    assert 0 < student.latency.p50_ms <= student.latency.p95_ms
    assert f"{student.num_parameters / 1e6:.3f}" in costs_table([student])


def test_published_and_counted_figures_stand_side_by_side():
    table = claims_table()
    assert "| base  |     157.08 |       157 | 220.6 |                149 | +48.1% |" in table
    assert "| tiny  |      49.32 |        49 |  63.0 |                 63 |  +0.0% |" in table
    assert "base / nano: 7.07 in parameters, 8.13 in multiply-adds" in table
