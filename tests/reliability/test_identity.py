"""Identity of a run: code and data that decide a result are part of what checkpoints, records and tables say it is."""

import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import time

import pytest
import wandb

from data import listops, pathfinder, prepared, retrieval
from data.prepared import DataError
from data.verify import verify
from helpers.made_up_runs import PUBLISHED, ran, row_of
from helpers.official_folders import official_listops, official_pathfinder, official_retrieval, ready
from helpers.tiny_run import StopsAt, losses, train
from helpers.wandb_server import wandb_server
from lra import paths, tracking
from lra.config.compose import cell_of, composed
from lra.launch import job
from lra.launch.grid import STOPPED, GridJob
from lra.launch.lock import has_result, same_data
from lra.paths import ROOT
from lra.records.audit import audit_records
from lra.records.code import changes, code_files, code_fingerprint
from lra.records.record import Code, Record, config_hash
from lra.records.store import load
from lra.tables.comparison import scale_table
from lra.tables.formats import Table
from lra.training.config import Hardware
from lra.training.learner import Learner
from scripts import wandb_pull


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of the source of which fingerprints are taken."""
    for name in ("lra", "models", "data"):
        ignored = shutil.ignore_patterns("__pycache__", "prepared", "raw")
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=ignored)
    monkeypatch.setattr(paths, "ROOT", tmp_path / "checkout")
    return tmp_path / "checkout"


def config_of(*words: str) -> dict:
    return cell_of(**composed(["task=listops", *words])).config


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("models/s4.py", '"""', '"""Another docstring. ', set()),
        ("models/s4.py", "import torch\n", "import torch  # a comment\n\n\n", set()),
        ("models/s4.py", "import torch\n", "import torch\n\nSOMETHING = 2\n", {"model"}),
        ("models/s5.py", "import torch\n", "import torch\n\nSOMETHING = 2\n", set()),
        ("data/listops.py", "SHORTEST = 500", "SHORTEST = 501", {"model"}),
        ("data/download.py", "import", "X = 1\nimport", set()),
        ("lra/nn/blocks.py", "from torch import", "import math\nfrom torch import", {"framework"}),
        ("lra/training/learner.py", "import torch\n", "import torch\n\nSOMETHING = 2\n", {"framework"}),
        ("lra/training/progress_bar.py", "import", "X = 1\nimport", set()),
        ("lra/ops/csrc/cauchy.cpp", "#include", "// a comment\n\n  #include", set()),
        ("lra/ops/csrc/cauchy.cpp", "#include", "#define X 1\n#include", {"framework"}),
    ],
)
def test_only_code_that_counts_changes_the_fingerprint(file, old, new, changed, checkout):
    config = config_of("model=s4")
    before = code_fingerprint(config)
    edit(checkout / file, old, new)
    now = code_fingerprint(config)
    assert {part for part in ("model", "framework") if getattr(before, part) != getattr(now, part)} == changed


def test_changed_files_are_named(checkout):
    config = config_of("model=transformer")
    before = code_files(config)
    assert changes(before, code_files(config)) is None
    edit(checkout / "models/transformer.py", "from torch import", "import math\nfrom torch import")
    assert changes(before, code_files(config)) == "model code (models/transformer.py)"
    edit(checkout / "lra/nn/heads.py", "from torch import", "import math\nfrom torch import")
    assert changes(before, code_files(config)).endswith(" and framework code (lra/nn/heads.py)")


def test_model_outside_of_the_project_counts_with_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_model.py").write_text("from my_parts import Part\nimport numpy\n\n\nclass Mine: pass\n")
    (tmp_path / "my_parts.py").write_text("class Part:\n    width = 1\n")
    config = {"task": {}, "model": {"_target_": "my_model.Mine"}}
    files = code_files(config)
    assert set(files["model"]) == {"my_model", "my_parts"}
    (tmp_path / "my_parts.py").write_text("class Part:\n    width = 22\n")
    assert changes(files, code_files(config)) == "model code (my_parts)"
    assert "my_model" not in sys.modules
    # nothing follows into a library, and a class that is gone has a fingerprint too
    assert set(code_files({"task": {}, "model": {"_target_": "numpy.ndarray"}})["model"]) == {"numpy"}
    assert code_files({"task": {}, "model": {"_target_": "gone.Model"}})["model"] == {"gone": "missing"}


def test_fingerprint_takes_little_time():
    config, start = config_of("model=s4"), time.perf_counter()
    assert isinstance(code_fingerprint(config), Code)
    assert time.perf_counter() - start < 0.5
    assert load(ROOT / "tests/golden/record.json").code is None


MODEL = """
from torch import nn


