"""A run that leaves the numbers stops, and its record says since which step, at which rate, and where it began."""

import os
import signal

import pytest
import torch

from helpers.tiny_run import Pool, go
from lra.training.divergence import Divergence


class Overflow(torch.autograd.Function):
    """Nothing on the way there, an infinite gradient on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.inf


class BadGradient(Pool):
    """In one training step the gradient behind its linear map is infinite: that map's, and what comes before it."""

    at: int | None = None
    stop_at: int | None = None
    seen = 0

    def forward(self, x, mask):
        type(self).seen += self.training
        now = self.seen if self.training else None
        if now is not None and now == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        y = self.linear(x)
        return self.dropout(torch.relu(Overflow.apply(y) if now is not None and now == self.at else y))


class BadLoss(BadGradient):
    def forward(self, x, mask):
        y = super().forward(x, mask)
        return y * torch.nan if self.training and self.seen == self.at else y


def diverge(folder, mixer, at, *, stop_at=None, warmup=0):
    mixer.at, mixer.stop_at, mixer.seen = at, stop_at, 0
    return go(folder, steps=48, mixer=mixer, schedule="constant", warmup=warmup)


GROUP = "(parameter group 1 of 1: learning rate 0.01, weight decay 0)"


@pytest.mark.parametrize("at", [1, 7, 48])
def test_divergence_names_the_step_the_rate_and_the_parameter_where_it_began(tmp_path, at):
    record = diverge(tmp_path, BadGradient, at)
    assert record.status == "diverged"
    assert record.reason.startswith(
        f"the gradient is not finite since step {at} (learning rate 0.01), the loss still was"
    )
    # nearer to the loss, norm and head were well; the embedding before it was not
    assert f"it began in encoder.blocks.0.layer.linear.bias {GROUP}, 5 of 9 parameters had it" in record.reason
    assert record.test_accuracy is None
    # it is noticed at the next look, at the latest 12 steps on here: validations are looks too
    assert at <= record.steps_done <= at + 12


class Idle(BadGradient):
    """One parameter of it never has a gradient."""

    def __init__(self, d_model, max_len):
        super().__init__(d_model, max_len)
        self.idle = torch.nn.Parameter(torch.zeros(3))
        # neither is watched
        self.empty = torch.nn.Parameter(torch.zeros(0))
        self.fixed = torch.nn.Parameter(torch.zeros(3), requires_grad=False)


def test_a_parameter_without_a_gradient_is_no_cause(tmp_path):
    reason = diverge(tmp_path, Idle, 7).reason
    assert f"it began in encoder.blocks.0.layer.linear.bias {GROUP}, 5 of 10 parameters had it" in reason


class Grouped(BadGradient):
    """Its bias, where the trouble begins, has a learning rate and a weight decay of its own."""

    def __init__(self, d_model, max_len):
        super().__init__(d_model, max_len)
        self.optim = {"linear.bias": {"lr": 0.003, "weight_decay": 0.2}}


def test_divergence_names_the_group_and_the_rate_of_the_parameter_where_it_began(tmp_path):
    reason = diverge(tmp_path, Grouped, 7).reason
    assert reason.startswith("the gradient is not finite since step 7 (learning rate 0.01)")
    place = "layer.linear.bias (parameter group 2 of 2: learning rate 0.003, weight decay 0.2)"
    assert f"it began in encoder.blocks.0.{place}" in reason


@pytest.mark.parametrize("at", [1, 2, 30])
def test_a_loss_that_is_lost_names_the_largest_gradient_before_it(tmp_path, monkeypatch, at):
    seen, watch = [], Divergence.on_before_optimizer_step

    def note(self, trainer, module, optimizer):
        seen.append({name: float(p.grad.abs().max()) for name, p in module.model.named_parameters()})
        watch(self, trainer, module, optimizer)

    monkeypatch.setattr(Divergence, "on_before_optimizer_step", note)
    record = diverge(tmp_path, BadLoss, at)
    assert record.status == "diverged"
    assert record.reason.startswith(f"the loss is not finite since step {at} (learning rate 0.01)")
    if at == 1:
        assert record.reason.endswith("; there was no step before")
    else:
        name, size = max(seen[at - 2].items(), key=lambda pair: pair[1])
        assert f"; the largest gradient of the step before was {size:.3g}, of {name} {GROUP}" in record.reason


def test_the_rate_is_that_of_the_step_at_which_it_began(tmp_path):
    reason = diverge(tmp_path, BadGradient, 7, warmup=10).reason
    assert reason.startswith("the gradient is not finite since step 7 (learning rate 0.007)")
    assert "parameter group 1 of 1: learning rate 0.007, weight decay 0" in reason


def test_what_diverged_between_two_looks_is_known_after_a_restart(tmp_path):
    first = diverge(tmp_path, BadGradient, 30, stop_at=33)
    assert first.status == "interrupted"
    second = diverge(tmp_path, BadGradient, None)
    assert second.status == "diverged"
    assert second.reason == diverge(tmp_path / "whole", BadGradient, 30).reason


def test_a_run_at_chance_is_flagged_and_one_that_learned_is_not(tmp_path):
    stuck = go(tmp_path / "stuck", steps=8, lr=0.0)
    assert stuck.notes[-1].startswith(
        f"stayed at chance: {100 * stuck.test_accuracy:.2f} % where always giving the commonest label"
    )
    assert not any("at chance" in note for note in go(tmp_path / "learned", steps=200).notes)
