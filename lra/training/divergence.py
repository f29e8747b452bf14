"""Where a run stopped being numbers. The policy: it ends as diverged, and says since which step and where it began."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

NEVER = 2**62


class Diverged(RuntimeError):
    """The loss or a gradient is no longer a number."""


class Divergence(Callback):
    """Watches the loss and every parameter's gradient at every step, on the device, so that a step waits for nothing.

    What was noted is read every `every_steps` steps and before each validation, so a run goes on for some steps with
    weights that are lost; the step at which it began is exact all the same. No step is skipped and no gradient mended:
    a run that needs that is another run.
    """

    def __init__(self, every_steps: int = 50):
        self.every_steps = every_steps
        self.names: list[str] = []
        # (1 + n,): the step at which the loss, and each gradient, was first not finite
        self.since = torch.empty(0)
        # (n,): the largest entry of each gradient at the last step at which everything was finite
        self.before = torch.empty(0)
        # names in the order in which gradients come, from the loss to the input; noted in the first step
        self.order: list[str] = []
        self._hooks: list = []
        self._saved: dict = {}

    def state_dict(self) -> dict:
        return {"since": self.since, "before": self.before}

    def load_state_dict(self, state: dict) -> None:
        self._saved = state

    def on_train_start(self, trainer, pl_module) -> None:
        # an empty one, such as S4's correction of rank 0, has no largest entry
        parameters = {n: p for n, p in pl_module.model.named_parameters() if p.requires_grad and p.numel()}
        device = next(iter(parameters.values())).device
        self.names, self._parameters = list(parameters), list(parameters.values())
        self.order = []
        for name, p in parameters.items():
            self._hooks.append(p.register_post_accumulate_grad_hook(lambda _, name=name: self.order.append(name)))
        since, before = (self._saved.get(name) for name in ("since", "before"))
        self.since = torch.full((1 + len(parameters),), NEVER, device=device) if since is None else since.to(device)
        self.before = torch.zeros(len(parameters), device=device) if before is None else before.to(device)
        self._none = torch.zeros((), device=device)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        sizes = _largest([self._none if p.grad is None else p.grad for p in self._parameters])
        finite = torch.cat([pl_module.loss.reshape(1).float(), sizes]).isfinite()
        self.since = torch.where(finite, self.since, self.since.clamp(max=trainer.global_step + 1))
        self.before = torch.where((self.since == NEVER).all(), sizes, self.before)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step % self.every_steps == 0:
            self._read(trainer)

    def on_validation_start(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self._read(trainer)

    def _read(self, trainer: pl.Trainer) -> None:
        """Raises Diverged if the loss or a gradient has been something else than a number since the last look."""
        # of several processes each knows its own loss; gradients are the same
        since = trainer.strategy.reduce(self.since.clone(), reduce_op="min")
        step = int(since.min())
        if step < NEVER:
            raise Diverged(self._told(trainer, (since == step).tolist(), step))

    def _told(self, trainer: pl.Trainer, bad: list[bool], step: int) -> str:
        """One line: the step, the learning rate, and the parameter where it began with its group."""
        schedule = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        factor = schedule.lr_lambdas[0](step - 1)
        rate = schedule.base_lrs[0] * factor
        lost = [name for name, is_bad in zip(self.names, bad[1:], strict=True) if is_bad]
        when = f"since step {step} (learning rate {rate:.3g})"
        if bad[0]:
            # the weights were lost in the step before: by the largest gradient, as a rule
            largest = int(self.before.argmax())
            name, size = self.names[largest], float(self.before[largest])
            past = f"the largest gradient of the step before was {size:.3g}, of {name}"
            where = f"{past} ({self._group(trainer, name, factor)})" if step > 1 else "there was no step before"
            return f"the loss is not finite {when}; {where}"
        name = min(lost, key=self.order.index)
        return (
            f"the gradient is not finite {when}, the loss still was; it began in {name} "
            f"({self._group(trainer, name, factor)}), {len(lost)} of {len(self.names)} parameters had it"
        )

    def _group(self, trainer: pl.Trainer, name: str, factor: float) -> str:
        groups = trainer.optimizers[0].param_groups
        number, group = next((i, g) for i, g in enumerate(groups, 1) if name in g["names"])
        rate = f"learning rate {group['initial_lr'] * factor:.3g}, weight decay {group['weight_decay']:.3g}"
        return f"parameter group {number} of {len(groups)}: {rate}"


def _largest(gradients: list[Tensor]) -> Tensor:
    """(n,): largest magnitude of each gradient, NaN where one is NaN; all in a few kernels."""
    return torch.stack(torch._foreach_norm(gradients, torch.inf)).float()
