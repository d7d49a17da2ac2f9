"""What workers on this machine are started with; no process is started here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffcache.compute import cluster
from diffcache.compute.cluster import ClusterAddress
from diffcache.errors import ConfigError

DISTRIBUTED = SimpleNamespace(Nanny="a nanny")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Sixteen cores and no GPU, until a test says otherwise."""
    monkeypatch.setattr(cluster.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


def environments(count: int) -> list[dict[str, str]]:
    specs = cluster._workers(DISTRIBUTED, count)
    assert all(spec["cls"] == "a nanny" and spec["options"]["nthreads"] == 1 for spec in specs)
    return [spec["options"]["env"] for spec in specs]


def test_one_worker_for_each_gpu_which_sees_no_other(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "device_count", lambda: 3)
    found = environments(0)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in found] == ["0", "1", "2"]
    assert {env["OMP_NUM_THREADS"] for env in found} == {"5"}


def test_gpus_that_the_environment_names(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "device_count", lambda: 2)
    machine.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments(0)] == ["GPU-a", "GPU-b"]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in environments(3)] == ["GPU-a", "GPU-b", "GPU-a"]


def test_without_a_gpu_cores_are_shared_out(machine: pytest.MonkeyPatch) -> None:
    assert environments(0) == [{"OMP_NUM_THREADS": "4"}] * 4
    assert environments(2) == [{"OMP_NUM_THREADS": "8"}] * 2
    machine.setenv("OMP_NUM_THREADS", "1")
    assert environments(2) == [{"OMP_NUM_THREADS": "1"}] * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", ClusterAddress()),
        ("local:12", ClusterAddress(workers=12)),
        ("tcp://node1:8786", ClusterAddress(address="tcp://node1:8786")),
        ("tls://10.0.0.1:8786", ClusterAddress(address="tls://10.0.0.1:8786")),
        ("/shared/scheduler.json", ClusterAddress(file=Path("/shared/scheduler.json"))),
    ],
)
def test_addresses(text: str, expected: ClusterAddress) -> None:
    assert ClusterAddress.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text", ["", "local:0", "local:", "local:-1", "node1:8786", "tcp://node1", "tcp://:8786", "x.toml"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(ConfigError, match="expected local, local:N"):
        ClusterAddress.parse(text)
