"""The S4 paper's tables of other tasks than LRA's.

Speech (5), pixel-level images (6, 12), density of images (7), language (8) and forecasting (9, 13, 14).
Published rows with our runs of scale paper below; models without a published row follow. A table of few columns has a
row for each model; one of many settings is turned, with a column for each model.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lra.objectives import significance
from lra.objectives.objective import Metric, objective_of
from lra.records.published import Published, Quantity
from lra.records.record import Record
from lra.tables import comparison
from lra.tables.aggregate import RowKey, SeedGroup, best_of, mean_of, seed_groups
from lra.tables.formats import Entry, Table

SERIES = {
    "etth1": ("ETTh1", (24, 48, 168, 336, 720)),
    "etth2": ("ETTh2", (24, 48, 168, 336, 720)),
    "ettm1": ("ETTm1", (24, 48, 96, 288, 672)),
    "weather": ("Weather", (24, 48, 168, 336, 720)),
    "ecl": ("ECL", (48, 168, 336, 720, 960)),
}


@dataclass(frozen=True)
class Setting:
    """A task in a table. published: how the paper's columns begin; MSE and MAE follow where there are two metrics."""

    title: str
    task: str
    published: str


@dataclass(frozen=True)
class OtherTable:
    """A printed table: title, the words with which results/published/s4_tables.csv names it, settings, our models.

    models   printed row -> our model
    turned   settings are rows
    printed  how many of the objective's metrics are shown; None: all
    """

    title: str
    source: str
    objective: str
    settings: tuple[Setting, ...]
    models: Mapping[str, str]
    turned: bool = False
    scale: str = "paper"
    printed: int | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return objective_of(self.objective).metrics[: self.printed]


def forecasts(features: str, column: str, longest: bool = False) -> tuple[Setting, ...]:
    chosen = ((task, title, horizons[-1:] if longest else horizons) for task, (title, horizons) in SERIES.items())
    return tuple(
        Setting(f"{title}, {horizon}", f"{task}-{features}-{horizon}", column.format(title, horizon))
        for task, title, horizons in chosen
        for horizon in horizons
    )


OTHER_TABLES = {
    "s4_table5": OtherTable(
        "S4 paper, Table 5, ten words of Speech Commands: test accuracy in percent",
        "Table 5",
        "classification",
        (
            Setting("MFCC", "sc10-mfcc", "MFCC (length 161)"),
            Setting("raw", "sc10-raw", "raw (length 16000)"),
            Setting("0.5x", "sc10-raw-0.5x", "raw at 0.5x sampling rate, no retraining"),
        ),
        {"Transformer": "transformer", "Performer": "performer", "WaveGAN-D": "wavegan_d", "LSSL": "lssl", "S4": "s4"},
    ),
    "s4_table6": OtherTable(
        "S4 paper, Tables 6 and 12, pixel-level images: test accuracy in percent",
        "Table 6",
        "classification",
        (
            Setting("sMNIST", "smnist", "sMNIST"),
            Setting("pMNIST", "pmnist", "pMNIST"),
            Setting("sCIFAR", "scifar", "sCIFAR (colour)"),
        ),
        {"Transformer": "transformer", "LSTM": "lstm", "LSSL": "lssl", "S4": "s4"},
    ),
    "s4_table7": OtherTable(
        "S4 paper, Table 7, density of CIFAR-10: test bits per dimension",
        "Table 7",
        "density",
        (Setting("CIFAR-10", "cifar_density", "test bits per dimension"),),
        {"Transformer": "transformer", "Linear Transformer": "linear_transformer", "S4 (base)": "s4_unet"},
    ),
    "s4_table8": OtherTable(
        "S4 paper, Table 8, WikiText-103: test perplexity of words",
        "Table 8",
        "language",
        (Setting("WikiText-103", "wikitext103", "test perplexity"),),
        {"Transformer": "transformer", "S4": "s4"},
        printed=1,
    ),
    "s4_table9": OtherTable(
        "S4 paper, Table 9, forecasts of one column at the longest horizon: test MSE / MAE",
        "Table 9",
        "regression",
        forecasts("uni", "{0} {1}", longest=True),
        {"S4": "s4"},
        turned=True,
    ),
    "s4_table13": OtherTable(
        "S4 paper, Table 13, forecasts of one column: test MSE / MAE",
        "Table 13",
        "regression",
        forecasts("uni", "{0} horizon {1}"),
        {"S4": "s4"},
        turned=True,
    ),
    "s4_table14": OtherTable(
        "S4 paper, Table 14, forecasts of all columns: test MSE / MAE",
        "Table 14",
        "regression",
        forecasts("multi", "{0} horizon {1}"),
        {"S4": "s4"},
        turned=True,
    ),
}
TASKS_OF_OTHERS = frozenset(setting.task for table in OTHER_TABLES.values() for setting in table.settings)


