"""A temporary SLURM cluster of two nodes on this machine."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")


def unavailable_reason() -> str | None:
    """Why no cluster can be started here; None if one can."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"{', '.join(missing)} not installed (Debian: apt-get install slurm-wlm munge)" if missing else None


PARTITION = "PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP"


def configuration(base: Path, port: int, partitions: Sequence[str], more: dict[str, Any]) -> str:
    host, user = socket.gethostname().split(".")[0], subprocess.check_output(["id", "-un"], text=True).strip()
    settings = {
        "ClusterName": "fixture",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # a requeued job waits for the lifetime of a credential
        "AuthInfo": f"socket={base}/munge/sock,cred_expire=5",
        "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
        "SlurmctldPort": port,
        "StateSaveLocation": base / "state",
        "SlurmdSpoolDir": f"{base}/spool-%n",
        "SlurmctldPidFile": base / "slurmctld.pid",
        "SlurmdPidFile": f"{base}/slurmd-%n.pid",
        "SlurmctldLogFile": base / "log/slurmctld.log",
        "SlurmdLogFile": f"{base}/log/slurmd-%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "JobCompType": "jobcomp/none",
        "MpiDefault": "none",
        "SwitchType": "switch/none",
        "MailProg": "/bin/true",
        "ReturnToService": 2,
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SchedulerType": "sched/builtin",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1",
        "SlurmdParameters": "config_overrides",
        "KillWait": 2,
        "MinJobAge": 3600,
        "JobRequeue": 1,
    } | more
    lines = [f"{name}={value}" for name, value in settings.items()]
    ports = f"{port + 1}-{port + 2}"
    lines.append(
        f"NodeName=n[1-2] NodeHostName={host} NodeAddr=127.0.0.1 Port=[{ports}] CPUs=4 RealMemory=100000 State=UNKNOWN"
    )
    return "\n".join([*lines, *partitions, ""])


def free_ports() -> int:
    """The first of three consecutive free ports."""
    while True:
        first = 20_000 + secrets.randbelow(10_000)
        try:
            for port in range(first, first + 3):
                with socket.socket() as trial:
                    trial.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


def wait_for(what, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise TimeoutError("the cluster does not come up")
        time.sleep(0.2)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def fail(node: str, daemon: subprocess.Popen) -> None:
    """Kill every process of a node, as in a power failure, and tell SLURM that it is down."""
    daemon.kill()
    on_node = set()
    for process in Path("/proc").glob("[0-9]*"):
        # processes of other users, or that have just ended, cannot be read
        with suppress(OSError):
            if f"SLURMD_NODENAME={node}".encode() in (process / "environ").read_bytes().split(b"\0"):
                parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
                on_node |= {int(process.name)}
                if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                    on_node.add(int(parent))
    for pid in on_node:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], check=True)


@contextmanager
def cluster(base: Path, *partitions: str, **more: Any) -> Iterator[dict[str, subprocess.Popen]]:
    """Start two nodes with four cores each and yield their daemons by name; SLURM_CONF points at the cluster.

    base        folder with a short path
    partitions  lines of slurm.conf in place of the one partition
    more        settings of slurm.conf
    """
    for name in ("state", "spool-n1", "spool-n2", "log", "munge"):
        (base / name).mkdir(parents=True)
    for folder in (base, base / "munge"):  # munge requires a socket that everybody can reach
        folder.chmod(0o711)
    key, conf = base / "munge/key", base / "slurm.conf"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    conf.write_text(configuration(base, free_ports(), partitions or [PARTITION], more))
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    os.environ["SLURM_CONF"] = str(conf)
    munge = {"key-file": key, "socket": base / "munge/sock", "pid-file": base / "munge/pid"}
    munge |= {"log-file": base / "munge/log", "seed-file": base / "munge/seed"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    daemons = []
    try:
        options = [f"--{name}={path}" for name, path in munge.items()]
        daemons.append(subprocess.Popen(["munged", "-F", *options], **quiet))
        wait_for((base / "munge/sock").exists)
        daemons.append(subprocess.Popen(["slurmctld", "-D", "-c"], **quiet))
        nodes = {node: subprocess.Popen(["slurmd", "-D", "-N", node], **quiet) for node in ("n1", "n2")}
        daemons += nodes.values()
        wait_for(lambda: output("sinfo", "-h", "-o", "%T").split() == ["idle"])
        yield nodes
    finally:
        user = output("id", "-un").strip()
        with suppress(TimeoutError):
            # repeatedly, since a job may be requeueing itself
            wait_for(lambda: not output("squeue", "-h") or output("scancel", "--full", "--user", user))
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