class Mine(nn.Module):
    def __init__(self, d_model, max_len):
        super().__init__()
        self.linear = nn.Linear(d_model, d_model)

    def forward(self, x, mask):
        return self.linear(x)
"""
CONFIG = "defaults: [_transformer, _self_]\nmixer: {_partial_: true, _target_: my_model.Mine}\n"


class Command:
    """scripts/train.py in this process, for a model of the user's own."""

    def __init__(self, place, monkeypatch, capsys):
        self.place, self.monkeypatch, self.capsys = place, monkeypatch, capsys
        shutil.copytree(paths.CONFIGS, place / "configs")
        monkeypatch.setattr(paths, "CONFIGS", place / "configs")
        monkeypatch.syspath_prepend(place)
        (place / "configs/model/mine.yaml").write_text(CONFIG)
        self.write_model(MODEL)

    def write_model(self, text: str) -> None:
        sys.modules.pop("my_model", None)
        (self.place / "my_model.py").write_text(text)

    def words(self, *more: str) -> list[str]:
        folders = [f"results={self.place}/results", f"runs={self.place}/runs", f"data.root={self.place}/data"]
        words = ["task=listops", "model=mine", "scale=smoke", "training.steps=8", "training.validations=4"]
        given = {word.split("=")[0] for word in more}
        words += [word for word in ("data.source=toy", "wandb.mode=disabled") if word.split("=")[0] not in given]
        return [*words, "trainer.accelerator=cpu", *folders, *more]

    def __call__(self, *more: str, stop_at: int = 0) -> tuple[int, str]:
        """Status and output; SIGTERM is sent in step `stop_at`."""
        step = Learner.training_step

        def training_step(learner, batch, i):
            step(learner, batch, i)
            if learner.trainer.global_step == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        known = composed(self.words(*more))
        with self.monkeypatch.context() as patch:
            patch.setattr(Learner, "training_step", training_step)
            try:
                status = 0 if has_result(**known) else job.one(**known)
            except SystemExit as stop:
                status = stop.code
        captured = self.capsys.readouterr()
        return status, " ".join((captured.out + captured.err).split())

    def record(self) -> Record:
        (path,) = (self.place / "results").rglob("*.json")
        return load(path)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    return Command(tmp_path, monkeypatch, capsys)


OTHER_MODEL = MODEL.replace("self.linear(x)", "2 * self.linear(x)")


def test_changed_model_is_not_resumed_silently(command):
    assert command(stop_at=5)[0] == STOPPED
    command.write_model(MODEL.replace("class Mine", "# a comment\nclass Mine"))
    assert command(stop_at=6)[0] == STOPPED
    before = command.record()
    command.write_model(OTHER_MODEL)
    status, printed = command()
    assert status == 2
    assert "begun with other model code (my_model); hint: force=true" in printed
    assert "resume=anyway" in printed
    assert command.record() == before
    assert command("resume=anyway")[0] == 0
    record = command.record()
    assert "resumed at step 6 with other model code (my_model)" in record.notes
    assert record.variant == before.variant
    assert record.code == code_fingerprint(record.config)
    assert record.total_seconds >= before.total_seconds + 0.01


def test_force_starts_over(command):
    assert command(stop_at=5)[0] == STOPPED
    command.write_model(OTHER_MODEL)
    assert command("force=true")[0] == 0
    forced = command.record()
    shutil.rmtree(command.place / "runs")
    assert command("force=true")[0] == 0
    assert losses(forced) == losses(command.record())
    assert not any("resumed" in note for note in forced.notes)


def test_run_is_not_resumed_with_other_data(command):
    assert command("data.source=generated", stop_at=5)[0] == STOPPED
    for more in ((), ("resume=anyway",)):
        status, printed = command(*more)
        assert status == 2
        assert re.search(
            r"begun with generated data \w{12}, this command has toy data \w{12}; hint: force=true", printed
        )
    assert command("data.source=generated")[0] == 0
    assert command.record().data.kind == "generated"


def test_times_add_up_over_restarts(tmp_path):
    StopsAt.at, StopsAt.seen = 17, 0
    slow = Hardware(accelerator="cpu", checkpoint_seconds=0.0)
    before = train(tmp_path, mixer=StopsAt, hardware=slow)
    record = train(tmp_path)
    assert record.total_seconds > before.total_seconds
    assert record.total_seconds >= record.train_seconds > before.train_seconds > 0


