"""Take the pictures of MLflow's pages for the documentation, from the runs of the demo.

    NODE_PATH=build/browser/node_modules PYTHONPATH=. python tests/browser/screenshot.py \
        --tracking-uri sqlite:////home/me/dvflnet/mlflow.db --experiment demo --folder docs
"""

import argparse
from pathlib import Path

from tests.browser.mlflow_pages import Page, runs_page, visit
from tests.loopback import free_port
from tests.mlflow_server import find_runs, mlflow_server

SIZE = (1440, 900)
NUM_SCORES = 4  # charts of the view
DISTILLED = "tags.stage = 'train_student' and attributes.run_name LIKE 'dvflnet%'"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking-uri", required=True, help="sqlite:///path of the database")
    parser.add_argument("--experiment", required=True, help="name of the experiment")
    parser.add_argument("--folder", required=True, type=Path, help="for comparison.png and others")
    arguments = parser.parse_args()
    uri, experiment, folder = arguments.tracking_uri, arguments.experiment, arguments.folder
    student = find_runs(uri, experiment, DISTILLED)[0].info
    with mlflow_server(Path(uri.removeprefix("sqlite:///")), free_port()) as ui:
        charts = Page(
            runs_page(ui, uri, experiment, "&viewStateShareKey=students&compareRunsMode=CHART"),
            "Which student is best",
            charts=NUM_SCORES,
            screenshot=str(folder / "comparison.png"),
        )
        picture = f"runs/{student.run_id}/artifacts/val/predictions.png"
        predictions = Page(
            runs_page(ui, uri, experiment).replace("runs", picture),
            "predictions.png",
            pictures=1,
            screenshot=str(folder / "predictions.png"),
        )
        visit([charts, predictions], SIZE)


if __name__ == "__main__":
    main()
