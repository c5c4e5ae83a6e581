"""Many students from one cache: loss kind x temperature x distill_weight x seed, without a teacher.

    python jobs/sweep.py configs/demo.yaml
    python jobs/sweep.py configs/demo.yaml sweep.temperatures=[1,2,5] sweep.seeds=[0,1,2]
    python jobs/sweep.py configs/demo.yaml sweep.kinds=[forward_kl,dkd,dist]
    ray job submit --working-dir . -- python jobs/sweep.py configs/demo.yaml

Kill it when you like; the same command trains only the students that are missing.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.sweep:run_sweep",
        plan="pipeline.training.sweep:plan_sweep",
        needs=["manifest", "store"],
    )
