"""Properties that every model must have, tested for each file of configs/model.

B batch, L length, D width. A mixer or encoder is exempt from a property only by its class attribute
`exempt = {"padding": "reason"}`; the reasons are printed with the model's parameter count.
"""

import copy
import functools
import re

import pytest
import torch
from hydra.errors import InstantiationException

from helpers.compose import CONFIGS, classifier, compose, names
from lra.errors import UserError
from lra.nn.batch_norm import BatchNorm
from lra.task import TaskSpec
from lra.training import kernel_snapshots

D = 32
KEYS = {"padding", "rows", "any_length", "gradient", "bf16"}
MODELS = names("model")


@functools.cache
def small(model: str):
    return compose(f"model={model}", "task=listops", "scale=smoke", f"model.d_model={D}")


def build(model: str, max_len: int = 48, *, seed: int = 0, vocab: int | None = None):
    """A small model with the settings of its file, in evaluation mode."""
    torch.manual_seed(seed)
    return classifier(small(model), TaskSpec("test", max_len, 3, vocab, ragged=True)).eval()


def encoder(model: str, max_len: int = 48, seed: int = 0):
    return build(model, max_len, seed=seed).encoder


def exempt(model: str) -> dict[str, str]:
    reasons = {}
    for module in encoder(model).modules():
        reasons |= getattr(type(module), "exempt", {})
    return reasons


def skip_if_exempt(model: str, name: str) -> None:
    if reason := exempt(model).get(name):
        pytest.skip(f"{model} is exempt from {name}: {reason}")


