"""Operations and tensor elements of the efficient models grow as published: counted, so that no machine's mood matters.

Fused attention is taken apart for the count. A mask over full attention would show as 16 times both.
"""

from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lra.profiling.timing import peak_bytes
from models.bigbird import BigBird
from models.fnet import FNet
from models.linear_transformer import LinearAttention
from models.linformer import Linformer
from models.local_attention import LocalAttention
from models.longformer import Longformer
from models.luna import Luna
from models.nystromformer import Nystromformer
from models.performer import Performer
from models.reformer import LSHAttention
from models.sinkhorn import SinkhornAttention
from models.sparse_transformer import SparseTransformer
from models.synthesizer import Synthesizer
from models.transformer import Attention

pytestmark = pytest.mark.slow

D = 64
LINEAR = {
    "bigbird": BigBird,
    "fnet": FNet,
    "linear_transformer": LinearAttention,
    "linformer": Linformer,
    "local_attention": LocalAttention,
    "longformer": Longformer,
    "longformer_global": partial(Longformer, n_global=2),
    "luna": partial(Luna, n_layers=1),
    "nystromformer": Nystromformer,
    "performer": Performer,
    "performer_softmax": partial(Performer, kernel="softmax"),
    "reformer": LSHAttention,
    "sinkhorn": SinkhornAttention,
}
ROOT = {
    "sparse_fixed": partial(SparseTransformer, block=None),
    "sparse_strided": partial(SparseTransformer, pattern="strided", block=None),
}
SQUARE = {"transformer": Attention, "synthesizer": Synthesizer}


class Elements(TorchDispatchMode):
    """Counts the elements of every tensor an operation makes."""

    def __init__(self):
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            # a view shares the memory of another tensor
            if isinstance(t, torch.Tensor) and not func.is_view:
                self.made += t.numel()
        return out


def cost(make, length: int) -> tuple[int, int]:
    """(floating-point operations of matrix products, tensor elements made) of a forward and backward pass."""
    torch.manual_seed(0)
    mixer = make(D, length)
    x = torch.randn(1, length, D, requires_grad=True)
    mask = torch.ones(1, length, dtype=torch.bool)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as operations, Elements() as elements:
        mixer(x, mask).sum().backward()
    return operations.get_total_flops(), elements.made


def growth(make) -> tuple[float, float]:
    (flops, made), (more_flops, more_made) = cost(make, 1024), cost(make, 4096)
    return more_flops / flops if flops else 4.0, more_made / made


@pytest.mark.parametrize("name", LINEAR)
def test_four_times_the_length_costs_about_four_times_as_much(name):
    operations, elements = growth(LINEAR[name])
    # the mixing of sorted blocks is quadratic with a small factor
    assert operations < (5.0 if name == "sinkhorn" else 4.2)
    assert elements < 4.2


@pytest.mark.parametrize("name", ROOT)
def test_the_sparse_transformer_grows_as_the_root_more_than_linearly(name):
    operations, elements = growth(ROOT[name])
    assert operations < 8.2
    assert elements < 8.2


@pytest.mark.parametrize("name", SQUARE)
def test_the_count_sees_quadratic_cost_where_there_is_one(name):
    operations, elements = growth(SQUARE[name])
    assert operations > 8
    assert elements > 12


def peak(make) -> int:
    """Bytes that tensors of a training step hold at once, beyond parameters and input, at length 4096."""
    torch.manual_seed(0)
    mixer = make(D, 4096)
    x = torch.randn(1, 4096, D, requires_grad=True)
    mask = torch.ones(1, 4096, dtype=torch.bool)
    return peak_bytes(lambda: mixer(x, mask).sum().backward(), torch.device("cpu"))


def test_peak_memory_at_4096_is_below_a_quarter_of_stored_full_attention():
    with sdpa_kernel(SDPBackend.MATH):
        full = peak(Attention)
    # one (L, L) matrix for each head at the least
    assert full > 4 * 4 * 4096**2
    shares = {name: peak(make) / full for name, make in (LINEAR | ROOT).items()}
    assert {name: share for name, share in shares.items() if share >= 0.25} == {}
