"""Variants of models/README.md where LRA's code and the papers differ; the defaults are LRA's."""

import re

import pytest
import torch
from omegaconf import OmegaConf

from helpers.compose import CONFIGS, classifier, compose
from lra.config.schema import check_targets
from lra.task import TaskSpec

PAGE = (CONFIGS.parent / "models/README.md").read_text()
PAGE = PAGE[PAGE.index("Where the LRA code and a paper differ") :]
ROWS = re.findall(r"^\| (`.*`) \| .* \| (.*) \|$", PAGE, re.M)

# settings of the LRA code: model, task, keys and values
LRA = [
    ("local_attention", "listops", {"model.mixer.block": 50}),
    ("local_attention", "image", {"model.mixer.block": 64, "model.pool": "mean"}),
    ("sparse_transformer", "text", {"model.mixer.pattern": "fixed", "model.mixer.block": 50}),
    ("sparse_transformer", "image", {"model.mixer.n_summary": 10, "model.pool": "cls"}),
    ("longformer", "text", {"model.mixer.window": 512, "model.mixer.n_global": 0}),
    ("linformer", "text", {"model.mixer.d_projected": 16, "model.mixer.share_kv": True}),
    ("reformer", "text", {"model.mixer.chunk": 10, "model.mixer.n_hashes": 1, "model.mixer.n_buckets": 10}),
    ("reformer_reversible", "text", {"model.encoder.mixer.chunk": 10, "model.encoder.mixer.n_hashes": 1}),
    ("sinkhorn", "text", {"model.mixer.block": 50, "model.mixer.n_iterations": 1, "model.mixer.temperature": 1.0}),
    ("sinkhorn", "image", {"model.mixer.block": 64, "optimizer.weight_decay": 0.7}),
    ("synthesizer", "image", {"model.mixer.parts": ["random", "dot"]}),
    ("bigbird", "text", {"model.mixer.block": 64, "model.mixer.n_random": 3}),
    ("performer", "text", {"model.mixer.kernel": "relu", "model.mixer.n_features": 256}),
    ("performer", "listops", {"model.mixer.kernel": "softmax", "model.mixer.n_features": 2}),
    ("luna", "text", {"model.encoder.n_packed": 256, "model.encoder.tie_kv": True}),
    ("nystromformer", "text", {"model.mixer.n_landmarks": 64, "model.mixer.conv_kernel": 35, "model.d_model": 64}),
]  # fmt: skip


def alternatives() -> list[tuple[str, list[str]]]:
    """(model, overrides) of every cell of the table's last column."""
    found = []
    for models, cell in ROWS:
        for model in re.findall(r"`(\w+)`", models):
            for words in re.findall(r"`([^`]+)`", cell):
                if "=" not in words and words[0] != "[":
                    continue
                # a list without a key is another value of mixer.parts
                words = f"mixer.parts={words}" if words.startswith("[") else words
                if model == "hgrn2":
                    words = words.replace("mixer.", "encoder.")
                found.append((model, words.split()))
    return found


def prefixed(word: str) -> str:
    return f"+model.{word[1:]}" if word.startswith("+") else f"model.{word}"


def build(model: str, words: list[str]):
    if words and words[0].startswith("model="):
        model, words = words[0].removeprefix("model="), words[1:]
    cfg = compose("task=text", f"model={model}", "scale=smoke", "model.d_model=16", *(prefixed(w) for w in words))
    check_targets(OmegaConf.to_container(cfg, resolve=True))
    torch.manual_seed(0)
    return classifier(cfg, TaskSpec("test", 410, 3, 11, ragged=True)).train()


def scores(net):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(1, 11, (2, 400), generator=generator)
    mask = torch.arange(400) < torch.tensor([400, 250])[:, None]
    torch.manual_seed(2)
    y = net(x * mask, mask)
    y.square().sum().backward()
    return y


@pytest.mark.parametrize(("model", "words"), alternatives())
def test_alternative_changes_the_model(model, words):
    y = scores(build(model, words))
    assert y.isfinite().all()
    if words[0] != "mixer.redraw_steps=1000":  # no difference in the first thousand steps
        assert not torch.allclose(y, scores(build(model, [])))


@pytest.mark.parametrize(("model", "task", "values"), LRA)
def test_defaults_are_those_of_the_lra_code(model, task, values):
    cfg = compose(f"task={task}", f"model={model}")
    assert {key: OmegaConf.select(cfg, key) for key in values} == values


def test_models_with_variants_have_a_row():
    listed = {model for models, _ in ROWS for model in re.findall(r"`(\w+)`", models)}
    assert {model for model, _, _ in LRA} - {"local_attention", "reformer_reversible"} <= listed
    assert {words[0] for model, words in alternatives() if model == "synthesizer"} == {
        f"mixer.parts=[{parts}]" for parts in ("random,dot", "dense", "random", "factorised_dense", "factorised_random")
    }
