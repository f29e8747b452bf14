"""Time the S4 authors' implementation, a checkout of state-spaces/s4, in a separate process.

As a command: s4_repo.py CHECKOUT {kernel,layer,step,stepping} {cuda,keops,plain} DEVICE THREADS REPEATS B H N L
[SIZES], where SIZES is a JSON object. It needs einops in addition to our requirements.

cuda   its CUDA extension, built before in the checkout (extensions/kernels)
keops  its KeOps path; on a CPU we make pykeops use the CPU, since it asks for a GPU and fails otherwise
plain  plain PyTorch, used if neither is installed
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any


def row(
    what: str, args: argparse.Namespace, path: str, *, H: int, N: int, L: int, B: int = 1, sizes: dict | None = None
) -> dict:
    """A row of the benchmark; if the peer fails, without times but with a note, the last line of the error."""
    threads = args.threads or 0
    numbers = [str(n) for n in (threads, args.repeats, B, H, N, L)]
    command = [sys.executable, __file__, str(args.peer.resolve()), what, path, args.device, *numbers]
    command += [] if sizes is None else [json.dumps(sizes)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    size = {"model": "s4", **({"B": B} if what == "layer" else {}), "H": H, "N": N, "L": L, "backend": f"peer, {path}"}
    if child.returncode:
        lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        return size | {"note": lines[-1][:120]}
    return size | json.loads(child.stdout.splitlines()[-1])


def main() -> None:
    checkout, what, path, device = sys.argv[1:5]
    threads, repeats, B, H, N, L = (int(n) for n in sys.argv[5:11])
    sys.path.insert(0, checkout)  # it is not an installable package
    if device == "cpu":
        # running out of memory must end this process and not others
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_AS, (memory - 2**31, memory - 2**31))

    import torch

    from lra.profiling.timing import timed

    torch.set_num_threads(threads or torch.get_num_threads())
    if path == "keops" and device == "cpu":
        from pykeops.torch import Genred

        call = Genred.__call__
        Genred.__call__ = lambda self, *args, backend="CPU", **named: call(self, *args, backend="CPU", **named)
    spec = importlib.util.spec_from_file_location("peer_s4", Path(checkout) / "models/s4/s4.py")
    assert spec is not None
    s4: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(s4)  # type: ignore[union-attr]
    if path == "cuda" and not s4.has_cuda_extension:
        sys.exit("the checkout's CUDA extension is not built")
    s4.has_cuda_extension = path == "cuda"
    s4.has_pykeops = path == "keops"

    torch.manual_seed(0)
    if what == "step":
        sizes = argparse.Namespace(H=H, N=N, L=L, **json.loads(sys.argv[11]))
        print(json.dumps(training_step(s4, device, repeats, sizes)))
        return
    if what == "stepping":
        print(json.dumps(stepping(s4, device, repeats, B=B, H=H, N=N, L=L, **json.loads(sys.argv[11]))))
        return
    block = s4.S4Block(
        H, bidirectional=True, d_state=N, n_ssm=1, l_max=L, transposed=True, init="legs", mode="nplr", dt_min=1e-3,
        dt_max=1e-1,
    ).to(device)  # fmt: skip
    x = torch.randn(B, H, L, device=device, requires_grad=True)

    def forward():
        return block.layer.kernel(L=L)[0] if what == "kernel" else block(x)[0]

    def backward():
        forward().sum().backward()
        block.zero_grad(set_to_none=True)
        x.grad = None

    ahead, both = timed(forward, device, repeats=repeats), timed(backward, device, repeats=repeats)
    numbers = {
        "forward ms": 1e3 * ahead.seconds, "forward+backward ms": 1e3 * both.seconds,
        "peak MiB": both.peak_bytes / 2**20,
    }  # fmt: skip
    print(json.dumps(numbers | ({"peak / kernel": both.peak_bytes / (8 * H * L)} if what == "kernel" else {})))


def stepping(s4: Any, device: str, repeats: int, *, B: int, H: int, N: int, L: int, mode: str) -> dict:
    """Its causal block, step by step. mode: of its `setup_step` for S4, or "s4d" for its S4D."""
    kind = {"mode": "diag"} if mode == "s4d" else {"mode": "nplr", "init": "legs"}
    block = s4.S4Block(H, d_state=N, n_ssm=1, l_max=L, transposed=True, dt_min=1e-3, dt_max=1e-1, **kind)
    block = block.to(device).eval()
    block.layer.kernel(L=L)  # sets the length of its C, which setup_step needs
    block.setup_step(**({} if mode == "s4d" else {"mode": mode}))
    return time_steps(block.step, block.default_state, lambda x: block(x.mT)[0].mT, device, repeats, (B, H, L))


def time_steps(
    step: Any, default_state: Any, forward: Any, device: str, repeats: int, sizes: tuple[int, int, int]
) -> dict:
    """Median microseconds of a step of B rows, and the error of L steps against the forward pass of (2, L, H)."""
    import torch

    from lra.profiling.timing import timed

    B, H, L = sizes
    count = 100
    with torch.no_grad():
        torch.manual_seed(0)
        x = torch.randn(2, L, H, device=device)
        state, stepped = default_state(2), []
        for position in x.unbind(1):
            y, state = step(position, state)
            stepped.append(y)
        whole = forward(x)
        error = (torch.stack(stepped, 1) - whole).norm() / whole.norm()
        u, state = torch.randn(B, H, device=device), default_state(B)

        def steps() -> None:
            nonlocal state
            for _ in range(count):
                _, state = step(u, state)

        return {"us": 1e6 * timed(steps, device, repeats=repeats).seconds / count, "error": error.item()}


def training_step(s4: Any, device: str, repeats: int, c: argparse.Namespace) -> dict:
    """Its blocks in a residual stack between embedding and linear head, with AdamW on its parameter groups."""
    import torch
    from torch import nn

    from lra.profiling.timing import timed

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(1, c.H) if c.vocab_size is None else nn.Embedding(c.vocab_size, c.H)
            layer = {"bidirectional": True, "d_state": c.N, "n_ssm": c.n_ssm, "l_max": c.L, "transposed": True,
                     "init": "legs", "mode": "nplr", "dt_min": c.dt_min, "dt_max": c.dt_max, "lr": min(c.lr, 0.001),
                     "dropout": c.dropout, "tie_dropout": c.tie_dropout}  # fmt: skip
            self.blocks = nn.ModuleList([s4.S4Block(c.H, **layer) for _ in range(c.n_layers)])
            make = nn.BatchNorm1d if c.norm == "batch" else nn.LayerNorm
            self.norms = nn.ModuleList([make(c.H) for _ in range(c.n_layers + c.prenorm)])
            self.drop = nn.Dropout1d(c.dropout) if c.tie_dropout else nn.Dropout(c.dropout)
            self.head = nn.Linear(c.H, c.n_classes)

        def normed(self, i, x):
            return self.norms[i](x) if c.norm == "batch" else self.norms[i](x.mT).mT

        def forward(self, x):
            x = self.embed(x).mT
            for i, block in enumerate(self.blocks):
                y = block(self.normed(i, x) if c.prenorm else x)[0]
                x = x + self.drop(y)
                x = x if c.prenorm else self.normed(i, x)
            x = self.normed(c.n_layers, x) if c.prenorm else x
            return self.head(x.mean(-1))

    net = Stack().to(device)
    x = torch.rand(c.rows, c.L, 1) if c.vocab_size is None else torch.randint(1, c.vocab_size, (c.rows, c.L))
    x, y = x.to(device), (torch.arange(c.rows) % c.n_classes).to(device)
    plain = [p for p in net.parameters() if not hasattr(p, "_optim")]
    special = [{"params": [p], **p._optim} for p in net.parameters() if hasattr(p, "_optim")]
    optimizer = torch.optim.AdamW([{"params": plain}, *special], lr=c.lr, weight_decay=c.weight_decay)

    def step():
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=c.bf16):
            loss = nn.functional.cross_entropy(net(x).float(), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    measured = timed(step, device, repeats=repeats)
    n_parameters = sum(p.numel() for p in net.parameters())
    return {"forward+backward ms": 1e3 * measured.seconds, "peak MiB": measured.peak_bytes / 2**20,
            "parameters": n_parameters}  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) < 11:
        sys.exit("s4_repo.py: is called by the benchmarks with --peer; hint: python scripts/bench.py kernel --help")
    main()
