"""Forecasting: predict the last `horizon` positions of a window from those before, by the protocol of Informer.

ETTh1, ETTh2 (hourly), ETTm1 (quarter-hourly), Weather and ECL; Zhou et al. 2021, arXiv:2012.07436. As in the loader of
the S4 repository (src/dataloaders/et.py), which follows Informer2020's: splits of 12, 4 and 4 months of 30 days, or of
70, 10 and 20 % of the rows; standardisation by the training part; every window with stride 1; the context of validation
and test windows reaches into the split before. T rows, L context, H horizon, C columns.
"""

import csv
import gzip
import io
import itertools
import lzma
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import download
from data.datamodule import TaskData, check_choice, check_integer
from data.download import Archive
from data.loader import Examples
from data.prepared import DataError, save_arrays
from data.source import Source
from lra.task import Batch, TaskSpec

ETT = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
# sizes of month, day, weekday, hour (1 to 12 and 1 to 31 as they are) and quarter of an hour
CALENDAR = (13, 32, 7, 24, 4)
MONTHS = (12, 4, 4)
URL = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small"


@dataclass(frozen=True)
class Series:
    """A file of dated rows.

    file      its name
    target    column of the univariate task, the last one of the multivariate
    minutes   between two rows
    columns   None: any n_columns that include the target
    contexts  horizon -> context of Informer's univariate and multivariate settings (Informer2020, scripts/*.sh)
    archive   where it can be downloaded; None: only by hand
    """

    file: str
    target: str
    minutes: int
    columns: tuple[str, ...] | None
    n_columns: int
    contexts: dict[int, tuple[int, int]]
    archive: Archive | None = None


def ett(name: str, minutes: int, contexts: dict[int, tuple[int, int]], n_bytes: int, *, exact: bool) -> Series:
    archive = Archive(f"{name}.csv", f"{URL}/{name}.csv", n_bytes, 2 * n_bytes, exact=exact)
    return Series(f"{name}.csv", "OT", minutes, ETT, len(ETT), contexts, archive)


HOURLY_1 = {24: (720, 48), 48: (720, 96), 168: (720, 168), 336: (720, 168), 720: (720, 336)}
HOURLY_2 = {24: (48, 48), 48: (96, 96), 168: (336, 336), 336: (336, 336), 720: (336, 720)}
QUARTERS = {24: (96, 672), 48: (96, 96), 96: (384, 384), 288: (384, 672), 672: (384, 672)}
WEATHER = {24: (720, 168), 48: (720, 96), 168: (168, 336), 336: (336, 720), 720: (720, 720)}
SERIES = {
    "etth1": ett("ETTh1", 60, HOURLY_1, 2_589_657, exact=True),
    "etth2": ett("ETTh2", 60, HOURLY_2, 2_417_960, exact=True),
    "ettm1": ett("ETTm1", 15, QUARTERS, 10_360_719, exact=False),
    "weather": Series("WTH.csv", "WetBulbCelsius", 60, None, 12, WEATHER),
    "ecl": Series("ECL.csv", "MT_320", 60, None, 321, {}),
}
BARS = "▁▂▃▄▅▆▇█"
DEFAULT_CONTEXT = 384  # of the S4 repository's configs/dataset


@dataclass(frozen=True)
class Windows(Examples):
    """Every window of a series: window i begins at row i.

    x         (T, C) float32 standardised values
    dates     (T, features) float32 calendar features as whole numbers
    context   positions before the horizon
    dates_known  the horizon has its calendar features too
    """

    dates: Tensor = None  # type: ignore[assignment]
    context: int = 0
    dates_known: bool = False

    def document(self, i: int) -> np.ndarray:
        return self.x[i : i + self.max_len].numpy()

    def lengths(self) -> np.ndarray:
        return np.full(len(self.y), self.max_len)

    def gather(self, index: Tensor, length: int) -> Batch:
        """Windows (B, L + H, C + features); values in the horizon are 0, and so are its dates unless they are known."""
        rows = index[:, None] + torch.arange(self.max_len, device=index.device)
        values, dates = self.x[rows], self.dates[rows]
        y = values[:, self.context :].clone()
        values[:, self.context :] = 0
        if not self.dates_known:
            dates[:, self.context :] = 0
        mask = torch.ones(rows.shape, dtype=torch.bool, device=index.device)
        return Batch(torch.cat([values, dates], -1), mask, y)


