"""Read, digest and plan a manifest: seconds and memory.

    python -m benchmarks.manifest [--num-videos 1000000]

The manifest is made up, in another process, so that the memory is that of reading it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from benchmarks.section import options, print_section, say
from pipeline.dataset.manifest import VideoRecord, build_manifest, read_manifest, write_manifest
from pipeline.logits.spec import StoreSpec, plan_units
from pipeline.results.costs import memory_bytes

NUM_CLASSES = 400
CLASS_NAMES = tuple(f"class {number:03d}" for number in range(NUM_CLASSES))
T = TypeVar("T")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--num-videos", type=int, default=1_000_000)
    parser.add_argument("--write", type=Path, help="write the manifest there, and measure nothing")
    arguments = parser.parse_args()
    if arguments.write is not None:
        write(arguments.num_videos, arguments.write)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        say(f"{arguments.num_videos:,} made-up videos")
        words = ["--num-videos", str(arguments.num_videos), "--write", str(path)]
        subprocess.run([sys.executable, "-m", "benchmarks.manifest", *words], check=True)
        rows = list[tuple[object, ...]]()

        def timed(name: str, work: Callable[[], T]) -> T:
            started = time.process_time()
            result = work()
            seconds = time.process_time() - started
            rows.append((name, seconds, memory_bytes("VmHWM") / 2**30))
            return result

        manifest = timed("read", lambda: read_manifest(str(path)))
    timed("digest", lambda: manifest.digest)
    timed("plan units", lambda: plan_units(spec_of(arguments.num_videos), manifest.records))
    timed("rows of splits", lambda: [manifest.rows_of(split) for split in ("train", "val")])
    total = sum(float(str(row[1])) for row in rows)
    print_section(
        f"A manifest of {arguments.num_videos:,} videos",
        ("step", "s of one core", "peak GiB so far"),
        rows,
        f"{total:.1f} s in all, {NUM_CLASSES} classes, 8 views, units of 64 clips.",
    )


def write(num_videos: int, path: Path) -> None:
    records = [
        VideoRecord(
            sample_id=f"class {number % NUM_CLASSES:03d}/video_{number:07d}",
            uri=f"class {number % NUM_CLASSES:03d}/video_{number:07d}.mp4",
            label=number % NUM_CLASSES,
            split="train" if number % 12 else "val",
            group=f"g{number // 5}",
            num_frames=300,
            width=340,
            height=256,
            frame_rate=29.97,
            codec="h264",
            num_bytes=123_456 + number,
            sha256=f"{number:064x}",
            skippable=True,
        )
        for number in range(num_videos)
    ]
    write_manifest(build_manifest("made up", CLASS_NAMES, records), str(path), root="/videos")


def spec_of(num_videos: int) -> StoreSpec:
    return StoreSpec(
        identity={},
        class_names=CLASS_NAMES,
        num_rows=num_videos,
        num_frames=8,
        view_indices=(*range(8), -1),
        format="zarr",
        clips_per_unit=64,
        units_per_shard=128,
    )


if __name__ == "__main__":
    main()
