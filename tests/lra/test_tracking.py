"""What W&B receives of a run; its failures are one line and never end a training."""

import contextlib
import http.server
import io
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb
from omegaconf import OmegaConf
from rich.console import Console

from helpers.finished_run import small_run
from helpers.wandb_server import wandb_server
from lra import tracking
from lra.paths import ROOT
from lra.records.run_spec import RunSpec
from lra.records.store import load

RECORD = load(ROOT / "tests/golden/record.json")
CELL = RunSpec("listops", "s4", "S4", 0, "mini", [], RECORD.config, RECORD.config_hash, None, None, "the command")
DATA = SimpleNamespace(kind="toy", fingerprint="ab12", spec=SimpleNamespace(objective="classification"))


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=1000)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs go to the test's folder, and no key of this machine is used."""
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.teardown()


def settings(**given) -> OmegaConf:
    usual = {"mode": "offline", "project": "lra", "entity": None, "group": None, "tags": ["night"]}
    return OmegaConf.create(usual | given)


def use(tracker, steps: int = 4) -> None:
    """Log and finish as a training does."""
    for i in range(steps):
        tracker.log_metrics({"val/accuracy": i / 10, "epoch": 0}, step=i)
    tracker.finish(RECORD, None)


def printed(screen) -> list[str]:
    return screen.file.getvalue().splitlines()


def stored(folder: Path) -> dict[str, list[dict]]:
    """Kind -> records of an offline run, as W&B's own reader gives them."""
    (log,) = folder.glob("*.wandb")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    found: dict[str, list[dict]] = {}
    for line in done.stdout.splitlines():
        for kind, content in json.loads(line).items():
            found.setdefault(kind, []).append(content)
    return found


