"""Prediction needs a weights file and a video: any, even long and broken ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import ConfigError, DatasetError, VideoDecodeError
from pipeline.networks.trained import load_trained
from pipeline.results.prediction import (
    LIMITS,
    Predictor,
    Windows,
    find_videos,
    look_at_all,
    plan_limits,
    plan_looks,
)
from pipeline.results.prediction_pages import left_out_table, prediction_table, write_pages
from pipeline.views.view import Protocol
from tests.untrained_student import write_student

ROOT = Path(__file__).parents[2]
NAMES = ("Archery", "Bowling", "Curling")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_video):
    """Two videos of a second, one of four seconds, one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "a.mp4", 25, first_number=3)
    make_video(folder / "more" / "b.avi", 25, first_number=60)
    make_video(folder / "more" / "long.mp4", 100, codec="libx264", first_number=100)
    (folder / "bad.mp4").write_bytes(b"this is no video")
    (folder / "notes.txt").write_text("neither is this")
    return folder


@pytest.fixture(scope="module")
def weights(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "last.safetensors"
    return write_student(dataset.config(path.parent), path, NAMES, seed=3)


@pytest.fixture
def predictor(weights):
    with Predictor(load_trained(weights)) as predictor:
        yield predictor


def test_a_video_gets_a_distribution_over_the_classes(predictor, folder):
    found = predictor.predict(str(folder / "a.mp4"))
    assert found.overall.sum() == pytest.approx(1.0)
    names = [name for name, _ in found.top(5)]
    assert sorted(names) == sorted(NAMES)
    probabilities = [probability for _, probability in found.top(5)]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_folder_is_searched_and_a_file_is_itself(folder):
    videos, left_out = find_videos([str(folder)])
    names = [Path(uri).relative_to(folder).as_posix() for uri in videos]
    assert names == ["a.mp4", "bad.mp4", "more/b.avi", "more/long.mp4"]
    assert left_out == {str(folder / "notes.txt"): ".txt is no suffix of a video"}
    named = ["s3://bucket/x.mp4", str(folder / "notes.txt")]  # even if its name is no video's
    assert find_videos(named) == (named, {})
    with pytest.raises(DatasetError, match="neither a video nor a folder"):
        find_videos([str(folder / "nothing")])


def test_suffixes_of_cameras_and_phones(tmp_path):
    names = ["a.3gp", "b.TS", "c.m2ts", "d.mts", "e.ogv", "f.3g2", "g.vob"]
    for name in names:
        (tmp_path / name).touch()
    assert find_videos([str(tmp_path)]) == ([str(tmp_path / name) for name in names], {})


def test_many_files_that_are_left_out_are_counted():
    text = left_out_table({f"{number}.txt": "no suffix of a video" for number in range(14)})
    assert text.startswith("left out: 0.txt: no suffix of a video\n")
    assert text.endswith("left out: 9.txt: no suffix of a video\n... and 4 more\n")


def test_a_video_may_be_of_any_length(weights, tmp_path, make_video):
    """Eleven minutes, over what training data may have."""
    path = str(make_video(tmp_path / "long.mp4", 660, 32, 24, frame_rate=1))
    trained = load_trained(weights)
    with Predictor(trained, windows=Windows(60, 60)) as predictor:
        assert len(predictor.predict(path).spans) == 11
    with (
        Predictor(trained, limits=plan_limits(600, None, None)) as predictor,
        pytest.raises(VideoDecodeError, match="lasts 660 s; the limit is 600 s"),
    ):
        predictor.predict(path)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        *((plan_limits, words) for words in [(0, None, None), (None, -1, None)]),
        (plan_limits, (None, None, float("nan"))),
        *((plan_looks, (*views, None, None)) for views in [(0, 1), (1, 0)]),
        *((plan_looks, (1, 1, *times)) for times in [(None, 1.0), (-1.0, None), (1.0, 0.0)]),
    ],
)
def test_settings_that_make_no_sense_are_refused(plan, words):
    with pytest.raises(ConfigError):
        plan(*words)


