"""Audit: checks records, table cells and files against each other.

The arithmetic does not use `lra.tables.aggregate`, so that an error there is found.
"""

import csv
import io
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lra.io.strict_json import check, decode, read_text
from lra.records.published import TASKS
from lra.records.record import MOVED, Git, Record, renamed

# tables show percentages with four decimals
TOLERANCE = 6e-5
KINDS = ("official", "generated", "subset", "toy")


def audit_records(records: Sequence[Record], commit_is_known: Callable[[str], bool]) -> Iterator[str]:
    """Problems within records, and between records that belong together."""
    known = {c: commit_is_known(c) for c in {r.git.commit for r in records} if c is not None}
    for r in records:
        name = name_of(r)
        yield from (f"{name}: {problem}" for problem in audit_git(r.git, known.__getitem__))
        if r.status == "ok" and r.steps_done < r.steps_total:
            yield f"{name}: ok after {r.steps_done} of {r.steps_total} steps"
        n = None if r.test_totals is None else r.test_totals["examples"]
        if n is not None and n != r.data.counts.get("test", n):
            yield f"{name}: tested on {n} examples of {r.data.counts['test']}"
        if (seed := r.config.get("seed", r.seed)) != r.seed:
            yield f"{name}: the config's seed is {seed}"
        if r.code and r.train_seconds and r.total_seconds and r.train_seconds > r.total_seconds:
            yield f"{name}: train_seconds {r.train_seconds:g} exceed total_seconds {r.total_seconds:g}"
        for word in (r.model, r.task.partition("-")[0]):
            if word not in r.command:
                yield f"{name}: the command does not name {word}: {r.command}"
    yield from _audit_seeds(records)
    yield from _audit_data(records)


def audit_git(git: Git, commit_is_known: Callable[[str], bool]) -> Iterator[str]:
    """Reasons why a reader cannot see the code behind a number."""
    if git.commit is None:
        yield "made outside a repository, no commit"
    elif not commit_is_known(git.commit):
        yield f"commit {git.commit[:10]} is not in this repository"
    if git.dirty:
        yield f"made with uncommitted changes on {(git.commit or 'no commit')[:10]}"


def audit_benchmarks(folder: Path, commit_is_known: Callable[[str], bool]) -> Iterator[tuple[Path, str]]:
    """(file, problem) of benchmark files."""
    for path in sorted(Path(folder).glob("*.json")):
        try:
            content = decode(read_text(path))
            git = check(content.get("git") if isinstance(content, dict) else None, Git, "git")
        except ValueError as error:
            yield path, str(error).removeprefix(f"{path}: ")
            continue
        yield from ((path, problem) for problem in audit_git(git, commit_is_known))


def name_of(r: Record) -> str:
    return str(r.path(Path()))


def _audit_seeds(records: Iterable[Record]) -> Iterator[str]:
    """Seeds of one table cell share config, recipe, number of parameters and of steps."""
    groups = defaultdict(list)
    for r in records:
        groups[r.scale, r.model, r.task, tuple(r.variant), r.data.kind, r.data.fingerprint].append(r)
    for first, *others in groups.values():
        for r in others:
            config, known = renamed(r.config, MOVED), renamed(first.config, MOVED)
            different = sorted(k for k in {*config, *known} - {"seed"} if config.get(k) != known.get(k))
            if different:
                yield f"{name_of(r)}: config differs from seed {first.seed}'s in {', '.join(different)}"
            if first.code and r.code and r.code.model != first.code.model:
                yield f"{name_of(r)}: made with other code of the model than seed {first.seed}"
            for field in ("recipe", "parameters", "steps_total"):
                if getattr(r, field) != getattr(first, field):
                    yield f"{name_of(r)}: {field} is {getattr(r, field)}, seed {first.seed}'s {getattr(first, field)}"


def _audit_data(records: Iterable[Record]) -> Iterator[str]:
    """One fingerprint means one data set: the same kind, counts and trivial score everywhere."""
    seen: dict[tuple[str, str], Record] = {}
    for r in records:
        first = seen.setdefault((r.task, r.data.fingerprint), r)
        if first.data != r.data:
            different = f"data {r.data.fingerprint} has other counts, kind or trivial score"
            yield f"{name_of(r)}: {different} than in {name_of(first)}"


