"""The recipes in ``pipelines/cluster/``, with commands in place of SLURM's and of ssh that do it on this machine."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from diffcache.cache import open_cache
from diffcache.cache.checking.verify import verify_store

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "pipelines" / "cluster"

# A job is its script in the background; squeue and scancel know it by the number of its process.
SBATCH = """#!/bin/sh
cp "$1" "{folder}/job$$.sh"  # the script goes when this command has ended
setsid sh "{folder}/job$$.sh" >/dev/null 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job; do kill -9 -- -$job; done
"""


def command(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(text.format(folder=folder), encoding="utf-8")
    file.chmod(0o755)


def require_well(cache: Path) -> None:
    stores = open_cache(cache).stores()
    assert [verify_store(store).status for store in stores] == ["well"] * 4


@pytest.mark.parametrize(
    ("walltime", "minutes"),
    [("90", 90), ("90:30", 90), ("04:00:00", 240), ("1-12", 2160), ("1-12:15", 2175), ("1-02:30:00", 1590), ("1", 2)],
)
def test_walltimes_as_slurm_reads_them(walltime, minutes):
    assert runpy.run_path(str(CLUSTER / "slurm.py"))["_minutes"](walltime) == minutes


def test_slurm(world, tmp_path):
    command(tmp_path, "sbatch", SBATCH)
    command(tmp_path, "scancel", SCANCEL)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            *(sys.executable, CLUSTER / "slurm.py", "--partition", "gpu", "--walltime", "1-02:30:00", "--workers", "2"),
            *("--memory", "2GB", "--options=--account=vision --constraint=a100", "--logs", tmp_path / "logs"),
            *("--", "extract", world.file, "--cache", tmp_path / "cache"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    require_well(tmp_path / "cache")
    script = next(tmp_path.glob("job*.sh")).read_text(encoding="utf-8")
    for line in (
        "-p gpu",
        "-t 1-02:30:00",
        "--gres=gpu:1",
        "--account=vision",
        "--constraint=a100",
        "--cpus-per-task=8",
    ):
        assert re.search(rf"^#SBATCH {re.escape(line)}$", script, re.MULTILINE), script
    assert "--nthreads 1" in script
    assert "--lifetime 1584m" in script


@pytest.mark.slow
def test_hosts(world, tmp_path):
    command(tmp_path, "ssh", '#!/bin/sh\nexec sh -c "$2"\n')
    hosts, file = tmp_path / "hosts.txt", tmp_path / "scheduler.json"
    hosts.write_text("# two machines\nhere\n\nthere 1\n", encoding="utf-8")
    environment = {
        **os.environ,
        "DASK": str(Path(sys.executable).with_name("dask")),
        "SSH": str(tmp_path / "ssh"),
        "PAUSE": "0.1",
        "PYTHONPATH": str(ROOT),
    }
    script = subprocess.Popen(
        [CLUSTER / "hosts.sh", hosts, file],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not file.exists():
            assert script.poll() is None, script.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        run = [sys.executable, "-m", "diffcache", "extract", world.file, "--cache", tmp_path / "cache", "--dask", file]
        done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        require_well(tmp_path / "cache")
        children = psutil.Process(script.pid).children(recursive=True)
        lines = [" ".join(child.cmdline()) for child in children]
        assert any("--name there-gpu0" in line for line in lines), lines
    finally:
        script.send_signal(signal.SIGTERM)
        out, _ = script.communicate(timeout=30)
    assert script.returncode == 143, out
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]
    assert not file.exists()


@pytest.mark.parametrize("arguments", [[], ["nowhere.txt", "file"]])
def test_hosts_without_a_list(arguments):
    done = subprocess.run([CLUSTER / "hosts.sh", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")