def test_content_of_an_offline_run(tmp_path, screen):
    tracker = tracking.start(CELL, settings(), DATA, screen)
    folder = tracking.folder_of(tracker.run)
    given = {"loggers": [tracker], "callbacks": [tracking.Histograms(tracker)], "wandb": tracker.address}
    record = small_run(tmp_path, "model=s4", "model.mixer.backend=reference", **given)
    tracker.finish(record, tmp_path / "run/model.safetensors")
    assert printed(screen) == []
    assert (folder / "files" / tracking.RECORD).read_text() == record.text()
    (picture,) = (folder / "files/media/images").glob("kernels_*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    log = stored(folder)
    text = json.dumps(log)
    names = {name for row in log["history"] for name in row["item"]}
    assert len(names) > 10
    assert all(re.fullmatch(r"[\w./-]+", name) for name in names), names
    for word in ("val/best", "test/correct", "gradients/encoder.blocks.0", "log10_dt/encoder.blocks.0", "histogram"):
        assert word in text, word
    for word in ("table-file", "mini/listops/s4", "night", "toy", "ab12", "job_type", "model.safetensors"):
        assert word in text, word


def test_log_has_no_control_codes_of_a_terminal(capfd):
    terminal = Console(stderr=True, force_terminal=True)
    tracker = tracking.start(CELL, settings(), DATA, terminal)
    folder = tracking.folder_of(tracker.run)
    terminal.print("[bold]S4[/] on listops")
    use(tracker)
    assert "\x1b[1mS4\x1b[0m on listops" in capfd.readouterr().err
    assert (folder / "files/output.log").read_text().splitlines() == [
        f"step {step}: val/accuracy {step / 10:.4g}, epoch 0, val/best {step / 10:.4g}" for step in range(4)
    ]


def test_histogram_counts_every_value():
    shape = tracking.histogram(torch.tensor([0.0, 1.0, 1.0, 2.0]))
    assert sum(shape.histogram) == 4
    assert (shape.bins[0], shape.bins[-1]) == (0, 2)
    assert sum(tracking.histogram(torch.ones(3)).histogram) == 3
    assert tracking.histogram(torch.tensor([0.0, float("nan")])) is None
    assert tracking.histogram(torch.empty(0, 3)) is None


def test_nothing_is_sent_after_a_failure(screen):
    calls = []

    class Broken(SimpleNamespace):
        def log(self, values):
            calls.append(values)
            raise BrokenPipeError("the service is gone\nand more")

    run = Broken(url=None, id="x", dir="/", define_metric=lambda *a, **k: None)
    tracker = tracking.Tracker(run, screen)
    use(tracker)
    assert len(calls) == 1
    assert printed(screen) == ["W&B: logging failed (the service is gone); the run continues without it"]


def answering(reply) -> http.server.ThreadingHTTPServer:
    """A server that answers each request with `reply(body) -> (status, JSON)`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode(errors="replace")
            status, content = reply(body)
            answer = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def online(monkeypatch, screen, url: str):
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(tracking, "CONNECT_SECONDS", 3)
    monkeypatch.setattr(tracking, "UPLOAD_SECONDS", 3)
    return tracking.start(CELL, settings(mode="online"), DATA, screen)


def test_without_network_a_run_is_kept_offline(monkeypatch, screen):
    server = answering(lambda body: (200, {}))
    server.shutdown()
    server.server_close()
    tracker = online(monkeypatch, screen, f"http://127.0.0.1:{server.server_port}")
    folder = tracking.folder_of(tracker.run)
    use(tracker)
    (line,) = printed(screen)
    assert line.startswith("W&B: no connection (")
    assert f"kept offline in {folder}" in line
    assert (folder / "files" / tracking.RECORD).read_text() == RECORD.text()


def test_with_revoked_key_a_run_is_kept_offline(monkeypatch, screen):
    server = answering(lambda body: (401, {"errors": [{"message": "user is not logged in"}]}))
    use(online(monkeypatch, screen, f"http://127.0.0.1:{server.server_port}"))
    (line,) = printed(screen)
    assert "user is not logged in" in line
    assert "kept offline" in line
    server.shutdown()


def test_lost_network_does_not_delay_the_end(monkeypatch, screen):
    with wandb_server() as service:
        tracker = online(monkeypatch, screen, service.url)
        assert tracker.address == f"{service.url}/me/lra/runs/{tracker.run.id}"
        tracker.log_metrics({"val/accuracy": 0.1}, step=1)
        time.sleep(0.5)
    began = time.monotonic()
    use(tracker)
    assert time.monotonic() - began < 30
    (line,) = printed(screen)
    assert line.startswith("W&B: the last upload failed (")
    assert "hint: .venv/bin/wandb sync " in line


def test_run_after_a_failed_one_is_online(monkeypatch, screen):
    with wandb_server() as service:
        online(monkeypatch, screen, service.url).safely("logging", lambda: 1 / 0)
        assert online(monkeypatch, screen, service.url).address.startswith("http://127.0.0.1")
        assert printed(screen) == ["W&B: logging failed (division by zero); the run continues without it"]


def test_online_without_key_or_unknown_mode_is_refused(screen):
    with pytest.raises(ValueError, match="no W&B key on this machine"):
        tracking.start(CELL, settings(mode="online"), DATA, screen)
    with pytest.raises(ValueError, match=r"wandb\.mode=offlin: unknown; hint: offline, online, disabled"):
        tracking.start(CELL, settings(mode="offlin"), DATA, screen)
    assert tracking.start(CELL, settings(mode="disabled"), DATA, screen) is None


def test_unwritable_folder_is_one_line(tmp_path, monkeypatch, screen):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "taken"))
    # wandb falls back to a folder there
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    use(tracking.start(CELL, settings(), DATA, screen))
    (line,) = printed(screen)
    assert line.startswith(f"W&B: {tmp_path}/taken/wandb cannot be written; this run is kept in {tmp_path}/wandb/")


def fill(disk: Path) -> None:
    """Leave no free byte."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_full_disk_is_one_line(tmp_path, monkeypatch, screen, capfd):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here ({done.stderr.strip()})")
    try:
        monkeypatch.setenv("WANDB_DIR", str(disk))
        tracker = tracking.start(CELL, settings(), DATA, screen)
        fill(disk)
        use(tracker)
        wandb.teardown()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
    (line,) = printed(screen)
    assert line.startswith("W&B: logging failed (")
    assert line.endswith("is full); the run continues without it")
    assert "Traceback" not in capfd.readouterr().err


def test_options_and_commands_of_the_page_exist():
    page = (ROOT / "docs/wandb.md").read_text()
    known = OmegaConf.load(ROOT / "configs/train.yaml").wandb
    assert set(re.findall(r"`wandb\.(\w+)=", page)) == set(known)
    for script in re.findall(r"scripts/(\w+\.py)", page):
        assert (ROOT / "scripts" / script).is_file(), script
    sweeps = {p.stem for p in (ROOT / "configs/sweep").glob("*.yaml")}
    assert sweeps <= set(re.findall(r"`(\w+)` \(", page)) | {"lra"}
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([a-z-]+)", page, re.MULTILINE)) <= set(targets)
