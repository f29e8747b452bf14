"""CUDA graphs compute what eager passes compute; passes that cannot be recorded raise a clear error."""

import functools

import pytest
import torch
import torch.nn.functional as F

from benchmarks.step import random_batch, training_step
from helpers.compose import classifier, compose, names
from helpers.fake_cuda_graphs import record
from helpers.tiny_run import Pool, losses, train
from lra.ops import fftconv, scan, selective_scan
from lra.ops.ssm_kernels import dispatch
from lra.task import Batch, TaskSpec
from lra.training import cuda_graphs
from lra.training.config import Hardware
from lra.training.cuda_graphs import GraphReplay, StepOutput
from lra.training.optim import adamw

# the host needs values of the device: the lengths of a batch (FNet), the number of active positions (SeqBoat),
# whether a state grows (DSS with softmax)
SYNCHRONISING = {"fnet", "seqboat", "dss_softmax"}
# a reversible Reformer reads the state of the random generator, which only CUDA notices
READS_RANDOM_STATE = {"reformer_reversible"}
RECORDABLE = [name for name in names("model") if name not in SYNCHRONISING | READS_RANDOM_STATE]
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
L = 16


@pytest.fixture
def fake_graphs(monkeypatch):
    """CPU graphs by the fake recorder, which needs every computation to be an operator of PyTorch."""
    for module in (scan, selective_scan):
        monkeypatch.setattr(module, "runs_compiled", lambda device: False)
    monkeypatch.setattr(fftconv, "runs_compiled", lambda u, kernel: False)
    monkeypatch.setattr(dispatch, "ORDER", {"cpu": ("reference",)})
    dispatch.reset_backends_used()
    monkeypatch.setattr(cuda_graphs, "cuda_graph_recorder", lambda: record)
    monkeypatch.setattr(cuda_graphs, "check_available", lambda *_: None)
    monkeypatch.setattr(cuda_graphs, "WARMUP_PASSES", 1)
    # oneDNN's recurrent layers skip what a backward pass needs if they are replayed without one
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def batches(n: int, device: str):
    """Batches of two lengths, with one shorter row each."""
    generator = torch.Generator().manual_seed(0)
    for i in range(n):
        length = (L - 2, L // 2)[i % 2]
        mask = torch.arange(length) < torch.tensor([[length], [length], [length - 7]])
        x = torch.randint(1, 11, (3, length), generator=generator) * mask
        yield Batch(*(t.to(device) for t in (x, mask, torch.randint(3, (3,), generator=generator))))


@functools.cache
def configuration(model: str):
    return compose(f"model={model}", "task=listops", "scale=smoke", "model.d_model=32", "model.dropout=0.1")


def trained(
    model: str, *, graph: bool, precision: torch.dtype | None = None, device: str = "cpu"
) -> list[torch.Tensor]:
    """Losses of a few steps, and the weights after them."""
    torch.manual_seed(0)
    net = classifier(configuration(model), TaskSpec("test", L, 3, 11, ragged=True)).train().to(device)
    optimizer = adamw(net, lr=0.01)

    def compute_loss(batch):
        scores = net(batch.x, batch.mask).float()
        return StepOutput(F.cross_entropy(scores, batch.y), scores, batch.y)

    graphs = GraphReplay(compute_loss, net, L)
    seen = []
    for batch in batches(5, device):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, precision, enabled=precision is not None):
            loss = (graphs.gradients(batch) if graph else compute_loss(graphs._padded(batch))).loss
        if not graph:
            loss.backward()
        optimizer.step()
        seen.append(loss.detach().clone())
    assert len(graphs.recordings) == 2 * graph
    return [*seen, *net.state_dict().values()]


def assert_equal(one, two):
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("model", RECORDABLE)
def test_replay_equals_eager(fake_graphs, model):
    """With dropout and running statistics."""
    assert_equal(trained(model, graph=True), trained(model, graph=False))


@pytest.mark.parametrize("model", ["s4", "transformer"])
def test_replay_equals_eager_under_autocast(fake_graphs, model):
    assert_equal(*(trained(model, graph=graph, precision=torch.bfloat16) for graph in (True, False)))