def test_resumed_run_continues_its_wandb_run(command, monkeypatch):
    # what a stand-in of the service has received, as the real client sent it
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(command.place))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    words = ["wandb.mode=online", "wandb.histograms=true", "wandb.artifacts=true", "wandb.tags=[night]"]
    words.append("training.steps=52")  # the training loss is logged every 50
    with wandb_server() as service:
        monkeypatch.setenv("WANDB_BASE_URL", service.url)
        wandb.teardown()
        status, printed = command(*words, stop_at=30)
        assert status == STOPPED
        assert "W&B:" not in printed
        (run,) = service.runs.values()
        assert json.loads(run.files["record.json"])["status"] == "interrupted"
        before = len(run.history)
        status, printed = command(*words)
        monkeypatch.setattr(sys, "argv", ["wandb_pull.py", "me/lra", "--results", str(command.place / "pulled")])
        pulled = wandb_pull.main()
        wandb.teardown()
    assert (status, pulled, service.unknown) == (0, 0, [])
    assert "W&B:" not in printed
    record = command.record()
    # one run, whose steps continue
    (name,) = service.runs
    assert record.wandb == f"{service.url}/me/lra/runs/{name}"
    assert run.exit == 0
    assert len(run.history) > before > 0
    steps = [row["step"] for row in run.history]
    assert steps == sorted(steps)
    assert [row["_step"] for row in run.history] == list(range(len(steps)))
    names = {key for row in run.history for key in row if not key.startswith("_")}
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/best", "lr", "examples"} <= names
    assert any(key.startswith("gradients/encoder.blocks.0") for key in names)
    best = [row["val/best"] for row in run.history if "val/best" in row]
    assert best == sorted(best)
    curve = {point.step: point for point in record.curve}
    sent = {row["step"]: row["val/loss"] for row in run.history if "val/loss" in row}
    assert sent == pytest.approx({step: point.val_loss for step, point in curve.items() if step in sent})
    assert len(sent) == 4
    summary = {key: run.summary[key] for key in tracking.summary_of(record)}
    assert summary == tracking.summary_of(record)
    assert run.files["record.json"].decode() == record.text()
    (copy,) = (command.place / "pulled").rglob("*.json")
    assert copy.read_text() == record.text()
    assert run.config["config"]["value"] == record.config
    assert run.config["data_fingerprint"]["value"] == record.data.fingerprint
    assert run.fields["groupName"] == "smoke/listops/mine [training.steps=52 training.validations=4]"
    assert run.fields["tags"] == ["listops", "mine", "smoke", "toy", "night"]
    (weights,) = (content for name, content in service.artifacts.items() if service.types[name] == "model")
    (file,) = (command.place / "runs").rglob("model.safetensors")
    assert not file.with_name("wandb-id").exists()
    assert weights["model.safetensors"] == file.read_bytes()
    table = next(content for name, content in service.artifacts.items() if name.endswith("examples"))
    assert len(json.loads(table["examples.table.json"])["data"]) == len(record.examples)


def test_result_on_other_data_does_not_count_as_finished(command):
    assert command("data.source=generated")[0] == 0
    status, printed = command("data.source=generated")
    assert status == 0
    assert "exists (test accuracy" in printed
    status, printed = command("data.source=toy")
    assert status == 2
    assert "made with generated data" in printed
    assert "this command has toy data" in printed
    assert "hint: results=/some/dir keeps both, force=true replaces it" in printed
    status, printed = command("data.source=/no/such/folder")
    assert status == 2
    assert "no such folder" in printed
    assert command.record().data.kind == "generated"


def test_substitute_gives_way_to_better_data(command):
    assert command("data.source=toy")[0] == 0
    assert "exists" in command("data.source=toy")[1]
    cell = GridJob("mine", "listops", 0, "smoke", command.place / "results", tuple(command.words()[3:]))
    assert cell.done
    better = dataclasses.replace(cell, overrides=tuple(command.words("data.source=auto")[3:]))
    assert better.record() is not None
    assert not better.done
    status, printed = command("data.source=auto")
    assert status == 0
    assert printed.count("made with toy data; trains again on generated data") == 1
    assert command.record().data.kind == "generated"
    assert better.done


def test_finished_cell_of_changed_code_says_so(command):
    assert command()[0] == 0
    assert "other code" not in command()[1]
    command.write_model(OTHER_MODEL)
    status, printed = command()
    assert status == 0
    assert re.search(
        r"exists \(test accuracy .*\); made with other code of the model; force=true runs it again", printed
    )


