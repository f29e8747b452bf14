"""The loader: order, position, shares of processes and padding."""

import itertools

import numpy as np
import pytest
import torch

from data.loader import Examples, Loader

TEXT = [bytes(range(1, n + 1)) for n in (3, 9, 1, 5, 7, 2, 8, 4, 6, 10, 3, 5)]


def of_texts(
    eos: int | None = None, max_len: int = 8, texts: list[bytes] = TEXT, pairs: list | None = None
) -> Examples:
    offsets = np.cumsum([0, *map(len, texts)])
    return Examples(
        torch.tensor(list(b"".join(texts)), dtype=torch.uint8),
        torch.arange(len(pairs or texts)),
        max_len,
        offsets=torch.from_numpy(offsets),
        eos=eos,
        pairs=None if pairs is None else torch.tensor(pairs),
    )


def fixed(n: int, length: int = 4) -> Examples:
    x = torch.arange(n, dtype=torch.uint8)[:, None].expand(n, length).contiguous()
    return Examples(x, torch.arange(n), length)


def labels(loader: Loader) -> list[list[int]]:
    return [batch.y.tolist() for batch in loader]


def test_order_is_a_function_of_seed_and_epoch():
    def loader(seed):
        return Loader(fixed(100), np.arange(100), 10, shuffle=True, seed=seed)

    first, again, other = loader(3), loader(3), loader(4)
    epochs = [labels(first), labels(first)]
    assert first.state_dict() == {"epoch": 2, "position": 0, "batch_size": 10, "seed": 3}
    assert epochs[0] != epochs[1]
    again.set_epoch(1)
    assert labels(again) == epochs[1]
    assert labels(other) != epochs[0]
    for epoch in epochs:
        assert sorted(itertools.chain(*epoch)) == list(range(100))


def test_only_training_drops_the_partial_batch():
    examples, index = fixed(23), np.arange(23)
    train, evaluation = Loader(examples, index, 5, shuffle=True), Loader(examples, index, 5, shuffle=False)
    assert [len(b) for b in labels(train)] == [5] * len(train) == [5] * 4
    assert [len(b) for b in labels(evaluation)] == [5, 5, 5, 5, 3]
    assert len(evaluation) == 5


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 4, 22, 23])
def test_evaluation_sees_every_example_once(world, n):
    seen = []
    for rank in range(world):
        loader = Loader(fixed(n), np.arange(n), 6, shuffle=False, rank=rank, world=world)
        batches = labels(loader)
        assert len(batches) == len(loader)
        assert all(batches)
        seen += itertools.chain(*batches)
    assert seen == list(range(n))


@pytest.mark.parametrize("length_aware", [False, True])
def test_two_processes_share_each_batch(length_aware):
    def batches(rank, world):
        index = np.arange(len(TEXT))
        loader = Loader(of_texts(), index, 4, shuffle=True, seed=1, rank=rank, world=world, length_aware=length_aware)
        return list(loader)

    for one, left, right in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        for name in ("x", "mask", "y"):
            # shapes too: both pad to the longest of the global batch
            assert torch.equal(getattr(one, name), torch.cat([getattr(left, name), getattr(right, name)]))


@pytest.mark.parametrize("stop", [0, 1, 7, 9, 10])
def test_training_resumes_at_any_step(stop):
    def new():
        return Loader(fixed(43), np.arange(43), 4, shuffle=True, seed=5)

    uninterrupted, loader, resumed = new(), new(), new()
    expected = labels(uninterrupted) + labels(uninterrupted)
    steps = iter(loader)
    seen = [next(steps).y.tolist() for _ in range(stop)]
    state = loader.state_dict()

    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(0)  # as Lightning does
    seen += labels(resumed)
    resumed.set_epoch(1)
    assert seen + labels(resumed) == expected


