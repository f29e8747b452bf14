"""Recompute every table cell and check records, hashes, commits and files; exit status 1 if anything is wrong."""

import handover

import argparse
import functools
import subprocess
from pathlib import Path

from lra.config import result_options
from lra.paths import ROOT
from lra.records.audit import audit_benchmarks, audit_csv, audit_files, audit_other_csv, audit_records
from lra.records.benchmark import Bench, load_bench
from lra.records.environment import git_command
from lra.records.published import Published, load_published
from lra.records.record import Record
from lra.records.store import scan
from lra.tables.aggregate import is_of_lra
from lra.tables.build import scales_of, table_files

# benchmarks of uncommitted code that are accepted until they are measured again; the audit still names them
ACCEPTED = {
    "kernel_h100.json": "measured on a copy of the code without its repository",
    "layer_h100.json": "measured on a copy of the code without its repository",
    "s4_table_2.json": "measured with uncommitted changes",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    result_options.arguments(parser)
    parser.add_argument("--tables", type=Path, default=ROOT / "results/tables", help="folder of tables")
    parser.add_argument("--repository", type=Path, default=ROOT, help="repository with the commits")
    return parser.parse_args()


def missing_history(repository: Path) -> str | None:
    """Why commits cannot be checked there; None if they can."""
    try:
        command = git_command(repository, "rev-parse", "--is-shallow-repository")
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return "git is not installed"
    if done.returncode:
        return "not a repository; hint: git clone"
    return "a shallow clone; hint: git fetch --unshallow" if done.stdout.strip() == "true" else None


def commit_is_known(repository: Path, commit: str) -> bool:
    command = git_command(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    return subprocess.run(command, capture_output=True).returncode == 0


def audit_page(path: Path, records: list[Record], published: Published, benches: list[Bench]) -> list[str]:
    """One line if the page, which is not committed, differs from the records of every scale."""
    if not path.is_file():
        return []
    # here, because the charts' libraries take a second to import
    from lra.report.page import page

    pages = (page(records, published, scale, benches) for scale in scales_of(records))
    same = path.read_text(encoding="utf-8") in pages
    return [] if same else [f"{path}: differs from the records; hint: make report"]


def main() -> int:
    args = arguments()
    records: list[Record] = []
    findings: list[str] = []
    for _, outcome in scan(args.runs):
        if isinstance(outcome, Record):
            records.append(outcome)
        else:
            findings.append(str(outcome))
    unchecked = missing_history(args.repository)
    if unchecked:
        findings.append(f"{args.repository}: commits of records cannot be checked: {unchecked}")
    known = functools.cache(lambda commit: unchecked is not None or commit_is_known(args.repository, commit))
    findings += audit_records(records, known)
    for path, problem in audit_benchmarks(args.bench, known):
        if path.name in ACCEPTED:
            print(f"accepted: {path}: {problem} ({ACCEPTED[path.name]})")
        else:
            findings.append(f"{path}: {problem}")
    try:
        published, benches = load_published(args.published), load_bench(args.bench)
    except (ValueError, OSError) as error:
        findings.append(str(error))
    else:
        findings += audit_files(args.tables, table_files(records, published, benches))
        findings += audit_page(args.tables.parent / "report.html", records, published, benches)
        for path in sorted(args.tables.glob("*.csv")):
            text = path.read_text(encoding="utf-8")
            # the papers' own tables have the measured numbers of scale paper
            lra = [r for r in records if is_of_lra(r)]
            findings += audit_csv(text, lra, str(path)) if text.startswith("scale,model,") else []
            findings += audit_other_csv(text, records, str(path)) if text.startswith("table,task,metric,") else []
    for finding in findings:
        print(finding)
    wrong = "1 thing does not add up" if len(findings) == 1 else f"{len(findings)} things do not add up"
    print(f"{len(records)} records: {wrong if findings else 'everything adds up'}")
    return 1 if findings else 0


if __name__ == "__main__":
    handover.run(main)
