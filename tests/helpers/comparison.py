"""Inputs, reference computations and comparisons for tests of models."""

import torch


def ragged(d_model, *lengths, total=None, seed=0):
    """x (B, L, D) in float64 with noise in the padding too, and the mask of rows with the given lengths."""
    total = max(lengths) if total is None else total
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), total, d_model, dtype=torch.float64, generator=generator)
    return x.requires_grad_(), torch.arange(total) < torch.tensor(lengths)[:, None]


def by_row(function, x, mask):
    """function(row) for each row without its padding, as one tensor of all real positions."""
    return torch.cat([function(row[real]) for row, real in zip(x, mask, strict=True)])


def assert_same(ours, theirs, inputs, **tolerance):
    """Compare values, and for every input the gradients of one weighted sum."""
    torch.testing.assert_close(ours, theirs, **tolerance)
    weight = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(7))
    sums = [(y * weight).sum() for y in (ours, theirs)]
    grads = [torch.autograd.grad(y, inputs, retain_graph=True, allow_unused=True) for y in sums]
    torch.testing.assert_close(*grads, **tolerance)


def dense_attention(q, k, v, allowed):
    """Softmax attention over the allowed pairs (B, 1 or H, L, L); q, k, v (B, L, H, K) -> (B, L, H * K)."""
    scores = torch.einsum("bihk,bjhk->bhij", q, k) / q.shape[-1] ** 0.5
    # finite: a padded query may have no key at all
    weights = scores.masked_fill(~allowed, -1e30).softmax(-1)
    return torch.einsum("bhij,bjhk->bihk", weights, v).flatten(-2)


def convolve(u, kernels, skip=0.0):
    """Direct convolution of u (L, H) with kernels (1 or 2, H, M); the second reads from the right, from one away."""
    length, y = len(u), []
    for t in range(length):
        total = skip * u[t]
        for s in range(length):
            lag = t - s if s <= t else s - t - 1
            if (s <= t or len(kernels) == 2) and lag < kernels.shape[-1]:
                total = total + kernels[int(s > t), :, lag] * u[s]
        y.append(total)
    return torch.stack(y)


def step_through(layer, x):
    """Output of a recurrent layer that processes x (B, L, D) position by position."""
    layer.setup_step()
    state, y = layer.default_state(len(x)), []
    for position in x.unbind(1):
        out, state = layer.step(position, state)
        y.append(out)
    return torch.stack(y, 1)


def copy_projections(theirs, linear, suffix=""):
    """Copy the parts of our joint projection to the library's query, key and value."""
    with torch.no_grad():
        for name, weight, bias in zip(
            ("query", "key", "value"), linear.weight.chunk(3), linear.bias.chunk(3), strict=True
        ):
            getattr(theirs, name + suffix).weight.copy_(weight)
            getattr(theirs, name + suffix).bias.copy_(bias)


def load_renamed(ours, theirs, names):
    """Copy the library's weights, with the first part of each name replaced."""
    weights = {}
    for name, value in theirs.state_dict().items():
        head, *rest = name.split(".")
        weights[".".join([names[head], *rest])] = value
    ours.load_state_dict(weights)
