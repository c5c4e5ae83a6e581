"""Take the picture of the comparison for the documentation.

    NODE_PATH=build/browser/node_modules PYTHONPATH=. python tests/browser/screenshot.py \
        --tracking-uri sqlite:////home/me/dvflnet/mlflow.db --experiment demo \
        --out docs/comparison.png
"""

import argparse
from pathlib import Path

from mlflow_pages import Page, charts_page, free_port, mlflow_server, visit

SIZE = (1360, 1000)
NUM_CHARTS = 6  # the sections best and val


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tracking-uri", required=True, help="sqlite:///path of the database")
    parser.add_argument("--experiment", required=True, help="name of the experiment")
    parser.add_argument("--out", required=True, help="PNG to write")
    arguments = parser.parse_args()
    database = Path(arguments.tracking_uri.removeprefix("sqlite:///"))
    with mlflow_server(database, free_port()) as ui:
        url = charts_page(ui, arguments.tracking_uri, arguments.experiment)
        shown = ["best/top1", "val/top1"]
        # Sections open and close with a click; the first one is open.
        page = Page(url, shown, NUM_CHARTS, clicks=["val"], screenshot=arguments.out)
        visit([page], SIZE)
    print(f"{arguments.out}: {Path(arguments.out).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
