"""Causal models: no position reads a later one, and steps, prefill and forward passes agree. For each model of configs.

Tolerances: 1e-9 in float64, 1e-4 in float32.
"""

import copy
import functools
from inspect import signature

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils._pytree import tree_map

from helpers.compose import classifier, compose, names
from lra.nn.blocks import Embedding
from lra.task import TaskSpec

L, D = 80, 16
STEPPED = {"dss", "dss_softmax", "gru", "h3", "hgrn2", "linear_transformer", "lru", "lssl", "lstm", "mamba", "mamba2"}
STEPPED |= {"rope_transformer", "s4", "s4d", "s5", "transformer"}
CONVOLUTIONS = {"hyena", "long_conv", "sgconv"}
MODELS = names("model")


@functools.cache
def config(model: str):
    """A model's own settings, one-sided where it has the option, with layer norm and without class token."""
    options = (f"model.d_model={D}", "model.norm=layer", "model.pool=last", "model.dropout=0.1")
    cfg = compose(f"model={model}", "task=listops", "scale=smoke", *options)
    for part in ("mixer", "encoder"):
        for key, value in (("bidirectional", False), ("causal", True), ("d_state", 8)):
            if key in (cfg.model.get(part) or {}):
                cfg.model[part][key] = value
    return cfg


def build(model: str, vocab: int | None = 11, dtype=torch.float64):
    torch.manual_seed(0)
    spec = TaskSpec("test", L, 5, vocab, horizon=L, ragged=True)
    return classifier(config(model), spec).to(dtype).eval()


def tokens(*lengths: int):
    x = torch.randint(1, 11, (len(lengths), L), generator=torch.Generator().manual_seed(1))
    return x, torch.arange(L) < torch.tensor(lengths)[:, None]


