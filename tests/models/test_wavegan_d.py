"""The WaveGAN discriminator: against a loop over positions, its published size, and the tasks it takes or refuses."""

import dataclasses

import pytest
import torch
from hydra.utils import instantiate

from helpers.comparison import assert_same
from helpers.compose import compose, names
from lra.config.compose import composed
from lra.errors import UserError
from lra.launch import job
from lra.launch.evaluation import ResamplingLearner
from lra.profiling.flops import forward_flops
from lra.task import Batch, TaskSpec
from models.wavegan_d import WaveGANDiscriminator

SPEC = TaskSpec("signal", 70, 3, None, channels=2)
TAKEN = {"image", "pathfinder", "pathfinder64", "pathx", "path256", "smnist", "pmnist", "scifar", "sc10", "sc35"}


def build(spec: TaskSpec = SPEC, **arguments: float) -> WaveGANDiscriminator:
    torch.manual_seed(0)
    return WaveGANDiscriminator(spec, **({"d_model": 6, "kernel_size": 5} | arguments)).double().eval()


def convolution(x, conv):
    """TensorFlow's convolution with padding "same", one row (L, D): a sum over the positions that exist."""
    (size,), (stride,) = conv.kernel_size, conv.stride
    n = -(-len(x) // stride)
    begin = max((n - 1) * stride + size - len(x), 0) // 2
    y = [x.new_zeros(conv.out_channels) for _ in range(n)]
    for t in range(n):
        for k in range(size):
            if 0 <= (source := t * stride + k - begin) < len(x):
                y[t] = y[t] + conv.weight[:, :, k] @ x[source]
    return torch.stack(y)


@pytest.mark.parametrize("settings", [{}, {"n_layers": 1, "kernel_size": 8}, {"head_hidden": 5}])
def test_equals_a_loop_over_positions(settings):
    model = build(**settings)
    for layer in model.layers:
        layer.norm.running_mean.uniform_(-0.5, 0.5)
        layer.norm.running_var.uniform_(0.5, 2.0)

    def loop(h):
        for layer in model.layers:
            norm = layer.norm
            h = (convolution(h, layer.conv) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
            h = h * norm.weight + norm.bias
            h = h.where(h > 0, 0.2 * h)
        return model.head(h.flatten())

    x = torch.randn(2, 70, 2, dtype=torch.float64, requires_grad=True)
    assert_same(model(x, torch.ones(2, 70, dtype=torch.bool)), torch.stack([loop(row) for row in x]), [x])


def test_stages_are_those_of_the_paper():
    model = WaveGANDiscriminator(TaskSpec("sc10-raw", 16_000, 10, None))
    convolutions = [(c.conv.in_channels, c.conv.out_channels) for c in model.layers if c.conv.stride == (4,)]
    assert convolutions == [(1, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    assert model.head[0].in_features == 16 * 1024
    # the S4 paper's table 5
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 26.3


@pytest.mark.parametrize("task", names("task"))
def test_takes_a_task_or_refuses_it_in_one_line(task):
    cfg = compose(f"task={task}", "model=wavegan_d", "scale=smoke", "model.kernel_size=5")
    spec = instantiate(cfg.task).spec
    if task not in TAKEN:
        with pytest.raises(UserError, match=rf"^task={spec.name}: WaveGAN-D classifies .*; hint: task=sc10$"):
            WaveGANDiscriminator(spec)
        return
    net = instantiate(cfg.model, spec=spec)
    x, mask = spec.random_input(2), torch.ones(2, spec.max_len, dtype=torch.bool)
    x.requires_grad_()
    torch.nn.functional.cross_entropy(net(x, mask), spec.random_targets(2)).backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    assert (x.grad != 0).any(0).all()


def test_another_sampling_rate_is_refused():
    spec = dataclasses.replace(SPEC, channels=1)
    learner = ResamplingLearner(build(spec).float(), optimizer={}, rate=0.5)
    batch = Batch(spec.random_input(1), torch.ones(1, 70, dtype=torch.bool), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(UserError, match="input has 35 positions: WaveGAN-D takes 70 only"):
        learner(batch)


def test_operations_are_counted_at_the_only_length():
    spec = TaskSpec("long", 4096, 3, None)
    model = WaveGANDiscriminator(spec, d_model=8, n_layers=1, kernel_size=5)
    widths, lengths = (1, 1, 2, 4, 8), (1024, 256, 64, 16)
    convolutions = sum(5 * a * b * n for a, b, n in zip(widths, widths[1:], lengths, strict=False))
    assert forward_flops(model, spec) == 2 * (convolutions + 8 * 16 * 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.compile=true"], "trainer.compile=true: this model has no residual blocks to compile"),
        (["pretrain=masked"], "pretrain=masked: this model has no encoder that predicts its input"),
    ],
)
def test_unsupported_options_are_refused_in_one_line(tmp_path, capsys, words, message):
    places = [f"results={tmp_path}", f"runs={tmp_path}", f"data.root={tmp_path}/data", "wandb.mode=disabled"]
    counts = [f"task.n_{split}=8" for split in ("train", "val", "test")]
    choice = ["task=smnist", "model=wavegan_d", "scale=smoke", "data.source=toy", "trainer.accelerator=cpu"]
    with pytest.raises(SystemExit) as stop:
        job.one(**composed([*choice, *counts, *places, *words]))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_dropout_acts_only_in_training():
    model = build(dropout=0.5)
    x, mask = torch.randn(2, 70, 2, dtype=torch.float64), torch.ones(2, 70, dtype=torch.bool)
    assert torch.equal(model(x, mask), model(x, mask))
    model.train()
    assert not torch.equal(model(x, mask), model(x, mask))


def test_kernel_shorter_than_the_stride_is_refused():
    with pytest.raises(UserError, match="kernel_size=3: less than the stride; hint: at least 4"):
        build(kernel_size=3)
