"""The order of a head's classes: rows are moved, subsets taken, and what does not fit is named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dvflnet.weights import state_digest
from pipeline.config.learning import AS_DATASET
from pipeline.dataset.classes import read_classes
from pipeline.errors import ConfigError, WeightsMismatch
from pipeline.networks.build import build_network
from pipeline.networks.class_order import head_rows
from pipeline.networks.teacher import TeacherPredictor, check_teacher
from pipeline.networks.trained import load_teacher
from pipeline.networks.weight_files import write_weights

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("head", "wanted", "rows"),
    [
        (["a", "b"], ["a", "b"], [0, 1]),
        (["b", "c", "a"], ["a", "b"], [2, 0]),
        (["HandStandPushups", "Yo_Yo"], ["yo yo", "HandstandPushups"], [1, 0]),
        (["swim", "Swim"], ["Swim"], [1]),  # one of them is spelt exactly so
    ],
)
def test_rows_follow_the_names(head, wanted, rows) -> None:
    assert head_rows(head, wanted) == rows


@pytest.mark.parametrize(
    ("head", "wanted", "message"),
    [
        (["run", "swim"], ["runs", "fly"], r"2 of the 2 .* 'runs' \(nearest: 'run'\), 'fly'"),
        (["run", "run"], ["run"], "named twice: 'run'"),
        (["Run", "RUN"], ["run"], "several classes of the head could be 'run'"),
        (["run"], ["run", "Run"], "several classes of the data set could be 'run'"),
        ([], ["run"], "1 of the 1 classes"),
    ],
)  # fmt: skip
def test_names_that_do_not_match_are_refused(head, wanted, message) -> None:
    with pytest.raises(ValueError, match=message):
        head_rows(head, wanted)


def test_published_lists_are_those_of_the_heads() -> None:
    """UCF101's has two pairs of classes in another order than ``classInd.txt``."""
    classes = ROOT / "configs" / "classes"
    official = (ROOT / "tests" / "data" / "ucf101" / "classInd.txt").read_text().split()[1::2]
    published = tuple(read_classes(str(classes / "ucf101_published.txt")).values())
    rows = head_rows(published, official)
    assert {i: row for i, row in enumerate(rows) if i != row} == {34: 35, 35: 34, 46: 47, 47: 46}
    for name, count in (("hmdb51", 51), ("ucf50", 50)):
        assert len(read_classes(str(classes / f"{name}_published.txt"))) == count


@pytest.fixture
def published(dataset, tmp_path):
    """An experiment whose teacher is a .pth with a head of three classes, and its state."""
    config = dataset.config(tmp_path)
    torch.manual_seed(5)
    network = build_network(config.teacher, num_classes=3, num_frames=config.clip.num_frames)
    network.head.weight.data.normal_()
    uri = tmp_path / "published.pth"
    torch.save({"model": network.state_dict()}, uri)

    def configure(class_names):
        teacher = config.teacher.model_copy(
            update={"weights": str(uri), "class_names": class_names}
        )
        return config.model_copy(update={"teacher": teacher})

    return configure, network.eval()


def logits_of(config, class_names) -> np.ndarray:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    jitter = np.tile(np.array([256, 256, 256, 0, 0], np.int16), (2, 1, 1))
    return TeacherPredictor(config, class_names).logits(frames, jitter)


def test_logits_are_in_the_order_of_the_data_set(published, dataset) -> None:
    configure, network = published
    first, second = names = dataset.manifest.class_names
    listed = configure((second.upper(), "another class", first))
    claimed = configure(AS_DATASET)
    as_in_file = logits_of(claimed, (first, "another class", second))
    np.testing.assert_allclose(logits_of(listed, names), as_in_file[:, [2, 0]], rtol=1e-6)
    loaded = load_teacher(listed, names)
    assert loaded.digest == check_teacher(listed, names)
    assert torch.equal(loaded.network.head.weight, network.head.weight[[2, 0]])


def test_identity_tells_orders_apart(published, dataset, tmp_path) -> None:
    """A head in order keeps the digest of its file, so stores made before stay valid."""
    configure, network = published
    names = (*dataset.manifest.class_names, "third")
    claimed = check_teacher(configure(AS_DATASET), names)
    assert claimed == check_teacher(configure(names), names) == state_digest(network.state_dict())
    (tmp_path / "names.txt").write_text("".join(f"{i} {n}\n" for i, n in enumerate(names)))
    assert claimed == check_teacher(configure(str(tmp_path / "names.txt")), names)
    assert check_teacher(configure(names[::-1]), names) != claimed


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, WeightsMismatch, "names no classes(.|\n)*Set teacher.class_names"),
        (AS_DATASET, WeightsMismatch, "head has 3 classes, and 2 are named"),
        (("a", "b", "c"), WeightsMismatch, "2 of the 2 classes"),
        ("/no/such/list.txt", ConfigError, "no file /no/such/list.txt"),
    ],
)
def test_a_teacher_of_unknown_classes_is_refused(
    given, error: type[Exception], message: str, published, dataset
) -> None:
    configure, _ = published
    for use in (check_teacher, load_teacher, TeacherPredictor):
        with pytest.raises(error, match=message):
            use(configure(given), dataset.manifest.class_names)


def test_a_file_that_names_its_classes_is_believed(published, dataset, tmp_path) -> None:
    configure, network = published
    names = ("x", "y", "z")
    uri = str(tmp_path / "own.safetensors")
    write_weights(uri, network.state_dict(), {}, class_names=names)
    config = configure(("z", "y", "x"))
    config = config.model_copy(
        update={"teacher": config.teacher.model_copy(update={"weights": uri})}
    )
    assert check_teacher(config, names) == state_digest(network.state_dict())
    with pytest.raises(WeightsMismatch, match="other classes or in another order"):
        check_teacher(config, names[::-1])
