"""Run the reference study, in small, on a real Slurm that is started on this machine.

    make test-slurm

A job is killed on the way. What is there in the end is held against a run without a cluster. It
needs root and Debian's packages `slurmctld slurmd munge`. The configuration has to lie at
/etc/slurm/slurm.conf: Snakemake's plugin hands no other place on to its jobs.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pandas as pd

ROOT: Final = Path(__file__).resolve().parents[1]
CONFIGURATION: Final = Path("/etc/slurm/slurm.conf")
MODELS: Final = ("custom_cnn", "mobilenet_v2")
PATIENCE: Final = 600  # seconds that a step may take
# Without a database of accounts, hence `squeue`, which has to remember jobs for a while.
OPTIONS: Final = (
    *("--executor", "slurm", "--jobs", "2", "--cores", "2", "--latency-wait", "5"),
    *("--slurm-no-account", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "5", "--keep-going", "--rerun-incomplete"),
    *("--default-resources", "slurm_partition=main"),
    *("--set-resources", "train:mem_mb=3000", "train:runtime=60"),
)


def configuration(work: Path) -> str:
    """One node, this one, that listens on this machine alone."""
    host = socket.gethostname().split(".")[0]
    return f"""ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={work}/munge.socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MinJobAge=300
ReturnToService=2
StateSaveLocation={work}/state
SlurmdSpoolDir={work}/spool
SlurmctldPidFile={work}/slurmctld.pid
SlurmdPidFile={work}/slurmd.pid
SlurmctldLogFile={work}/slurmctld.log
SlurmdLogFile={work}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def cluster(work: Path) -> Iterator[None]:
    """A cluster of one machine inside the `with` block."""
    if CONFIGURATION.exists():
        sys.exit(f"{CONFIGURATION}: expected none, found one; this machine has a Slurm already")
    for program in ("munged", "slurmctld", "slurmd"):
        if shutil.which(program) is None:
            sys.exit(f"{program}: not found; apt-get install slurmctld slurmd slurm-client munge")
    for name in ("state", "spool"):
        (work / name).mkdir()
    key = work / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.write_text(configuration(work), encoding="utf-8")
    files = [f"--{kind}-file={work}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
    try:
        subprocess.run(["munged", "--force", f"--socket={work}/munge.socket", *files], check=True)
        subprocess.run(["slurmctld", "-c"], check=True)
        subprocess.run(["slurmd"], check=True)
        wait_until(lambda: " idle" in told("sinfo", "-h"), "an idle node")
        yield
    finally:
        subprocess.run(["scontrol", "shutdown"], check=False)
        pid = work / "munge.pid"
        if pid.exists():
            subprocess.run(["kill", pid.read_text().strip()], check=False)
        CONFIGURATION.unlink()


def told(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Wait until `happened()`; `SystemExit` if it takes too long."""
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            sys.exit(f"expected {what} within {PATIENCE} s, found none")
        time.sleep(0.5)


def study(home: Path, *options: str) -> list[str]:
    """The command that makes a small study in a folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", "book/study.smk", "--nolock"]
    return [*command, *options, "--config", "study=smoke", f"models={list(MODELS)}", f"home={home}"]


def run_and_kill(home: Path) -> None:
    """Submit the study and kill the job that trains first."""
    process = subprocess.Popen(study(home, *OPTIONS), cwd=ROOT)
    begun = "runs/simulated/study/*/seed*/progress/settings.json"
    wait_until(lambda: any(home.glob(begun)) or process.poll() is not None, "a training")
    jobs = told("squeue", "-h", "-t", "RUNNING", "-o", "%A").split()
    subprocess.run(["scancel", "--signal=KILL", "--full", jobs[0]], check=True)
    print(f"killed job {jobs[0]}")
    if process.wait() == 0:
        sys.exit("expected the study to fail with a job that was killed, found it whole")


def main() -> None:
    """Compare the tables of a local run with those of a cluster on which a job was killed."""
    if os.geteuid():
        sys.exit("Slurm's daemons are started as root: run this as root, in a container perhaps")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # the daemons end as well
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        work = Path(folder)
        subprocess.run(study(work / "here", "--cores", "2"), cwd=ROOT, check=True)
        (work / "cluster").mkdir()
        with cluster(work / "cluster"):
            run_and_kill(work / "there")
            subprocess.run(study(work / "there", *OPTIONS), cwd=ROOT, check=True)
        tables = [pd.read_csv(work / home / "tables/predictions.csv") for home in ("here", "there")]
        pd.testing.assert_frame_equal(*tables, atol=1e-3)
    print("Slurm: a job was killed, the study went on, and its tables are those of a local run.")


if __name__ == "__main__":
    main()
