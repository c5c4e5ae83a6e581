"""Networks that are not of the family: built by their function, examined, and told apart."""

import numpy as np
import pytest
import torch
from torch import nn

from dvflnet.cost import count_parameters
from dvflnet.weights import state_digest
from examples.mobile_student import Depthwise
from pipeline.config.load import resolved_yaml
from pipeline.errors import ConfigError, FingerprintMismatch, WeightsMismatch
from pipeline.logits.spec import build_identity, plan_store
from pipeline.networks import foreign
from pipeline.networks.build import build_network
from pipeline.networks.foreign import build_foreign
from pipeline.networks.teacher import TeacherPredictor, check_teacher, has_teacher
from pipeline.networks.trained import load_teacher, load_trained
from pipeline.networks.weight_files import write_weights
from pipeline.results.costs import count_costs, own_subjects
from pipeline.results.export.contract import build_material
from pipeline.training.plan import plan_student, plan_teacher
from pipeline.training.step import Training
from tests import odd_networks
from tests.conftest import real_cells
from tests.logits.imaginary import write_store

GOOD, MOBILE = "tests.odd_networks:good", "examples.mobile_student:build"


@pytest.fixture
def configure(dataset, tmp_path):
    """An experiment whose roles have the given networks; sections of the family are left out."""

    def make(teacher=None, student=None, **settings):
        config = dataset.config(tmp_path / "artefacts", teacher=settings)
        for role, network in (("teacher", teacher), ("student", student)):
            if network is not None:
                own = {"network": network, "embed_dim": None, "depths": None}
                section = getattr(config, role).model_copy(update=own)
                config = config.model_copy(update={role: section})
        dataset.publish(config)
        return config

    return make


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("no.such.module:build", "cannot be imported: No module named 'no'.*working directory"),
        ("tests.odd_networks:absent", "cannot be imported: .*no attribute 'absent'"),
        ("tests.odd_networks:not_callable", "is no function, but int"),
        ("tests.odd_networks:no_module", "returned int, and no torch.nn.Module"),
        ("tests.odd_networks:fails", "built for 2 classes: OSError.*no weights on this machine"),
        ("tests.odd_networks:one_class_more", r"logits \(8, 2\) for .* got \(8, 3\)"),
        ("tests.odd_networks:one_row_less", r"got \(7, 2\)"),
        ("tests.odd_networks:a_tuple", "got tuple"),
        ("tests.odd_networks:integers", "floating logits; it has torch.int64"),
        ("tests.odd_networks:not_finite", "16 values that are not finite"),
        ("tests.odd_networks:random", "two passes over the same clips differ"),
        ("tests.odd_networks:mixing", "mixes the clips of a batch"),
        ("tests.odd_networks:only_64", r"cannot take clips of shape \(8, 4, 3, 32, 32\)"),
    ],
)
def test_what_cannot_be_used_is_refused_before_work(configure, network, message, dataset) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_teacher(configure(network))
    with pytest.raises(ConfigError, match=message):
        check_teacher(configure(network, class_names="as_dataset"), dataset.manifest.class_names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "x.onnx"}, r"/x.onnx is a program, which cannot be trained"),
        ({"network": "no colon"}, "is videofocalnet, package.module:function or a file"),
        ({"network": GOOD}, "embed_dim, depths and drop_path_rate are not of"),
        (
            {"network": GOOD, "init": "imagenet", "init_weights": "/a.pth"},
            "starts from the weights that its function gives it",
        ),
    ],
)
def test_settings_that_contradict_each_other(dataset, tmp_path, change, message) -> None:
    with pytest.raises(ValueError, match=message):
        dataset.config(tmp_path, student=change)


def test_activations_of_others_are_not_checkpointed(dataset, tmp_path) -> None:
    with pytest.raises(ValueError, match="checkpoint_activations: is for Video-FocalNets"):
        dataset.config(tmp_path, student={"network": GOOD}, train={"checkpoint_activations": True})


def test_a_teacher_brings_its_own_weights(configure, dataset) -> None:
    """Its classes are put in order, a subset is taken, and the digest tells orders apart."""
    names, head = dataset.manifest.class_names, ("Croquet", "Bowling", "Archery")
    config = configure(GOOD, class_names=head)
    assert has_teacher(config)
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 32, 32, 3), np.uint8)
    jitter = np.tile(np.array([256, 256, 256, 0, 0], np.int16), (3, 1, 1))
    digest = check_teacher(config, names)
    found = TeacherPredictor(config, names, digest=digest).logits(frames, jitter)
    with torch.inference_mode():
        whole = load_teacher(config, names).network.network(clips_of(frames))
    np.testing.assert_allclose(found, whole[:, [2, 1]], rtol=1e-5)
    assert check_teacher(configure(GOOD, class_names=head[::-1]), names) != digest
    with pytest.raises(WeightsMismatch, match="class_names"):
        check_teacher(configure(GOOD), names)
    with pytest.raises(ConfigError, match=r"two calls of .* give different weights"):
        check_teacher(configure("tests.odd_networks:fresh", class_names=head), names)


