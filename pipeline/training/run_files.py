"""The names of a training run's files."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.storage.files import join_uri


@dataclass(frozen=True)
class CheckpointFiles:
    """URIs of the files of one checkpoint, in its folder."""

    folder: str

    @property
    def weights(self) -> str:
        return join_uri(self.folder, "weights.safetensors")

    @property
    def val_logits(self) -> str:
        return join_uri(self.folder, "val_logits.safetensors")

    @property
    def optimiser(self) -> str:
        return join_uri(self.folder, "optimiser.pt")

    @property
    def record(self) -> str:
        """``checkpoint.json``, which is written last: a folder without it is no checkpoint."""
        return join_uri(self.folder, "checkpoint.json")


@dataclass(frozen=True)
class RunFiles:
    """URIs of the files of a run, in its folder."""

    folder: str

    @property
    def best(self) -> str:
        """Weights of the epoch with the highest top-1 on val."""
        return join_uri(self.folder, "best.safetensors")

    @property
    def last(self) -> str:
        """Weights of the last epoch. The student's scores are theirs: val chose the best epoch."""
        return join_uri(self.folder, "last.safetensors")

    @property
    def result(self) -> str:
        """``result.json``, which is written last: a run without it is unfinished."""
        return join_uri(self.folder, "result.json")

    @property
    def snapshot(self) -> str:
        """Ray Train's record of all reports; the name is Ray's."""
        return join_uri(self.folder, "checkpoint_manager_snapshot.json")

    @property
    def snapshot_copy(self) -> str:
        return join_uri(self.folder, "snapshot.json")

    def checkpoint(self, name: str) -> CheckpointFiles:
        """Return the files of a checkpoint, from its name or from Ray's path without a scheme."""
        return CheckpointFiles(join_uri(self.folder, name.rstrip("/").rpartition("/")[2]))


def checkpoint_name(epoch: int) -> str:
    """Return the folder of the checkpoint that is written after ``epoch`` epochs."""
    return f"epoch_{epoch:04d}"
