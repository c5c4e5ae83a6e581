"""Index a data set: annotations and videos become manifest.parquet, every video probed once.

python jobs/index_videos.py configs/demo.yaml
ray job submit --working-dir . -- python jobs/index_videos.py configs/ucf101.yaml
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__, "pipeline.stages.index:run_index_videos", plan="pipeline.stages.index:plan_index"
    )
