"""The settings of a run identify it: one spelling, and none without effect or of a wrong kind."""

import copy
import shlex
import shutil
import sys

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from helpers.compose import names
from helpers.records import replace
from lra import paths
from lra.config.compose import cell_of, check_recipe, composed, plain
from lra.config.schema import check_configuration
from lra.config.sweep import jobs_of
from lra.config.variant import canonical, changes, check_effect, hashed_config, settings_of, unused
from lra.launch import job
from lra.launch.grid import GridJob
from lra.launch.lock import has_result, path_of
from lra.paths import ROOT
from lra.records.record import config_hash
from lra.records.store import load
from lra.training.config import Training
from lra.training.optim import param_groups
from scripts import train

MINI = ("task=text", "model=s4", "scale=mini")


def cell(*words: str):
    return cell_of(**composed([*MINI, *words]))


@pytest.mark.parametrize(
    ("spellings", "variant"),
    [
        (["optimizer.lr=0.02", "optimizer.lr=2e-2", "optimizer.lr=2.0e-2", "++optimizer.lr=0.02"], "optimizer.lr=0.02"),
        (["optimizer.lr=0.01", "optimizer.lr=1e-2", "optimizer={lr:0.01}", "training.steps=800"], None),
        (["optimizer.weight_decay=1", "optimizer.weight_decay=1.0"], "optimizer.weight_decay=1.0"),
        (["model.mixer.init=lin", 'model.mixer.init="lin"'], "model.mixer.init=lin"),
        (["task.max_len=512", "++task.max_len=512"], "task.max_len=512"),
        (["family.trial_lr=0.02"], "optimizer.lr=0.02"),
        (["trainer.precision=bf16-mixed"], "trainer.precision=bf16-mixed"),
        (["pretrain=masked"], "pretrain=masked"),
        (["data.source=toy", "wandb.mode=online", "trainer=cpu", "seed=0"], None),
        (["~model.mixer.backend", "model.mixer.init=legs"], "~model.mixer.backend"),
    ],
)
def test_variant_is_the_difference_to_the_recipe(spellings, variant):
    found = [cell(word) for word in spellings[: None if variant != "~model.mixer.backend" else 1]]
    assert [run.variant for run in found] == [[variant] if variant else []] * len(found)
    assert len({run.config_hash for run in found}) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["model.dropout=0.1", "model.tie_dropout=false"],
        ["recipe=s4/image"],
        ["model.mixer.lr=0.01"],
        ["+model.mixer.lr.C=0.1"],
        ["pretrain=causal", "pretraining.share=0.3"],
        ["model=synthesizer", "model.mixer.parts=[dot]"],
    ],
)
def test_recorded_command_reproduces_the_run(words):
    run = cell(*words)
    assert run.variant
    again = cell_of(**composed(shlex.split(run.command)[2:]))
    assert (again.variant, again.config_hash, again.command) == (run.variant, run.config_hash, run.command)


def test_committed_records_are_found():
    folder = ROOT / "results/runs"
    # made with 8 validations, where the scale has 4 now
    other = {folder / f"mini/{model}/text/0-7ac194b0.json" for model in ("s4", "transformer")}
    files = [*folder.rglob("0-*.json"), *folder.glob("*/s4/*/0.json")]
    for record in map(load, files):
        if "evaluation" in record.config:  # a test at another rate, not a training
            continue
        run = cell_of(**composed([*shlex.split(record.command)[2:], f"results={folder}"]))
        assert path_of(str(folder), run) == record.path(folder)
        assert (run.config_hash == record.config_hash) != (record.path(folder) in other)


def test_attention_without_causal_mask_keeps_the_hash_of_older_records():
    record = load(ROOT / "results/runs/mini/transformer/listops/0.json")
    words = shlex.split(record.command)[2:]
    run, causal = cell_of(**composed(words)), cell_of(**composed([*words, "family.causal=true"]))
    assert run.config_hash == record.config_hash
    assert causal.variant == ["model.mixer.causal=true"]
    assert causal.config["model"]["mixer"]["causal"]
    assert causal.config_hash != run.config_hash


