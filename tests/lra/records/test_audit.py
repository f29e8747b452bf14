"""The audit finds every kind of inconsistency, and reports nothing else."""

import csv
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.made_up_runs import BASE, PUBLISHED
from helpers.records import replace, scored
from lra.paths import ROOT
from lra.records.audit import recomputed
from lra.records.benchmark import load_bench
from lra.records.record import Data, Git, Record, config_hash
from lra.records.store import load
from lra.report.page import page
from lra.tables.aggregate import SeedGroup
from lra.tables.build import main_scale, scales_of, table_files


@pytest.fixture
def place(tmp_path):
    """A folder with a repository of one commit, three records made at that commit, and their tables."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    run = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*run, "init", "-q"], check=True)
    subprocess.run([*run, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*run, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for seed, correct in ((0, 82), (1, 84), (2, 35)):
        config = {**BASE.config, "seed": seed}
        changes = {"seed": seed, "config": config, "config_hash": config_hash(config)}
        changes |= scored(correct, 200) | {"git": Git(commit=head, dirty=False)}
        save(replace(BASE, **changes), tmp_path)
    make_tables(tmp_path)
    return tmp_path


def save(record: Record, place: Path) -> None:
    record.write(record.path(place / "runs"))


def make_tables(place: Path) -> None:
    records = [load(p) for p in sorted((place / "runs").rglob("*.json"))]
    (place / "tables").mkdir(exist_ok=True)
    for name, text in table_files(records, PUBLISHED, load_bench(place / "bench")).items():
        (place / "tables" / name).write_text(text)


def change(place: Path, seed: int, **changes: object) -> None:
    path = place / "runs" / "mini" / "s4" / "listops" / f"{seed}.json"
    replace(load(path), **changes).write(path)


@pytest.fixture
def audit(place, monkeypatch, capsys):
    def run() -> tuple[int, str]:
        arguments = ["--runs", "runs", "--tables", "tables", "--bench", "bench", "--repository", "."]
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["audit.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / "audit.py"), run_name="__main__")
        return ended.value.code, capsys.readouterr().out

    return run


@pytest.mark.parametrize("foreign", ["", "1"], ids=["own clone", "clone of another user"])
def test_consistent_results_pass(foreign, audit, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", foreign)
    assert audit() == (0, "3 records: everything adds up\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place, patch: patch.setenv("PATH", ""), "git is not installed"),
        (lambda place, patch: shutil.rmtree(place / ".git"), "not a repository; hint: git clone"),
        (lambda place, patch: (place / ".git/shallow").touch(), "a shallow clone; hint: git fetch --unshallow"),
    ],
)
def test_missing_history_is_one_finding(change, message, place, audit, monkeypatch):
    change(place, monkeypatch)
    line = f".: commits of records cannot be checked: {message}\n"
    assert audit() == (1, f"{line}3 records: 1 thing does not add up\n")


OTHER_SEED = replace(BASE, config={"seed": 1}, config_hash=config_hash({"seed": 1}))


def other_config(record: Record) -> dict:
    config = {**record.config, "model": {"d_model": 1}}
    return {"config": config, "config_hash": config_hash(config)}


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"git": Git(commit="1" * 40, dirty=False)}, "commit 1111111111 is not in this repository"),
        ({"git": Git(commit=None, dirty=None)}, "no commit"),
        ({"git": replace(BASE.git, dirty=True)}, "uncommitted changes"),
        ({"steps_done": 99}, "ok after 99 of 100 steps"),
        (scored(41, 100), "tested on 100 examples of 200"),
        ({"parameters": 7}, "parameters is 7, seed 0's 1000"),
        ({"command": "python scripts/train.py task=listops"}, "does not name s4"),
        ({"data": replace(BASE.data, trivial=0.2)}, "other counts, kind or trivial score"),
        (other_config(BASE), "config's seed is 0"),
        (other_config(OTHER_SEED), "config differs from seed 0's in model, task"),
    ],
)
def test_each_inconsistency_is_found(place, audit, changes, finding):
    change(place, 1, **changes)
    make_tables(place)
    code, out = audit()
    assert code == 1
    assert finding in out
    assert "mini/s4/listops/1.json" in out


WRONG = {"mean": "41.5001", "ci95_low": "1.0000", "ci95_high": "99.0000", "untuned": "true", "on_test": "true"}


@pytest.mark.parametrize(("field", "wrong"), WRONG.items())
def test_changed_cell_of_a_table_is_found(place, audit, field, wrong):
    path = place / "tables" / "mini.csv"
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    lines[1][lines[0].index(field)] = wrong
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    code, out = audit()
    assert code == 1
    assert f"s4 on listops: {field} is {wrong}, the records " in out
    assert "tables/mini.csv: differs from the records" in out


def test_changed_average_is_found(place, audit):
    for task in ("text", "retrieval", "image", "pathfinder", "pathx"):
        record = replace(load(place / "runs/mini/s4/listops/0.json"), task=task, command=f"task={task} model=s4")
        record = replace(record, data=replace(record.data, fingerprint=task))
        if task == "pathx":
            record = replace(record, **scored(35, 200))
        save(record, place)
    make_tables(place)
    assert audit() == (0, "8 records: everything adds up\n")
    path = place / "tables" / "mini.csv"
    # ListOps has seeds at 41 and 42 percent and one at chance, 17.5; Path-X has one at chance, the others one at 41
    average = ((41 + 42 + 17.5) / 3 + 4 * 41 + 17.5) / 6
    assert f",{average:.4f}," in path.read_text()
    path.write_text(path.read_text().replace(f",{average:.4f},", ",50.0000,"))
    assert f"s4: average is 50.0000, the records give {average:.4f}" in audit()[1]


@pytest.mark.parametrize(
    ("git", "finding"),
    [
        ({"commit": "1" * 40, "dirty": False}, "commit 1111111111 is not in this repository"),
        ({"commit": None, "dirty": None}, "made outside a repository, no commit"),
        ({"commit": "HEAD", "dirty": True}, "made with uncommitted changes on "),
        ({"commit": "HEAD"}, "git.dirty is missing"),
        (None, "git is None"),
        ({"commit": "HEAD", "dirty": False}, None),
    ],
)
def test_benchmarks_of_unknown_code_are_found(place, audit, git, finding):
    head = load(place / "runs/mini/s4/listops/0.json").git.commit
    git = git and {**git, "commit": head if git["commit"] == "HEAD" else git["commit"]}
    (place / "bench").mkdir()
    (place / "bench" / "kernel.json").write_text(json.dumps({"benchmark": "kernel", "git": git, "rows": []}))
    code, out = audit()
    assert code == (finding is not None)
    assert finding is None or f"bench/kernel.json: {finding}" in out


def test_accepted_benchmark_is_still_named(place, audit):
    (place / "bench").mkdir()
    content = {"benchmark": "kernel", "git": {"commit": None, "dirty": None}, "rows": []}
    (place / "bench" / "kernel_h100.json").write_text(json.dumps(content))
    code, out = audit()
    assert (code, out[:33]) == (0, "accepted: bench/kernel_h100.json:")


def test_failed_runs_add_up(place, audit):
    change(place, 1, status="diverged", reason="NaN")
    change(place, 2, status="interrupted", reason="stopped", steps_done=5)
    make_tables(place)
    assert audit() == (0, "3 records: everything adds up\n")


@pytest.mark.parametrize(("chance", "learned"), [(0.162, 1), (0.163, 0)])
def test_audit_and_tables_agree_on_chance(chance, learned):
    """50 or more of 200 right answers have a probability of 0.00093 and 0.00107."""
    run = replace(BASE, **scored(50, 200), data=replace(BASE.data, trivial=chance))
    assert recomputed([run])["learned"] == len(SeedGroup((run,)).learned) == learned


def test_missing_lines_and_records_are_found(place, audit):
    changes = {"model": "s4d", "command": "model=s4d task=listops"}
    toy = Data(kind="toy", fingerprint="t", counts={"test": 200}, trivial=0.1)
    record = replace(load(place / "runs/mini/s4/listops/0.json"), data=toy, **changes)
    save(record, place)
    out = audit()[1]
    assert "s4d on listops has 1 records and no line" in out
    assert "tables/mini.md: differs from the records; hint: make tables" in out
    make_tables(place)
    record.path(place / "runs").unlink()
    assert "s4d on listops: no record" in audit()[1]


@pytest.mark.parametrize(("seeds", "status"), [(3, 0), (2, 1)])
def test_report_of_other_records_is_found(seeds, status, place, audit):
    records = [load(p) for p in sorted((place / "runs").rglob("*.json"))]
    (place / "report.html").write_text(page(records[:seeds], PUBLISHED, "mini", []))
    code, out = audit()
    assert code == status
    assert ("report.html: differs from the records; hint: make report" in out) == status


def test_tampered_and_stray_files_are_found(place, audit):
    path = place / "runs/mini/s4/listops/2.json"
    content = json.loads(path.read_text())
    content["config"]["model"]["d_model"] = 1024
    path.write_text(json.dumps(content))
    (place / "tables" / "old.md").write_text("x")
    (place / "tables" / "mini.tex").unlink()
    out = audit()[1]
    assert "2.json: config_hash is" in out
    assert "old.md: belongs to no record" in out
    assert "mini.tex: missing" in out


def test_scales_are_sorted_by_size():
    scales = scales_of([replace(BASE, scale=s) for s in ("smoke", "mini", "paper", "big")])
    assert scales == ["paper", "mini", "big", "smoke"]


SHORT, VARIANT = replace(BASE, scale="mini"), replace(BASE, scale="paper", variant=["training.epochs=3"])


def ended(status: str) -> Record:
    return replace(BASE, scale="paper", status=status, reason="...")


@pytest.mark.parametrize(
    ("records", "scale"),
    [
        ([], "paper"),
        ([VARIANT], "paper"),
        ([VARIANT, SHORT], "mini"),
        ([VARIANT, replace(BASE, scale="paper"), SHORT], "paper"),
        ([ended("diverged"), SHORT], "paper"),
        *(([ended(status), SHORT], "mini") for status in ("running", "interrupted", "crashed")),
        *(([ended(status)], "paper") for status in ("running", "interrupted", "crashed")),
    ],
)
def test_main_scale_has_ended_runs(records, scale):
    assert main_scale(records) == scale
