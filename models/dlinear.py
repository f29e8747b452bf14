"""Linear forecasters: DLinear and NLinear, whole models without embedding and blocks.

Zeng et al. 2023, "Are Transformers Effective for Time Series Forecasting?" (arXiv:2205.13504), section 4. All columns
share the weights. B batch, L context, H horizon, C columns.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lra.errors import UserError
from lra.task import TaskSpec


class NLinear(nn.Module):
    """y = x_L + W (x - x_L): a linear map of the difference to the last value."""

    def __init__(self, spec: TaskSpec):
        super().__init__()
        if spec.objective != "regression" or not spec.horizon or spec.vocab_size is not None:
            raise UserError(f"task={spec.name}: {type(self).__name__} only forecasts", hint="task=etth1")
        self.columns, self.context, self.horizon = spec.channels, spec.max_len - spec.horizon, spec.horizon
        self.linear = nn.Linear(self.context, self.horizon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L + H, C + calendar) -> (B, H, C); only the values of the context are read."""
        return self.predict(x[:, : self.context, : self.columns].transpose(1, 2)).transpose(1, 2)

    def predict(self, x: Tensor) -> Tensor:
        """(B, C, L) -> (B, C, H)."""
        last = x[..., -1:]
        return last + self.linear(x - last)


class DLinear(NLinear):
    """y = W_t trend + W_r (x - trend); the trend is a moving average over `kernel_size` positions, ends repeated."""

    def __init__(self, spec: TaskSpec, *, kernel_size: int = 25):
        super().__init__(spec)
        if kernel_size % 2 == 0:
            raise UserError(f"model.kernel_size={kernel_size}: an odd number is needed", hint=f"{kernel_size + 1}")
        self.kernel_size = kernel_size
        self.trend = nn.Linear(self.context, self.horizon)

    def predict(self, x: Tensor) -> Tensor:
        half = self.kernel_size // 2
        trend = F.avg_pool1d(F.pad(x, (half, half), mode="replicate"), self.kernel_size, stride=1)
        return self.trend(trend) + self.linear(x - trend)