@pytest.mark.parametrize("old", [["++optimizer.lr=2.0e-2"], ["optimizer.weight_decay=0", "optimizer.lr=0.02"]])
def test_record_under_an_older_spelling_counts(old, tmp_path):
    known = composed([*MINI, *old, f"results={tmp_path}"])
    run = cell_of(**known)
    config = hashed_config(settings_of(known["cfg"]))  # with numbers as typed
    record = load(ROOT / "results/runs/mini/s4/text/0.json")
    record = replace(record, variant=sorted(old), config=config, config_hash=config_hash(config))
    path = record.path(tmp_path)
    record.write(path)
    assert path != path_of(tmp_path, run)
    found = cell_of(**known)
    assert (path_of(tmp_path, found), found.command) == (path, record.command)
    assert has_result(**known)
    grid = GridJob("s4", "text", 0, "mini", tmp_path, tuple(old))
    assert (grid.path, grid.done) == (path, True)
    assert not has_result(**composed([*MINI, *old, f"results={tmp_path}", "seed=1"]))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["family.d_model=128"], "model.d_model"),
        (["family.dropout=0.3"], "model.dropout"),
        (["scale=paper", "family.trial_lr=0.1"], "optimizer.lr"),
        (["model=mega", "model.activation=relu"], "the encoder"),
        (["model=mega", "model.d_ff=8"], "model.encoder.d_ff"),
        (["model=luna", "model.norm=rms"], "the encoder"),
        (["model.activation=relu"], "model.d_ff=128"),
        (["model.tie_dropout=false"], "model.dropout=0.1"),
        (["pretraining.share=0.1"], "pretrain=masked"),
        (["training.minutes=5", "training.steps=10"], "training.minutes=null"),
        (["training.patience=5"], "training.schedule=plateau"),
        (["budget=lra", "family.d_model=128"], "model.d_model"),
    ],
)
def test_override_without_effect_is_refused(words, hint):
    with pytest.raises(ValueError, match=f"{words[-1]}: changes nothing in this run; hint: .*{hint}"):
        cell(*words)
    equal = {"family.d_model=128": "family.d_model=256", "model.activation=relu": "model.activation=gelu"}
    if words[-1] in equal and len(words) == 1:
        assert cell(equal[words[-1]]).variant == []


@pytest.mark.parametrize(
    "words", [["model=mega", "model.norm=layer"], ["model=luna", "model.d_ff=64"], ["family.n_ssm=2"]]
)
def test_override_with_an_indirect_effect_is_accepted(words):
    assert cell(*words).variant


