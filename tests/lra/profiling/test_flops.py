"""FLOPs counted by hand, for layers, whole models and the committed records."""

import math

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from lra.nn.classifier import Classifier
from lra.ops.fftconv import fast_length
from lra.ops.hippo import rank_correction
from lra.paths import ROOT
from lra.profiling.flops import RNNFlopsStub, forward_flops
from lra.records.published import TASKS
from lra.records.store import load
from lra.task import TaskSpec
from models.linear_transformer import LinearAttention
from models.lstm import LSTM

L, D = 64, 8


class Work(nn.Module):
    """A model that does some work on its inputs."""

    def __init__(self, work=None, layer: nn.Module | None = None):
        super().__init__()
        self.work, self.layer = work, layer

    def forward(self, x, mask):
        assert not self.training
        return self.work(x) if self.layer is None else self.layer(x)


def flops(net: nn.Module, *, max_len: int = L, paired: bool = False) -> int:
    return forward_flops(net, TaskSpec("test", max_len, 2, None, channels=D, paired=paired))


def test_matrix_product_costs_two_per_weight():
    net = Work(layer=nn.Linear(D, 5))
    assert flops(net) == 2 * L * D * 5
    assert flops(net, paired=True) == 2 * flops(net)
    # longer inputs are counted at 1024 positions
    assert flops(net, max_len=5000) == 2 * 1024 * D * 5


def test_attention_is_counted():
    def attend(x):
        return nn.functional.scaled_dot_product_attention(x, x, x)

    assert flops(Work(attend)) == 2 * (2 * L * L * D)


def test_fourier_transforms_are_counted():
    def there_and_back(x):
        return torch.fft.irfft(torch.fft.rfft(x.mT, n=2 * L), n=2 * L)

    assert flops(Work(there_and_back)) == 2 * round(2.5 * D * 2 * L * math.log2(2 * L))
    assert flops(Work(lambda x: torch.fft.fft(x.mT.to(torch.complex64)))) == round(5 * D * L * math.log2(L))


def test_recurrent_layers_are_counted():
    for kind, gates in ((nn.GRU, 3), (nn.LSTM, 4)):
        net = Work(layer=kind(D, 6, batch_first=True))
        assert flops(net) == 2 * L * gates * 6 * (D + 6)
        both, x = kind(D, 6, batch_first=True, bidirectional=True), torch.zeros(2, 5, D)
        assert flops(Work(layer=both)) == 2 * flops(net)
        shapes = [tree_map(torch.Tensor.size, layer(x)) for layer in (RNNFlopsStub(both), both)]
        assert shapes[0] == shapes[1]
    with pytest.raises(ValueError, match="batch_first=True only"):
        flops(Work(layer=nn.GRU(D, 6)))


def test_model_and_random_state_are_unchanged():
    net = Work(layer=nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(L))).train()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    flops(net)
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


# a forward pass on one example of L positions, counted by hand


def transformer_flops(L, D, F, Q):
    """Of a layer: queries, keys, values; all pairs twice; output; feed-forward network."""
    return 2 * L * D * 3 * Q + 2 * (2 * L * L * Q) + 2 * L * Q * D + 2 * (2 * L * D * F)


def s4_flops(L, D, N, R):
    """Of a two-sided, gated layer: N poles at L / 2 + 1 frequencies, two kernels, a convolution, the output."""
    n = fast_length(2 * L - 1)
    # Woodbury's product of two of the sums is a matrix product only for ranks above one
    woodbury = 2 * 2 * D * R * (L // 2 + 1) if R > 1 else 0
    sums, kernels = woodbury + (2 + R) * (1 + R) * 2 * D * N * (L // 2 + 1), round(2 * 2.5 * D * L * math.log2(L))
    return sums + kernels + 3 * round(2.5 * D * n * math.log2(n)) + 2 * L * D * 2 * D


@pytest.mark.parametrize("model", ["transformer", "s4"])
def test_recorded_flops_equal_counts_by_hand(model):
    folder = ROOT / "results/runs/mini" / model
    records = [r for path in sorted(folder.rglob("*.json")) if (r := load(path)).flops is not None]
    # pairs have another head, other tasks another input
    records = [r for r in records if r.task in TASKS and r.task != "retrieval"]
    assert records
    for r in records:
        m, spec = r.config["model"], r.config["task"]
        D, hidden, classes = m["d_model"], m["head_hidden"], 10 if r.task in ("image", "listops") else 2
        # one more position for a class token; grey values are multiplied, tokens looked up
        L = min(spec["size"] ** 2 if "size" in spec else spec["max_len"], 1024) + (m["pool"] == "cls")
        embedding = 2 * L * D if "size" in spec and spec["variant"] == "s4" else 0
        head = 2 * D * hidden + 2 * hidden * classes if hidden else 2 * D * classes
        if model == "transformer":
            layer = transformer_flops(L, D, m["d_ff"], m["mixer"]["d_qkv"] or D)
        else:
            layer = s4_flops(L, D, m["mixer"]["d_state"], len(rank_correction(m["mixer"]["init"], 1)))
        assert r.flops == embedding + m["n_layers"] * layer + head, r.task


def test_linear_transformer_equals_count_by_hand():
    H = 2
    K = D // H
    net = Classifier(TaskSpec("t", L, 2, 11), d_model=D, n_layers=2, mixer=lambda *a: LinearAttention(*a, n_heads=H))
    # writing and reading the state cost K per feature and position, the normaliser one
    layer = 2 * L * D * 3 * D + 2 * (2 * L * D * K) + 2 * L * D + 2 * L * D * D
    assert forward_flops(net, TaskSpec("t", L, 2, 11)) == 2 * layer + 2 * D * 2


def test_lstm_equals_count_by_hand():
    net = Classifier(TaskSpec("t", L, 2, 11), d_model=D, n_layers=2, mixer=LSTM)
    S = D // 2
    layer = 2 * (2 * L * 4 * S * (D + S)) + 2 * L * D * D
    assert forward_flops(net, TaskSpec("t", L, 2, 11)) == 2 * layer + 2 * D * 2