def further_tables(records: Sequence[Record], scale: str) -> dict[str, OtherTable]:
    """A table for each objective with records of a scale that are in no other table: own tasks, small scales."""
    found: dict[str, dict[str, Setting]] = {}
    for r in sorted(records, key=lambda r: r.task):
        if r.scale == scale and r.objective != "classification" and (scale != "paper" or r.task not in TASKS_OF_OTHERS):
            found.setdefault(r.objective, {})[r.task] = Setting(r.task, r.task, r.task)
    return {
        f"{scale}_{name}": OtherTable(
            f"{name.capitalize()}, scale {scale}: test {' / '.join(m.title for m in objective_of(name).metrics)}",
            "none",
            name,
            tuple(settings.values()),
            {},
            scale=scale,
        )
        for name, settings in found.items()
    }


def other_table(name: str, records: Sequence[Record], published: Published, table: OtherTable | None = None) -> Table:
    """One of OTHER_TABLES, or another one."""
    table = table or OTHER_TABLES[name]
    metrics = table.metrics
    tasks = {setting.task for setting in table.settings}
    used = [r for r in records if r.task in tasks and r.scale == table.scale]
    groups = seed_groups(used)
    lines = list(_lines(table, groups, published, metrics))
    trivial = [_trivial(groups, setting.task, metrics[0]) for setting in table.settings]
    lines.append(
        (Entry(f"{'Commonest label' if table.objective == 'classification' else 'Trivial'}", published=True), trivial)
    )
    if table.turned:
        header = ("Series, horizon", *(label.text for label, _ in lines))
        body = [
            (Entry(setting.title), *(entries[i] for _, entries in lines)) for i, setting in enumerate(table.settings)
        ]
    else:
        header = ("Model", *(setting.title for setting in table.settings))
        body = [(label, *entries) for label, entries in lines]
    return Table(name, table.title, header, tuple(body), (*_notes(table, used), *comparison.sign_notes(body)))


def _lines(
    table: OtherTable, groups: Mapping[RowKey, dict[str, SeedGroup]], published: Published, metrics: Sequence[Metric]
) -> Iterator[tuple[Entry, list[Entry]]]:
    """(label, an entry for each setting) of each published and measured model."""
    printed = [q for q in published.quantities if q.table.startswith(f"{table.source} ")]
    best: dict[tuple[RowKey, str], bool] = {}
    for setting in table.settings:
        rivals = {k: tasks[setting.task] for k, tasks in groups.items() if setting.task in tasks and not k.variant}
        first, like_first = best_of(rivals)
        best |= {(key, setting.task): key in first for key in first | like_first}

    def ours(model: str, label: str) -> Iterator[tuple[Entry, list[Entry]]]:
        for key, tasks in groups.items():
            if key.model == model:
                more = f" with {' '.join(key.variant)}" if key.variant else ""
                entries = [
                    _measured(tasks.get(s.task), metrics, bold=best.get((key, s.task), False)) for s in table.settings
                ]
                yield Entry(label + more + (" (other data)" if key.data_set else "")), entries

    for row in dict.fromkeys(q.row for q in printed):
        values = {q.column: q for q in printed if q.row == row}
        yield (
            Entry(f"{row} (paper)", published=True),
            [_published(setting, values, metrics) for setting in table.settings],
        )
        if row in table.models:
            yield from ours(table.models[row], f"↳ here: {row}" if not table.turned else f"{row} here")
    for model in dict.fromkeys(key.model for key in groups if key.model not in table.models.values()):
        yield from ours(model, f"{published.model(model).title} here")


