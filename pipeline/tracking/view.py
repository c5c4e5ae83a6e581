"""A view of an experiment that answers which student is best, and what its teacher could do.

MLflow's page of runs starts with the newest run and no score. The view has the students alone, the
best first, with the columns and charts that matter. It is stored as the Share button of that page
does it, in a tag of the experiment, and a link names it.
"""

from __future__ import annotations

import json
from typing import Any

KEY = "students"
TAG = f"mlflow.sharedViewState.{KEY}"
PAGE = f"runs?viewStateShareKey={KEY}&compareRunsMode=CHART&workflowType=machine_learning"
SCORES = ("last/top1", "last/nll", "last/ece", "teacher/top1")
SECTION = "scores"


def students_view() -> str:
    """Return the tag's value, JSON as MLflow 3 reads it; charts of other metrics follow by name."""
    first, *_ = columns = [f"metrics.`{name}`" for name in SCORES]
    section = {"uuid": SECTION, "name": "Which student is best", "display": True}
    return json.dumps(
        {
            "searchFilter": "tags.stage = 'train_student'",
            "orderByKey": first,
            "orderByAsc": False,
            "selectedColumns": [*columns, "params.`loss.distill_weight`"],
            "compareRunSections": [section | {"isReordered": True, "deleted": False}],
            "compareRunCharts": [_bars(name) for name in SCORES],
            "isAccordionReordered": True,  # the section stays in front of those that MLflow makes
        }
    )


def _bars(metric: str) -> dict[str, Any]:
    chart = {"type": "BAR", "uuid": metric, "metricSectionId": SECTION, "metricKey": metric}
    return chart | {"deleted": False, "isGenerated": False, "runsCountToCompare": 10}
