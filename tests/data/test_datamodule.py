"""The data module in Lightning: resuming, validation in mid-epoch, two processes."""

import multiprocessing
import os
import socket

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from data.listops import ListOps

pytestmark = pytest.mark.filterwarnings("ignore")


class Recorder(pl.LightningModule):
    """Records the examples it sees; stops after `stop` steps."""

    def __init__(self, stop: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop, self.seen, self.validated = stop, [], []

    def training_step(self, batch, _):
        if self.stop is not None and self.global_step == self.stop:
            raise KeyboardInterrupt
        self.seen.append(batch.x.sum(1).tolist())
        return self.weight * batch.y.float().mean()

    def validation_step(self, batch, _):
        self.validated += batch.y.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(pl.Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def trainer(tmp_path, steps, **named):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(
        max_steps=steps, default_root_dir=tmp_path, enable_checkpointing=False, num_sanity_val_steps=0, **quiet, **named
    )


@pytest.mark.parametrize("step", [1, 5, 8, 13, 16])
def test_resumed_run_sees_the_same_examples(tmp_path, step):
    """Eight batches per epoch, twenty steps: stopped at the first step, in mid-epoch and at an epoch's end."""

    def data():
        return ListOps(batch_size=8, root=tmp_path, source="toy", seed=4)

    uninterrupted = Recorder()
    trainer(tmp_path, 20).fit(uninterrupted, datamodule=data())
    assert len(uninterrupted.seen) == 20
    assert uninterrupted.seen[:8] != uninterrupted.seen[8:16]

    first, then = Recorder(stop=step), Recorder()
    path = tmp_path / "at.ckpt"
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, 20, callbacks=[SaveAt(path, step)]).fit(first, datamodule=data())
    trainer(tmp_path, 20).fit(then, datamodule=data(), ckpt_path=path, weights_only=True)
    assert first.seen + then.seen == uninterrupted.seen


def test_validation_in_mid_epoch_changes_no_batch(tmp_path):
    often, never = Recorder(), Recorder()
    named = {"batch_size": 8, "root": tmp_path, "source": "toy"}
    trainer(tmp_path, 20, val_check_interval=3).fit(often, datamodule=ListOps(**named))
    trainer(tmp_path, 20, limit_val_batches=0).fit(never, datamodule=ListOps(**named))
    assert often.seen == never.seen
    assert often.validated
    assert len(often.validated) % 64 == 0


def _join(rank: int, port: int, root, results) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    task = ListOps(batch_size=8, root=root, source="toy")
    task.prepare_data()
    task.setup()
    train = [batch.x.tolist() for batch in task.train_dataloader()]
    test = [y for batch in task.test_dataloader() for y in batch.y.tolist()]
    results.put((rank, train, test))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_the_prepared_data(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [spawn.Process(target=_join, args=(rank, port, tmp_path, results)) for rank in (0, 1)]
    for process in processes:
        process.start()
    (_, left, first), (_, right, second) = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(30)
    task = ListOps(batch_size=8, root=tmp_path, source="toy")
    task.setup()
    assert [a + b for a, b in zip(left, right, strict=True)] == [b.x.tolist() for b in task.train_dataloader()]
    assert first + second == [y for b in task.test_dataloader() for y in b.y.tolist()]


@pytest.mark.parametrize(("argument", "rows"), [(None, 8), (3, 3)])
def test_evaluation_uses_larger_batches(tmp_path, argument, rows):
    data = ListOps(batch_size=2, eval_batch_size=argument, root=tmp_path, source="toy")
    data.prepare_data()
    data.setup()
    assert len(next(iter(data.train_dataloader())).y) == 2
    assert len(next(iter(data.val_dataloader())).y) == len(next(iter(data.test_dataloader())).y) == rows