def clips_of(frames):
    from pipeline.networks.forward import prepare_clips

    return prepare_clips(frames, None, torch.device("cpu"), motion_only=False)


def test_the_identity_of_a_store_names_it_and_covers_its_source(
    configure, dataset, monkeypatch
) -> None:
    names = dataset.manifest.class_names
    config = configure(GOOD, class_names="as_dataset")
    digest = check_teacher(config, names)
    identity = build_identity(config, manifest=dataset.manifest, teacher_digest=digest)
    expected = {"network": GOOD, "weights_sha256": digest, "precision": "float32"}
    assert identity["teacher"] == expected
    monkeypatch.setattr(foreign, "sha256_of", lambda content: "another source")
    assert check_teacher(config, names) != digest


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A good network as files, and some that cannot be used."""
    folder, clips = tmp_path_factory.mktemp("programs"), torch.zeros(2, 4, 3, 32, 32)
    network = Taking(odd_networks.good(2, 4)).eval()

    def write(name, shapes):
        exported = torch.export.export(network, (clips,), dynamic_shapes=shapes)
        torch.export.save(exported, folder / f"{name}.pt2")
        program = torch.onnx.export(exported, input_names=["clips"], verbose=False)
        program.save(folder / f"{name}.onnx")
        return exported, program

    write("fixed", None)
    exported, program = write("good", {"clips": {0: torch.export.Dim("batch", min=1)}})
    program.save(folder / "split.onnx", external_data=True)
    torch.onnx.export(exported, input_names=["x"], verbose=False).save(folder / "other.onnx")
    return folder


class Taking(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, clips):
        return self.network(clips)


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
@pytest.mark.filterwarnings("ignore")  # of the exporters
def test_a_program_file_is_a_teacher(configure, dataset, programs, tmp_path, suffix) -> None:
    names, head = dataset.manifest.class_names, ("Bowling", "Archery")
    moved = tmp_path / f"moved.{suffix}"
    moved.write_bytes((programs / f"good.{suffix}").read_bytes())
    digests = []
    for path in (programs / f"good.{suffix}", moved):
        config = configure(str(path), class_names=head)
        digest = check_teacher(config, names)
        identity = build_identity(config, manifest=dataset.manifest, teacher_digest=digest)
        digests.append(identity["teacher"])
    assert digests[0] == digests[1]
    assert digests[0]["network"] == suffix
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 32, 32, 3), np.uint8)
    jitter = np.tile(np.array([256, 256, 256, 0, 0], np.int16), (3, 1, 1))
    found = TeacherPredictor(config, names, digest=digest).logits(frames, jitter)
    with torch.inference_mode():
        expected = odd_networks.good(2, 4).eval()(clips_of(frames))
    np.testing.assert_allclose(found, expected[:, [1, 0]], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="no parameter that can be trained"):
        plan_teacher(config)


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_a_student_of_another_program_is_refused(configure, dataset, programs) -> None:
    manifest = dataset.manifest
    config = configure(str(programs / "good.pt2"), class_names="as_dataset")
    digest = check_teacher(config, manifest.class_names)
    spec = plan_store(config, manifest=manifest, teacher_digest=digest)
    write_store(
        config.store_uri, spec, manifest.records, lambda unit: real_cells(config, manifest, unit)
    )
    assert plan_student(config).store.teacher_digest == digest
    another = Taking(odd_networks.good(2, 4)).eval()
    next(another.parameters()).data += 1
    clips, shapes = torch.zeros(2, 4, 3, 32, 32), {"clips": {0: torch.export.Dim("batch", min=1)}}
    exported = torch.export.export(another, (clips,), dynamic_shapes=shapes)
    torch.export.save(exported, programs / "another.pt2")
    teacher = config.teacher.model_copy(update={"network": str(programs / "another.pt2")})
    with pytest.raises(FingerprintMismatch, match="teacher"):
        plan_student(config.model_copy(update={"teacher": teacher}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fixed.pt2", "cannot take clips of shape"),
        ("fixed.onnx", "batch is fixed to 2"),
        ("other.onnx", "one input, float32 'clips'"),
        ("split.onnx", r"cannot be built .*split\.onnx\.data"),
        ("absent.onnx", "there is no program file"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_program_file_that_cannot_be_used(
    configure, dataset, programs, name, message, monkeypatch
) -> None:
    monkeypatch.chdir(programs)  # where a second file of weights lies, which no digest covers
    with pytest.raises(ConfigError, match=message):
        check_teacher(
            configure(str(programs / name), class_names="as_dataset"), dataset.manifest.class_names
        )


def test_frozen_parts_stay_as_they_are(configure) -> None:
    plan = plan_teacher(configure(GOOD))
    network = plan.build_network()
    front = state_digest(network.front.state_dict())
    training = Training(network, plan.recipe, plan.schedule, torch.device("cpu"))
    trained = [p for group in training.optimiser.param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in network.classifier.parameters()}
    batch = next(iter_batches(plan))
    before = network.classifier.weight.detach().clone()
    labels = torch.tensor(plan.labels([request.row for request in batch.requests]))
    training.step(0, batch, labels, None, rank=0)
    assert not network.front.training
    assert network.classifier.training
    assert state_digest(network.front.state_dict()) == front
    assert not torch.equal(network.classifier.weight, before)
    with pytest.raises(ConfigError, match="no parameter that can be trained"):
        plan_teacher(configure("tests.odd_networks:all_frozen"))


def iter_batches(plan):
    from pipeline.views.loader import ClipLoader

    with ClipLoader(1, plan.config.dataset.limits, side=plan.recipe.side) as loader:
        yield from loader.batches(plan.train_requests(0, 0))


@pytest.fixture
def student(configure, dataset, tmp_path):
    """A weights file of the example's student, as training writes it, and its config."""
    config, names = configure(student=MOBILE), dataset.manifest.class_names
    torch.manual_seed(0)
    network = build_network(config.student, num_classes=len(names), num_frames=4)
    source = foreign.source_digest(MOBILE)
    facts = {"run": "m", "root_digest": "ab", "config": resolved_yaml(config)}
    uri = str(tmp_path / "last.safetensors")
    write_weights(uri, network.state_dict(), facts | {"source_sha256": source}, class_names=names)
    return uri, config, network.eval()


