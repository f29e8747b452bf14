"""Secrets from the environment appear in no file and no output of a run."""

import os
import signal
from pathlib import Path

import pytest

from lra.config.compose import composed
from lra.launch import job

SECRETS = {
    "WANDB_API_KEY": "f00d" * 10,
    "HF_TOKEN": "hf_planted5eed5eed5eed",
    "AWS_SECRET_ACCESS_KEY": "Planted/Aws+5eed5eed",
    "DATABASE_PASSWORD": "planted-password-5eed",
    "DB_PASS": "planted-pass-5eed",
}


def leaks(folder: Path) -> list[str]:
    """Files under the folder that contain a planted value, with its variable name."""
    files = [(path, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert files
    return [f"{path}: {name}" for path, raw in files for name, value in SECRETS.items() if value.encode() in raw]


def test_secrets_are_in_no_written_file(start, tmp_path):
    words = ["task=listops", "model=transformer", "scale=smoke", "training.steps=3000", "trainer.checkpoint_seconds=0"]
    # secrets may come in through options too
    words += ["wandb.group=${oc.env:DATABASE_PASSWORD}", "wandb.tags=[${oc.env:DB_PASS}]", "trainer=cpu"]
    folders = [f"results={tmp_path}/results", f"runs={tmp_path}/runs", f"data.root={tmp_path}/data"]
    run = start([*words, *folders], tmp_path / "log", **SECRETS, WANDB_DIR=str(tmp_path))
    assert run.until(lambda: any((tmp_path / "runs").rglob("last.ckpt"))), run.log.read_text()
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait() == 130, run.log.read_text()
    kinds = {path.suffix for path in tmp_path.rglob("*")}
    assert {".ckpt", ".json", ".wandb"} <= kinds
    assert leaks(tmp_path) == []


def test_errors_and_traces_hide_secrets(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DATABASE_PASSWORD", SECRETS["DATABASE_PASSWORD"])
    words = ["task=listops", "model=transformer", "scale=smoke", f"runs={tmp_path}/runs"]
    for word in ("trainer.accelerator=${oc.env:DATABASE_PASSWORD}", "task.batch_size=${oc.env:DATABASE_PASSWORD}"):
        with pytest.raises(SystemExit):
            job.one(**composed([*words, word, f"data.root={tmp_path}/data", f"results={tmp_path}/results"]))
        stderr = capsys.readouterr().err
        assert "[secret]" in stderr
        assert SECRETS["DATABASE_PASSWORD"] not in stderr

    def fail(*_, **__):
        raise RuntimeError(f"no login with {SECRETS['DATABASE_PASSWORD']}")

    monkeypatch.setattr(job, "cell_of", fail)
    monkeypatch.delenv("LRA_TRACE", raising=False)
    with pytest.raises(SystemExit):
        job.one(**composed(words))
    assert "no login with [secret]" in capsys.readouterr().err
    assert "no login with [secret]" in (tmp_path / "runs" / "traces.txt").read_text()
    assert leaks(tmp_path) == []
