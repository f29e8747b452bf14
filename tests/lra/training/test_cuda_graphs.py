"""Recorded passes give what passes give; where none can be recorded, that is said."""

import functools

import pytest
import torch
import torch.nn.functional as F

from benchmarks.step import random_batch, training_step
from helpers.compose import classifier, compose, names
from helpers.fake_cuda_graphs import record
from helpers.tiny_run import Pool, go, losses
from lra.ops import scan, selective_scan
from lra.ops.ssm_kernels import dispatch
from lra.task import Batch, TaskSpec
from lra.training import cuda_graphs
from lra.training.config import Hardware
from lra.training.cuda_graphs import Graphs
from lra.training.optim import adamw

# what the host must know: of FNet the lengths of a batch, of SeqBoat how many positions are active, of DSS's softmax
# whether a state grows
WAITING = {"fnet", "seqboat", "dss_softmax"}
# a reversible Reformer asks for the state of the random numbers, which the recorder here would not notice
UNTOLD = {"reformer_reversible"}
ON_GRAPHS = Hardware(accelerator="cpu", graph=True)
L = 16


@pytest.fixture
def by_operations(monkeypatch):
    """Everything is computed by operations of PyTorch, as the recorder needs, and recorded by it."""
    for module in (scan, selective_scan):
        monkeypatch.setattr(module, "runs_compiled", lambda device: False)
    monkeypatch.setattr(dispatch, "ORDER", {"cpu": ("reference",)})
    dispatch.reset_backends_used()  # tests of KeOps in this process
    monkeypatch.setattr(cuda_graphs, "cuda_graph", lambda: record)
    monkeypatch.setattr(cuda_graphs, "why_not", lambda *_: None)
    monkeypatch.setattr(cuda_graphs, "WARM", 1)
    # oneDNN's recurrent layers leave out what a backward pass needs where they are repeated without one
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def batches(n: int):
    """Of two lengths, one row shorter than the batch."""
    generator = torch.Generator().manual_seed(0)
    for i in range(n):
        length = (L - 2, L // 2)[i % 2]
        mask = torch.arange(length) < torch.tensor([[length], [length], [length - 7]])
        x = torch.randint(1, 11, (3, length), generator=generator) * mask
        yield Batch(x, mask, torch.randint(3, (3,), generator=generator))


@functools.cache
def configuration(model: str):
    return compose(f"model={model}", "task=listops", "scale=smoke", "model.d_model=32", "model.dropout=0.1")


def trained(
    model: str, *, recorded: bool, precision: torch.dtype | None = None, device: str = "cpu"
) -> list[torch.Tensor]:
    """The losses of a few steps, and the weights after them."""
    torch.manual_seed(0)
    net = classifier(configuration(model), TaskSpec("test", L, 3, 11, ragged=True)).train().to(device)
    optimizer = adamw(net, lr=0.01)

    def work(batch):
        scores = net(batch.x, batch.mask).float()
        return F.cross_entropy(scores, batch.y), scores

    passes = Graphs(work, net, L)
    told = []
    for batch in batches(5):
        batch = passes.padded(Batch(*(t.to(device) for t in batch)))
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, precision, enabled=precision is not None):
            done = passes.repeat(batch) if recorded else None
            loss = done.loss if done else work(batch)[0]
        if done:
            passes.give(done)
        else:
            loss.backward()
        optimizer.step()
        told.append(loss.detach().clone())
    assert len(passes.recordings) == 2 * recorded
    return [*told, *net.state_dict().values()]


