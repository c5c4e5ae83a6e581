"""Write one HTML page about an experiment: data, teacher, store, students, mistakes, lineage.

    make report CONFIG=configs/demo.yaml
    python jobs/report.py configs/demo.yaml

The page holds its pictures and needs no network. The videos must be indexed; any other part that is
missing is named on the page. MLflow keeps it as an artifact.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(__doc__, "pipeline.stages.report:run_report")