def audit_csv(text: str, records: Sequence[Record], where: str) -> Iterator[str]:
    """Recompute every measured line of a table's CSV from the records; every record must be in a line."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for r in records:
        key: tuple[str, ...] = (r.scale, r.model, " ".join(r.variant), r.task, r.data.kind, r.data.fingerprint)
        groups[key].append(r)
    scales = set()
    for line in csv.DictReader(io.StringIO(text)):
        scales.add(line["scale"])
        if line["task"] == "average":
            row = [line[name] for name in ("scale", "model", "variant")]
            expected_mean = average([r for r in records if [r.scale, r.model, " ".join(r.variant)] == row])
            if not agrees(line["mean"], expected_mean):
                shown = "none" if expected_mean is None else f"{expected_mean:.4f}"
                yield f"{where}: {line['model']}: average is {line['mean']}, the records give {shown}"
        elif line["runs"]:
            key = tuple(line[k] for k in ("scale", "model", "variant", "task", "kind", "fingerprint"))
            place, runs = f"{where}: {line['model']} on {line['task']}", groups.pop(key, [])
            yield from (f"{place}: {problem}" for problem in _audit_line(line, runs))
    for key in groups:
        if key[0] in scales:
            yield f"{where}: {key[1]} on {key[3]} has {len(groups[key])} records and no line"


# metric -> its value from the totals of a test, written down a second time
METRICS: dict[str, Callable[[dict[str, float]], float]] = {
    "accuracy": lambda totals: 100 * totals["correct"] / totals["examples"],
    "mse": lambda totals: totals["squared"] / totals["examples"],
    "mae": lambda totals: totals["absolute"] / totals["examples"],
    "perplexity": lambda totals: math.exp(totals["nats"] / totals["tokens"]),
    "bits": lambda totals: totals["nats"] / totals["tokens"] / math.log(2),
}


def audit_other_csv(text: str, records: Sequence[Record], where: str) -> Iterator[str]:
    """Recompute the measured lines of a table with several metrics from the records of scale paper."""
    for line in csv.DictReader(io.StringIO(text)):
        if not line["model"]:
            continue
        place = f"{where}: {line['model']} on {line['task']}, {line['metric']}"
        if line["metric"] not in METRICS:
            yield f"{place}: the audit cannot recompute this metric"
            continue
        runs = [
            r
            for r in records
            if (r.scale, r.model, r.task, " ".join(r.variant))
            == ("paper", line["model"], line["task"], line["variant"])
            and (r.data.kind, r.data.fingerprint) == (line["kind"], line["fingerprint"])
        ]
        if str(len(runs)) != line["runs"]:
            yield f"{place}: {line['runs']} runs, there are {len(runs)} records"
        values = [METRICS[line["metric"]](r.test_totals) for r in runs if r.status == "ok" and r.test_totals]
        if line["metric"] == "accuracy":
            learned = [r for r in runs if r.status == "ok" and r.test_totals and recomputed([r])["learned"]]
            values = [METRICS["accuracy"](r.test_totals or {}) for r in learned]
        mean = statistics.fmean(values) if values else None
        if (line["mean"] == "") != (mean is None) or (mean is not None and abs(float(line["mean"]) - mean) > TOLERANCE):
            yield f"{place}: mean is {line['mean'] or 'empty'}, the records give {mean}"


def _audit_line(line: dict[str, str], runs: Sequence[Record]) -> Iterator[str]:
    if not runs:
        yield "no record"
        return
    for field, expected in recomputed(runs).items():
        if not agrees(line[field], expected):
            yield f"{field} is {line[field] or 'empty'}, the records give {expected}"
    signs = {"untuned": any(r.recipe is None for r in runs), "on_test": any(r.selection.on_test for r in runs)}
    for field, sign in signs.items():
        if line[field] != str(sign).lower():
            yield f"{field} is {line[field]}, the records give {str(sign).lower()}"


def average(runs: Sequence[Record]) -> float | None:
    """Percent over the six tasks, each on its best data; every seed counts, a failed one as chance."""
    means = []
    for task in TASKS:
        sets: dict[tuple[int, str], list[Record]] = defaultdict(list)
        for r in runs:
            if r.task == task:
                sets[KINDS.index(r.data.kind), r.data.fingerprint].append(r)
        if not sets:
            return None
        cell = recomputed(min(sets.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1]))[1])
        tried, learned = cell["tried"] or 0, cell["learned"] or 0
        if not tried:
            return None
        means.append(((cell["mean"] or 0) * learned + (cell["chance"] or 0) * (tried - learned)) / tried)
    return statistics.fmean(means)


def counts_of(r: Record) -> tuple[int, int] | None:
    """Correct answers and examples of a test."""
    return None if r.test_totals is None else (int(r.test_totals["correct"]), int(r.test_totals["examples"]))


def recomputed(runs: Sequence[Record]) -> dict[str, float | None]:
    """Counts, mean, deviation and interval (percent) of one table cell."""
    from scipy.stats import binomtest

    ended = [r for r in runs if r.status in ("ok", "diverged", "oom")]
    learned = []
    for r in ended:
        if r.status == "ok" and (counts := counts_of(r)):
            p = binomtest(*counts, r.data.trivial, alternative="greater").pvalue
            learned += [100 * counts[0] / counts[1]] if p < 0.001 else []
    low, high = interval(learned, runs)
    return {
        "runs": len(runs),
        "tried": len(ended),
        "learned": len(learned),
        "unfinished": len(runs) - len(ended),
        "mean": statistics.fmean(learned) if learned else None,
        "std": statistics.stdev(learned) if len(learned) > 1 else None,
        "chance": 100 * runs[0].data.trivial,
        "ci95_low": low,
        "ci95_high": high,
    }


def interval(learned: Sequence[float], runs: Sequence[Record]) -> tuple[float | None, float | None]:
    """95 % interval in percent: Student's t over the seeds that learned; exact binomial for a single seed."""
    from scipy.stats import binomtest, t

    if len(learned) > 1:
        centre, error = statistics.fmean(learned), statistics.stdev(learned) / len(learned) ** 0.5
        half = float(t.ppf(0.975, len(learned) - 1)) * error
        return centre - half, centre + half
    for r in runs:
        if (counts := counts_of(r)) and [100 * counts[0] / counts[1]] == learned:
            exact = binomtest(*counts).proportion_ci(0.95, method="exact")
            return 100 * exact.low, 100 * exact.high
    return None, None


def agrees(text: str, expected: float | None) -> bool:
    """Whether a table shows this number, or nothing for None."""
    if expected is None or not text:
        return expected is None and not text
    return abs(float(text) - expected) <= TOLERANCE


def audit_files(folder: Path, expected: dict[str, str]) -> Iterator[str]:
    """Files that are missing, out of date, or unexpected. expected: file name -> content."""
    for name, text in expected.items():
        path = folder / name
        if not path.exists():
            yield f"{path}: missing; hint: make tables"
        elif path.read_text(encoding="utf-8") != text:
            yield f"{path}: differs from the records; hint: make tables"
    for path in sorted(folder.glob("*")):
        if path.name not in expected:
            yield f"{path}: belongs to no record; hint: delete it"