def _published(setting: Setting, values: Mapping[str, Quantity], metrics: Sequence[Metric]) -> Entry:
    names = [setting.published] if len(metrics) == 1 else [f"{setting.published} {m.title}" for m in metrics]
    found = [values.get(name) for name in names]
    if not any(found):
        return comparison.hole(published=True)
    doubt = "" if all(q.verified for q in found if q) else comparison.UNVERIFIED
    text = " / ".join(
        comparison.HOLE if q is None else f"{q.value:.{m.decimals}f}" for q, m in zip(found, metrics, strict=True)
    )
    return Entry(text + doubt, published=True, signs=(doubt,) if doubt else ())


def _measured(group: SeedGroup | None, metrics: Sequence[Metric], *, bold: bool) -> Entry:
    if group is None:
        return comparison.hole()
    if group.objective.hides_failures or not group.scores:
        return replace(comparison.seeds_entry(group), bold=bold)
    marks = comparison.signs(group.tried)
    texts = []
    for metric in metrics:
        values = [group.objective.scores(r.test_totals)[metric.name] for r in group.scored if r.test_totals]
        spread = significance.deviation(values)
        texts.append(metric.text(mean_of(values) or 0.0) + (f" ± {metric.text(spread)}" if spread is not None else ""))
    failed = comparison.TRIVIAL if not group.learned else ""
    used = (*marks, failed) if failed else tuple(marks)
    return Entry(" / ".join(texts) + "".join(used), f"({len(group.scores)})", bold=bold, signs=used)


def _trivial(groups: Mapping[RowKey, dict[str, SeedGroup]], task: str, metric: Metric) -> Entry:
    found = [tasks[task].data.trivial for tasks in groups.values() if task in tasks]
    return Entry(metric.text(found[0]), published=True) if found else comparison.hole(published=True)


def _notes(table: OtherTable, used: Sequence[Record]) -> list[str]:
    if not used:
        task = table.settings[0].task.split("-")[0]
        return [f"Nothing measured here yet: make beyond; one: python scripts/train.py task={task} model=s4"]
    objective = objective_of(table.objective)
    notes = [f"here: mean ± sample standard deviation over seeds (their number); trivial: {objective.trivial_answer}"]
    notes.append("Hardware: " + comparison.tally(comparison.machine(r.hardware) for r in used))
    notes.append("Commit: " + comparison.tally(comparison.commit_name(r.git) for r in used))
    return notes


def other_csv_lines(name: str, records: Sequence[Record], published: Published) -> Iterator[dict[str, object]]:
    """A line for each setting, metric and model, published or measured at scale paper."""
    table = OTHER_TABLES[name]
    metrics = table.metrics
    groups = seed_groups(r for r in records if r.scale == "paper")
    printed = {(q.row, q.column): q for q in published.quantities if q.table.startswith(f"{table.source} ")}
    for setting, metric in itertools.product(table.settings, metrics):
        column = setting.published if len(metrics) == 1 else f"{setting.published} {metric.title}"
        start = {"table": name, "task": setting.task, "metric": metric.name}
        for row in dict.fromkeys(row for row, _ in printed):
            if (quantity := printed.get((row, column))) is not None:
                verified = str(quantity.verified).lower()
                yield {**start, "row": row, "published": quantity.value, "verified": verified}
        for key, tasks in groups.items():
            if (group := tasks.get(setting.task)) is not None:
                values = [group.objective.scores(r.test_totals)[metric.name] for r in group.scored if r.test_totals]
                scale = 100 if metric.percent else 1
                mean, spread = mean_of(values), significance.deviation(values)
                yield {
                    **start,
                    "model": key.model,
                    "variant": " ".join(key.variant),
                    "kind": group.data.kind,
                    "fingerprint": group.data.fingerprint,
                    "runs": len(group.runs),
                    "learned": len(group.learned),
                    "mean": "" if mean is None else f"{scale * mean:.6f}",
                    "std": "" if spread is None else f"{scale * spread:.6f}",
                    "trivial": f"{scale * group.data.trivial:.6f}" if metric is metrics[0] else "",
                }