class Forecasting(TaskData):
    """A series cut into windows of context and horizon.

    series       etth1, etth2, ettm1, weather or ecl
    features     "uni": the target column alone, "multi": all columns
    horizon      positions to predict; their inputs are zeros
    context      positions before them; None: Informer's for this series and horizon, 384 where it has none
    dates_known  the inputs of the horizon have their calendar features (the S4 repository's default: no)
    """

    name = "series"

    def __init__(
        self,
        *,
        series: str,
        features: str = "uni",
        horizon: int = 24,
        context: int | None = None,
        dates_known: bool = False,
        **common: Any,
    ):
        super().__init__(**common)
        self.series = SERIES[check_choice("series", series, tuple(SERIES))]
        self.name = common.get("name") or f"{series}-{features}-{horizon}"
        self.features = check_choice("features", features, ("uni", "multi"))
        self.horizon = check_integer("horizon", horizon)
        informer = self.series.contexts.get(horizon, (DEFAULT_CONTEXT,) * 2)[features == "multi"]
        self.context = check_integer("context", context) if context is not None else informer
        self.dates_known = dates_known
        self.archive_folder = self.series.file
        calendar = CALENDAR if self.series.minutes < 60 else CALENDAR[:4]
        columns = 1 if features == "uni" else self.series.n_columns
        self.spec = TaskSpec(
            self.name,
            self.context + horizon,
            columns,
            None,
            channels=columns,
            categories=calendar,
            objective="regression",
            horizon=horizon,
        )

    def parameters(self, edition: str) -> dict[str, Any]:
        return {"series": self.series.file} | ({"data_seed": self.data_seed} if edition == "toy" else {})

    def folder(self, edition: str) -> Path:
        # every horizon of a series reads the same arrays
        return self.root / self.series.file.partition(".")[0].lower() / super().folder(edition).name

    def find_files(self, folder: Path) -> Source | None:
        for place in ("", "ett", "ETT-small", "ETDataset/ETT-small", "ETT", "informer"):
            for suffix in ("", ".xz", ".gz"):
                path = folder / place / f"{self.series.file}{suffix}"
                if path.is_file():
                    return self._source(path)
        return None

    def downloaded(self) -> Source:
        archive = self.series.archive
        if archive is None:
            problem = f"source={self.source}: {self.series.file} has no address for programs"
            raise DataError(problem, hint="get it from the links of Informer2020, then data.source=/its/folder")
        alternative = f"give a folder with {archive.file} as data.source or $LRA_MIRROR"

        def write(work: Path) -> dict[str, Any]:
            return self._write(work, download.fetch(archive, self.root / "raw", alternative))

        return Source("official", "official", archive.file, write)

    def _source(self, path: Path) -> Source:
        return Source("official", "official", self.series.file, lambda work: self._write(work, path), files=(path,))

    def _write(self, work: Path, path: Path) -> dict[str, Any]:
        dates, values, names = read_series(path, self.series)
        return save_series(work, dates, values) | {"columns": names}

    def toy(self) -> Source:
        """A daily and a weekly wave with noise, 20 months of 30 days; the columns differ in phase."""

        def write(work: Path) -> dict[str, Any]:
            per_day = 24 * 60 // self.series.minutes
            n, rng = 30 * sum(MONTHS) * per_day, np.random.default_rng(self.data_seed)
            days, phases = np.arange(n)[:, None] / per_day, rng.uniform(0, 1, self.series.n_columns)
            waves = np.sin(2 * np.pi * (days + phases)) + 0.5 * np.sin(2 * np.pi * (days / 7 + phases))
            start, step = datetime(2016, 7, 1), timedelta(minutes=self.series.minutes)
            dates = [start + i * step for i in range(n)]
            return save_series(work, dates, waves + 0.3 * rng.standard_normal(waves.shape)) | {"columns": []}

        return Source("toy", "toy", "waves with noise", write)

    def make_examples(self, arrays: dict[str, np.ndarray]) -> Windows:
        values = arrays["x"][:, -1:] if self.features == "uni" else arrays["x"]
        train = borders(len(values), self.series)[0][1]
        if self.context + self.horizon > train:
            problem = f"context {self.context} and horizon={self.horizon}: longer than the {train} training rows"
            raise DataError(f"{self.name}: {problem}", hint="task.context=96 task.horizon=24")
        mean, deviation = values[:train].mean(0), values[:train].std(0)
        if not deviation.all():
            raise DataError(f"{self.name}: column {int(deviation.argmin())} is constant in the training part")
        n = len(values) - self.spec.max_len + 1
        return Windows(
            x=torch.from_numpy(((values - mean) / deviation).astype(np.float32)),
            y=torch.zeros(n, dtype=torch.int64),
            max_len=self.spec.max_len,
            dates=torch.from_numpy(arrays["dates"].astype(np.float32)[:, : len(self.spec.categories)]),
            context=self.context,
            dates_known=self.dates_known,
        )

    def split(self, parts: dict[str, range], edition: str) -> dict[str, np.ndarray]:
        """First rows of the windows; the context of validation and test windows begins in the split before."""
        cut = borders(len(parts["rows"]), self.series)
        found = {}
        for name, (begin, end) in zip(("train", "val", "test"), cut, strict=True):
            first = begin if name == "train" else begin - self.context
            found[name] = np.arange(max(0, first), end - self.spec.max_len + 1)
            if len(found[name]) == 0:
                problem = f"{self.name}: horizon={self.horizon} is longer than the {end - begin} rows of {name}"
                raise DataError(problem, hint="task.horizon=24")
        return found

    def trivial_score(self, split: str) -> float:
        """The smaller mean squared error of repeating the last value and of the training mean, over all windows."""
        windows, rows = self.opened.examples, self.opened.index[split]
        values = windows.x.double().numpy()
        errors = np.zeros(2)
        for ahead in range(self.horizon):
            target = values[rows + self.context + ahead]
            last = values[rows + self.context - 1]
            errors += [np.square(target - last).mean(), np.square(target).mean()]
        return float(errors.min()) / self.horizon

    def text(self, row: int) -> str:
        """The target column of a window as a line of bars: the end of the context | the horizon."""
        line = self.opened.examples.document(row)[-4 * self.horizon :, -1]
        low, high = line.min(), line.max()
        heights = ((line - low) / max(high - low, 1e-9) * (len(BARS) - 1)).round().astype(int)
        bars = "".join(BARS[h] for h in heights)
        return f"{bars[: -self.horizon]} | {bars[-self.horizon :]}"

    def statistics(self) -> dict[str, str]:
        windows = self.opened.examples
        return {
            "rows": str(len(windows.x)),
            "context and horizon": f"{self.context} + {self.horizon}",
            "trivial MSE, test": f"{self.trivial_score('test'):.4f}",
        }