@pytest.mark.parametrize("model", [name for name in names("model") if name not in WAITING | UNTOLD])
def test_a_recorded_pass_is_the_pass(by_operations, model):
    """Of every model: dropout, running statistics and all; nothing in it waits for the device."""
    for a, b in zip(trained(model, recorded=True), trained(model, recorded=False), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("model", ["s4", "transformer"])
def test_a_recorded_pass_is_the_pass_under_autocast(by_operations, model):
    made = [trained(model, recorded=recorded, precision=torch.bfloat16) for recorded in (True, False)]
    for a, b in zip(*made, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("model", sorted(WAITING))
def test_what_waits_for_the_device_is_named(by_operations, model):
    with pytest.raises(ValueError, match=r"trainer.graph=true: a step cannot be recorded .*waits.*: leave it out"):
        trained(model, recorded=True)


def test_a_run_on_graphs_is_the_run(by_operations, tmp_path):
    runs = [go(tmp_path / str(graph), hardware=Hardware(accelerator="cpu", graph=graph)) for graph in (False, True)]
    assert losses(runs[0]) == losses(runs[1])
    assert runs[0].test_correct == runs[1].test_correct
    assert [run.notes[1:] for run in runs] == [[], ["steps of training recorded as CUDA graphs"]]


def test_a_benchmarked_step_on_a_graph_is_the_step(by_operations):
    cfg = compose("task=listops", "model=s4", "scale=smoke", "model.dropout=0.1")
    spec = TaskSpec("test", L, 3, 11)
    ends = []
    for way in ("bf16", "bf16+graph"):
        torch.manual_seed(0)
        net, batch = classifier(cfg, spec), random_batch(spec, 2)
        step = training_step(net, batch, cfg, way)
        for _ in range(4):
            step()
        ends.append(net.state_dict())
    for a, b in zip(*(end.values() for end in ends), strict=True):
        assert torch.equal(a, b)


def test_no_keops_on_a_graph(by_operations, monkeypatch):
    monkeypatch.setattr(dispatch, "backends_used", lambda: {"nplr_spectrum": ["keops"]})
    with pytest.raises(ValueError, match="KeOps computes beside the graph"):
        trained("transformer", recorded=True)


class Full(Pool):
    seen = 0

    def forward(self, x, mask):
        type(self).seen += self.training
        if type(self).seen > 1:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            finally:
                # what leaving a broken recording raises
                raise RuntimeError("operation failed due to a previous error during capture")
        return super().forward(x, mask)


def test_a_full_device_ends_a_run_on_graphs(by_operations, tmp_path):
    run = go(tmp_path, mixer=Full, hardware=ON_GRAPHS)
    assert run.status == "oom"
    assert "trainer.graph=true keeps batches whole" in run.reason


@pytest.mark.parametrize(
    ("device", "hardware", "reason"),
    [
        ("cpu", {}, "this run is on cpu"),
        ("cuda", {"devices": 2}, "not with 2 processes"),
        ("cuda", {"precision": "16-mixed"}, "scales the loss"),
        ("cuda", {"precision": "bf16-mixed"}, None),
    ],
)
def test_where_there_are_no_graphs_that_is_said(device, hardware, reason):
    said = cuda_graphs.why_not(torch.device(device), Hardware(**hardware))
    assert said is None if reason is None else reason in said


def test_a_run_without_a_gpu_says_so_at_once(tmp_path):
    with pytest.raises(ValueError, match="only CUDA has graphs: leave it out"):
        go(tmp_path, hardware=ON_GRAPHS)


on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=on_gpu) for name in names("model") if name not in WAITING | UNTOLD]
)
def test_a_pass_recorded_by_cuda_is_the_pass(monkeypatch, model):
    monkeypatch.setattr(cuda_graphs, "WARM", 1)
    made = [trained(model, recorded=recorded, device="cuda") for recorded in (True, False)]
    # sums over tokens are taken in any order there
    torch.testing.assert_close(*made, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", [pytest.param(name, marks=on_gpu) for name in sorted(WAITING | UNTOLD)])
def test_what_cuda_cannot_record_is_named(monkeypatch, model):
    monkeypatch.setattr(cuda_graphs, "WARM", 1)
    with pytest.raises(ValueError, match=r"trainer.graph=true: a step cannot be recorded"):
        trained(model, recorded=True, device="cuda")


@pytest.mark.parametrize("precision", [pytest.param(p, marks=on_gpu) for p in ("32-true", "bf16-mixed")])
def test_a_run_on_cuda_graphs_is_the_run(tmp_path, precision):
    made = []
    for graph in (False, True):
        hardware = Hardware(accelerator="gpu", graph=graph, precision=precision)
        made.append(go(tmp_path / str(graph), hardware=hardware))
    assert losses(made[0]) == losses(made[1])
