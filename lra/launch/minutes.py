"""`training.minutes`: a run of a given duration, with its number of steps estimated from measured ones."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lra.errors import UserError
from lra.io.atomic import atomic_write
from lra.launch.cost import Batches, StepTimer
from lra.training.checkpoint import random_states, set_random_states
from lra.training.config import Hardware, Training
from lra.training.trainer import make_trainer, silence_libraries

VALIDATIONS = 20  # in a run whose recipe states none
VALIDATION_SHARE = 0.2  # of the time, at most
MEASURED_STEPS = 5


def in_steps(
    training: Training, *, data: Any, model: nn.Module, optimizer: dict, hardware: Hardware, folder: Path
) -> tuple[Training, list[str]]:
    """The training of `training.minutes` as a number of steps, and a note for the record; others are returned as given.

    The estimate is kept in the run's folder, so that a resumed run ends at the same step. Model and random states are
    left as they were.
    raises  UserError with several processes, which would have to agree on the estimate
    """
    if training.minutes is None:
        return training, []
    if hardware.processes > 1:
        raise UserError("training.minutes: needs a single process", hint="training.minutes=null training.steps=1000")
    path = folder / "steps.json"
    if not path.exists():
        estimate = measure(training, data=data, model=model, optimizer=optimizer, hardware=hardware, folder=folder)
        atomic_write(path, json.dumps(estimate), hint="runs=/some/dir")
    found = json.loads(path.read_text())
    note = f"training.minutes={training.minutes:g}: {found['steps']} steps, by {found['step_seconds']:.3g} s a step"
    resolved = replace(
        training, minutes=None, epochs=None, steps=found["steps"], validations=min(found["validations"], found["steps"])
    )
    return resolved, [note]


def measure(
    training: Training, *, data: Any, model: nn.Module, optimizer: dict, hardware: Hardware, folder: Path
) -> dict[str, Any]:
    """Steps and validations that fit into the time, from a few real steps and one evaluation batch."""
    assert training.minutes is not None
    silence_libraries()
    states = random_states()
    device = make_trainer(hardware, folder=folder, max_steps=1, callbacks=[], logger=False).strategy.root_device
    work = StepTimer(copy.deepcopy(model), optimizer, training, hardware, device, data.spec.objective)
    batches = Batches(data, device)
    step = work.train(batches.of(data.batch_size), MEASURED_STEPS)
    batch = work.evaluate(batches.of(data.eval_batch_size))
    set_random_states(states)
    _, n_val, n_test = batches.sizes
    validation, test = (batch * math.ceil(n / data.eval_batch_size) for n in (n_val, n_test))
    seconds = max(0.0, 60 * training.minutes - test)
    validations = max(1, min(training.validations or VALIDATIONS, int(VALIDATION_SHARE * seconds / validation)))
    steps = max(1, int((seconds - validations * validation) / step))
    return {"steps": steps, "validations": validations, "step_seconds": step, "evaluation_seconds": validation}
