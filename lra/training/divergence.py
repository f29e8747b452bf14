"""Detects a loss or gradient that is not finite: the run ends as diverged and reports the step and the parameter."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

NEVER = 2**62


class Diverged(RuntimeError):
    """The loss or a gradient is no longer a number."""


class Divergence(Callback):
    """Checks the loss and every gradient at every step, on the device, so that no step waits for the result.

    The result is read every `every_steps` steps and before each validation. A diverged run therefore continues for some
    steps, but the reported step is exact. No step is skipped and no gradient repaired.
    """

    def __init__(self, every_steps: int = 50):
        self.every_steps = every_steps
        self.names: list[str] = []
        # (1 + n,): first step at which the loss, and each gradient, was not finite
        self.since = torch.empty(0)
        # (n,): largest entry of each gradient at the last step where everything was finite
        self.last_finite = torch.empty(0)
        # names in the order of the backward pass, from the loss to the input; recorded in the first step
        self.order: list[str] = []
        self._hooks: list = []
        self._loaded: dict = {}

    def state_dict(self) -> dict:
        return {"since": self.since, "last_finite": self.last_finite}

    def load_state_dict(self, state: dict) -> None:
        self._loaded = state

    def on_train_start(self, trainer, pl_module) -> None:
        # an empty parameter, such as S4's correction of rank 0, has no largest entry
        parameters = {n: p for n, p in pl_module.model.named_parameters() if p.requires_grad and p.numel()}
        device = next(iter(parameters.values())).device
        self.names, self._parameters = list(parameters), list(parameters.values())
        self.order = []
        for name, p in parameters.items():
            self._hooks.append(p.register_post_accumulate_grad_hook(lambda _, name=name: self.order.append(name)))
        state = {
            "since": torch.full((1 + len(parameters),), NEVER),
            "last_finite": torch.zeros(len(parameters)),
            **self._loaded,
        }
        self.since, self.last_finite = state["since"].to(device), state["last_finite"].to(device)
        self._zero = torch.zeros((), device=device)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        gradients = [self._zero if p.grad is None else p.grad for p in self._parameters]
        # largest magnitude of each, NaN where one is NaN; few kernels for all
        sizes = torch.stack(torch._foreach_norm(gradients, torch.inf)).float()
        finite = torch.cat([pl_module.loss.reshape(1).float(), sizes]).isfinite()
        self.since = torch.where(finite, self.since, self.since.clamp(max=trainer.global_step + 1))
        self.last_finite = torch.where((self.since == NEVER).all(), sizes, self.last_finite)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every_steps == 0:
            self._read(trainer)

    def on_validation_start(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self._read(trainer)

    def _read(self, trainer: pl.Trainer) -> None:
        """Raise Diverged if the loss or a gradient was not finite since the last check."""
        # processes have losses of their own, but the same gradients
        since = trainer.strategy.reduce(self.since.clone(), reduce_op="min")
        step = int(since.min())
        if step < NEVER:
            raise Diverged(self._describe(trainer, (since == step).tolist(), step))

    def _describe(self, trainer: pl.Trainer, bad: list[bool], step: int) -> str:
        """One line: the step, the learning rate, and the parameter where it began with its group."""
        schedule = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        factor = schedule.lr_lambdas[0](step - 1)
        when = f"since step {step} (learning rate {schedule.base_lrs[0] * factor:.3g})"
        if bad[0]:
            # the weights were broken in the step before, usually by the largest gradient
            largest = int(self.last_finite.argmax())
            name, size = self.names[largest], float(self.last_finite[largest])
            past = f"the largest gradient of the step before was {size:.3g}, of {name}"
            where = f"{past} ({self._group(trainer, name, factor)})" if step > 1 else "there was no step before"
            return f"the loss is not finite {when}; {where}"
        broken = [name for name, is_bad in zip(self.names, bad[1:], strict=True) if is_bad]
        name = min(broken, key=self.order.index)
        return (
            f"the gradient is not finite {when}, the loss still was; it began in {name} "
            f"({self._group(trainer, name, factor)}), {len(broken)} of {len(self.names)} parameters had it"
        )

    def _group(self, trainer: pl.Trainer, name: str, factor: float) -> str:
        groups = trainer.optimizers[0].param_groups
        number, group = next((i, g) for i, g in enumerate(groups, 1) if name in g["names"])
        rate = f"learning rate {group['initial_lr'] * factor:.3g}, weight decay {group['weight_decay']:.3g}"
        return f"parameter group {number} of {len(groups)}: {rate}"