def borders(n_rows: int, series: Series) -> list[tuple[int, int]]:
    """[begin, end) of the rows of train, val and test."""
    if series.columns == ETT:
        per_month = 30 * 24 * 60 // series.minutes
        ends = np.cumsum([0, *(m * per_month for m in MONTHS)]).tolist()
    else:
        train, test = int(n_rows * 0.7), int(n_rows * 0.2)
        ends = [0, train, n_rows - test, n_rows]
    if ends[-1] > n_rows:
        raise DataError(f"{series.file}: {n_rows} rows, the splits need {ends[-1]}", hint="get the file again")
    return list(itertools.pairwise(ends))


def save_series(work: Path, dates: list[datetime], values: np.ndarray) -> dict[str, Any]:
    calendar = [(d.month, d.day, d.weekday(), d.hour, d.minute // 15) for d in dates]
    save_arrays(work, x=values.astype(np.float64), dates=np.array(calendar, np.uint8))
    return {"parts": {"rows": (0, len(values))}}


def read_series(path: Path, series: Series) -> tuple[list[datetime], np.ndarray, list[str]]:
    """Dates, values (T, C) with the target last, and column names of a CSV file, which may be compressed.

    raises  DataError naming the line for another column, a gap or a value that is not a number
    """
    openers: dict[str, Any] = {".xz": lzma.open, ".gz": gzip.open}
    hint = "get the file again"
    try:
        with openers.get(path.suffix, open)(path, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable CSV file ({error})", hint=hint) from None
    lines = csv.reader(io.StringIO(text))
    header = next(lines, [])
    names = header[1:]
    fits = tuple(names) == series.columns if series.columns else len(names) == series.n_columns
    if header[:1] != ["date"] or series.target not in names or not fits:
        expected = ", ".join(series.columns or (f"{series.n_columns - 1} columns", series.target))
        problem = f"{path}: columns are {', '.join(header) or 'missing'}; expected date, {expected}"
        raise DataError(problem, hint=hint)
    step = timedelta(minutes=series.minutes)
    dates: list[datetime] = []
    rows: list[list[float]] = []
    for number, line in enumerate(lines, 2):
        try:
            date = datetime.fromisoformat(line[0])
            row = [float(value) for value in line[1:]]
        except (ValueError, IndexError) as error:
            raise DataError(f"{path}: line {number}: {error}", hint=hint) from None
        if len(row) != len(names) or not np.isfinite(row).all():
            raise DataError(f"{path}: line {number}: {len(row)} finite values are expected", hint=hint)
        if dates and date - dates[-1] != step:
            problem = f"{path}: line {number}: {date} follows {dates[-1]}, expected {series.minutes} minutes later"
            raise DataError(problem, hint=hint)
        dates.append(date)
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no rows", hint=hint)
    order = [i for i, name in enumerate(names) if name != series.target] + [names.index(series.target)]
    if series.columns:
        order = list(range(len(names)))
    return dates, np.array(rows)[:, order], [names[i] for i in order]