def close(ours, theirs):
    tolerance = 1e-9 if ours.dtype == torch.float64 else 1e-4
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def step_through(net, x, mask, state):
    """Outputs (B, L, n_outputs) of all positions, and the state of each row after its last real one."""
    outputs = []
    for token, real in zip(x.unbind(1), mask.unbind(1), strict=True):
        # a copy, because steps may write into the state
        y, after = net.step(token, tree_map(torch.clone, state))
        keep = lambda new, old, real=real: torch.where(real.view(-1, *[1] * (new.dim() - 1)), new, old)  # noqa: E731
        state = tree_map(keep, after, state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


@pytest.mark.parametrize("model", MODELS)
def test_no_position_of_a_causal_model_hears_a_later_one(model):
    net = build(model, vocab=None)
    x, mask = torch.randn(1, L, 1, dtype=torch.float64, requires_grad=True), torch.ones(1, L, dtype=torch.bool)
    y = net(x, mask)
    later = 0.0
    for position in (0, 30, 65):
        heard = torch.autograd.grad(y[0, position].square().sum(), x, retain_graph=True)[0].abs().flatten()
        later = max(later, float(heard[position + 1 :].max() / heard.max()))
    causal = net.not_causal() is None
    assert causal == (later < 1e-12)
    assert causal or model not in STEPPED | CONVOLUTIONS


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("model", sorted(STEPPED))
def test_steps_equal_the_forward_pass(model, dtype):
    net = build(model, dtype=dtype)
    x, mask = tokens(L, L)
    net.setup_step()
    close(step_through(net, x, mask, net.default_state(2))[0], net(x, mask))


@pytest.mark.parametrize("model", sorted(STEPPED))
def test_prefill_of_ragged_rows_equals_steps(model):
    """From the start and from a state, in two chunks; a row without real positions keeps its state."""
    net = build(model)
    net.setup_step()
    x, mask = tokens(70, L, 9, 0)
    expected, end = step_through(net, x, mask, net.default_state(4))
    whole, state = net.prefill(x, mask)
    close(whole[mask], expected[mask])
    close(whole[mask], net(x, mask)[mask])
    tree_map(close, state, end)
    cut = 67
    first, state = net.prefill(x[:, :cut], mask[:, :cut])
    second, state = net.prefill(x[:, cut:], mask[:, cut:], state)
    close(torch.cat([first, second], 1)[mask], expected[mask])
    tree_map(close, state, end)


@pytest.mark.parametrize("model", sorted(STEPPED))
def test_steps_continue_after_prefill(model):
    net = build(model)
    net.setup_step()
    x, mask = tokens(L, L)
    prompts = torch.arange(L) < torch.tensor([20, 66])[:, None]
    _, state = net.prefill(x, prompts)
    rest = torch.stack([x[0, 20:34], x[1, 66:]])
    y, _ = step_through(net, rest, torch.ones_like(rest, dtype=torch.bool), state)
    whole = net(x, mask)
    close(y, torch.stack([whole[0, 20:34], whole[1, 66:]]))


@pytest.mark.parametrize("model", sorted(STEPPED))
def test_an_empty_part_changes_nothing(model):
    net = build(model)
    net.setup_step()
    x, mask = tokens(L, L)
    y, state = net.prefill(x[:, :0], mask[:, :0])
    assert y.shape == (2, 0, 5)
    tree_map(close, state, net.default_state(2))
    _, state = net.prefill(x[:, :9], mask[:, :9], state)
    _, again = net.prefill(x[:, :0], mask[:, :0], state)
    tree_map(close, again, state)


@pytest.mark.parametrize("model", ["gru", "linear_transformer", "mamba", "rope_transformer", "s4", "transformer"])
def test_steps_under_autocast_are_close(model):
    net = build(model, dtype=torch.float32)
    net.setup_step()
    x, mask = tokens(L, L)
    exact = net(x, mask)
    with torch.autocast("cpu", torch.bfloat16):
        first, state = net.prefill(x[:, :30], mask[:, :30])
        second, _ = step_through(net, x[:, 30:], mask[:, 30:], state)
    error = torch.cat([first, second], 1).float() - exact
    assert error.norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("model", sorted(STEPPED))
def test_steps_and_training_alternate(model):
    """After a step of a fused optimiser setup_step takes the new parameters; dropout has no effect on steps."""
    net = build(model)
    x, mask = tokens(L, L)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, fused=True)
    for _ in range(2):
        net.setup_step()
        y = net.step(x[:, 0], net.default_state(2))[0]
        net.eval()
        close(y, net(x, mask)[:, 0])
        net.train()
        net(x, mask).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("model", sorted(CONVOLUTIONS))
def test_convolutions_have_no_steps(model):
    net = build(model)
    assert net.not_causal() is None
    with pytest.raises(RuntimeError, match="is a convolution without a recurrence and has no steps"):
        net.setup_step()


@pytest.mark.parametrize(
    ("model", "change", "reason"),
    [
        ("s4", {"norm": "batch"}, "batch norm reads all positions in training; hint: model.norm=layer"),
        ("transformer", {"pool": "cls"}, "a class token precedes the input; hint: model.pool=last"),
        ("s4", {"mixer.bidirectional": True}, "S4 reads later positions; hint: model.mixer.bidirectional=false"),
        ("transformer", {"mixer.causal": False}, "Attention reads later positions; hint: model.mixer.causal=true"),
        ("hgrn2", {"encoder.bidirectional": True}, "HGRN2 reads later.*hint: model.encoder.bidirectional=false"),
        ("fnet", {}, "FNet reads later positions; hint: model=s4 or model=transformer"),
    ],
)
def test_the_reason_why_a_model_is_not_causal_is_named(model, change, reason):
    cfg = copy.deepcopy(config(model))
    for key, value in change.items():
        OmegaConf.update(cfg.model, key, value)
    net = classifier(cfg, TaskSpec("test", L, 5, 11, horizon=L))
    with pytest.raises(RuntimeError, match=f"the model is not causal: {reason}"):
        net.setup_step()


