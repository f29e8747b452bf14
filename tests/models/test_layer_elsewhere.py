"""State-space layers in other people's code: half precision, meta device, torch.func, torch.compile, torch.export."""

import copy
import pickle
import warnings

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from helpers.comparison import step_through
from lra.ops.fftconv import long_conv_op
from lra.ops.scan import scan_op
from lra.ops.selective_scan import selective_scan_op
from lra.ops.ssm_kernels.dispatch import diagonal_kernel_op, nplr_kernel_op
from models.dss import DSS
from models.h3 import H3
from models.lru import LRU
from models.lssl import LSSL
from models.mamba import Mamba
from models.mamba2 import Mamba2
from models.s4 import S4
from models.s4d import S4D
from models.s5 import S5

RECURRENT = [S4, S4D, DSS, LSSL, S5, LRU]
LAYERS = pytest.mark.parametrize("layer", [*RECURRENT, H3, Mamba, Mamba2], ids=lambda layer: layer.__name__)
# largest error of the output in units of its largest value, between a layer with rounded parameters and a float32 layer
# with the same parameters: the kernel is computed in float32, so only the output and the last linear map are rounded
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}


def small(layer, max_len=24, **options):
    own = {S5: {"n_blocks": 2}, Mamba2: {"head_dim": 4}}.get(layer, {})
    return layer(4, max_len, d_state=8, **own, **options)


def build(layer, seed=0, **options):
    torch.manual_seed(seed)
    return small(layer, **options)