@pytest.mark.parametrize(
    ("window", "stride", "num_frames", "expected"),
    [
        (1.0, 0.5, 40, [(0, 10), (5, 15), (10, 20), (15, 25), (20, 30), (25, 35), (30, 40)]),
        (1.0, 1.0, 25, [(0, 10), (10, 20), (15, 25)]),
        (9.0, 1.0, 25, [(0, 25)]),
        (0.01, 1.0, 25, [(0, 1), (10, 11), (20, 21), (24, 25)]),
    ],
)
def test_windows_cover_the_video_to_its_last_frame(window, stride, num_frames, expected):
    spans = Windows(window, stride).spans(num_frames, 10.0)
    assert [(span.start, span.stop) for span in spans] == expected


def test_windows_see_what_a_cut_of_the_video_would_show(weights, folder, make_video):
    """Clips of overlapping windows come mixed, and in an order of their own."""
    uri, trained = str(folder / "more" / "long.mp4"), load_trained(weights)
    # The numbers that the second window shows, as a video of its own.
    alone = make_video(folder.parent / "cut.mp4", 25, codec="libx264", first_number=125)
    with Predictor(trained, windows=Windows(1.0, 0.2), protocol=Protocol(2, 3)) as predictor:
        overlapping = predictor.predict(uri)
    with Predictor(trained, windows=Windows(1.0, 1.0), protocol=Protocol(2, 3)) as predictor:
        apart, cut = predictor.predict(uri), predictor.predict(str(alone))
    assert [(span.start, span.stop) for span in apart.spans] == [
        (n, n + 25) for n in range(0, 100, 25)
    ]
    assert overlapping.spans[::5] == apart.spans
    np.testing.assert_allclose(overlapping.probabilities[::5], apart.probabilities, rtol=1e-5)
    np.testing.assert_allclose(apart.probabilities[1], cut.overall, atol=0.02)  # coded apart


def test_pages_show_the_timeline_and_the_video_with_the_answer(weights, folder, tmp_path):
    with Predictor(load_trained(weights), windows=Windows(1.0, 1.0)) as predictor:
        predictions, _ = look_at_all(predictor, [str(folder / "more" / "long.mp4")] * 2)
    written = write_pages(predictions, tmp_path, LIMITS, annotate=True)
    assert sorted(path.name for path in written) == [
        "long-2.mp4",
        "long-2.png",
        "long.mp4",
        "long.png",
    ]
    with av.open(str(tmp_path / "long.mp4")) as container:
        pictures = list(container.decode(video=0))
    assert len(pictures) == 100
    assert pictures[0].width == 64
    assert pictures[0].height > 48  # there is a bar below the picture
    assert "long.mp4" in prediction_table(predictions, 2)


def predict(*words):
    """Run the job on videos of which one is bad."""
    command = [sys.executable, "jobs/predict.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_job_prints_json_and_exits_with_3_after_a_bad_video(weights, folder):
    done = predict(weights, folder, "--json", "--top", "1")
    assert "1 of 4 videos are bad" in done.stderr
    assert str(folder / "bad.mp4") in done.stderr
    assert "left out: " in done.stderr
    assert "notes.txt: .txt is no suffix of a video" in done.stderr
    answers = json.loads(done.stdout)
    assert [Path(answer["uri"]).name for answer in answers] == ["a.mp4", "b.avi", "long.mp4"]
    for answer in answers:
        (likeliest,) = answer["predictions"]
        assert likeliest["class"] in NAMES
        assert 1 / 3 <= likeliest["probability"] <= 1


def test_names_that_are_not_utf_8_are_escaped(weights, folder, tmp_path):
    """The video is looked at, and its name printed with the byte that is no UTF-8."""
    (tmp_path / os.fsdecode(b"\xe9t\xe9.mp4")).write_bytes((folder / "a.mp4").read_bytes())
    for name in (b"bad\xe9.mp4", b"note\xe9.txt"):
        (tmp_path / os.fsdecode(name)).touch()
    done = predict(weights, tmp_path, "--output", tmp_path / "out", "--annotate")
    assert r"\xe9t\xe9.mp4" in done.stdout
    for text in (r"bad\xe9.mp4): is empty", "left out: ", r"note\xe9.txt"):
        assert text in done.stderr
