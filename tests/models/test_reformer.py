"""LSH attention against a loop over positions, the transformers library, and the exact attention it approximates."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from transformers.models.reformer.configuration_reformer import ReformerConfig
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

from helpers.comparison import assert_same, by_row, dense_attention, ragged
from models.reformer import LSHAttention, ReversibleEncoder, hash_buckets


def loop(mixer, row):
    """Section 2 for one example without padding, position by position: (L, D)."""
    length, chunk = len(row), mixer.chunk
    qk = mixer.qk(row).unflatten(-1, (mixer.n_heads, -1))
    v = mixer.v(row).unflatten(-1, (mixer.n_heads, -1))
    heads = []
    for h in range(mixer.n_heads):
        rounds = []
        for r in range(mixer.rotations.shape[2]):
            turned = qk[:, h].detach() @ mixer.rotations[h, :, r]
            buckets = torch.cat([turned, -turned], dim=-1).argmax(-1).tolist()
            order = sorted(range(length), key=lambda i, b=buckets: (b[i], i))
            chunks = [order[i : i + chunk] for i in range(0, length, chunk)]
            results = {}
            for n, own in enumerate(chunks):
                seen = own + (chunks[n - 1] if len(chunks) > 1 else [])
                for i in own:
                    others = [j for j in seen if j != i] or [i]
                    keys = [qk[j, h] / (qk[j, h].square().mean() + 1e-6).sqrt() / qk.shape[-1] ** 0.5 for j in others]
                    scores = torch.stack([qk[i, h] @ key for key in keys])
                    scores = scores if others != [i] else torch.full_like(scores, -1e5)
                    results[i] = (scores.softmax(0) @ v[others, h], scores.logsumexp(0))
            rounds.append([results[i] for i in range(length)])
        out = []
        for i in range(length):
            weight = torch.stack([r[i][1] for r in rounds]).softmax(0)
            out.append(sum(w * r[i][0] for w, r in zip(weight, rounds, strict=True)))
        heads.append(torch.stack(out))
    return mixer.out(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("n_hashes", [1, 3])
@pytest.mark.parametrize("lengths", [(16, 9), (15, 4, 3), (5, 1)])
def test_equals_a_loop_over_positions(n_hashes, lengths):
    torch.manual_seed(0)
    mixer = LSHAttention(8, 32, chunk=4, n_buckets=4, n_hashes=n_hashes, n_heads=2, d_qkv=6).double().eval()
    x, mask = ragged(8, *lengths, total=max(lengths) + 6)
    assert_same(mixer(x, mask)[mask], by_row(partial(loop, mixer), x, mask), [x, *mixer.parameters()])


def test_equals_transformers_library():
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "attention_head_size": 4, "num_buckets": 4, "num_hashes": 1}
    chunks = {"lsh_attn_chunk_length": 4, "lsh_num_chunks_before": 1, "lsh_num_chunks_after": 0}
    options = {"hash_seed": 3, "is_decoder": False, "lsh_attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    theirs = LSHSelfAttention(ReformerConfig(**sizes, **chunks, **options)).double().eval()
    ours = LSHAttention(8, 24, chunk=4, n_buckets=4, n_heads=2).double().eval()
    theirs.query_key.load_state_dict(ours.qk.state_dict())
    theirs.value.load_state_dict(ours.v.state_dict())
    torch.manual_seed(3)
    ours.rotations.copy_(torch.randn(2, 4, 1, 2, dtype=torch.float64))
    x, mask = ragged(8, 24, 24)
    assert_same(ours(x, mask), ours.out(theirs(x).hidden_states), [x, ours.out.weight])


def test_close_vectors_often_share_a_bucket():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 500, 16, generator=generator)
    rotations = torch.randn(1, 16, 64, 4, generator=generator)
    shares = []
    for noise in (0.1, 0.5, 2.0):
        near = x + noise * torch.randn(x.shape, generator=generator)
        shares.append((hash_buckets(x, rotations) == hash_buckets(near, rotations)).float().mean().item())
    assert shares[0] > 0.85
    assert shares[0] > shares[1] + 0.1 > shares[2] + 0.2


def test_more_rounds_approach_exact_attention():
    errors = {}
    for n_hashes in (1, 4, 16):
        torch.manual_seed(0)
        mixer = LSHAttention(16, 256, chunk=16, n_buckets=16, n_hashes=n_hashes, n_heads=2).double().eval()
        # well separated queries concentrate the attention, which is what hashing finds
        x = 6 * torch.randn(1, 32, 16, dtype=torch.float64).repeat(1, 8, 1)
        x = x + torch.randn(1, 256, 16, dtype=torch.float64)
        q, v = mixer.qk(x).unflatten(-1, (2, 8)), mixer.v(x).unflatten(-1, (2, 8))
        allowed = ~torch.eye(256, dtype=torch.bool)[None, None]
        # dense_attention divides by sqrt(K)
        exact = mixer.out(dense_attention(q * 8**0.5, F.normalize(q, dim=-1), v, allowed))
        y = mixer(x, torch.ones(1, 256, dtype=torch.bool))
        errors[n_hashes] = ((y - exact).norm() / exact.norm()).item()
    # not to zero: a pair that meets in several rounds counts several times, as in the authors' code
    assert errors[1] > 1.5 * errors[4]
    assert errors[4] > 1.1 * errors[16]
    assert errors[16] < 0.2


def test_only_training_draws_new_rotations():
    torch.manual_seed(0)
    mixer = LSHAttention(8, 64, chunk=4, n_buckets=4).double()
    x, mask = ragged(8, 64)
    assert not torch.equal(mixer(x, mask), mixer(x, mask))
    mixer.eval()
    assert torch.equal(mixer(x, mask), mixer(x, mask))


def test_odd_number_of_buckets_is_refused():
    with pytest.raises(ValueError, match="n_buckets 5 is not a positive even number"):
        LSHAttention(8, 16, n_buckets=5)


def reversible_encoder(n_layers, *, reversible, dropout=0.2):
    torch.manual_seed(0)
    mixer = partial(LSHAttention, chunk=4, n_buckets=4, n_heads=2)
    return ReversibleEncoder(8, 64, n_layers=n_layers, mixer=mixer, d_ff=12, dropout=dropout, reversible=reversible)


def test_recomputed_layers_equal_stored_ones():
    # dropout and rotations are random in training: the recomputation must use the same numbers
    results = []
    for reversible in (True, False):
        encoder = reversible_encoder(3, reversible=reversible).double()
        x, mask = ragged(8, 20, 11)
        torch.manual_seed(5)
        y = encoder(x, mask)
        assert y.shape == (2, 20, encoder.d_output)
        after = torch.rand(())
        weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) * mask[..., None]
        (y * weight).sum().backward()
        results.append([y[mask], x.grad, after, *(p.grad for p in encoder.parameters())])
    torch.testing.assert_close(*results)


def test_reversible_memory_is_independent_of_depth():
    def saved_elements(n_layers, *, reversible):
        encoder = reversible_encoder(n_layers, reversible=reversible)
        sizes = {}
        parameters = {p.data_ptr() for p in encoder.parameters()}

        def record(tensor):
            if tensor.data_ptr() not in parameters:
                sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
            y = encoder(torch.randn(1, 64, 8, requires_grad=True), torch.ones(1, 64, dtype=torch.bool))
        assert y.grad_fn is not None
        return sum(sizes.values())

    assert saved_elements(6, reversible=True) == saved_elements(1, reversible=True)
    assert saved_elements(6, reversible=False) > 4 * saved_elements(1, reversible=False)


def test_default_d_ff_is_four_times_d_model():
    encoders = [ReversibleEncoder(8, 16, n_layers=1, mixer=LSHAttention, d_ff=d_ff) for d_ff in (None, 5)]
    assert [encoder.networks[0][1].out_features for encoder in encoders] == [32, 5]
