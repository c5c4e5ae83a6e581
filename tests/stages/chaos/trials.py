"""Real jobs that are disturbed, and what must hold afterwards."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from pipeline.errors import StoreIncomplete
from pipeline.logits.store import open_store
from pipeline.networks.weight_files import read_weights
from pipeline.storage.files import read_json
from pipeline.storage.sealed.store import finished_units, fragment_name

ROOT = Path(__file__).parents[3]
FAULTS = Path(__file__).parent / "faults"
JOB_SECONDS = 600  # before a job that does not end counts as hung
MARK = "TRIAL"  # environment variable that all processes of a trial carry

FORWARD = "pipeline.stages.cache_steps:TeacherActor.__call__"
TRAIN_STEP = "pipeline.training.step:Training.step"
# The exported model takes half a minute, and comes when everything is decided.
NO_EXPORT = {"at": "pipeline.results.training_run:_log_model", "do": "skip"}


@dataclass(frozen=True)
class Step:
    """A named step at which a job can be stopped; see ``faults/sitecustomize.py``."""

    name: str
    at: str
    side: str = "before"
    nth: int = 1
    when: str = ""


@dataclass
class Trial:
    """One experiment, in a folder of its own, whose jobs are disturbed.

    ``words`` are overrides of the experiment in ``path``; ``counted`` is the function whose calls
    tell how much was done twice.
    """

    job_name: str
    path: Path
    folder: Path
    words: Sequence[str]
    counted: str
    clock_seconds: float = 0.0  # by which the clock of its jobs is off
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def watch(self, *stops: Step) -> "Watch":
        """Say what the processes of a job count, where they stand still and how late it is."""
        name = uuid.uuid4().hex
        count = self.folder / f"calls-{name}"
        stop_files = [self.folder / f"stop-{name}-{place}" for place in range(len(stops))]
        clock = {"at": "time:time", "do": "add", "value": self.clock_seconds}
        faults = [{"at": self.counted, "do": "count", "file": str(count)}, NO_EXPORT, clock]
        for stop, file in zip(stops, stop_files, strict=True):
            faults.append({**asdict(stop), "do": "stop", "file": str(file)})
        paths = [str(FAULTS), str(ROOT), os.environ.get("PYTHONPATH", "")]
        env = {
            "FAULTS": json.dumps(faults),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "RAY_worker_niceness": "0",  # Ray's 15 starves workers while other tests run
            MARK: self.mark,
        }
        return Watch(env, count, stop_files)

    def start(self, watch: "Watch", *words: str) -> "Job":
        """Start the job in a process group of its own, as a user would."""
        log = self.folder / f"log-{time.monotonic_ns()}.txt"
        job = [sys.executable, str(ROOT / "jobs" / f"{self.job_name}.py"), str(self.path)]
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [*job, *self.words, *words],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | watch.env,
                start_new_session=True,
            )
        return Job(self, process, log, watch)

    def stop_at(self, step: Step, *words: str) -> "Job":
        """Start the job and wait until it stands still at a step."""
        job = self.start(self.watch(step), *words)
        assert job.stands_still(), job.output
        return job

    def finish(self, *words: str) -> "Job":
        """Run the job to its end; it must succeed."""
        job = self.start(self.watch(), *words)
        assert job.wait() == 0, job.output
        return job

    @property
    def database(self) -> Path:
        return self.folder / "mlflow.db"

    @property
    def store(self) -> str:
        return str(self.folder / "artefacts" / "store")

    def fragments(self) -> dict[int, tuple[int, int]]:
        """Inode and modification time of every unit in the journal."""
        found = {}
        for unit in finished_units(self.store):
            seen = os.stat(f"{self.store}/{fragment_name(unit)}")
            found[unit] = (seen.st_ino, seen.st_mtime_ns)
        return found

    def processes(self) -> list[psutil.Process]:
        """Return what is alive of this trial's jobs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != "zombie":
                    found.append(process)
        return found

    def wait_until_nothing_lives(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while alive := self.processes():
            assert time.monotonic() < deadline, [process.cmdline() for process in alive]
            time.sleep(0.2)


@dataclass(frozen=True)
class Watch:
    """Environment of a job under test, and the files that its processes write because of it."""

    env: dict[str, str]
    count: Path
    stop_files: Sequence[Path]


@dataclass
class Job:
    """A job that runs, or has run."""

    trial: Trial
    process: subprocess.Popen[bytes]
    log: Path
    watch: Watch

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def num_calls(self) -> int:
        """Calls of the counted function, in all processes."""
        count = self.watch.count
        return len(count.read_text().splitlines()) if count.exists() else 0

    def wait(self, seconds: float = JOB_SECONDS) -> int:
        return self.process.wait(seconds)

    def stands_still(self, stop: int = 0) -> bool:
        """Wait until a process stands still at a step; no, if the job ended before."""
        deadline = time.monotonic() + JOB_SECONDS
        while not self.watch.stop_files[stop].exists():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        return True

    def stopped_process(self, stop: int = 0) -> psutil.Process:
        """Return the process that stands still."""
        return psutil.Process(int(self.watch.stop_files[stop].read_text()))

    def go_on(self, stop: int = 0) -> None:
        """Let the process that stands still go on."""
        self.watch.stop_files[stop].unlink()

    def kill(self) -> None:
        """End the job and all its processes by SIGKILL, as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.trial.wait_until_nothing_lives()


class Reader(threading.Thread):
    """Opens and verifies a store again and again, and notes what it saw."""

    def __init__(self, root: str) -> None:
        super().__init__(daemon=True)
        self.digests: set[str] = set()
        self.errors: list[Exception] = []
        self.num_looks = 0
        self._root, self._ended = root, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.2):
            self.num_looks += 1
            try:
                store = open_store(self._root)
                store.verify()
                self.digests.add(store.root_digest)
            except StoreIncomplete:
                pass
            except Exception as error:
                self.errors.append(error)

    def __enter__(self) -> "Reader":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


@contextmanager
def reading(root: str, digest: str) -> Iterator[Reader]:
    """Read a store all the while; every reading finds the whole store or none."""
    with Reader(root) as reader:
        yield reader
    assert not reader.errors
    assert reader.digests <= {digest}
    assert reader.num_looks


def check_tracked_once(database: Path, num_runs: int = 1) -> None:
    """Check that MLflow has so many runs, that they ended, and that no curve has a step twice."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        runs = connection.execute("SELECT status FROM runs").fetchall()
        doubled = connection.execute(
            "SELECT key, step FROM metrics WHERE key NOT LIKE 'best/%' AND step > 0 "
            "GROUP BY run_uuid, key, step HAVING count(*) > 1"
        ).fetchall()
    connection.close()
    assert runs == [("FINISHED",)] * num_runs
    assert not doubled


def last_weights(folder: Path) -> str:
    """Return the digest of the weights that a training run ended with."""
    run = next((folder / "artefacts" / "runs").iterdir())
    read_json(str(run / "result.json"))
    return str(read_weights(str(run / "last.safetensors")).metadata["digest"])


def new_folder(folder: Path, manifest: Path, empty_database: Path) -> Path:
    """Make the folder of a trial: an index and a database without runs."""
    (folder / "artefacts").mkdir(parents=True)
    shutil.copy(manifest, folder / "artefacts" / "manifest.parquet")
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder
