"""Reductions over several processes give the result of a single one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lra import distributed
from lra.nn.batch_norm import BatchNorm
from lra.paths import ROOT

B, L, D = 4, 6, 3


def _statistics(port: str, results: str, rank: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    x, mask, weights = example()
    mine = slice(rank * B // 2, (rank + 1) * B // 2)
    norm = BatchNorm(D, ragged=True).double()
    share = x[mine].clone().requires_grad_()
    y = norm(share, mask[mine])
    (y * weights[mine]).sum().backward()
    unpadded = BatchNorm(D, ragged=False).double()(x[mine], torch.ones_like(mask[mine]))
    maxima = distributed.all_reduce_max([float(rank), 5.0 - rank], torch.device("cpu"))
    found = [y.detach(), share.grad, norm.running_var, unpadded.detach()]
    torch.save((found, maxima, distributed.all_gather(rank)), Path(results, f"{rank}.pt"))
    dist.destroy_process_group()


def example():
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(2, B, L, D, generator=generator, dtype=torch.float64)
    return x, torch.arange(L) < torch.tensor([6, 2, 5, 1])[:, None], weights


@pytest.mark.slow
def test_batch_norm_of_two_processes_matches_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # not forked: after a backward pass of a compiled model, as in other tests, autograd refuses to run in a fork
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    command = [sys.executable, __file__, str(port), str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], env={**os.environ, "PYTHONPATH": path}) for rank in (0, 1)]
    try:
        assert [process.wait(60) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    x, mask, weights = example()
    x.requires_grad_()
    norm = BatchNorm(D, ragged=True).double()
    y = norm(x, mask)
    (y * weights).sum().backward()
    tolerance = {"rtol": 1e-5, "atol": 1e-6}  # statistics are summed in float32
    halves = [tensors for tensors, _, _ in found]
    torch.testing.assert_close(torch.cat([halves[0][0], halves[1][0]]), y.detach(), **tolerance)
    torch.testing.assert_close(torch.cat([halves[0][1], halves[1][1]]), x.grad, **tolerance)
    without_padding = BatchNorm(D, ragged=False).double()(x.detach(), torch.ones_like(mask))
    torch.testing.assert_close(torch.cat([halves[0][3], halves[1][3]]), without_padding.detach(), **tolerance)
    for half in halves:
        torch.testing.assert_close(half[2], norm.running_var, **tolerance)
    assert [(maxima, ranks) for _, maxima, ranks in found] == [([1.0, 5.0], [0, 1])] * 2


def test_single_process_reduces_nothing():
    x = torch.ones(2)
    assert distributed.all_reduce_sum(x) is x
    assert distributed.all_reduce_max([1.0], torch.device("cpu")) == [1.0]
    assert distributed.all_gather("x") == ["x"]
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


if __name__ == "__main__":
    _statistics(*sys.argv[1:3], int(sys.argv[3]))
