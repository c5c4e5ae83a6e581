"""The Ray that a stage runs on: the submitted job's cluster, a named one, or a private one."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.learning import ModelConfig
from pipeline.errors import ClusterUnavailable, ConfigError, PipelineError
from pipeline.storage.files import is_local
from pipeline.storage.locks import JOB_VARIABLE
from pipeline.tracking.progress import Progress
from pipeline.tracking.server import database_file

LOCAL = "local"
CPU_SHARE = 0.5  # of a decoder or a teacher actor, see required_cpus

SUBMITTED_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it in the driver of a submitted job

CONNECT_SECONDS = 10  # to a cluster that is named
PATIENCE_SECONDS = 3.0  # before a line says that a busy cluster is waited for
START_ATTEMPTS = 2  # of a private Ray; a busy machine may need longer than the 30 s of one

# Read by Ray when it is imported or started, so they are set before that.
RAY_SETTINGS = {
    "RAY_AUTH_MODE": "token",  # what Ray does by default, but without a warning
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a report is safe only once it was polled
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # lower levels are for Ray's developers
}
# Stages report through the driver; what else workers print stays in Ray's log files.
QUIET: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
# Ray Train asks the dashboard about its actors when it ends. A private Ray has none, and looking
# for it takes 12 s; an address that refuses at once takes none. Its token is in memory alone: Ray
# would put one into the home folder, which a container's user may not be able to write to.
PRIVATE_SETTINGS = {
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


def inside_ray_job() -> bool:
    """Whether this process was started by ``ray job submit``."""
    return SUBMITTED_JOB in os.environ


@contextmanager
def ray_session(
    config: ExperimentConfig, address: str, *, num_cpus: float, num_networks: int = 0
) -> Iterator[None]:
    """Connect to Ray for one stage.

    ``address`` is ``local`` for a private Ray that ends with the stage, or a cluster's address.
    Inside a submitted job its cluster is taken whatever this says. ``num_cpus`` are the logical
    CPUs that the stage needs at once, and ``num_networks`` its actors that take a GPU each with
    ``cluster.use_gpu``. A private Ray offers those CPUs; a cluster's are waited for.

    Raises:
        ConfigError: if the cluster is too small, or lacks the GPUs.
        ClusterUnavailable: if there is no cluster at the address, a private Ray does not start, or
            others use the cluster for longer than ``cluster.wait_seconds``.
    """
    private = address == LOCAL and not inside_ray_job()
    with _environment(RAY_SETTINGS | (PRIVATE_SETTINGS if private else {})):
        import ray

        if ray.is_initialized():  # the demo runs all its stages on one
            _wait_until_free(config, num_cpus, num_networks)
            yield
            return
        on_sigterm = signal.getsignal(signal.SIGTERM)
        if private:
            _start(config, num_cpus)
        else:
            _connect(None if inside_ray_job() else address)
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set one that exits with code 15
        try:
            _wait_until_free(config, num_cpus, num_networks)
            yield
        finally:
            ray.shutdown()


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set the variables that the user has not set, for this session alone.

    A variable that is left behind would mislead what runs next. ``ray job submit``, for example,
    would look for its server at the address in ``PRIVATE_SETTINGS``.
    """
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def least(size: int | Literal["auto"]) -> int:
    """Return the actors without which a pool does not start."""
    return 1 if size == "auto" else size


def required_cpus(
    num_decoders: int | Literal["auto"], num_teachers: int | Literal["auto"]
) -> float:
    """Return the logical CPUs that a streaming stage starts with.

    Actors take half a CPU each, so that a decoder and a teacher share a small machine. Half a CPU
    stays free for tasks: a Ray Data pipeline whose actors hold every CPU hangs.
    """
    return CPU_SHARE * (least(num_decoders) + least(num_teachers)) + 0.5


def check_uris_survive(config: ExperimentConfig) -> None:
    """Refuse artefacts inside the folder of a submitted job, which Ray throws away."""
    if not inside_ray_job():
        return
    database = database_file(config.tracking_uri) or config.tracking_uri
    for uri in (config.artefacts, config.frames_uri, config.store_uri, str(database)):
        if is_local(uri) and uri.startswith(os.getcwd() + os.sep):
            raise ConfigError(
                f"{uri} lies in the folder of this Ray job, which is deleted with it.\n"
                "  Set artefacts to an absolute path, to ~/... or to an s3:// URI."
            )


