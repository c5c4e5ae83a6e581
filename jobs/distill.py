"""Distil a network for your own videos, in one command.

    python jobs/distill.py videos/ --out run/
    python jobs/distill.py videos/ --out run/ --teacher weights.safetensors
    python jobs/distill.py videos/ --out run/ --unlabelled videos/more/
    python jobs/distill.py run/experiment.yaml

``videos/`` holds a folder for each class. The first form writes run/experiment.yaml and runs it:
index, frames, teacher, cache, doctor, VFL-Net, DVFL-Net, evaluation, export, report. The same
command again does only what is missing, or what an edit of that file changes.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.distill:run_distill",
        plan="pipeline.stages.distill:DistillPlan",
        find_experiment="pipeline.stages.first_experiment:find_experiment",
        options={
            "--out": {"metavar": "FOLDER", "help": "for the experiment of a folder of videos"},
            "--unlabelled": {"metavar": "FOLDER", "help": "more videos, inside the others' folder"},
            "--preset": {"choices": ["small", "paper"], "help": "settings (chosen by the machine)"},
            "--teacher": {"metavar": "URI", "help": "a teacher's weights (one is trained here)"},
        },
    )
