"""Parameter groups declared by modules, and the schedules of the papers."""

import math

import pytest
import torch
from torch import nn

from lra.training.optim import adamw, param_groups, schedule


class Kernel(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_dt = nn.Parameter(torch.zeros(3))
        self.C = nn.Parameter(torch.zeros(3))
        self.optim = {"log_dt": {"lr": 1e-3, "weight_decay": 0.0}, "C": {"lr": None, "weight_decay": 0.0}}


def net():
    return nn.Sequential(Kernel(), nn.Linear(3, 2), Kernel())


def test_groups_follow_the_declarations():
    groups = {
        frozenset(g["names"]): {k: v for k, v in g.items() if k in ("lr", "weight_decay")} for g in param_groups(net())
    }
    assert groups == {
        frozenset({"0.log_dt", "2.log_dt"}): {"lr": 1e-3, "weight_decay": 0.0},
        frozenset({"0.C", "2.C"}): {"weight_decay": 0.0},
        frozenset({"1.weight", "1.bias"}): {},
    }


def test_every_parameter_is_in_one_group():
    model = net()
    names = [name for group in param_groups(model) for name in group["names"]]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_override_of_an_unknown_name_raises():
    model = net()
    model[0].optim["log_DT"] = {"lr": 1.0}
    with pytest.raises(AttributeError, match="log_DT"):
        param_groups(model)


def test_overrides_survive_the_schedule():
    optimizer = adamw(net(), lr=0.01, weight_decay=0.05, betas=[0.8, 0.9], eps=1e-6)
    assert {(g["betas"], g["eps"]) for g in optimizer.param_groups} == {((0.8, 0.9), 1e-6)}
    assert sorted((g["lr"], g["weight_decay"]) for g in optimizer.param_groups) == [
        (1e-3, 0.0),
        (0.01, 0.0),
        (0.01, 0.05),
    ]
    steps = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule("cosine", 10, 0.2))
    for _ in range(6):
        optimizer.step()
        steps.step()
    rates = sorted({g["lr"] for g in optimizer.param_groups})
    assert rates[1] / rates[0] == pytest.approx(10)


def test_cosine_warms_up_and_ends_at_zero():
    factor = schedule("cosine", 100, 0.1)
    assert [factor(s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert factor(55) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0.0, abs=1e-12)
    assert all(factor(s) >= factor(s + 1) for s in range(10, 100))
    # warm-up only
    assert schedule("cosine", 10, 10)(10) == 1.0


def test_linear_warms_up_and_ends_at_zero():
    factor = schedule("linear", 100, 0.2)
    assert [factor(s) for s in (0, 9, 19, 20)] == pytest.approx([0.05, 0.5, 1.0, 1.0])
    assert [factor(s) for s in (60, 80, 100, 101)] == pytest.approx([0.5, 0.25, 0.0, 0.0])
    assert schedule("linear", 10, 0)(0) == 1.0
    # one step after the warm-up, and none
    assert schedule("linear", 10, 9)(9) == 1.0
    assert schedule("linear", 10, 10)(10) == 0.0


def test_constant_warms_up_and_stays():
    # warm-up in steps
    factor = schedule("constant", 100, 20)
    assert [factor(s) for s in (0, 9, 19, 50)] == pytest.approx([0.05, 0.5, 1.0, 1.0])
    assert schedule("constant", 100, 0)(0) == 1.0


def test_inverse_sqrt_matches_the_lra_repository():
    # google-research/long-range-arena: constant * linear_warmup * rsqrt_decay
    factor = schedule("inverse_sqrt", 5000, 1000)
    assert factor(0) == pytest.approx(1 / 1000 / math.sqrt(1000))
    assert factor(999) == pytest.approx(1 / math.sqrt(1000))
    assert factor(3999) == pytest.approx(1 / math.sqrt(4000))


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize(("patience", "factor"), [(0, 0.5), (2, 0.2), (None, None)])
def test_plateau_equals_torch(patience, factor, higher_is_better):
    ours = schedule("plateau", 1000, 0.0, patience=patience, factor=factor, higher_is_better=higher_is_better)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    settings = {"patience": 20 if patience is None else patience, "factor": factor or 0.2, "eps": 0.0}
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max" if higher_is_better else "min", **settings)
    generator = torch.Generator().manual_seed(0)
    rates = []
    for i in range(200):
        # improvements become rare, and some are below the threshold
        score = round(0.5 + 0.1 * torch.rand((), generator=generator).item() * (1 if i < 100 else 1.0005), 4)
        score = math.nan if i == 50 else score
        ours.validated(score)
        theirs.step(score)
        rates.append(ours(i))
        assert rates[-1] == pytest.approx(optimizer.param_groups[0]["lr"])
    assert len(set(rates)) > 3


def test_plateau_warms_up():
    factor = schedule("plateau", 100, 10, patience=0)
    assert [factor(s) for s in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    for score in (0.5, 0.5):
        factor.validated(score)
    assert [factor(s) for s in (4, 50)] == pytest.approx([0.1, 0.2])


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="cosin"):
        schedule("cosin", 10, 0.1)
