"""A run with a non-finite loss or gradient stops; its record names the step, learning rate and parameter."""

import os
import signal

import pytest
import torch

from helpers.tiny_run import Pool, train
from lra.training.divergence import Divergence


class InfiniteGradient(torch.autograd.Function):
    """Identity forward, an infinite gradient backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.inf


class BadGradient(Pool):
    """In training step `at` the gradients of its linear map, and of all before it, are infinite."""

    at: int | None = None
    stop_at: int | None = None
    seen = 0

    def forward(self, x, mask):
        type(self).seen += self.training
        step = self.seen if self.training else None
        if step is not None and step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        y = self.linear(x)
        return self.dropout(torch.relu(InfiniteGradient.apply(y) if step is not None and step == self.at else y))


class BadLoss(BadGradient):
    def forward(self, x, mask):
        y = super().forward(x, mask)
        return y * torch.nan if self.training and self.seen == self.at else y


def diverge(folder, mixer, at, *, stop_at=None, warmup=0):
    mixer.at, mixer.stop_at, mixer.seen = at, stop_at, 0
    return train(folder, steps=48, mixer=mixer, schedule="constant", warmup=warmup)


GROUP = "(parameter group 1 of 1: learning rate 0.01, weight decay 0)"


@pytest.mark.parametrize("at", [1, 7, 48])
def test_divergence_names_step_rate_and_parameter(tmp_path, at):
    record = diverge(tmp_path, BadGradient, at)
    assert record.status == "diverged"
    assert record.reason.startswith(f"the gradient is not finite since step {at} (learning rate 0.01)")
    # norm and head, nearer to the loss, have finite gradients; the embedding does not
    assert f"encoder.blocks.0.layer.linear.bias {GROUP}, 5 of 9 parameters" in record.reason
    assert record.test_score is None
    # the check runs at validations too, here every 12 steps
    assert at <= record.steps_done <= at + 12


class Idle(BadGradient):
    """Has a parameter without a gradient, an empty one and a frozen one."""

    def __init__(self, d_model, max_len):
        super().__init__(d_model, max_len)
        self.idle = torch.nn.Parameter(torch.zeros(3))
        # these two are not watched
        self.empty = torch.nn.Parameter(torch.zeros(0))
        self.frozen = torch.nn.Parameter(torch.zeros(3), requires_grad=False)


def test_parameter_without_gradient_is_ignored(tmp_path):
    reason = diverge(tmp_path, Idle, 7).reason
    assert f"encoder.blocks.0.layer.linear.bias {GROUP}, 5 of 10 parameters" in reason


class Grouped(BadGradient):
    """Its bias, where the divergence begins, has its own learning rate and weight decay."""

    def __init__(self, d_model, max_len):
        super().__init__(d_model, max_len)
        self.optim = {"linear.bias": {"lr": 0.003, "weight_decay": 0.2}}


def test_divergence_names_the_parameter_group(tmp_path):
    reason = diverge(tmp_path, Grouped, 7).reason
    assert reason.startswith("the gradient is not finite since step 7 (learning rate 0.01)")
    assert "linear.bias (parameter group 2 of 2: learning rate 0.003, weight decay 0.2)" in reason


@pytest.mark.parametrize("at", [1, 2, 30])
def test_nan_loss_names_the_largest_gradient_before(tmp_path, monkeypatch, at):
    sizes, watch = [], Divergence.on_before_optimizer_step

    def note(self, trainer, module, optimizer):
        sizes.append({name: float(p.grad.abs().max()) for name, p in module.model.named_parameters()})
        watch(self, trainer, module, optimizer)

    monkeypatch.setattr(Divergence, "on_before_optimizer_step", note)
    record = diverge(tmp_path, BadLoss, at)
    assert record.status == "diverged"
    assert record.reason.startswith(f"the loss is not finite since step {at} (learning rate 0.01)")
    if at == 1:
        assert "largest gradient" not in record.reason
    else:
        name, size = max(sizes[at - 2].items(), key=lambda pair: pair[1])
        assert f"the largest gradient of the step before was {size:.3g}, of {name} {GROUP}" in record.reason


def test_divergence_reports_the_rate_of_its_step(tmp_path):
    reason = diverge(tmp_path, BadGradient, 7, warmup=10).reason
    assert reason.startswith("the gradient is not finite since step 7 (learning rate 0.007)")
    assert "parameter group 1 of 1: learning rate 0.007, weight decay 0" in reason


def test_divergence_is_remembered_after_a_restart(tmp_path):
    assert diverge(tmp_path, BadGradient, 30, stop_at=33).status == "interrupted"
    second = diverge(tmp_path, BadGradient, None)
    assert second.status == "diverged"
    assert second.reason == diverge(tmp_path / "uninterrupted", BadGradient, 30).reason


def test_run_at_chance_is_flagged(tmp_path):
    stuck = train(tmp_path / "stuck", steps=8, lr=0.0)
    assert stuck.notes[-1].startswith(f"stayed at chance: {100 * stuck.test_score:.2f} %")
    assert not any("at chance" in note for note in train(tmp_path / "learned", steps=200).notes)
