"""Prepared data as a data set of Hugging Face's library: load_from_disk gives what a model sees."""

import json
import re

import datasets
import numpy as np
import pytest
import torch

from data import hugging_face
from scripts import prepare_data

SIZES = ["task.n_train=9", "task.n_val=4", "task.n_test=5"]
# a task of each kind of input: tokens, pairs, colours, sound, a series, next values
TASKS = {
    "listops": ["task.max_len=64", "task.min_len=5"],
    "retrieval": ["task.max_len=64"],
    "scifar": [],
    "sc10": [],
    "etth1": ["task.context=48"],
    "cifar_density": ["task.size=8"],
}
NUMBERS = re.compile(r"[ab] = (\[.*?\]|[-.e\d]+)")


def inputs(task, row: dict, description: str) -> list[torch.Tensor]:
    """The inputs of a row, as the module's text says they are to be read."""
    values = [torch.tensor(row[name]) for name in hugging_face.columns(task)]
    if hugging_face.column(task) == "stored":
        a, b = (torch.tensor(json.loads(text)) for text in NUMBERS.findall(description))
        values = [a * value + b for value in values]
    return [value if value.ndim == 2 or not value.is_floating_point() else value[:, None] for value in values]


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_what_a_model_sees(name, tmp_path, capsys):
    settings = [f"task={name}", "scale=smoke", "data.source=toy", f"data.root={tmp_path}", *SIZES, *TASKS[name]]
    prepare_data.main(["prepare", *settings])
    prepare_data.main(["export", *settings, "--to", str(tmp_path / "out")])
    assert str(tmp_path / "out") in capsys.readouterr().out
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    task = prepare_data.build_task(settings)
    task.setup()
    assert {split: len(data) for split, data in loaded.items()} == {
        hugging_face.SPLITS[split]: n for split, n in task.counts.items()
    }
    assert task.fingerprint in loaded["test"].info.description
    assert [path.name for path in tmp_path.glob(".out*")] == []
    row = 0
    for batch in task.test_dataloader():
        n = len(batch.y)
        for i, y in enumerate(batch.y):
            documents, content = (i, i + n) if task.spec.paired else (i,), loaded["test"][row]
            for found, j in zip(inputs(task, content, loaded["test"].info.description), documents, strict=True):
                expected = batch.x[j, batch.mask[j]]
                torch.testing.assert_close(found.to(expected.dtype), expected)
            answer = content["label" if y.ndim == 0 else "target"]
            np.testing.assert_allclose(answer, y, rtol=1e-6)
            row += 1
    assert row == len(loaded["test"])


def test_existing_folder_is_kept(tmp_path, capsys):
    settings = ["task=listops", "scale=smoke", "data.source=toy", f"data.root={tmp_path}"]
    prepare_data.main(["prepare", *settings])
    (tmp_path / "mine").mkdir()
    with pytest.raises(SystemExit):
        prepare_data.main(["export", *settings, "--to", str(tmp_path / "mine")])
    assert "mine: exists already; hint: --to another folder" in capsys.readouterr().err
    assert list((tmp_path / "mine").iterdir()) == []
