"""Made-up runs of scale mini for the page: seeds, failures, an untabled model, examples and kernels."""

import numpy as np

from helpers import made_up_runs
from helpers.records import replace
from lra.records.pictures import grey, signed
from lra.records.published import TASKS
from lra.records.record import Data, Example, Kernel, Point, Record, config_hash

DOTS = np.array([[0, 255]], np.uint8)


def ran(model: str, task: str, accuracy: float, seed: int = 0, **changes: object) -> Record:
    config = {"seed": seed, "model": {"d_model": 64}}
    fields = {
        "scale": "mini",
        "title": model,
        "config": config,
        "config_hash": config_hash(config),
        "data": Data(kind="generated", fingerprint=task, counts={"train": 100, "val": 10, "test": 1000}, trivial=0.1),
        "parameters": 1000 + len(model),
        "steps_per_second": 10 + accuracy,
        "peak_memory_mib": 500.0,
        "total_seconds": 60.0,
        "curve": [Point(step=s, train_loss=3 / s, val_score=accuracy * s / 100) for s in range(5, 101, 5)],
    }
    return made_up_runs.ran(model, task, round(1000 * accuracy), seed=seed, **{**fields, **changes})


def kernel(**changes: object) -> Kernel:
    line = [0.5, -1.0, 0.25, 0.0]
    values = {"before": [line, line], "after": [line, [1.0, 1.0, 1.0, 1.0]]}
    return Kernel(**{"layer": 0, "feature": 5, "length": 100, "starts": [0, 1, 2, 9], **values, **changes})


def failed(record: Record, status: str, reason: str) -> Record:
    return replace(record, status=status, reason=reason, test_score=None, test_totals=None)


EXAMPLES = [Example(label=1, predicted=0, text="<b>"), Example(label=1, predicted=1, picture=grey(DOTS))]
KERNELS = [kernel(), kernel(layer=2, picture_before=signed(DOTS - 100.0), picture_after=signed(DOTS * 1.0))]
ZOO = [
    *(ran("s4", task, 0.8 + seed / 100, seed) for task in TASKS for seed in range(3)),
    *(ran("transformer", task, 0.5) for task in TASKS),
    ran("lstm", "listops", 0.1),
    failed(ran("performer", "image", 0.1), "diverged", "loss became NaN at step 812"),
    ran("newcomer", "text", 0.6, examples=EXAMPLES, kernels=KERNELS),
]


def forecast(model: str, error: float, **changes: object) -> Record:
    """A run of scale paper on ETTh1 with this mean squared error; the trivial forecast has 1."""
    totals = {
        "squared": 100 * error,
        "absolute": 50.0,
        "squares": 100 * error**2,
        "independent": 100.0,
        "examples": 100,
    }
    fields = {
        "objective": "regression",
        "test_score": error,
        "test_totals": totals,
        "val_score": error,
        "data": Data(kind="official", fingerprint="etth1", counts={"test": 100}, trivial=1.0),
        "curve": [Point(step=s, train_loss=3 / s, val_score=error + 1 / s) for s in (1, 10, 100)],
    }
    return made_up_runs.ran(model, "etth1-uni-24", None, **{**fields, **changes})