def underlying_error(error: BaseException) -> PipelineError | None:
    """Return the ``PipelineError`` that a task or actor raised, out of Ray's wrapping."""
    seen: BaseException | None = error
    before: list[BaseException] = []  # causes may form a circle
    while seen is not None and seen not in before:
        before.append(seen)
        # Ray's wrapping is also an instance of the class it wraps, with a traceback as its text.
        inside: BaseException | None = getattr(seen, "cause", None)
        if isinstance(seen, PipelineError) and inside is None:
            return seen
        seen = inside or seen.__cause__
    return None


def _start(config: ExperimentConfig, num_cpus: float) -> None:
    """Start a private Ray; its processes inherit our environment, and with it the job's id."""
    import ray

    if not Progress.hidden:
        print("starting Ray ...", flush=True)
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                address=LOCAL,
                num_cpus=max(int(num_cpus) + 1, os.cpu_count() or 1),
                object_store_memory=config.cluster.object_store_bytes,
                include_dashboard=False,
                **QUIET,
            )
            return
        except Exception as error:  # Ray has no narrower type for a start that takes over 30 s
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise ClusterUnavailable(
                    f"Ray did not start on this machine, in {attempt} attempts: {error}"
                ) from error


def _connect(address: str | None) -> None:
    import ray

    try:
        _reach(address)
        ray.init(address=address, runtime_env={"env_vars": _job_id()}, **QUIET)
    except (OSError, RuntimeError) as error:
        raise ClusterUnavailable(f"there is no Ray cluster at {address}: {error}") from error


def _job_id() -> dict[str, str]:
    """Return the variable with the job's id, for workers that do not inherit our environment."""
    # A variable that the submitted job's own runtime_env sets must not be given twice.
    if JOB_VARIABLE in os.environ.get(SUBMITTED_JOB, ""):
        return {}
    return {name: os.environ[name] for name in (JOB_VARIABLE,) if name in os.environ}


def _reach(address: str | None) -> None:
    """Fail at once where no server listens; Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and "://" not in host:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


def check_importable(*models: ModelConfig) -> None:
    """Refuse a cluster on which a node lacks the module of a foreign network.

    Raises:
        ConfigError: naming the nodes.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = sorted({model.network for model in models if model.foreign})
    if not names:
        return
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    look = ray.remote(num_cpus=0)(_import_error)
    tasks = [
        (nodes[node], look.options(scheduling_strategy=strategy).remote(name))
        for node in nodes
        for strategy in [NodeAffinitySchedulingStrategy(node, soft=False)]
        for name in names
    ]
    found = [f"node {host}: {error}" for host, task in tasks if (error := ray.get(task))]
    if found:
        remedy = "ray job submit --working-dir carries a module to all nodes"
        raise ConfigError("\n  ".join([*found, remedy]))


def _import_error(network: str) -> str:
    from pipeline.networks.foreign import find_builder

    try:
        find_builder(network)
    except ConfigError as error:
        return str(error)
    return ""


def _wait_until_free(config: ExperimentConfig, num_cpus: float, num_networks: int) -> None:
    """Refuse a cluster that is too small, and wait for what others use; Ray would hang."""
    import ray

    wanted = {"CPU": num_cpus, "GPU": num_networks * config.cluster.use_gpu}
    if lacking := _lacking(wanted, ray.cluster_resources()):
        raise ConfigError(
            f"the cluster has {lacking} that this stage needs at once.\n  Lower "
            "cluster.num_decoders, num_teachers or num_workers, or set cluster.use_gpu=false."
        )
    seconds, started, said = config.cluster.wait_seconds, time.monotonic(), False
    while lacking := _lacking(wanted, ray.available_resources()):
        waited = time.monotonic() - started
        if waited > seconds:
            raise ClusterUnavailable(
                f"others use the cluster: {lacking} are free, after {seconds:g} s "
                "(cluster.wait_seconds).\n  Run the same command again."
            )
        if waited > PATIENCE_SECONDS and not said:
            print(f"others use the cluster: {lacking} are free, waiting {seconds:g} s", flush=True)
            said = True
        time.sleep(0.5)


def _lacking(wanted: Mapping[str, float], there: Mapping[str, float]) -> str:
    return " and ".join(
        f"{there.get(name, 0.0):g} of {number:g} {name}s"
        for name, number in wanted.items()
        if there.get(name, 0.0) < number
    )


def for_this_machine(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config for networks in this process: on the CPU if the machine has no GPU."""
    import torch

    if not config.cluster.use_gpu or torch.cuda.is_available():
        return config
    print("there is no GPU on this machine: networks run on its CPU", flush=True)
    cluster = config.cluster.model_copy(update={"use_gpu": False})
    return config.model_copy(update={"cluster": cluster})