def test_a_weights_file_says_how_to_build_its_network(student, dataset, tmp_path) -> None:
    uri, config, network = student
    loaded = load_trained(uri)
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded.network(clips), network(clips))
    other = str(tmp_path / "other.safetensors")
    facts = {"run": "m", "root_digest": "ab", "config": resolved_yaml(config)}
    write_weights(
        other,
        network.state_dict(),
        facts | {"source_sha256": "of another version"},
        class_names=loaded.class_names,
    )
    with pytest.warns(UserWarning, match="trained with another version of examples.mobile"):
        load_trained(other)


def test_the_example_is_exported_and_counted(student) -> None:
    uri, config, network = student
    loaded = load_trained(uri)
    material = build_material(loaded, np.zeros((1, 4, 32, 32, 3), np.uint8))
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        expected = network(clips_of(frames))
        found = material.program.module()(torch.from_numpy(frames))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    _, subject = own_subjects(config)
    num_parameters, num_macs = count_costs(subject)
    assert num_parameters == count_parameters(network)
    assert num_macs > 0
    million = count_parameters(build_foreign(MOBILE, num_classes=101, num_frames=8)) / 1e6
    assert 0.8 < million < 1.3


def test_a_run_is_known_by_its_source_too(configure, monkeypatch) -> None:
    plan = plan_teacher(configure(GOOD))
    assert plan.name.startswith("teacher-good-s0-")
    key = plan.key
    monkeypatch.setattr("pipeline.training.train_plan.source_digest", lambda network: "another")
    assert plan_teacher(configure(GOOD)).key != key


@pytest.mark.parametrize(
    ("kernel", "stride"), [((1, 3, 3), (1, 2, 2)), ((1, 3, 3), 1), ((3, 1, 1), 1)]
)
def test_depthwise_filters_of_the_example_are_those_of_torch(kernel, stride):
    padding = tuple(size // 2 for size in kernel)
    ours, theirs = (
        kind(6, 6, kernel, stride, padding, groups=6, bias=False) for kind in (Depthwise, nn.Conv3d)
    )
    theirs.load_state_dict(ours.state_dict())
    maps = torch.randn(2, 6, 5, 9, 8)
    torch.testing.assert_close(ours(maps), theirs(maps))
