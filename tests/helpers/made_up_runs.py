"""Made-up runs of scale paper with every way to end, and their table."""

from helpers.records import replace, scored
from lra.paths import ROOT
from lra.records.published import TASKS, load_published
from lra.records.record import Data, Record, Selection
from lra.records.store import load
from lra.tables.comparison import scale_table
from lra.tables.formats import Table

GOLDEN = ROOT / "tests" / "golden"
BASE = load(GOLDEN / "record.json")
PUBLISHED = load_published(ROOT / "results" / "published")
CHANCE = {"listops": 0.175, "text": 0.5, "retrieval": 0.5, "image": 0.1, "pathfinder": 0.5, "pathx": 0.5}


def ran(model: str, task: str, correct: int | None, *, seed: int = 0, n: int = 1000, **changes: object) -> Record:
    """A run of `model` with `correct` of n test examples right; None if it never reached the test."""
    score = {"test_score": None, "test_totals": None} if correct is None else scored(correct, n)
    data = Data(kind="official", fingerprint=task, counts={"test": n}, trivial=CHANCE.get(task, 0.5))
    fields = {"model": model, "title": model.upper(), "task": task, "seed": seed, "data": data, "scale": "paper"}
    return replace(BASE, **{**fields, **score, **changes})


def grid(model: str, *scores: int, seeds: int = 1) -> list[Record]:
    """Runs on the first tasks; each further seed has one more right answer."""
    cell = zip(TASKS, scores, strict=False)
    return [ran(model, task, score + seed, seed=seed) for task, score in cell for seed in range(seeds)]


def row_of(table: Table, label: str) -> dict[str, str]:
    row = next(row for row in table.rows if row[0].text == label)
    return {name: str(e) for name, e in zip(table.header, row, strict=True)}


def paper(records: list[Record]) -> Table:
    return scale_table(records, PUBLISHED, "paper")


ZOO = [
    *grid("s4", 590, 860, 900, 880, 940, 960, seeds=3),
    *grid("s4d", 595, 850, 890, 881, 930, 500),
    *grid("transformer", 360, 640, 570, 420),
    ran("performer", "listops", 175),
    ran("performer", "text", None, status="diverged", reason="loss became NaN at step 812", steps_done=812),
    ran("performer", "image", None, status="oom", reason="needed 9.4 GiB"),
    ran("performer", "retrieval", None, status="interrupted", reason="stopped by SIGTERM", steps_done=5),
    ran("newcomer", "listops", 400, recipe=None, selection=Selection(rule="best", on_test=True)),
    ran("s4", "listops", 580, variant=["model.mixer.dt_min=0.1"]),
    ran("s4", "speech", 950),
]