def leaves(node: dict, prefix: str = ""):
    for key, value in node.items():
        if isinstance(value, dict) and not key.startswith("_"):
            yield from leaves(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            yield prefix + key, value


def changed(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 2 * value or (type(value)(1) if isinstance(value, int) else 0.1)
    return [*value, 1] if isinstance(value, list) else "other"


@pytest.mark.parametrize("model", names("model"))
def test_every_setting_changes_the_run_or_is_refused(model):
    cfg = composed(["task=listops", f"model={model}", "scale=mini"])["cfg"]
    base, raw = settings_of(cfg), OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    skipped = ["trainer", "wandb", "data", *(["task", "optimizer", "training"] if model != "s4" else [])]
    for key, value in leaves(plain(cfg)):
        section = key.partition(".")[0]
        if section in skipped or "." not in key or key in ("task.root", "task.source", "task.seed"):
            continue
        other = copy.deepcopy(raw)
        OmegaConf.update(other, key, changed(value))
        if canonical(settings_of(other), base) == base:
            assert section in ("family", "pretraining") or key in unused(base), key
            with pytest.raises(ValueError, match="changes nothing"):
                check_effect(f"{key}=x", other, cfg)


CHOICES = {
    "norm": ["batch", "layer"],
    "positions": ["learned", "none"],
    "pool": ["last", "mean"],
    "activation": ["silu", "relu"],
    "init": ["legt"],
}
# no effect at this length or before training, by the meaning of the setting
EXEMPT = {"backend", "redraw_steps", "chunk", "truncation", "n_random", "window", "kernel", "clip"}


@pytest.mark.parametrize("model", ["s4", "transformer", "mega", "luna", "mamba", "performer", "seqboat", "h3"])
def test_accepted_setting_changes_the_built_model(model):
    cfg = composed(["task=listops", f"model={model}", "scale=smoke", "model.dropout=0.1"])["cfg"]
    raw, settings = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False)), settings_of(cfg)
    spec = instantiate(cfg.task).spec

    def built(node):
        torch.manual_seed(0)
        net = instantiate(node, spec=spec).train()
        x = torch.arange(2 * spec.max_len).reshape(2, -1) % (spec.vocab_size - 1) + 1
        groups = [sorted((k, v) for k, v in g.items() if k not in ("params", "names")) for g in param_groups(net)]
        return repr(net), groups, {k: v.tolist() for k, v in net.state_dict().items()}, net(x, x > 0).tolist()

    before = built(cfg.model)
    for key, value in leaves(settings["model"], "model."):
        name = key.rpartition(".")[2]
        if key in unused(settings) or name in EXEMPT or value is None:
            continue
        if isinstance(value, str):
            value = next((choice for choice in CHOICES.get(name, [value]) if choice != value), None)
            if value is None:
                continue
        else:
            value = value / 2 if isinstance(value, float) and value else changed(value)
        other = copy.deepcopy(raw)
        OmegaConf.update(other, key, value)
        assert built(other.model) != before, key


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ('model.prenorm="false"', r'model.prenorm="false": .*boolean; hint: true or false'),
        ("task.length_aware=no", r'task.length_aware="no": .*hint: true or false'),
        ("task.eval_batch_size=0", r"task.eval_batch_size=0: .*hint: eval_batch_size is at least 1"),
        ("task.max_len=0", r"task.max_len=0: .*at least 1"),
        ("model.n_layers=-2", r"model.n_layers=-2: .*at least 1"),
        ("model.n_layers=0", r"model.n_layers=0: .*at least 1"),
        ("model.n_layers=2.0", r"model.n_layers=2.0: .*integer; hint: its type is int"),
        ("model.d_model=0", r"model.d_model=0: .*at least 1"),
        ("model.d_ff=-1", r"model.d_ff=-1: .*at least 0"),
        ("model.norm=3", r"model.norm=3: .*string"),
        ("model.mixer.lr=fast", r'model.mixer.lr="fast": .*number'),
        ("model.mixer.dt_min=0", r"model.mixer.dt_min=0: .*more than 0"),
        ("training.warmup=2.5", r"training.warmup=2.5: .*hint: a share of all steps"),
        ("training.warmup=800", r"training.warmup=800: the run has 800 steps.*hint: "),
        ("trainer.precision=16-mixed", r"trainer.precision=16-mixed: not one of 32-true, bf16-mixed"),
    ],
)
def test_value_of_a_wrong_kind_is_one_line(word, message):
    with pytest.raises(ValueError, match=message) as refused:
        check_configuration(plain(composed([*MINI, word])["cfg"]))
    assert "\n" not in str(refused.value)


def test_warm_up_ends_before_the_last_step():
    with pytest.raises(ValueError, match=r"training.warmup=50: the run has 40 steps"):
        Training(epochs=2, warmup=50).total_steps(20)
    assert Training(epochs=3, warmup=50).total_steps(20) == 60
    assert Training(steps=5000, warmup=8000, schedule="inverse_sqrt").total_steps(20) == 5000  # LRA's Retrieval


def test_arguments_that_a_file_does_not_repeat_are_accepted(tmp_path, monkeypatch, capsys):
    shared = ["task=text", "model=sinkhorn", "scale=mini"]
    usual = cell_of(**composed(shared))
    assert "gumbel" not in plain(composed(shared)["cfg"])["model"]["mixer"]
    noisy = cell_of(**composed([*shared, "model.mixer.gumbel=true"]))
    assert noisy.variant == ["model.mixer.gumbel=true"]
    assert cell_of(**composed(shlex.split(noisy.command)[2:])).config_hash == noisy.config_hash != usual.config_hash
    # the constructor's own default is no variant
    assert cell_of(**composed([*shared, "model.mixer.gumbel=false"])).config_hash == usual.config_hash
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *shared, "model.mixer.gumbel=true", "--cfg", "job"])
    train.command()
    assert "gumbel: true" in capsys.readouterr().out


