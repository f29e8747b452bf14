"""Weights with their record on the Hugging Face Hub: `push` uploads them with a model card, `located` downloads them.

Files from the Hub are data: only safetensors and JSON are read, and nothing they name is called before
`lra.launch.evaluation.check_trusted` has seen it.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from lra.errors import UserError
from lra.io.strict_json import layout
from lra.objectives.objective import objective_of
from lra.records.record import Record
from lra.tables.aggregate import learned
from lra.training import weights

SCHEME = "hf://"
WEIGHTS = "model.safetensors"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
LOG_IN = ".venv/bin/hf auth login, or HF_TOKEN=..."


def located(checkpoint: str) -> Path:
    """The path of a checkpoint; one of hf://user/name[@revision] is downloaded, unless the cache has it, and checked.

    raises  UserError, one line, for a wrong address, a failed download, or a file that is not safetensors
    """
    if not checkpoint.startswith(SCHEME):
        return Path(checkpoint)
    name, _, revision = checkpoint.removeprefix(SCHEME).partition("@")
    check_name(name, f"checkpoint={checkpoint}")
    from huggingface_hub import hf_hub_download

    with one_line(checkpoint):
        path = Path(hf_hub_download(name, WEIGHTS, revision=revision or None))
    try:
        weights.load(path)
    except weights.Damaged as error:
        # or the next call would read the same bytes
        path.resolve().unlink()
        problem = f"{checkpoint}: its {WEIGHTS} is not an intact safetensors file ({error.reason})"
        raise UserError(problem, hint="repeat the command to download it again") from None
    return path


def push(path: Path, name: str, *, private: bool = False) -> str:
    """Upload a finished run as one commit to the model repository `name`, created if it is missing; returns its URL.

    path     file of weights with a record
    private  of a new repository; an existing one must be private already
    raises   UserError, one line
    """
    content = files(path, name)
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise UserError(f"{name}: no Hugging Face token on this machine", hint=LOG_IN)
    hub = HfApi()
    with one_line(name):
        hub.create_repo(name, private=private or None, exist_ok=True)
        public = private and not hub.model_info(name).private
    if public:
        raise UserError(f"{name}: exists and is public", hint="another name, or make it private on its page")
    with one_line(name):
        added = [CommitOperationAdd(file, data) for file, data in content.items()]
        return str(hub.create_commit(name, added, commit_message="Weights, record and model card").commit_url)


def files(path: Path, name: str) -> dict[str, bytes]:
    """Name -> content of the files of a model repository.

    Examples of real data are left out of the record, since they belong to the data set.

    raises  UserError if the file is not that of a finished run
    """
    check_name(name, name)
    tensors, record = weights.load(path)
    if record is None or record.status != "ok":
        raise UserError(f"{path}: has no record of a finished run, which the model card is written from")
    if record.data.kind in ("official", "subset"):
        record = record.model_copy(update={"examples": []})
    return {
        "README.md": card(record, name).encode(),
        "config.json": layout(record.config, trees=tuple(record.config)).encode(),
        "record.json": record.text().encode(),
        WEIGHTS: weights.serialised(tensors, record),
    }


def check_name(name: str, given: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(f"{given}: not the name of a repository on the Hugging Face Hub", hint="user/name")


@contextlib.contextmanager
def one_line(name: str) -> Iterator[None]:
    """Errors of the Hub and of the connection as a UserError, one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise UserError(f"{name}: needs the consent of its owner", hint=f"ask on its page, then {LOG_IN}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name}: no such repository, or a private one", hint=LOG_IN) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: no such revision", hint="a branch, a tag or a commit of its page") from None
    except errors.RemoteEntryNotFoundError:
        raise UserError(f"{name}: has no {WEIGHTS}, so it is not a model of `lra push`") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        reason = error.server_message or error.response.reason_phrase
        hint = LOG_IN if status in (401, 403) else None
        raise UserError(
            f"{name}: the Hugging Face Hub refused ({status}: {' '.join(reason.split())})", hint=hint
        ) from None
    except Exception as error:  # the client, its HTTP library and its file transfer have classes of their own
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        problem = f"{name}: no transfer from or to the Hugging Face Hub ({reason.rstrip('.')})"
        raise UserError(problem, hint="check the connection and repeat the command") from None


CARD = """\
# {title} on {task}

Trained at scale {scale} with seed {seed} by *Long Range Arena in PyTorch*; every number here comes from `record.json`.

| | |
| --- | --- |
{rows}

```
{command}
```

## Use

After `pip install '/path/to/the/repository[train]'`, or in the repository itself:

```python
from lra.launch.evaluation import load_model

model, data, record = load_model("hf://{name}")
data.prepare_data()
data.setup()
batch = next(iter(data.test_dataloader()))
outputs = model(batch.x, batch.mask)  # to compare with batch.y
```

The result again: `python scripts/evaluate.py checkpoint=hf://{name}`. Loading runs no code from this page: the weights
are a safetensors file, and a configuration that names anything but the repository's own classes is refused.
"""


def card(record: Record, name: str) -> str:
    """The model card: YAML metadata, the facts of the record, and how to load the model."""
    from huggingface_hub import EvalResult, ModelCardData

    objective, totals = objective_of(record.objective), record.test_totals or {}
    scores, data, hardware = objective.scores(totals), record.data, record.hardware
    low, high = (objective.metric.with_unit(bound) for bound in objective.interval(totals))
    trivial = objective.metric.with_unit(data.trivial)
    metadata = ModelCardData(
        library_name="lra",
        tags=["long-range-arena", record.task, record.model, f"scale-{record.scale}"],
        model_name=record.title,
        eval_results=[
            EvalResult(
                task_type=record.objective,
                dataset_type=record.task,
                dataset_name=f"{record.task} ({data.kind})",
                dataset_split="test",
                metric_type=metric.name,
                metric_value=scores[metric.name],
            )
            for metric in objective.metrics
        ],
    )
    commit = "none" if record.git.commit is None else f"`{record.git.commit}`"
    counts = ", ".join(f"{n} {split}" for split, n in data.counts.items())
    training = f"{record.steps_done} steps, {record.train_seconds or 0:.0f} s, {record.precision}, {hardware.device}"
    selection = f"{record.selection.rule}, step {record.selection.step}"
    facts = {
        "test": f"{objective.result(totals)}; 95 % interval over the test examples: {low} to {high}",
        objective.trivial_answer: trivial + ("" if learned(record) else "; **the model is not significantly better**"),
        "data": f"{data.kind}; {counts}; fingerprint `{data.fingerprint[:12]}`",
        "recipe": f"{record.recipe}: {record.recipe_source}" if record.recipe else "none: untuned",
        "changed settings": " ".join(f"`{word}`" for word in record.variant) or "none",
        "checkpoint": selection + (", **chosen on the test set**" if record.selection.on_test else ""),
        "parameters": f"{record.parameters:,}",
        "training": training,
        "commit": commit + (", with changes" if record.git.dirty else ""),
        "software": ", ".join(f"{package} {version}" for package, version in record.versions.items()),
        "notes": "; ".join(record.notes) or "none",
    }
    rows = "\n".join(f"| {key} | {' '.join(text.replace('|', '/').split())} |" for key, text in facts.items())
    text = CARD.format(
        rows=rows, name=name, **{k: getattr(record, k) for k in ("title", "task", "scale", "seed", "command")}
    )
    return f"---\n{metadata.to_yaml()}\n---\n{text}"
