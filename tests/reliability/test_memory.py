"""When memory runs out a batch is computed in parts, with the same result; or the record says what was needed."""

import pytest
import torch
from torch import nn

from helpers.tiny_run import Pool, StopsAt, go, losses
from lra.task import Batch
from lra.training.config import Hardware


class Small(Pool):
    """Has room for `room` examples, from training step `since` on."""

    room, since, seen = 99, 1, 0

    def __init__(self, d_model, max_len):
        super().__init__(d_model, max_len)
        # its masks would be others for other parts
        self.dropout = nn.Identity()

    def forward(self, x, mask):
        type(self).seen += self.training
        if len(x) > self.room and self.seen >= self.since:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore lines")
        return super().forward(x, mask)


def hungry(room, since=1):
    return type("Hungry", (Small,), {"room": room, "since": since, "seen": 0})


class InBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if len(grad) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory in backward")
        return grad


class HungryInBackward(Small):
    def forward(self, x, mask):
        return InBackward.apply(super().forward(x, mask))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return go(tmp_path_factory.mktemp("run"), mixer=hungry(99), steps=16)


@pytest.mark.parametrize("mixer", [hungry(3), hungry(4, since=10), HungryInBackward])
def test_a_batch_in_parts_gives_the_result_of_the_whole(whole, tmp_path, mixer):
    split = go(tmp_path, mixer=mixer, steps=16)
    assert split.status == whole.status == "ok"
    assert [p.step for p in split.curve] == [p.step for p in whole.curve]
    torch.testing.assert_close(
        torch.tensor([p[1:3] for p in losses(split)]),
        torch.tensor([p[1:3] for p in losses(whole)]),
        rtol=1e-4,
        atol=1e-5,
    )
    assert split.test_correct == whole.test_correct
    assert any("memory ran out at step" in note and "parts of a batch" in note for note in split.notes)
    assert not any("memory" in note for note in whole.notes)


class Scratch(Small):
    """Takes 256 MiB of the device for each example while it computes."""

    def forward(self, x, mask):
        taken = torch.empty(len(x) << 28, dtype=torch.uint8, device=x.device)
        y = super().forward(x, mask)
        del taken
        return y


@pytest.fixture
def little_memory():
    """Of the device, room for the scratch of six examples and some more."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(7 * 2**28 / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_that_is_full_gives_the_result_of_the_whole(tmp_path, little_memory):
    on_gpu = Hardware(accelerator="gpu")
    split = go(tmp_path / "split", mixer=Scratch, steps=16, hardware=on_gpu)
    assert split.status == "ok"
    assert any("memory ran out at step 1: training in 2 parts" in note for note in split.notes)
    whole = go(tmp_path / "whole", mixer=hungry(99), steps=16, hardware=on_gpu)
    assert not any("memory" in note for note in whole.notes)
    a, b = (torch.tensor([p[1:3] for p in losses(record)]) for record in (split, whole))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_parts_of_a_batch_are_its_examples_in_order():
    x, y = torch.arange(7)[:, None].expand(7, 5), torch.arange(7)
    for n in (1, 2, 3, 7, 20):
        parts = Batch(x, x > 0, y).parts(n)
        assert len(parts) == min(n, 7)
        assert max(len(p.y) for p in parts) - min(len(p.y) for p in parts) <= 1
        assert torch.equal(torch.cat([p.x for p in parts]), x)
        assert torch.equal(torch.cat([p.y for p in parts]), y)


def test_a_pair_of_documents_stays_together():
    y = torch.arange(5)
    x = torch.stack([y, 10 + y]).reshape(10, 1)  # all firsts, then all seconds
    for part in Batch(x, x >= 0, y).parts(3):
        assert torch.equal(part.x[:, 0], torch.cat([part.y, 10 + part.y]))
        assert len(part.mask) == 2 * len(part.y)


class HungryInEvaluation(Small):
    def forward(self, x, mask):
        self.room = 99 if self.training else 4
        return super().forward(x, mask)


@pytest.mark.parametrize(("mixer", "what"), [(hungry(4), "training"), (HungryInEvaluation, "evaluation")])
def test_a_run_that_may_not_divide_says_what_it_needed(tmp_path, mixer, what):
    record = go(tmp_path, mixer=mixer, hardware=Hardware(accelerator="cpu", split=False))
    assert record.status == "oom"
    assert record.reason.startswith(
        f"CUDA out of memory. Tried to allocate 9 GiB ({what}: 8 of 8 examples at a time, 9"
    )
    assert "trainer.split=false" in record.reason


class LostInOnePart(Small):
    room = 4

    def forward(self, x, mask):
        y = super().forward(x, mask)
        # after the first attempt two parts a step: this is the second of step 3
        return y * torch.nan if self.training and self.seen == 7 else y


def test_the_loss_of_a_divided_batch_is_that_of_all_its_parts(tmp_path):
    record = go(tmp_path, mixer=LostInOnePart, steps=16)
    assert record.reason.startswith("the loss is not finite since step 3")


def test_memory_that_runs_out_behind_the_gradient_is_oom(tmp_path, monkeypatch):
    def step(self, closure):
        closure()
        raise torch.OutOfMemoryError("no room for the moments")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    record = go(tmp_path, steps=16)
    assert (record.status, record.reason, record.steps_done) == ("oom", "no room for the moments", 0)


def test_one_example_too_large_is_oom(tmp_path):
    record = go(tmp_path, mixer=hungry(0))
    assert record.status == "oom"
    assert "one example cannot be divided" in record.reason


class HungryStopsAt(StopsAt):
    def forward(self, x, mask):
        y = super().forward(x, mask)
        if self.training and len(x) > 4 and self.seen > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return y


def test_a_divided_run_goes_on_divided_bit_for_bit(tmp_path):
    HungryStopsAt.at, HungryStopsAt.seen = None, 0
    whole = go(tmp_path / "whole", mixer=HungryStopsAt, steps=24)
    HungryStopsAt.at, HungryStopsAt.seen = 17, 0
    first = go(tmp_path / "stopped", mixer=HungryStopsAt, steps=24)
    assert first.status == "interrupted"
    assert set(first.notes) <= set(whole.notes)
    assert "memory ran out at step 11: training in 2 parts of a batch from there on" in first.notes
    HungryStopsAt.at = None
    second = go(tmp_path / "stopped", mixer=HungryStopsAt, steps=24)
    assert second.status == "ok"
    assert losses(second) == losses(whole)
    assert second.notes == whole.notes


def test_a_run_stopped_by_memory_goes_on_from_its_checkpoint(tmp_path):
    whole = go(tmp_path / "whole", steps=24)
    mixer = type("Hungry", (Small,), {"room": 4, "since": 15, "seen": 0})
    often = Hardware(accelerator="cpu", split=False, checkpoint_seconds=0.0)

    def with_dropout(d_model, max_len):
        made = mixer(d_model, max_len)
        made.dropout = nn.Dropout(0.2)
        return made

    first = go(tmp_path / "stopped", mixer=with_dropout, hardware=often, steps=24)
    assert (first.status, first.steps_done) == ("oom", 14)
    second = go(tmp_path / "stopped", steps=24)
    assert losses(second) == losses(whole)