@pytest.mark.parametrize(
    ("kind", "source", "real", "same"),
    [
        ("official", "auto", False, True),
        ("official", "toy", False, False),
        ("generated", "auto", False, True),
        ("generated", "auto", True, False),
        ("generated", "generated", True, True),
        ("generated", "/some/folder", False, False),
        ("toy", "auto", False, False),
        ("toy", "toy", True, True),
    ],
)
def test_quick_answer_only_where_the_data_is_certain(kind, source, real, same, tmp_path, monkeypatch):
    if real:
        (tmp_path / "raw").mkdir()
    assert same_data(kind, source, tmp_path, "listops") == same


def test_tables_mark_rows_of_changed_model_code(checkout):
    config = config_of("model=s4")
    then = code_fingerprint(config)

    def shown(code: Code | None) -> Table:
        same = {"config": config, "config_hash": config_hash(config)}
        return scale_table([ran("s4", "listops", 600, code=code, **same)], PUBLISHED, "paper")

    def sign(code: Code | None) -> bool:
        table = shown(code)
        marked = "ᶜ" in row_of(table, "S4")["ListOps"]
        assert marked == any("the model's code has changed since" in note for note in table.notes)
        return marked

    assert not sign(then)
    edit(checkout / "lra/nn/heads.py", "from torch import", "import math\nfrom torch import")
    assert not sign(then)
    edit(checkout / "models/s4.py", "import torch\n", "import torch\n\nX = 1\n")
    assert sign(then)
    assert not sign(None)
    assert not sign(code_fingerprint(config))


def test_audit_finds_seeds_of_different_model_code():
    codes = [Code(model=c * 12, framework="f" * 12) for c in "aab"]
    runs = [ran("s4", "listops", 600, seed=seed, code=code) for seed, code in enumerate(codes)]
    found = [line for line in audit_records(runs, lambda commit: True) if "other code of the model" in line]
    assert found == ["paper/s4/listops/2.json: made with other code of the model than seed 0"]
    (late,) = audit_records([ran("s4", "listops", 600, code=codes[0], train_seconds=361.0, total_seconds=169.0)], bool)
    assert "train_seconds 361 exceed total_seconds 169" in late


@pytest.fixture
def small(monkeypatch):
    """Official sets of a handful of examples."""
    monkeypatch.setattr(retrieval, "COUNTS", {"train": 12, "val": 5, "test": 4})
    monkeypatch.setattr(listops, "COUNTS", {"train": 30, "val": 11, "test": 9})
    monkeypatch.setattr(pathfinder, "COUNTS", {"train": 16, "val": 2, "test": 2})
    monkeypatch.setattr(pathfinder, "IMAGES", 20)


def prepared_from(make, place, **more):
    return ready(make(batch_size=2, root=place / "root", source=place / "from", **more))


def refuses(make, place, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        prepared_from(make, place)
    assert "\n" not in str(error.value)


def touch(path, seconds: int = 5) -> None:
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + seconds * 10**9))


def test_source_changed_in_place_is_noticed(small, tmp_path):
    folder = official_retrieval(tmp_path / "from/tsv_data")
    first = prepared_from(retrieval.Retrieval, tmp_path)
    path = folder / "new_aan_pairs.train.tsv"
    touch(path)  # copied: the same content at another time
    assert prepared_from(retrieval.Retrieval, tmp_path).fingerprint == first.fingerprint
    content = path.read_text()
    path.write_text(content.replace("1.0\t", "0.0\t", 1))
    touch(path, 10)
    refuses(retrieval.Retrieval, tmp_path, "was prepared from other files .*; hint: delete it")
    path.write_text(content)
    prepared_from(retrieval.Retrieval, tmp_path)


def test_picture_list_changed_in_place_is_noticed(small, tmp_path):
    level = official_pathfinder(tmp_path / "from/pathfinder32")
    prepared_from(pathfinder.Pathfinder, tmp_path)
    path = level / "metadata/2.npy"
    path.write_text(path.read_text().replace("png 0 0 ", "png 0 1 ").replace("png 1 1 ", "png 1 0 "))
    refuses(pathfinder.Pathfinder, tmp_path, "was prepared from other files")