def test_a_pooled_head_is_not_causal():
    net = classifier(config("s4"), TaskSpec("test", L, 5, 11))
    assert net.not_causal() == "the model is not causal: its head pools all positions into one prediction"


@pytest.mark.parametrize("model", ["gru", "h3", "hgrn2", "linear_transformer", "mamba", "mamba2", "s4", "transformer"])
def test_two_sided_layers_are_refused(model):
    cfg = config(model)
    part = "mixer" if "mixer" in cfg.model else "encoder"
    net = build(model)
    layer = net.mixing_layers()[0]
    options = {"d_model": D, "max_len": L}
    options |= {"n_layers": 2, "dropout": 0.0} if part == "encoder" else {}
    options |= {"bidirectional": True} if "bidirectional" in signature(type(layer)).parameters else {}
    two_sided = type(layer)(**options)
    x = torch.randn(2, 5, D)
    with pytest.raises(RuntimeError, match=f"a two-sided {type(layer).__name__} reads the future; hint: "):
        two_sided.setup_step() if hasattr(two_sided, "setup_step") else two_sided.prefill(x, x[..., 0] > -9)


@pytest.mark.parametrize("model", ["transformer", "rope_transformer"])
def test_a_full_cache_is_named(model):
    net = build(model)
    net.setup_step()
    x, mask = tokens(L)
    _, state = net.prefill(x, mask)
    with pytest.raises(ValueError, match=f"input has {L + 1} positions, the model was built for max_len {L}"):
        net.step(x[:, 0], state)


def test_steps_of_a_recurrent_model_go_past_max_len():
    net = build("s4")
    net.setup_step()
    x, mask = tokens(L)
    y, state = net.prefill(x, mask)
    for _ in range(3):
        y, state = net.step(x[:, 0], state)
    assert y.isfinite().all()


@pytest.mark.parametrize("window", [16, 30])
def test_windows_of_rotary_attention_are_causal(window):
    cfg = copy.deepcopy(config("rope_transformer"))
    cfg.model.mixer.window = window
    torch.manual_seed(0)
    net = classifier(cfg, TaskSpec("test", L, 5, 11, horizon=L, ragged=True)).double().eval()
    x, mask = tokens(L, 50)
    expected = net(x, mask)
    changed = x.clone()
    changed[:, 40] = 1 + changed[:, 40] % 10
    close(net(changed, mask)[:, :40], expected[:, :40])
    assert not torch.allclose(net(changed, mask)[:, 40], expected[:, 40])
    net.setup_step()
    close(net.prefill(x, mask)[0][mask], expected[mask])
    close(step_through(net, x, mask, net.default_state(2))[0][mask], expected[mask])


@pytest.mark.parametrize("positions", ["none", "learned", "sinusoidal"])
def test_the_embedding_counts_the_positions_of_each_row(positions):
    torch.manual_seed(0)
    embedding = Embedding(TaskSpec("test", 12, 5, 11, horizon=12), 8, positions=positions)
    x, mask = torch.randint(1, 11, (2, 10)), torch.arange(10) < torch.tensor([10, 4])[:, None]
    whole, _ = embedding(x, torch.ones_like(mask))
    _, state = embedding.prefill(x, mask)
    assert state.tolist() == [10, 4]
    y, state = embedding.step(x[:, 4], state)
    torch.testing.assert_close(y[1], whole[1, 4])
    assert state.tolist() == [11, 5]


def test_values_and_categories_are_stepped():
    torch.manual_seed(0)
    spec = TaskSpec("test", 12, 5, None, channels=2, categories=(3,), horizon=12)
    net = classifier(config("s4"), spec).double().eval()
    net.setup_step()
    x = torch.cat([torch.randn(2, 12, 2), torch.randint(0, 3, (2, 12, 1))], -1).double()
    mask = torch.ones(2, 12, dtype=torch.bool)
    close(step_through(net, x, mask, net.default_state(2))[0], net(x, mask))
