"""Generation: drawing a token against its definition, and the same tokens by steps and by reading prefixes again."""

from functools import partial

import pytest
import torch

from lra.errors import UserError
from lra.nn.classifier import Classifier
from lra.nn.generation import Sampling, generate
from lra.nn.multiscale import MultiScale
from lra.task import TaskSpec
from models.linear_transformer import LinearAttention
from models.s4 import S4
from models.sgconv import SGConv
from models.transformer import Attention

SPEC = TaskSpec("made_up", 24, 11, 12, objective="density", horizon=24, causal=True)
MIXERS = {
    "s4": partial(S4, bidirectional=False, d_state=8),
    "transformer": partial(Attention, n_heads=2, causal=True),
    "linear_transformer": partial(LinearAttention, n_heads=2, causal=True),
}
ENCODER = partial(MultiScale, mixer=MIXERS["s4"], pool=(3, 2))


def model(name: str, spec: TaskSpec = SPEC, **options) -> Classifier:
    torch.manual_seed(0)
    part = {"encoder": ENCODER} if name == "multiscale" else {"mixer": MIXERS[name]}
    net = Classifier(spec, d_model=8, n_layers=2, **part, **options)
    return net.double()


@pytest.mark.parametrize("name", [*MIXERS, "multiscale"])
@pytest.mark.parametrize("known", [0, 1, 7])
def test_steps_and_prefixes_draw_the_same(name, known):
    net = model(name, positions="learned" if name == "transformer" else "none")
    given = torch.randint(0, 11, (3, known))
    arguments = given, 24 - known, Sampling(temperature=0.7, top_k=6)
    counted: list[int] = []
    stepped = generate(net, *arguments, seed=3, advance=counted.append)
    assert torch.equal(stepped, generate(net, *arguments, seed=3, steps=False))
    assert torch.equal(stepped[:, :known], given)
    assert counted == [3] * (24 - known)
    assert stepped.max() < 11
    assert not torch.equal(stepped, generate(net, *arguments, seed=4))


def test_a_prompt_longer_than_the_model_is_read_in_parts():
    """S4's state has no length: the continuation of 60 tokens equals that of a model for 100."""
    net, longer = (
        model("s4"),
        model("s4", TaskSpec("made_up", 100, 11, 12, objective="density", horizon=100, causal=True)),
    )
    longer.load_state_dict(net.state_dict())
    given = torch.randint(0, 11, (2, 60))
    found = (generate(each, given, 8, Sampling(0)) for each in (net, longer))
    assert torch.equal(*found)
    with pytest.raises(UserError, match="24"):
        generate(model("transformer", positions="learned"), given, 8, Sampling())


def test_drawing_follows_the_distribution():
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20_000, -1)
    generator = torch.Generator().manual_seed(0)
    for sampling, expected in (
        (Sampling(), scores[0].softmax(-1)),
        (Sampling(temperature=2.0), (scores[0] / 2).softmax(-1)),
        (Sampling(top_k=2), torch.tensor([2.0, 1.0, -torch.inf, -torch.inf]).softmax(-1)),
        (Sampling(top_p=0.7), torch.tensor([2.0, 1.0, -torch.inf, -torch.inf]).softmax(-1)),
        (Sampling(top_p=0.6), torch.tensor([1.0, 0, 0, 0])),
        (Sampling(temperature=0), torch.tensor([1.0, 0, 0, 0])),
    ):
        shares = torch.bincount(sampling.draw(scores, generator), minlength=4) / len(scores)
        torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_impossible_sampling(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_models_that_cannot_generate_say_why():
    two_sided = Classifier(
        TaskSpec("made_up", 24, 11, 12, horizon=24), d_model=8, n_layers=1, mixer=partial(S4, d_state=8)
    )
    with pytest.raises(UserError, match="later positions"):
        generate(two_sided, torch.zeros(1, 0, dtype=torch.int64), 2, Sampling())
    with pytest.raises(UserError, match="later positions"):
        Classifier(SPEC, d_model=8, n_layers=1, mixer=partial(S4, d_state=8))
    convolution = Classifier(SPEC, d_model=8, n_layers=1, mixer=partial(SGConv, bidirectional=False))
    with pytest.raises(UserError, match="no steps"):
        generate(convolution, torch.zeros(1, 0, dtype=torch.int64), 2, Sampling())
    assert generate(convolution, torch.zeros(1, 0, dtype=torch.int64), 2, Sampling(), steps=False).shape == (1, 2)