def test_state_of_another_order_is_refused():
    loader = Loader(fixed(10), np.arange(10), 2, shuffle=True, seed=5)
    state = loader.state_dict()
    with pytest.raises(ValueError, match="batch_size 2, this loader has 5"):
        Loader(fixed(10), np.arange(10), 5, shuffle=True, seed=5).load_state_dict(state)
    with pytest.raises(ValueError, match="seed 5, this loader has 6"):
        Loader(fixed(10), np.arange(10), 2, shuffle=True, seed=6).load_state_dict(state)


@pytest.mark.parametrize("eos", [None, 99])
def test_documents_are_truncated_ended_and_padded(eos):
    room = 8 if eos is None else 7
    seen = 0
    for batch in Loader(of_texts(eos), np.arange(len(TEXT)), 5, shuffle=False):
        for x, mask, y in zip(*batch, strict=True):
            expected = list(TEXT[y][:room]) + ([] if eos is None else [eos])
            assert x[mask].tolist() == expected
            assert mask.tolist() == [True] * len(expected) + [False] * (len(mask) - len(expected))
            assert not x[~mask].any()
            seen += 1
        assert batch.x.dtype == torch.int64
        assert batch.mask.any(0).all(), "a column with only padding"
    assert seen == len(TEXT)


def test_pairs_are_all_firsts_then_all_seconds():
    pairs = [(0, 1), (2, 2), (11, 4)]
    (batch,) = Loader(of_texts(pairs=pairs, max_len=20), np.arange(3), 3, shuffle=False)
    assert batch.x.shape == batch.mask.shape == (6, 9)
    assert batch.y.tolist() == [0, 1, 2]
    documents = [TEXT[a] for a, _ in pairs] + [TEXT[b] for _, b in pairs]
    assert [bytes(x[m].tolist()) for x, m in zip(batch.x, batch.mask, strict=True)] == documents


def test_padding_to_longest_multiple_or_maximum():
    def lengths(pad):
        return [b.x.shape[1] for b in Loader(of_texts(max_len=9), np.arange(4), 1, shuffle=False, pad=pad)]

    assert lengths("longest") == [3, 9, 1, 5]
    assert lengths(4) == [4, 9, 4, 8]
    assert lengths("max") == [9, 9, 9, 9]


def test_length_aware_batches_have_less_padding():
    rng = np.random.default_rng(0)
    texts = [b"x" * n for n in rng.integers(1, 200, 400)]
    examples = of_texts(texts=texts, max_len=200)

    def padding(length_aware):
        batches = list(Loader(examples, np.arange(400), 8, shuffle=True, length_aware=length_aware))
        assert sorted(i for b in batches for i in b.y.tolist()) == list(range(400))
        return sum(int((~b.mask).sum()) for b in batches)

    assert padding(True) < 0.2 * padding(False)


def test_real_valued_input_is_affine_in_the_bytes():
    examples = Examples(
        torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8), torch.tensor([0, 1]), 2, affine=(1 / 255, 0.5)
    )
    (batch,) = Loader(examples, np.arange(2), 2, shuffle=False)
    assert batch.x.shape == (2, 2, 1)
    assert batch.x.dtype == torch.float32
    torch.testing.assert_close(batch.x[..., 0], torch.tensor([[0.5, 1.5], [0.7, 0.9]]))
    assert batch.mask.all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", [False, True])
def test_batches_on_gpu_equal_those_on_cpu(resident):
    device = torch.device("cuda", 0)
    examples = of_texts(eos=99)
    index = np.arange(len(TEXT))
    expected_batches = list(Loader(examples, index, 3, shuffle=True, seed=2))
    on_gpu = Loader(examples.to(device) if resident else examples, index, 3, shuffle=True, seed=2, device=device)
    for expected, batch in zip(expected_batches, on_gpu, strict=True):
        assert all(t.device == device for t in batch)
        assert all(torch.equal(a, b.cpu()) for a, b in zip(expected, batch, strict=True))
