"""The classifier: embedding, encoder, head."""

from collections.abc import Callable

from torch import Tensor, nn

from lra.nn.batch_norm import BatchNorm
from lra.nn.blocks import Backbone, Dropout, Embedding, MakeMixer
from lra.nn.heads import Head, PositionDecoder
from lra.task import TaskSpec


class Classifier(nn.Module):
    """Maps (x, mask) of a `Batch` to scores (B, n_outputs), or (B, horizon, n_outputs) for the last positions.

    mixer          builds a mixer from (d_model, max_len); `Backbone` stacks it
    encoder        instead of a mixer: builds the whole encoder from (d_model=, n_layers=, max_len=, dropout=)
    norm, prenorm  layer, batch or rms; before or after the layer of a block
    dropout        after every layer of a block; tie_dropout: the same features at all positions
    input_dropout  after the embedding
    positions      none, learned or sinusoidal
    pool           mean, last, first or cls (a learned token in front); no effect where positions are predicted
    d_ff           width of the feed-forward networks; 0 for none
    head_hidden    width of the hidden layer of the head; 0 for a linear head (d_model for a pair of documents)
    """

    def __init__(
        self,
        spec: TaskSpec,
        *,
        d_model: int,
        n_layers: int,
        mixer: MakeMixer | None = None,
        encoder: Callable[..., nn.Module] | None = None,
        norm: str = "layer",
        prenorm: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = False,
        input_dropout: float = 0.0,
        positions: str = "none",
        pool: str = "mean",
        d_ff: int = 0,
        activation: str = "gelu",
        head_hidden: int = 0,
    ):
        super().__init__()
        if (mixer is None) == (encoder is None):
            raise ValueError("model: exactly one of mixer and encoder is needed")
        self.embedding = Embedding(spec, d_model, positions=positions, class_token=pool == "cls")
        self.input_dropout = Dropout(input_dropout, tied=tie_dropout)
        max_len = self.embedding.max_len
        if encoder is not None:
            self.encoder = encoder(d_model=d_model, n_layers=n_layers, max_len=max_len, dropout=dropout)
            # an encoder builds its norms without knowing the task
            for module in self.encoder.modules():
                if isinstance(module, BatchNorm):
                    module.ragged = spec.ragged
        else:
            assert mixer is not None
            self.encoder = Backbone(
                mixer=mixer,
                d_model=d_model,
                n_layers=n_layers,
                max_len=max_len,
                ragged=spec.ragged,
                norm=norm,
                prenorm=prenorm,
                dropout=dropout,
                tie_dropout=tie_dropout,
                d_ff=d_ff,
                activation=activation,
            )
        d_output: int = getattr(self.encoder, "d_output", d_model)
        self.head: nn.Module
        if spec.horizon:
            self.head = PositionDecoder(spec, d_output)
        else:
            self.head = Head(spec, d_output, pool=pool, hidden=head_hidden)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h, mask = self.embedding(x, mask)
        h = self.encoder(self.input_dropout(h), mask)
        return self.head(h, mask)