def test_picture_changed_in_place_is_noticed(small, tmp_path, monkeypatch):
    level = official_pathfinder(tmp_path / "from/pathfinder32")
    first = prepared_from(pathfinder.Pathfinder, tmp_path)
    path = next(level.rglob("*.png"))
    content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(content[:-20] + b"x" + content[-19:])
    os.utime(path, ns=times)  # equal in size and time of modification
    refuses(pathfinder.Pathfinder, tmp_path, "was prepared from other files .*; hint: delete it")
    path.write_bytes(content)
    assert prepared_from(pathfinder.Pathfinder, tmp_path).fingerprint == first.fingerprint
    # the content is read again only after another change
    monkeypatch.delattr(prepared, "tree_hash")
    prepared_from(pathfinder.Pathfinder, tmp_path)
    path.unlink()
    with pytest.raises(AttributeError):
        prepared_from(pathfinder.Pathfinder, tmp_path)


def test_a_change_in_the_middle_of_a_large_file_is_noticed(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(5 << 20))
    before = prepared.stamp(path)
    assert prepared.is_unchanged(path, before)
    with path.open("rb+") as file:
        file.seek(5 << 19)
        file.write(b"x")
    touch(path)
    assert not prepared.is_unchanged(path, before)


def test_prepared_data_of_older_versions_stays_valid(small, tmp_path):
    official_listops(tmp_path / "from/listops-1000")
    task = prepared_from(listops.ListOps, tmp_path)
    manifest = task.prepared_folder / "manifest.json"
    content = json.loads(manifest.read_text())
    assert set(content.pop("stamps")) == set(content["identity"])
    manifest.write_text(json.dumps(content))
    assert prepared_from(listops.ListOps, tmp_path).fingerprint == task.fingerprint


def pairs_of(folder, split: str, rows: list[tuple[int, str, str]]) -> None:
    lines = [f"{float(label)}\tA\tB\t{a}\t{b}" for label, a, b in rows]
    (folder / f"new_aan_pairs.{retrieval.FILES[split]}.tsv").write_text("\n".join(lines) + "\n")


def test_equal_examples_are_counted_by_content(small, tmp_path):
    folder = tmp_path / "from/tsv_data"
    folder.mkdir(parents=True)
    train = [(i % 2, f"first {i}", f"second {i}") for i in range(12)]
    pairs_of(folder, "train", train)
    pairs_of(folder, "val", [(i % 2, f"third {i}", f"fourth {i}") for i in range(5)])
    # two pairs of the training split, one of them swapped; a pair that is equal once it is cut; a new one
    swapped = (train[1][0], train[1][2], train[1][1])
    pairs_of(folder, "test", [train[0], swapped, (0, "first 10 and more", "second 10 and"), (1, "new", "newer")])
    whole, cut = (prepared_from(retrieval.Retrieval, tmp_path, max_len=n) for n in (100, 7))
    assert whole.equal_examples == {"train": 0, "val": 0, "test": 2}
    assert "2 examples occur in two splits (2 of 4 in test)" in whole.notes
    assert "retrieval: 2 examples occur in two splits (2 of 4 in test)" in verify(whole)
    assert cut.equal_examples["test"] > 2
    again = prepared_from(retrieval.Retrieval, tmp_path, max_len=100)
    assert again.equal_examples == whole.equal_examples


def test_test_file_that_is_the_training_file_is_refused(small, tmp_path):
    folder = official_retrieval(tmp_path / "from/tsv_data")
    content = (folder / "new_aan_pairs.train.tsv").read_bytes()
    (folder / "new_aan_pairs.test.tsv").write_bytes(content)
    refuses(retrieval.Retrieval, tmp_path, r"test\.tsv: has the content of new_aan_pairs\.train\.tsv")


def test_split_of_one_class_is_refused(small, tmp_path):
    folder = official_retrieval(tmp_path / "from/tsv_data")
    pairs_of(folder, "train", [(1, f"first {i}", f"second {i}") for i in range(12)])
    refuses(retrieval.Retrieval, tmp_path, "retrieval: all 12 train examples have the label 1")


def test_blank_document_is_refused_with_its_line(small, tmp_path):
    folder = official_retrieval(tmp_path / "from/tsv_data")
    pairs_of(folder, "val", [(i % 2, f"third {i}" if i != 3 else "  ", f"fourth {i}") for i in range(5)])
    refuses(retrieval.Retrieval, tmp_path, r"new_aan_pairs\.eval\.tsv:4: a document without text")
    folder = official_listops(tmp_path / "other/from/listops-1000")
    path = folder / "basic_test.tsv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], " \t3", *lines[3:]]) + "\n")
    refuses(listops.ListOps, tmp_path / "other", r"basic_test\.tsv:3: blank expression")
