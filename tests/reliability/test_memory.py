"""After an out-of-memory error a batch is split with the same result, or the record says what was needed."""

import pytest
import torch
from torch import nn

from helpers.tiny_run import Pool, StopsAt, losses, train
from lra.task import Batch
from lra.training.config import Hardware


class LimitedMemory(Pool):
    """Runs out of memory above `max_examples` examples, from forward pass `since` on."""

    max_examples, since, seen = 99, 1, 0

    def __init__(self, d_model, max_len):
        super().__init__(d_model, max_len)
        # dropout masks would depend on the split
        self.dropout = nn.Dropout(0)

    def forward(self, x, mask):
        type(self).seen += self.training
        if len(x) > self.max_examples and self.seen >= self.since:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore lines")
        return super().forward(x, mask)


def limited(max_examples, since=1):
    return type("Limited", (LimitedMemory,), {"max_examples": max_examples, "since": since, "seen": 0})


class BackwardLimit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if len(grad) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory in backward")
        return grad


class LimitedInBackward(LimitedMemory):
    def forward(self, x, mask):
        return BackwardLimit.apply(super().forward(x, mask))


def assert_close_curves(split, unsplit):
    assert split.status == unsplit.status == "ok"
    assert [p.step for p in split.curve] == [p.step for p in unsplit.curve]
    a, b = (torch.tensor([(p.train_loss, p.val_loss) for p in record.curve]) for record in (split, unsplit))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert any("memory ran out at step" in note for note in split.notes)
    assert not any("memory" in note for note in unsplit.notes)


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run"), mixer=limited(99), steps=16)


@pytest.mark.parametrize("mixer", [limited(3), limited(4, since=10), LimitedInBackward])
def test_split_batch_gives_the_full_batch_result(unsplit, tmp_path, mixer):
    split = train(tmp_path, mixer=mixer, steps=16)
    assert_close_curves(split, unsplit)
    assert split.test_totals["correct"] == unsplit.test_totals["correct"]


class Scratch(LimitedMemory):
    """Allocates 256 MiB of device memory for each example while it computes."""

    def forward(self, x, mask):
        scratch = torch.empty(len(x) << 28, dtype=torch.uint8, device=x.device)
        y = super().forward(x, mask)
        del scratch
        return y


@pytest.fixture
def little_memory():
    """Limit the device to the scratch memory of six examples and a little more."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(7 * 2**28 / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_full_gpu_gives_the_full_batch_result(tmp_path, little_memory):
    on_gpu = Hardware(accelerator="gpu")
    split = train(tmp_path / "split", mixer=Scratch, steps=16, hardware=on_gpu)
    assert any("memory ran out at step 1" in note for note in split.notes)
    assert_close_curves(split, train(tmp_path / "unsplit", mixer=limited(99), steps=16, hardware=on_gpu))


def test_split_keeps_all_examples_in_order():
    x, y = torch.arange(7)[:, None].expand(7, 5), torch.arange(7)
    for n in (1, 2, 3, 7, 20):
        parts = Batch(x, x > 0, y).micro_batches(n)
        assert len(parts) == min(n, 7)
        assert max(len(p.y) for p in parts) - min(len(p.y) for p in parts) <= 1
        assert torch.equal(torch.cat([p.x for p in parts]), x)
        assert torch.equal(torch.cat([p.y for p in parts]), y)


def test_split_keeps_document_pairs_together():
    y = torch.arange(5)
    x = torch.stack([y, 10 + y]).reshape(10, 1)  # all first documents, then all second ones
    for part in Batch(x, x >= 0, y).micro_batches(3):
        assert torch.equal(part.x[:, 0], torch.cat([part.y, 10 + part.y]))
        assert len(part.mask) == 2 * len(part.y)


class LimitedInEvaluation(LimitedMemory):
    def forward(self, x, mask):
        self.max_examples = 99 if self.training else 4
        return super().forward(x, mask)


@pytest.mark.parametrize(("mixer", "phase"), [(limited(4), "training"), (LimitedInEvaluation, "evaluation")])
def test_oom_record_says_what_was_needed(tmp_path, mixer, phase):
    record = train(tmp_path, mixer=mixer, hardware=Hardware(accelerator="cpu", split=False))
    assert record.status == "oom"
    assert "Tried to allocate 9 GiB" in record.reason
    assert f"{phase}: 8 of 8 examples" in record.reason
    assert "trainer.split=false" in record.reason
    assert "\n" not in record.reason


class NaNInOnePart(LimitedMemory):
    max_examples = 4

    def forward(self, x, mask):
        y = super().forward(x, mask)
        # pass 1 fails, then each step takes two passes: pass 7 is the second part of step 3
        return y * torch.nan if self.training and self.seen == 7 else y


def test_split_loss_covers_all_parts(tmp_path):
    record = train(tmp_path, mixer=NaNInOnePart, steps=16)
    assert record.reason.startswith("the loss is not finite since step 3")


def test_oom_in_the_optimizer_is_recorded(tmp_path, monkeypatch):
    def step(self, closure):
        closure()
        raise torch.OutOfMemoryError("no room for the moments")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    record = train(tmp_path, steps=16)
    assert (record.status, record.reason, record.steps_done) == ("oom", "no room for the moments", 0)


def test_oom_with_a_single_example_is_recorded(tmp_path):
    record = train(tmp_path, mixer=limited(0))
    assert record.status == "oom"
    assert "one example cannot be" in record.reason


class LimitedStopsAt(StopsAt):
    def forward(self, x, mask):
        y = super().forward(x, mask)
        if self.training and len(x) > 4 and self.seen > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return y


def test_split_run_resumes_bit_for_bit(tmp_path):
    LimitedStopsAt.at, LimitedStopsAt.seen = None, 0
    uninterrupted = train(tmp_path / "uninterrupted", mixer=LimitedStopsAt, steps=24)
    LimitedStopsAt.at, LimitedStopsAt.seen = 17, 0
    first = train(tmp_path / "stopped", mixer=LimitedStopsAt, steps=24)
    assert first.status == "interrupted"
    assert set(first.notes) <= set(uninterrupted.notes)
    assert any("memory ran out at step 11" in note for note in first.notes)
    LimitedStopsAt.at = None
    second = train(tmp_path / "stopped", mixer=LimitedStopsAt, steps=24)
    assert second.status == "ok"
    assert losses(second) == losses(uninterrupted)
    assert second.notes == uninterrupted.notes


def test_run_resumes_after_oom(tmp_path):
    uninterrupted = train(tmp_path / "uninterrupted", steps=24)
    mixer = limited(4, since=15)

    def with_dropout(d_model, max_len):
        model = mixer(d_model, max_len)
        model.dropout = nn.Dropout(0.2)
        return model

    hardware = Hardware(accelerator="cpu", split=False, checkpoint_seconds=0.0)
    first = train(tmp_path / "stopped", mixer=with_dropout, hardware=hardware, steps=24)
    assert (first.status, first.steps_done) == ("oom", 14)
    assert losses(train(tmp_path / "stopped", steps=24)) == losses(uninterrupted)
