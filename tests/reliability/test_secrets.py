"""A secret in the environment reaches no file and no line that a run writes."""

import os
import signal
from pathlib import Path

import pytest

from lra.config.compose import composed
from lra.launch import job

PLANTED = {
    "WANDB_API_KEY": "f00d" * 10,
    "HF_TOKEN": "hf_planted5eed5eed5eed",
    "AWS_SECRET_ACCESS_KEY": "Planted/Aws+5eed5eed",
    "DATABASE_PASSWORD": "planted-password-5eed",
    "DB_PASS": "planted-pass-5eed",
}


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold one of the planted values, and which."""
    files = [(path, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert files
    return [f"{path}: {name}" for path, raw in files for name, value in PLANTED.items() if value.encode() in raw]


def test_planted_secrets_are_in_no_record_log_checkpoint_or_wandb_file(start, tmp_path):
    words = ["task=listops", "model=transformer", "scale=smoke", "training.steps=3000", "trainer.checkpoint_seconds=0"]
    # the user may write one into an option himself
    words += ["wandb.group=${oc.env:DATABASE_PASSWORD}", "wandb.tags=[${oc.env:DB_PASS}]", "trainer=cpu"]
    folders = [f"results={tmp_path}/results", f"runs={tmp_path}/runs", f"data.root={tmp_path}/data"]
    run = start([*words, *folders], tmp_path / "log", **PLANTED, WANDB_DIR=str(tmp_path))
    assert run.until(lambda: any(tmp_path.rglob("last.ckpt"))), run.log.read_text()
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait() == 130, run.log.read_text()
    kinds = {path.suffix for path in tmp_path.rglob("*")}
    assert {".ckpt", ".json", ".wandb"} <= kinds
    assert leaks(tmp_path) == []


def test_neither_a_refusal_nor_a_trace_repeats_a_secret(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DATABASE_PASSWORD", PLANTED["DATABASE_PASSWORD"])
    words = ["task=listops", "model=transformer", "scale=smoke", f"runs={tmp_path}/runs"]
    for word in ("trainer.accelerator=${oc.env:DATABASE_PASSWORD}", "task.batch_size=${oc.env:DATABASE_PASSWORD}"):
        with pytest.raises(SystemExit):
            job.one(**composed([*words, word, f"data.root={tmp_path}/data", f"results={tmp_path}/results"]))
        said = capsys.readouterr().err
        assert "[secret]" in said
        assert PLANTED["DATABASE_PASSWORD"] not in said

    def unforeseen(*_, **__):
        raise RuntimeError(f"no login with {PLANTED['DATABASE_PASSWORD']}")

    monkeypatch.setattr(job, "cell_of", unforeseen)
    monkeypatch.delenv("LRA_TRACE", raising=False)
    with pytest.raises(SystemExit):
        job.one(**composed(words))
    assert "no login with [secret]" in capsys.readouterr().err
    assert "no login with [secret]" in (tmp_path / "runs" / "traces.txt").read_text()
    assert leaks(tmp_path) == []
