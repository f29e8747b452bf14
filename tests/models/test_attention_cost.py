"""Operations and tensor elements of the efficient models grow with the length as published.

Both are counted, not timed, with fused attention replaced by its parts. Full attention with a mask would grow 16-fold.
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


class ElementCounter(TorchDispatchMode):
    """Counts the elements of all new tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            # a view shares the memory of another tensor
            if isinstance(t, torch.Tensor) and not func.is_view:
                self.count += t.numel()
        return out


def layer_and_input(make, length: int):
    torch.manual_seed(0)
    mixer = make(D, length)
    return mixer, torch.randn(1, length, D, requires_grad=True), torch.ones(1, length, dtype=torch.bool)


def cost(make, length: int) -> tuple[int, int]:
    """Floating-point operations of matrix products and elements of new tensors of a forward and backward pass."""
    mixer, x, mask = layer_and_input(make, length)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops, ElementCounter() as elements:
        mixer(x, mask).sum().backward()
    return flops.get_total_flops(), elements.count


def growth(make) -> tuple[float, float]:
    """Factors of flops and elements for four times the length."""
    (flops, elements), (longer_flops, longer_elements) = cost(make, 1024), cost(make, 4096)
    return longer_flops / flops if flops else 4.0, longer_elements / elements


@pytest.mark.parametrize("name", LINEAR)
def test_cost_of_linear_models_is_linear(name):
    flops, elements = growth(LINEAR[name])
    # the mixing of sorted blocks is quadratic with a small factor
    assert flops < (5.0 if name == "sinkhorn" else 4.2)
    assert elements < 4.2


@pytest.mark.parametrize("name", ROOT)
def test_cost_of_the_sparse_transformer_is_l_root_l(name):
    assert max(growth(ROOT[name])) < 8.2


@pytest.mark.parametrize("name", SQUARE)
def test_quadratic_cost_is_detected(name):
    flops, elements = growth(SQUARE[name])
    assert flops > 8
    assert elements > 12


def peak(make) -> int:
    """Peak bytes of tensors in a training step at length 4096, beyond parameters and input."""
    mixer, x, mask = layer_and_input(make, 4096)
    return peak_bytes(lambda: mixer(x, mask).sum().backward(), torch.device("cpu"))


def test_peak_memory_is_below_a_quarter_of_full_attention():
    with sdpa_kernel(SDPBackend.MATH):
        full = peak(Attention)
    assert full > 4 * 4 * 4096**2  # an (L, L) matrix for each head
    shares = {name: peak(make) / full for name, make in (LINEAR | ROOT).items()}
    assert {name: share for name, share in shares.items() if share >= 0.25} == {}
