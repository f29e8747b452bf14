"""The promises of every model, tested for each file of configs/model the moment it exists.

B batch, L length, D width. A mixer or encoder may be exempt from a promise only by its own class attribute
`exempt = {"padding": "reason"}`; the reasons are printed with the model's parameter count.
"""

import copy
import functools

import pytest
import torch
from hydra.errors import InstantiationException

from helpers.compose import CONFIGS, classifier, compose, names
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
    """The middle of a model as its file says, at a small size, in evaluation mode."""
    torch.manual_seed(seed)
    return classifier(small(model), TaskSpec("test", max_len, 3, vocab, ragged=True)).eval()


def middle(model: str, max_len: int = 48, seed: int = 0):
    return build(model, max_len, seed=seed).encoder


def exempt(model: str) -> dict[str, str]:
    reasons = {}
    for module in middle(model).modules():
        reasons |= getattr(type(module), "exempt", {})
    return reasons


def skip_if_exempt(model: str, promise: str) -> None:
    if reason := exempt(model).get(promise):
        pytest.skip(f"{model} is exempt from {promise}: {reason}")


def example(lengths: list[int], longest: int, dtype=torch.float64, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), longest, D, generator=generator, dtype=torch.float64).to(dtype)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return x, mask


def close(a, b, dtype=torch.float64):
    tolerance = {torch.float64: 1e-8, torch.float32: 1e-4}[dtype]
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def set_batch_statistics(net) -> None:
    """Batch norm in evaluation mode with statistics that are not the trivial ones."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)


@pytest.mark.parametrize("model", MODELS)
def test_exemptions_are_named_with_reasons(model, record_property):
    for promise, reason in exempt(model).items():
        record_property("exempt", f"{model} from {promise}: {reason}")
        assert promise in KEYS
        assert len(reason) > 20


@pytest.mark.parametrize("model", MODELS)
def test_shape_and_dtype_are_kept(model):
    net = middle(model)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    for dtype in (torch.float32, torch.float64):
        x, mask = example([20, 13], 20, dtype)
        y = net.to(dtype)(x, mask)
        # an encoder may be wider at its end
        assert y.shape == (*x.shape[:2], getattr(net, "d_output", D))
        assert y.dtype == dtype
        assert y[mask].isfinite().all()


@pytest.mark.parametrize("model", MODELS)
def test_padding_never_changes_a_real_position(model):
    skip_if_exempt(model, "padding")
    net = middle(model).double()
    set_batch_statistics(net)
    x, mask = example([10, 7], 10)
    longer = torch.cat([x, torch.full((2, 9, D), 9.0, dtype=x.dtype)], dim=1)
    longer[~torch.nn.functional.pad(mask, (0, 9))] = 9.0
    y = net(longer, torch.nn.functional.pad(mask, (0, 9)))
    close(y[:, :10][mask], net(x, mask)[mask])


@pytest.mark.parametrize("model", MODELS)
def test_rows_do_not_see_each_other(model):
    skip_if_exempt(model, "rows")
    net = middle(model).double()
    set_batch_statistics(net)
    x, mask = example([16, 16, 11], 16)
    alone = net(x[:1], mask[:1])
    close(net(x, mask)[:1], alone)


@pytest.mark.parametrize("model", MODELS)
def test_any_length_up_to_max_len(model):
    skip_if_exempt(model, "any_length")
    net = middle(model).double()
    for length in (1, 2, 3, 31, 48):
        x, mask = example([length], length)
        assert net(x, mask).isfinite().all(), length


@pytest.mark.parametrize("model", MODELS)
def test_a_gradient_reaches_every_parameter(model):
    skip_if_exempt(model, "gradient")
    net = build(model).double().train()
    x = torch.randn(3, 40, 1, dtype=torch.float64)
    mask = torch.arange(40) < torch.tensor([40, 33, 25])[:, None]
    (net(x, mask) * torch.randn(3, 3, dtype=torch.float64)).sum().backward()
    missing = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_a_gradient_reaches_every_position(model):
    skip_if_exempt(model, "gradient")
    net = build(model).double()
    x = torch.randn(1, 40, 1, dtype=torch.float64, requires_grad=True)
    net(x, torch.ones(1, 40, dtype=torch.bool)).square().sum().backward()
    assert (x.grad[0, :, 0] != 0).all()


@pytest.mark.parametrize("model", MODELS)
def test_every_dropout_drops_in_training_and_only_there(model):
    net = build(model)
    places = [
        (module, name)
        for module in net.modules()
        # torch's recurrent networks drop between their layers, and here have one
        if not isinstance(module, torch.nn.RNNBase)
        for name, value in vars(module).items()
        if isinstance(value, float) and ("dropout" in name or (name == "p" and "Dropout" in type(module).__name__))
    ]
    assert places
    x, mask = torch.randn(2, 20, 1), torch.arange(20) < torch.tensor([20, 13])[:, None]

    def output(p: float, where=places):
        for module, name in where:
            setattr(module, name, p)
        torch.manual_seed(0)
        return net(x, mask)

    assert torch.equal(output(0.5), output(0.0))
    net.train()
    whole = output(0.0)
    assert torch.equal(output(0.0), whole)
    for module, name in places:
        assert not torch.equal(output(0.5, [(module, name)]), whole), (type(module).__name__, name)
        output(0.0)


@pytest.mark.parametrize("model", MODELS)
def test_same_seed_same_output(model):
    x, mask = example([12, 9], 12, torch.float32)
    a, b = middle(model, seed=3)(x, mask), middle(model, seed=3)(x, mask)
    assert torch.equal(a[mask], b[mask])


@pytest.mark.parametrize("model", MODELS)
def test_state_dict_round_trips(model):
    x, mask = example([12, 9], 12, torch.float32)
    one, other = middle(model, seed=1), middle(model, seed=2)
    other.load_state_dict(copy.deepcopy(one.state_dict()), strict=True)
    assert torch.equal(one(x, mask)[mask], other(x, mask)[mask])


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_autocast_is_near(model):
    skip_if_exempt(model, "bf16")
    net = middle(model)
    x, mask = example([24, 17], 24, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, mask)
    reference = net(x, mask)
    error = (y.float() - reference)[mask].norm() / reference[mask].norm()
    assert error < 0.1


@pytest.mark.parametrize("model", MODELS)
def test_a_training_step_lowers_the_loss_it_was_made_for(model, record_property):
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


def test_layers_show_the_kernels_they_convolve_with():
    """All that have one: a method of another form would be passed over."""
    shown = set()
    for model in MODELS:
        with torch.no_grad():
            kernels = [layer.kernel(40) for layer in kernel_snapshots.layers_with_kernel(middle(model))]
        assert all(k.dim() == 3 and k.shape[-1] == 40 and k.is_floating_point() for k in kernels), model
        assert bool(kernel_snapshots.forward_kernels(middle(model), 40)) == bool(kernels)
        shown |= {model} if kernels else set()
    assert shown >= {"dss", "h3", "lssl", "mega", "megalodon", "s4", "s4d", "seqboat", "tnn"}


@pytest.mark.parametrize("model", [m for m in MODELS if "n_heads" in (CONFIGS / f"model/{m}.yaml").read_text()])
def test_heads_that_do_not_fit_the_width_are_refused(model):
    cfg = copy.deepcopy(small(model))
    layer = cfg.model.get("mixer") or cfg.model.encoder
    (layer.get("mixer") or layer).n_heads = 3
    with pytest.raises(InstantiationException, match=r"n_heads:? 3"):
        classifier(cfg, TaskSpec("test", 48, 3, None))


@pytest.mark.parametrize("model", ["mega", "hgrn2", "tnn", "seqboat", "s4"])
@pytest.mark.parametrize("ragged", [True, False])
def test_the_norms_of_every_model_know_whether_batches_hold_padding(model, ragged):
    cfg = compose(f"model={model}", "task=listops", "scale=smoke", "model.norm=batch")
    net = classifier(cfg, TaskSpec("test", 24, 3, 11, ragged=ragged))
    norms = [module for module in net.modules() if isinstance(module, BatchNorm)]
    assert norms
    assert all(norm.ragged == ragged for norm in norms)
