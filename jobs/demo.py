"""The whole product on one machine, in order: this file is the list of its commands.

    make demo
    python jobs/demo.py configs/demo.yaml

Writes a small set of real videos, indexes them, trains a teacher, caches its logits for every view,
and trains the same student twice: VFL-Net from labels, DVFL-Net from labels and the cache. All
stages share one private Ray. Run it again: what is done stays done.
"""

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def demo(config: ExperimentConfig, ray_address: str) -> None:
    from pipeline.dataset.generated.videos import generate_dataset
    from pipeline.results.figures import compare_results
    from pipeline.results.page.page import write_report
    from pipeline.stages.cache import plan_cache, run_cache_teacher
    from pipeline.stages.cluster import ray_session, required_cpus
    from pipeline.stages.index import plan_index, run_index_videos
    from pipeline.stages.train import run_training
    from pipeline.training.plan import plan_student, plan_teacher

    cluster = config.cluster
    num_cpus = max(required_cpus(cluster.num_decoders, cluster.num_teachers), cluster.num_workers)
    say("1/6  videos")
    generate_dataset(config.dataset)
    with ray_session(config, ray_address, num_cpus=num_cpus):
        say("2/6  index")
        run_index_videos(plan_index(config), ray_address)
        say("3/6  teacher, from labels")
        teacher = run_training(plan_teacher(config), ray_address)
        say("4/6  cache: the teacher's logits for every view")
        run_cache_teacher(plan_cache(config), ray_address)
        say("5/6  VFL-Net: the student from labels alone")
        vflnet = run_training(plan_student(config.baseline), ray_address)
        say("6/6  DVFL-Net: the same student, from labels and the cache")
        dvflnet = run_training(plan_student(config), ray_address)
    print(compare_results(teacher, vflnet, dvflnet))
    print(f"One page about all of it: {write_report(config)}")


def say(title: str) -> None:
    print(f"\n=== {title}", flush=True)


if __name__ == "__main__":
    run_job(__doc__, demo)
