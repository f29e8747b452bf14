"""Generation: tokens drawn one after the other from a causal model.

B sequences, P given tokens, V tokens. Tokens are counted as targets, from 0; the model's input is the token before plus
1, and 0 at the beginning (data/next_token.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lra.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from its distribution.

    temperature  divides the scores; 0: always the most likely token
    top_k        only from the k most likely tokens; None: all
    top_p        only from the most likely tokens whose probabilities add up to p (Holtzman et al. 2020); None: all
    raises       UserError for other numbers
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature:g}: not 0 or more", hint="temperature=1")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k}: not 1 or more", hint="top_k=null for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p:g}: not in (0, 1]", hint="top_p=null for all tokens")

    def draw(self, scores: Tensor, generator: torch.Generator) -> Tensor:
        """Scores (B, V) -> tokens (B,). The generator is of the CPU, so that every device draws the same numbers."""
        if self.temperature == 0:
            return scores.argmax(-1)
        scores = scores.double() / self.temperature
        if self.top_k is not None and self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        probabilities = scores.softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            # a token stays if those before it do not reach p
            dropped = ordered.cumsum(-1) - ordered >= self.top_p
            probabilities = probabilities.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), 0)
        # inversion: one uniform number for each sequence
        sums = probabilities.cumsum(-1)
        uniform = torch.rand(len(scores), 1, dtype=torch.float64, generator=generator).to(scores.device)
        return torch.searchsorted(sums, uniform * sums[:, -1:], right=True).squeeze(-1).clamp(max=scores.shape[-1] - 1)


def scores_of(outputs: Any) -> Tensor:
    """Scores (..., V) of a model's outputs; log-probabilities where it has an adaptive softmax."""
    if isinstance(outputs, Tensor):
        return outputs
    scores: Tensor = outputs.vocabulary.log_probabilities(outputs.hidden)
    return scores


@torch.no_grad()
def generate(
    model: Any,
    given: Tensor,
    n: int,
    sampling: Sampling,
    *,
    seed: int = 0,
    steps: bool = True,
    advance: Callable[[int], object] = lambda n: None,
) -> Tensor:
    """Continue each row by n tokens: given (B, P) int64, P may be 0 -> (B, P + n).

    steps    read the given tokens in one pass, then one step for each new token; otherwise the whole sequence is read
             again for each token, as a Transformer without a cache of keys does
    advance  called with the number of new tokens (of all rows) after each step
    raises   UserError for a model that is not causal, or has no steps, or a position it has no code for
    """
    model.eval()
    if reason := model.not_causal() or (model.no_steps() if steps else None):
        raise UserError(reason)
    generator = torch.Generator().manual_seed(seed)
    known = given.shape[1]
    tokens = torch.empty(len(given), known + n, dtype=torch.int64, device=given.device)
    tokens[:, :known] = given
    source = by_steps(model, tokens, known) if steps else by_prefixes(model, tokens, known)
    try:
        for t, scores in enumerate(source, known):
            tokens[:, t] = sampling.draw(scores, generator)
            advance(len(tokens))
    except ValueError as error:  # past the positions that the model knows
        raise UserError(str(error)) from None
    return tokens


def by_steps(model: Any, tokens: Tensor, known: int) -> Iterator[Tensor]:
    """Scores (B, V) of each token from the known ones on; a token is read when the scores after it are asked for."""
    model.setup_step()
    x = F.pad(tokens[:, :known] + 1, (1, 0))
    longest, state, outputs = model.embedding.max_len, None, None
    for part in x.split(longest, dim=1):
        outputs, state = model.prefill(part, torch.ones_like(part, dtype=torch.bool), state)
    yield scores_of(outputs)[:, -1]
    for t in range(known, tokens.shape[1] - 1):
        outputs, state = model.step(tokens[:, t] + 1, state)
        yield scores_of(outputs)


def by_prefixes(model: Any, tokens: Tensor, known: int) -> Iterator[Tensor]:
    """As `by_steps`, by a pass over all tokens before each one."""
    for t in range(known, tokens.shape[1]):
        x = F.pad(tokens[:, :t] + 1, (1, 0))
        yield scores_of(model(x, torch.ones_like(x, dtype=torch.bool)))[:, -1]
