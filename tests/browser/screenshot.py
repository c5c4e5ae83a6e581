"""Take the picture of the comparison for the documentation.

    NODE_PATH=build/browser/node_modules PYTHONPATH=. python tests/browser/screenshot.py \
        --tracking-uri sqlite:////home/me/dvflnet/mlflow.db --experiment demo \
        --out docs/comparison.png
"""

import argparse
from pathlib import Path

from tests.browser.mlflow_pages import NUM_SCORES, SCORES, Page, charts_page, visit
from tests.loopback import free_port
from tests.mlflow_server import mlflow_server

SIZE = (1360, 1130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking-uri", required=True, help="sqlite:///path of the database")
    parser.add_argument("--experiment", required=True, help="name of the experiment")
    parser.add_argument("--out", required=True, help="PNG to write")
    arguments = parser.parse_args()
    database = Path(arguments.tracking_uri.removeprefix("sqlite:///"))
    with mlflow_server(database, free_port()) as ui:
        url = charts_page(ui, arguments.tracking_uri, arguments.experiment)
        page = Page(url, "best/", search=SCORES, charts=NUM_SCORES, screenshot=arguments.out)
        visit([page], SIZE)


if __name__ == "__main__":
    main()