def inputs(*batch, dtype=torch.float32):
    """x (*batch, L, D) and a ragged mask (*batch, L)."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(5, 25, (*batch, 1), generator=generator)
    return torch.randn(*batch, 24, 4, dtype=dtype, generator=generator), torch.arange(24) < lengths


@pytest.mark.parametrize("convert", ["half", "bfloat16", "to"])
@LAYERS
def test_half_precision_parameters(layer, convert):
    dtype = torch.float16 if convert == "half" else torch.bfloat16
    ours = build(layer, bidirectional=False)
    ours = ours.to(dtype) if convert == "to" else getattr(ours, convert)()
    float32 = build(layer, bidirectional=False)
    float32.load_state_dict(ours.state_dict())
    x = inputs(2, dtype=dtype)[0]
    y, expected = ours(x), float32(x.float())
    results = [y]
    if layer in RECURRENT:
        with torch.no_grad():
            results.append(step_through(ours, x))
    for found in results:
        assert found.dtype == dtype
        assert (found - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
    y.float().square().mean().backward()
    for name, p in ours.named_parameters():
        assert p.grad.dtype == dtype, name
        assert p.grad.isfinite().all(), name


@LAYERS
def test_meta_device(layer):
    trained = build(layer)
    x, mask = inputs(2)
    for assign in (False, True):
        with torch.device("meta"):
            ours = small(layer)
        assert all(p.is_meta for p in ours.parameters())
        y = ours(x.to("meta"), mask.to("meta"))
        assert y.is_meta
        assert y.shape == x.shape
        if not assign:
            ours.to_empty(device="cpu")
        ours.load_state_dict(trained.state_dict(), assign=assign)
        assert torch.equal(ours(x, mask), trained(x, mask))


@pytest.mark.parametrize("bidirectional", [True, False])
@LAYERS
def test_vmap_over_inputs_and_per_sample_gradients(layer, bidirectional):
    ours = build(layer, bidirectional=bidirectional).double()
    x, mask = inputs(3, 2, dtype=torch.float64)
    torch.testing.assert_close(vmap(ours)(x, mask), torch.stack(list(map(ours, x, mask))))

    def loss(parameters, x, mask):
        return functional_call(ours, parameters, (x, mask)).square().sum()

    parameters = dict(ours.named_parameters())
    found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, mask)
    for i in range(3):
        expected = torch.autograd.grad(loss(parameters, x[i], mask[i]), list(parameters.values()))
        torch.testing.assert_close([g[i] for g in found.values()], list(expected))


@LAYERS
def test_vmap_over_stacked_parameters(layer):
    ensemble = [build(layer, seed).double() for seed in range(3)]
    x, mask = inputs(2, dtype=torch.float64)
    parameters, buffers = stack_module_state(ensemble)

    def loss(parameters, buffers, x):
        y = functional_call(ensemble[0], (parameters, buffers), (x, mask))
        return y.square().sum(), y

    found, y = vmap(grad(loss, has_aux=True), in_dims=(0, 0, None))(parameters, buffers, x)
    for i, one in enumerate(ensemble):
        torch.testing.assert_close(y[i], one(x, mask))
        expected = torch.autograd.grad(one(x, mask).square().sum(), list(one.parameters()))
        torch.testing.assert_close([g[i] for g in found.values()], list(expected))


@LAYERS
def test_second_derivatives_are_refused_in_one_line(layer):
    ours, (x, _) = build(layer), inputs(2)
    (first,) = torch.autograd.grad(ours(x.requires_grad_()).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^\w+ can be differentiated only once; hint: [^\n]*$"):
        first.sum().backward()


def check_compiled(layer, backend):
    torch._dynamo.reset()
    ours, (x, mask) = build(layer), inputs(2)
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [run(x.requires_grad_(), mask) for run in (compiled, ours)]
        gradients = [torch.autograd.grad(y.square().sum(), [x, *ours.parameters()]) for y in results]
    # without code generation, the operations are the same
    assert backend == "inductor" or torch.equal(*results)
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@LAYERS
def test_compiles_into_one_graph(layer):
    check_compiled(layer, "aot_eager")


@pytest.mark.slow
def test_compiled_code_computes_the_same():
    check_compiled(S4, "inductor")


@pytest.mark.nightly
@LAYERS
def test_compiled_code_of_every_layer_computes_the_same(layer):
    check_compiled(layer, "inductor")


@LAYERS
def test_exports_with_any_batch_size(layer):
    ours, (x, mask) = build(layer), inputs(2)
    batch = torch.export.Dim("batch")
    program = torch.export.export(ours, (x, mask), dynamic_shapes=({0: batch}, {0: batch}))
    x, mask = inputs(5)
    torch.testing.assert_close(program.module()(x, mask), ours(x, mask))


@LAYERS
def test_direction_is_an_option(layer):
    x, _ = inputs(2, dtype=torch.float64)
    later = x.clone()
    later[:, -1] += 1
    causal, two_sided = (build(layer, bidirectional=both).double().eval() for both in (False, True))
    torch.testing.assert_close(causal(x)[:, :-1], causal(later)[:, :-1], rtol=0, atol=1e-12)
    assert (two_sided(x)[:, 0] - two_sided(later)[:, 0]).abs().max() > 1e-6


@LAYERS
def test_longer_input_continues_the_shorter_one(layer):
    ours = build(layer, bidirectional=False).double().eval()
    x = torch.randn(2, 40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = ours(x[:, :24])
    if layer is S4:
        with pytest.raises(ValueError, match=r"prepared for 24 positions, input has 40; hint: call prepare\(40\)"):
            ours(x)
        ours.prepare(40)
    torch.testing.assert_close(ours(x)[:, :24], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("layer", RECURRENT, ids=lambda layer: layer.__name__)
def test_rate_of_held_samples(layer):
    # the bilinear rule of these two is exact to the order of the step
    options = {"dt_max": 0.01} if layer in (S4, LSSL) else {}
    ours = build(layer, bidirectional=False, **options).double().eval()
    coarse = torch.randn(2, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    # the same signal at twice the rate: each sample is held for two positions
    expected = ours(coarse.repeat_interleave(2, 1))[:, 1::2]
    unadapted = (ours(coarse) - expected).norm()
    ours.prepare(24, rate=0.5)
    adapted = (ours(coarse) - expected).norm()
    assert adapted <= (0.05 if options else 1e-9) * unadapted


@LAYERS
def test_weights_of_any_length_are_loaded(layer):
    short, long = (build(layer, seed, max_len=max_len).double() for seed, max_len in ((0, 24), (1, 40)))
    long.load_state_dict(short.state_dict())
    x, mask = inputs(2, dtype=torch.float64)
    torch.testing.assert_close(long(x, mask), short(x, mask), rtol=1e-6, atol=1e-9)


@LAYERS
def test_copies_are_equal_and_independent(layer):
    ours, (x, mask) = build(layer), inputs(2)
    expected = ours(x, mask)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert getattr(copied, "optim", None) == getattr(ours, "optim", None)
        assert torch.equal(copied(x, mask), expected)
        with torch.no_grad():
            for p in copied.parameters():
                p.add_(0.1)
        assert not torch.equal(copied(x, mask), expected)
    assert torch.equal(ours(x, mask), expected)


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@LAYERS
def test_distributed_data_parallel_reduces_every_gradient(layer, process_group):
    ours, alone, (x, mask) = build(layer), build(layer), inputs(2)
    parallel = torch.nn.parallel.DistributedDataParallel(ours)
    # a second backward pass would raise if the first had left a parameter without a gradient
    for _ in range(2):
        for module in (parallel, alone):
            module.zero_grad()
            module(x, mask).square().mean().backward()
    for (name, p), q in zip(ours.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def selective_scan_arguments(batch, length, channels, states):
    u, dt, A, B, C = (
        torch.rand(size, requires_grad=True)
        for size in (*[(batch, length, channels)] * 2, (channels, states), *[(batch, length, states)] * 2)
    )
    return u, dt, -A, B, C


def test_operators_follow_the_rules_of_torch():
    torch.manual_seed(0)
    s4, s4d = build(S4), build(S4D)
    x, mask = inputs(2)
    a, b = torch.rand(1, 1, 3, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
    calls = {
        nplr_kernel_op: (*s4.kernel_parameters(), 24, "auto", False),
        diagonal_kernel_op: (*(z.detach().requires_grad_() for z in s4d.system()), 24, "zoh", "auto"),
        long_conv_op: (x.mT.requires_grad_(), s4.kernel(24).detach().requires_grad_(), s4.D, mask),
        scan_op: (a, b, True),
        selective_scan_op: selective_scan_arguments(2, 20, 3, 2),
    }
    for operator, arguments in calls.items():
        torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("options", [{}, {"init": "legt"}, {"form": "softmax"}], ids=["s4", "s4 legt", "dss softmax"])
def test_weights_of_a_shorter_layer_are_refitted(options):
    layer = DSS if "form" in options else S4
    short, long = (build(layer, seed, max_len=max_len, **options) for seed, max_len in ((0, 128), (1, 512)))
    long.load_state_dict(short.state_dict())
    assert long.length == 512
    kernel, expected = long.kernel(512), short.kernel(128)
    assert (kernel[..., :128] - expected).abs().max() <= 1e-4 * expected.abs().max()
    # weights for more positions also serve fewer
    short.load_state_dict(long.state_dict())
    torch.testing.assert_close(short.kernel(128), kernel[..., :128])


def test_weights_that_cannot_be_refitted_are_refused():
    short, long = (build(DSS, max_len=max_len, form="softmax") for max_len in (12, 24))
    with torch.no_grad():
        short.A_real[0] = 0.1
    with pytest.raises(ValueError, match=r"^weights for 12 positions .* DSS for 24: .*; hint: max_len=12$"):
        long.load_state_dict(short.state_dict())
