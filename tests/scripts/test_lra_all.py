"""Groups of the grid: what each trains by default."""

import pytest

from helpers.compose import forecasters, limited, names
from lra.config.overrides import task_words
from lra.records.published import TASKS
from scripts.lra_all import GROUPS


@pytest.mark.parametrize("group", GROUPS)
def test_groups_name_tasks_and_models_that_exist(group):
    for task in GROUPS[group].tasks:
        assert task_words(task)[0].removeprefix("task=") in names("task")
    assert set(GROUPS[group].models) <= {*names("model"), *limited()}


def test_lra_has_its_tasks_and_every_model_that_can_classify():
    assert GROUPS["lra"].tasks == tuple(TASKS)
    assert sorted(GROUPS["lra"].models) == names("model")
    assert set(limited()) == {*forecasters(), "wavegan_d", "s4_unet"}
    assert set(forecasters()) == {"dlinear", "nlinear"} <= set(GROUPS["forecasting"].models)