def example(lengths: list[int], longest: int, dtype=torch.float64, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), longest, D, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return x, mask


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def set_batch_statistics(net) -> None:
    """Give batch norms in evaluation mode statistics other than 0 and 1."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)


@pytest.mark.parametrize("model", MODELS)
def test_exemptions_have_reasons(model, record_property):
    for name, reason in exempt(model).items():
        record_property("exempt", f"{model} from {name}: {reason}")
        assert name in KEYS
        assert len(reason) > 20


@pytest.mark.parametrize("model", MODELS)
def test_keeps_shape_and_dtype(model):
    net = encoder(model)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    for dtype in (torch.float32, torch.float64):
        x, mask = example([20, 13], 20, dtype)
        y = net.to(dtype)(x, mask)
        # the output of an encoder may be wider
        assert y.shape == (*x.shape[:2], getattr(net, "d_output", D))
        assert y.dtype == dtype
        assert y[mask].isfinite().all()


@pytest.mark.parametrize("model", MODELS)
def test_padding_never_changes_a_real_position(model):
    skip_if_exempt(model, "padding")
    net = encoder(model).double()
    set_batch_statistics(net)
    x, mask = example([10, 7], 10)
    longer_mask = torch.nn.functional.pad(mask, (0, 9))
    longer = torch.nn.functional.pad(x, (0, 0, 0, 9)).masked_fill(~longer_mask[..., None], 9.0)
    close(net(longer, longer_mask)[:, :10][mask], net(x, mask)[mask])


@pytest.mark.parametrize("model", MODELS)
def test_rows_are_independent(model):
    skip_if_exempt(model, "rows")
    net = encoder(model).double()
    set_batch_statistics(net)
    x, mask = example([16, 16, 11], 16)
    close(net(x, mask)[:1], net(x[:1], mask[:1]))


@pytest.mark.parametrize("model", MODELS)
def test_takes_any_length_up_to_max_len(model):
    skip_if_exempt(model, "any_length")
    net = encoder(model).double()
    for length in (1, 2, 3, 31, 48):
        x, mask = example([length], length)
        assert net(x, mask).isfinite().all(), length


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_gets_a_gradient(model):
    skip_if_exempt(model, "gradient")
    net = build(model).double().train()
    x = torch.randn(3, 40, 1, dtype=torch.float64)
    mask = torch.arange(40) < torch.tensor([40, 33, 25])[:, None]
    (net(x, mask) * torch.randn(3, 3, dtype=torch.float64)).sum().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_every_position_gets_a_gradient(model):
    skip_if_exempt(model, "gradient")
    net = build(model).double()
    x = torch.randn(1, 40, 1, dtype=torch.float64, requires_grad=True)
    net(x, torch.ones(1, 40, dtype=torch.bool)).square().sum().backward()
    assert (x.grad[0, :, 0] != 0).all()


@pytest.mark.parametrize("model", MODELS)
def test_every_dropout_acts_only_in_training(model):
    net = build(model)
    places = [
        (module, name)
        for module in net.modules()
        # torch's recurrent networks drop only between layers, and ours have one layer
        if not isinstance(module, torch.nn.RNNBase)
        for name, value in vars(module).items()
        if isinstance(value, float) and ("dropout" in name or (name == "p" and "Dropout" in type(module).__name__))
    ]
    assert places
    x, mask = torch.randn(2, 20, 1), torch.arange(20) < torch.tensor([20, 13])[:, None]

    def output(p: float, places=places):
        for module, name in places:
            setattr(module, name, p)
        torch.manual_seed(0)
        return net(x, mask)

    assert torch.equal(output(0.5), output(0.0))
    net.train()
    undropped = output(0.0)
    assert torch.equal(output(0.0), undropped)
    for module, name in places:
        assert not torch.equal(output(0.5, [(module, name)]), undropped), (type(module).__name__, name)
        output(0.0)


@pytest.mark.parametrize("model", MODELS)
def test_same_seed_same_output(model):
    x, mask = example([12, 9], 12, torch.float32)
    a, b = encoder(model, seed=3)(x, mask), encoder(model, seed=3)(x, mask)
    assert torch.equal(a[mask], b[mask])


@pytest.mark.parametrize("model", MODELS)
def test_state_dict_round_trips(model):
    x, mask = example([12, 9], 12, torch.float32)
    one, other = encoder(model, seed=1), encoder(model, seed=2)
    other.load_state_dict(copy.deepcopy(one.state_dict()), strict=True)
    assert torch.equal(one(x, mask)[mask], other(x, mask)[mask])


@pytest.mark.parametrize(
    ("model", "settings"),
    [(model, ()) for model in MODELS]
    + [
        ("dss_softmax", ("model.mixer.bidirectional=false",)),
        ("hyena", ("model.mixer.bidirectional=true",)),
        ("mega", ("model.encoder.chunk=16",)),
        ("rope_transformer", ("model.mixer.window=30",)),
        ("seqboat", ("model.encoder.distance=original",)),
        ("sparse_transformer", ("model.mixer.block=null", "model.mixer.n_summary=2")),
        ("sparse_transformer", ("model.mixer.block=null", "model.mixer.pattern=strided")),
        ("synthesizer", ("model.mixer.parts=[dense]",)),
        ("synthesizer", ("model.mixer.parts=[factorised_dense]",)),
    ],
)
def test_max_len_never_changes_the_output(model, settings):
    """Weights in a layer for another max_len give the same output, or loading refuses them."""
    cfg = compose(f"model={model}", "task=listops", "scale=smoke", f"model.d_model={D}", *settings)
    trained, *others = (
        classifier(cfg, TaskSpec("test", max_len, 3, None, ragged=True)).double().eval() for max_len in (48, 100, 20)
    )
    set_batch_statistics(trained)
    x, mask = torch.randn(2, 20, 1, dtype=torch.float64), torch.arange(20) < torch.tensor([20, 13])[:, None]
    for other in others:
        refused = None
        try:
            other.load_state_dict(trained.state_dict())
        except (RuntimeError, UserError) as error:
            refused = str(error)
        if refused is not None:
            assert re.search(r"size mismatch|(Missing|Unexpected) key|weights for 48 positions", refused)
            continue
        torch.testing.assert_close(other(x, mask), trained(x, mask), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_autocast_is_close(model):
    skip_if_exempt(model, "bf16")
    net = encoder(model)
    x, mask = example([24, 17], 24, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, mask)
    reference = net(x, mask)
    error = (y.float() - reference)[mask].norm() / reference[mask].norm()
    assert error < 0.1


@pytest.mark.parametrize("model", MODELS)
def test_training_lowers_the_loss(model, record_property):
    net = build(model, vocab=11).train()
    record_property("parameters", f"{model} {sum(p.numel() for p in net.parameters()):,}")
    torch.manual_seed(0)
    x = torch.randint(1, 11, (8, 40))
    mask = torch.arange(40) < torch.randint(20, 41, (8,))[:, None]
    y = torch.arange(8) % 3
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(net(x, mask), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < losses[0]


def test_kernels_have_one_form():
    """A `kernel` method of another form would be left out of the snapshots."""
    found = set()
    for model in MODELS:
        net = encoder(model)
        with torch.no_grad():
            kernels = [layer.kernel(40) for layer in kernel_snapshots.layers_with_kernel(net)]
        assert all(k.dim() == 3 and k.shape[-1] == 40 and k.is_floating_point() for k in kernels), model
        assert bool(kernel_snapshots.forward_kernels(net, 40)) == bool(kernels)
        found |= {model} if kernels else set()
    assert found >= {"dss", "h3", "lssl", "mega", "megalodon", "s4", "s4d", "seqboat", "tnn"}


@pytest.mark.parametrize("model", [m for m in MODELS if "n_heads" in (CONFIGS / f"model/{m}.yaml").read_text()])
def test_heads_must_divide_the_width(model):
    cfg = copy.deepcopy(small(model))
    layer = cfg.model.get("mixer") or cfg.model.encoder
    (layer.get("mixer") or layer).n_heads = 3
    with pytest.raises(InstantiationException, match=r"n_heads:? 3"):
        classifier(cfg, TaskSpec("test", 48, 3, None))


@pytest.mark.parametrize("model", ["mega", "hgrn2", "tnn", "seqboat", "s4"])
@pytest.mark.parametrize("ragged", [True, False])
def test_batch_norms_know_whether_batches_are_ragged(model, ragged):
    cfg = compose(f"model={model}", "task=listops", "scale=smoke", "model.norm=batch")
    net = classifier(cfg, TaskSpec("test", 24, 3, 11, ragged=ragged))
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    assert norms
    assert all(norm.ragged == ragged for norm in norms)