@pytest.mark.parametrize("model", sorted(SYNCHRONISING))
def test_synchronisation_is_named(fake_graphs, model):
    with pytest.raises(ValueError, match=r"trainer.graph=true: a step cannot be recorded .*waits.*; hint: "):
        trained(model, graph=True)


def test_run_with_graphs_equals_run_without(fake_graphs, tmp_path):
    runs = [train(tmp_path / str(graph), hardware=Hardware(accelerator="cpu", graph=graph)) for graph in (False, True)]
    assert losses(runs[0]) == losses(runs[1])
    assert runs[0].test_totals["correct"] == runs[1].test_totals["correct"]
    assert [run.notes[1:] for run in runs] == [[], ["steps of training recorded as CUDA graphs"]]


def test_benchmarked_step_equals_eager(fake_graphs):
    cfg = compose("task=listops", "model=s4", "scale=smoke", "model.dropout=0.1")
    spec = TaskSpec("test", L, 3, 11)
    weights = []
    for way in ("bf16", "bf16+graph"):
        torch.manual_seed(0)
        net, batch = classifier(cfg, spec), random_batch(spec, 2)
        step = training_step(net, batch, cfg, way)
        for _ in range(4):
            step()
        weights.append(net.state_dict().values())
    assert_equal(*weights)


def test_keops_is_refused(fake_graphs, monkeypatch):
    monkeypatch.setattr(dispatch, "backends_used", lambda: {"nplr_spectrum": ["keops"]})
    with pytest.raises(ValueError, match="cannot record KeOps"):
        trained("transformer", graph=True)


class OutOfMemory(Pool):
    seen = 0

    def forward(self, x, mask):
        type(self).seen += self.training
        if type(self).seen > 1:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            finally:
                # leaving a broken recording raises this
                raise RuntimeError("operation failed due to a previous error during capture")
        return super().forward(x, mask)


def test_out_of_memory_is_not_split(fake_graphs, tmp_path):
    run = train(tmp_path, mixer=OutOfMemory, hardware=Hardware(accelerator="cpu", graph=True))
    assert run.status == "oom"
    assert "trainer.graph=true keeps batches whole" in run.reason


@pytest.mark.parametrize(
    ("device", "hardware", "reason"),
    [
        ("cpu", {}, "this run is on cpu"),
        ("cuda", {"devices": 2}, "not with 2 processes"),
    ],
)
def test_unavailable_graphs_are_refused(device, hardware, reason):
    with pytest.raises(ValueError, match=f"^trainer.graph=true: .*{reason}"):
        cuda_graphs.check_available(torch.device(device), Hardware(**hardware))
    cuda_graphs.check_available(torch.device("cuda"), Hardware(precision="bf16-mixed"))


def test_run_without_gpu_is_refused(tmp_path):
    with pytest.raises(ValueError, match="only CUDA has graphs; hint: "):
        train(tmp_path, hardware=Hardware(accelerator="cpu", graph=True))


@pytest.mark.parametrize("model", [pytest.param(name, marks=on_gpu) for name in RECORDABLE])
def test_cuda_replay_equals_eager(monkeypatch, model):
    monkeypatch.setattr(cuda_graphs, "WARMUP_PASSES", 1)
    results = [trained(model, graph=graph, device="cuda") for graph in (True, False)]
    # gradients of embeddings are summed in no fixed order
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", [pytest.param(n, marks=on_gpu) for n in sorted(SYNCHRONISING | READS_RANDOM_STATE)])
def test_cuda_refusal_is_named(monkeypatch, model):
    monkeypatch.setattr(cuda_graphs, "WARMUP_PASSES", 1)
    with pytest.raises(ValueError, match=r"trainer.graph=true: a step cannot be recorded"):
        trained(model, graph=True, device="cuda")


@pytest.mark.parametrize("precision", [pytest.param(p, marks=on_gpu) for p in ("32-true", "bf16-mixed")])
def test_cuda_run_with_graphs_equals_run_without(tmp_path, precision):
    runs = [
        train(tmp_path / str(graph), hardware=Hardware(accelerator="gpu", graph=graph, precision=precision))
        for graph in (False, True)
    ]
    assert losses(runs[0]) == losses(runs[1])
