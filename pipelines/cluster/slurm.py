"""Run a diffcache command on GPUs of a SLURM cluster, one job and one Dask worker a GPU.

    python pipelines/cluster/slurm.py --partition gpu --walltime 04:00:00 --workers 8 -- \\
        extract pipelines/own_images.toml --cache /shared/cache

Run it where jobs are submitted, in tmux or as a small job of its own: it holds the scheduler, and waits. Environment,
images, weights and cache must be on a disk that the nodes share, at the same paths.

Jobs may wait, end or be preempted at any time. Each worker leaves by itself before its job's time is over, new jobs
take the place of those that are gone, and what a worker had in hand, one range of images, is run again by another one.
Whatever is committed stays: if this process dies too, the same command goes on. What ``--options`` holds goes to
sbatch as it is, such as ``--options="--account=vision --constraint=a100"``.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import dask
    from dask_jobqueue import SLURMCluster
except ImportError as missing:
    sys.exit(f"slurm.py: {missing.name} is not installed: pip install 'diffcache[slurm]'")

LEAVE_MINUTES = 3
"""Before a job's time is over its worker leaves; a range should take less."""


def main() -> int:
    """Start the workers and run the command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partition", help="SLURM's partition")
    parser.add_argument("--walltime", default="04:00:00", help="of each job, as SLURM takes it (default: 04:00:00)")
    parser.add_argument("--workers", type=int, default=8, help="most GPUs at a time (default: 8)")
    parser.add_argument("--gpu", default="gpu:1", help='what --gres asks for; "" for none (default: gpu:1)')
    parser.add_argument("--cpus", type=int, default=8, help="of each job (default: 8)")
    parser.add_argument("--memory", default="32GB", help="of each job (default: 32GB)")
    parser.add_argument("--interface", help="network interface that the nodes reach each other by, such as ib0")
    parser.add_argument("--options", default="", help="more options of sbatch, in one string")
    parser.add_argument("--logs", default="slurm-logs", help="folder of the jobs' output (default: slurm-logs)")
    parser.add_argument("command", nargs="+", help="of diffcache, without --dask, after --")
    options = parser.parse_args()

    dask.config.set({"distributed.scheduler.allowed-failures": 20})  # jobs that end are no fault of the tasks
    minutes = _minutes(options.walltime)
    leave = max(minutes - 2 * LEAVE_MINUTES, minutes // 2)
    cluster = SLURMCluster(
        queue=options.partition,
        walltime=options.walltime,
        cores=1,  # threads of Dask; a GPU computes one thing at a time
        processes=1,
        memory=options.memory,
        job_cpu=options.cpus,
        job_extra_directives=[
            *([f"--gres={options.gpu}"] if options.gpu else []),
            *shlex.split(options.options),
        ],
        worker_extra_args=[
            *("--lifetime", f"{leave}m", "--lifetime-stagger", f"{LEAVE_MINUTES}m"),
            *("--memory-limit", "0"),  # what is mapped would count as the worker's own
        ],
        interface=options.interface,
        log_directory=options.logs,
        silence_logs="critical",
    )
    with cluster, tempfile.TemporaryDirectory(prefix="diffcache-slurm-") as folder:
        cluster.adapt(minimum=options.workers, maximum=options.workers)  # asks for new jobs in place of lost ones
        print(f"scheduler at {cluster.scheduler_address}, dashboard at {cluster.dashboard_link}", file=sys.stderr)
        file = Path(folder) / "scheduler.json"
        file.write_text(f'{{"address": "{cluster.scheduler_address}"}}\n', encoding="utf-8")
        diffcache = [sys.executable, "-m", "diffcache", *options.command, "--dask", str(file)]
        return subprocess.run(diffcache, check=False).returncode


def _minutes(walltime: str) -> int:
    """As SLURM reads it: ``90``, ``90:00``, ``01:30:00``; after days, hours come first: ``1-12``, ``1-12:00``."""
    days, _, rest = walltime.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        hours, minutes = [*parts, 0][:2]
    elif len(parts) < 3:
        hours, minutes = 0, parts[0]
    else:
        hours, minutes = parts[:2]
    return max(2, 24 * 60 * int(days or 0) + 60 * hours + minutes)


if __name__ == "__main__":
    sys.exit(main())