SWEEP = ["task=listops", "model=s4", "scale=smoke"]


def test_sweep_that_would_lose_an_override_is_refused(tmp_path, monkeypatch, capsys):
    lost = ["optimizer={lr:0.02}", "optimizer={weight_decay:0.3}", "seed=5,6"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", *SWEEP, *lost])
    with pytest.raises(SystemExit) as stop:
        train.command()
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "optimizer={lr:0.02} optimizer={weight_decay:0.3}: a sweep keeps only the last" in printed


def test_sweep_that_loses_nothing_is_accepted():
    jobs_of([*SWEEP, "optimizer={lr:0.02,weight_decay:0.3}", "seed=5,6"])
    jobs_of(["task=listops", "model=glob(s4*)", "seed=0", "seed=1,2"])
    with pytest.raises(ValueError, match="a sweep keeps only the last"):
        jobs_of([*SWEEP, "optimizer.lr=0.1", "optimizer={lr:0.02}", "optimizer.lr=0.3", "seed=1,2"])


@pytest.fixture
def own_configs(tmp_path, monkeypatch):
    """A copy of configs in which the trainer `mine` chooses a launcher."""
    shutil.copytree(paths.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(paths, "CONFIGS", tmp_path / "configs")
    text = "# @package _global_\ndefaults: [auto@trainer, _self_, override /hydra/launcher: other]\n"
    (paths.CONFIGS / "trainer/mine.yaml").write_text(text)
    launcher = paths.CONFIGS / "hydra/launcher/other.yaml"
    launcher.parent.mkdir(parents=True)
    launcher.write_text("_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher\n")


def test_launcher_chosen_in_a_swept_file_is_refused(own_configs):
    line = "trainer=mine: changes hydra/launcher, which a sweep chooses before its files; hint: name the launcher"
    with pytest.raises(ValueError, match=line):
        jobs_of([*SWEEP, "trainer=cpu,mine"])
    # not swept, or named on the command line as well, it is the launcher of the sweep
    jobs_of([*SWEEP, "trainer=mine", "seed=1,2"])
    jobs_of([*SWEEP, "trainer=cpu,mine", "hydra/launcher=other"])


def test_other_sweepers_choose_their_jobs_themselves():
    assert jobs_of([*SWEEP, "seed=1,2"]) == [[*SWEEP, "seed=1"], [*SWEEP, "seed=2"]]
    assert jobs_of([*SWEEP, "optimizer.lr=interval(0.1,0.2)", "hydra/sweeper=optuna"]) is None


def test_model_of_ones_own_is_named_by_its_file(tmp_path, monkeypatch):
    shutil.copytree(paths.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(paths, "CONFIGS", tmp_path / "configs")
    text = (paths.CONFIGS / "model/s4d.yaml").read_text()
    (paths.CONFIGS / "model/mine.yaml").write_text("# title: My Model\n" + text)
    (paths.CONFIGS / "model/untitled.yaml").write_text(text)
    titles = [
        cell_of(**composed(["task=listops", f"model={m}", "scale=mini"])).title for m in ("mine", "untitled", "s4d")
    ]
    assert titles == ["My Model", "untitled", "S4D"]


def test_task_without_a_recipe_says_so(tmp_path, monkeypatch, capsys):
    shutil.copytree(paths.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(paths, "CONFIGS", tmp_path / "configs")
    shutil.copy(paths.CONFIGS / "task/listops.yaml", paths.CONFIGS / "task/mytask.yaml")
    known = composed(["task=mytask", "model=s4"])
    with pytest.raises(SystemExit):
        job.one(**known)
    assert capsys.readouterr().err == "train.py: no recipe for task mytask; hint: scale=mini\n"
    for word in ("scale=mini", "training.steps=10"):
        known = composed(["task=mytask", "model=s4", word])
        check_recipe(known["cfg"], known["choices"])


def test_changes_tell_a_number_from_a_truth_value():
    assert list(changes({"a": True, "b": {"c": 1}}, {"a": 1, "b": {"c": 1}})) == [("a", True)]
