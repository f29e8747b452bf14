"""What several processes count together is what one counts."""

import multiprocessing
import os
import socket

import pytest
import torch
import torch.distributed as dist

from lra import together
from lra.batchnorm import BatchNorm

B, L, D = 4, 6, 3


def _statistics(rank: int, port: int, results) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    x, mask, weights = example()
    mine = slice(rank * B // 2, (rank + 1) * B // 2)
    norm = BatchNorm(D, ragged=True).double()
    share = x[mine].clone().requires_grad_()
    y = norm(share, mask[mine])
    (y * weights[mine]).sum().backward()
    agreed = together.largest([float(rank), 5.0 - rank], torch.device("cpu"))
    found = [y.detach(), share.grad, norm.running_var]
    results.put((rank, [t.numpy() for t in found], agreed, together.gathered(rank)))
    dist.destroy_process_group()


def example():
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(2, B, L, D, generator=generator, dtype=torch.float64)
    return x, torch.arange(L) < torch.tensor([6, 2, 5, 1])[:, None], weights


@pytest.mark.slow
def test_batch_norm_of_two_processes_is_that_of_the_whole_batch():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    processes = [fork.Process(target=_statistics, args=(rank, port, results)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = sorted((results.get(timeout=60) for _ in processes), key=lambda item: item[0])
    for process in processes:
        process.join(30)
    x, mask, weights = example()
    x.requires_grad_()
    norm = BatchNorm(D, ragged=True).double()
    y = norm(x, mask)
    (y * weights).sum().backward()
    tolerance = {"rtol": 1e-5, "atol": 1e-6}  # statistics are summed in float32
    halves = [[torch.from_numpy(t) for t in tensors] for _, tensors, _, _ in found]
    torch.testing.assert_close(torch.cat([halves[0][0], halves[1][0]]), y.detach(), **tolerance)
    torch.testing.assert_close(torch.cat([halves[0][1], halves[1][1]]), x.grad, **tolerance)
    for half in halves:
        torch.testing.assert_close(half[2], norm.running_var, **tolerance)
    assert [(agreed, everyone) for _, _, agreed, everyone in found] == [([1.0, 5.0], [0, 1])] * 2


def test_alone_nothing_is_counted_twice():
    x = torch.ones(2)
    assert together.total(x) is x
    assert together.largest([1.0], torch.device("cpu")) == [1.0]
    assert together.gathered("x") == ["x"]
    assert (together.rank(), together.processes()) == (0, 1)
