"""Our layers against those of transformers and torch, at equal size and on the same input.

Forward and backward pass of one layer on rows without padding, no dropout, float32. If the library's module has no
output map, one is added. Both take turns; "times as fast" is the median over rounds of the library's time divided by
ours.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn

from benchmarks import options
from benchmarks.options import Row
from lra.errors import UserError
from lra.profiling.parameters import count_parameters
from lra.profiling.timing import peak_bytes
from models.bigbird import BigBird
from models.fnet import FNet
from models.gru import GRU
from models.longformer import Longformer
from models.lstm import LSTM
from models.mamba import Mamba
from models.mamba2 import Mamba2
from models.nystromformer import Nystromformer
from models.reformer import LSHAttention
from models.rope_transformer import RotaryAttention
from models.transformer import Attention


class Library(nn.Module):
    """A library's module and the output map, called on x (B, L, D)."""

    def __init__(self, inner: nn.Module, call: Callable[[Tensor], Tensor], out: nn.Module | None = None):
        super().__init__()
        self.inner, self.call, self.out = inner, call, out or nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.out(self.call(x))
        return y


def from_transformers(name: str, config: str, module: str, **settings: object) -> tuple[nn.Module, object]:
    """(a module, the Python file it is from) of transformers.models.<name>."""
    try:
        file = import_module(f"transformers.models.{name}.modeling_{name}")
        configuration = import_module(f"transformers.models.{name}.configuration_{name}")
    except ImportError as error:
        raise UserError(f"the library transformers is not installed ({error})", hint="make setup") from None
    make = getattr(file, module)
    layer = [0] if name in ("longformer", "mamba", "mamba2") else []
    return make(getattr(configuration, config)(**settings), *layer), file


def torch_attention(D: int, H: int, B: int, L: int) -> Library:
    inner, padding = nn.MultiheadAttention(D, H, batch_first=True), torch.zeros(B, L, dtype=torch.bool)
    return Library(inner, lambda x: inner(x, x, x, key_padding_mask=padding, need_weights=False)[0])


def torch_recurrent(make: type[nn.Module], packed: bool, D: int, H: int, B: int, L: int) -> Library:
    """torch's recurrent layer; packed: as torch needs it for padded rows."""
    inner, lengths = make(D, D // 2, batch_first=True, bidirectional=True), torch.full((B,), L)

    def call(x: Tensor) -> Tensor:
        if not packed:
            return inner(x)[0]
        states, _ = inner(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=L)[0]

    return Library(inner, call, nn.Linear(D, D))


def fnet(D: int, H: int, B: int, L: int) -> Library:
    inner, _ = from_transformers("fnet", "FNetConfig", "FNetBasicFourierTransform", hidden_size=D)
    return Library(inner, lambda x: inner(x)[0])


def longformer(D: int, H: int, B: int, L: int) -> Library:
    sizes = {"hidden_size": D, "num_attention_heads": H, "attention_window": [512], "attention_probs_dropout_prob": 0.0}
    inner, _ = from_transformers("longformer", "LongformerConfig", "LongformerSelfAttention", **sizes)
    del inner.query_global, inner.key_global, inner.value_global
    code, none = torch.zeros(B, L), torch.zeros(B, L, dtype=torch.bool)
    words = {"attention_mask": code, "is_index_masked": none, "is_index_global_attn": none, "is_global_attn": False}
    return Library(inner, lambda x: inner(x, **words)[0], nn.Linear(D, D))


def bigbird(D: int, H: int, B: int, L: int) -> Library:
    sizes = {"hidden_size": D, "num_attention_heads": H, "block_size": 64, "num_random_blocks": 3}
    settings = {**sizes, "max_position_embeddings": L}
    inner, file = from_transformers("big_bird", "BigBirdConfig", "BigBirdBlockSparseAttention", **settings)
    masks = file.BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(B, L), 64)  # type: ignore[attr-defined]
    blocked, band, rows, columns = masks
    return Library(inner, lambda x: inner(x, band, rows, columns, blocked, blocked)[0], nn.Linear(D, D))


def nystromformer(D: int, H: int, B: int, L: int) -> Library:
    sizes = {"hidden_size": D, "num_attention_heads": H, "num_landmarks": 64, "segment_means_seq_len": L}
    settings = {**sizes, "conv_kernel_size": 35, "attention_probs_dropout_prob": 0.0}
    inner, _ = from_transformers("nystromformer", "NystromformerConfig", "NystromformerSelfAttention", **settings)
    return Library(inner, lambda x: inner(x)[0], nn.Linear(D, D))


def reformer(D: int, H: int, B: int, L: int) -> Library:
    sizes = {"hidden_size": D, "num_attention_heads": H, "attention_head_size": D // H, "lsh_attn_chunk_length": 64}
    buckets = {"num_buckets": 32, "num_hashes": 1, "is_decoder": False, "lsh_attention_probs_dropout_prob": 0.0}
    inner, _ = from_transformers("reformer", "ReformerConfig", "LSHSelfAttention", **sizes, **buckets)
    return Library(inner, lambda x: inner(x).hidden_states, nn.Linear(D, D))


def roformer(D: int, H: int, B: int, L: int) -> Library:
    sizes = {"hidden_size": D, "num_attention_heads": H, "attention_probs_dropout_prob": 0.0, "rotary_value": False}
    inner, file = from_transformers("roformer", "RoFormerConfig", "RoFormerSelfAttention", **sizes)
    angles = file.RoFormerSinusoidalPositionalEmbedding(L, D // H)((B, L))[None, None]  # type: ignore[attr-defined]
    return Library(inner, lambda x: inner(x, None, angles)[0], nn.Linear(D, D))


def mamba(D: int, H: int, B: int, L: int) -> Library:
    sizes = {"hidden_size": D, "state_size": 16, "expand": 2, "conv_kernel": 4, "time_step_rank": D // 16}
    inner, _ = from_transformers("mamba", "MambaConfig", "MambaMixer", **sizes)
    return Library(inner, inner)


def mamba2(D: int, H: int, B: int, L: int) -> Library:
    sizes = {"hidden_size": D, "state_size": 64, "head_dim": 64, "num_heads": 2 * D // 64, "n_groups": 1, "expand": 2}
    inner, _ = from_transformers("mamba2", "Mamba2Config", "Mamba2Mixer", **sizes, chunk_size=64)
    return Library(inner, inner)


# name: ours from (D, L, H), the library's from (D, H, B, L)
PAIRS: dict[str, tuple[Callable[[int, int, int], nn.Module], Callable[[int, int, int, int], Library]]] = {
    "transformer": (lambda D, L, H: Attention(D, L, n_heads=H), torch_attention),
    "lstm": (lambda D, L, H: LSTM(D, L), partial(torch_recurrent, nn.LSTM, True)),
    "lstm_unpacked": (lambda D, L, H: LSTM(D, L), partial(torch_recurrent, nn.LSTM, False)),
    "gru": (lambda D, L, H: GRU(D, L), partial(torch_recurrent, nn.GRU, True)),
    "gru_unpacked": (lambda D, L, H: GRU(D, L), partial(torch_recurrent, nn.GRU, False)),
    "rope_transformer": (lambda D, L, H: RotaryAttention(D, L, n_heads=H), roformer),
    "longformer": (lambda D, L, H: Longformer(D, L, window=512, n_heads=H), longformer),
    "bigbird": (lambda D, L, H: BigBird(D, L, block=64, n_random=3, n_heads=H), bigbird),
    "nystromformer": (lambda D, L, H: Nystromformer(D, L, n_heads=H), nystromformer),
    "reformer": (lambda D, L, H: LSHAttention(D, L, chunk=64, n_buckets=32, n_heads=H), reformer),
    "fnet": (lambda D, L, H: FNet(D, L), fnet),
    "mamba": (lambda D, L, H: Mamba(D, L), mamba),
    "mamba2": (lambda D, L, H: Mamba2(D, L), mamba2),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=PAIRS, default=list(PAIRS), metavar="NAME", help="default: all")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096], metavar="L", help="multiples of 512")
    parser.add_argument("--B", type=int, default=2, help="rows of the batch")
    parser.add_argument("--D", type=int, default=256, help="width")
    parser.add_argument("--heads", type=int, default=4, help="of attention")
    options.arguments(parser)


def run(args: argparse.Namespace) -> list[Row]:
    if args.device != "cpu":
        raise UserError(f"--device {args.device}: some libraries create their masks on the cpu", hint="--device cpu")
    rows = []
    for name in args.models:
        for length in args.lengths:
            rows.append(compare(name, length, args))
            r = rows[-1]
            print(f"{name} {length}: {r['ms']:.1f} ms, library {r['library ms']:.1f} ms", flush=True)
    return rows


def compare(name: str, length: int, args: argparse.Namespace) -> Row:
    torch.manual_seed(0)
    ours, theirs = PAIRS[name][0](args.D, length, args.heads), PAIRS[name][1](args.D, args.heads, args.B, length)
    x = torch.randn(args.B, length, args.D, requires_grad=True)
    mask = torch.ones(args.B, length, dtype=torch.bool)

    def step(net: nn.Module) -> None:
        net(x, mask).sum().backward()
        net.zero_grad(set_to_none=True)
        x.grad = None

    steps = [partial(step, net) for net in (ours, theirs)]
    for work in steps:
        work()
    rounds = options.in_turns(steps, args.device, args.repeats)
    peaks = [peak_bytes(work, torch.device(args.device)) for work in steps]
    ms, library_ms = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "model": name, "L": length, "B": args.B, "D": args.D,
        "parameters": count_parameters(ours), "library parameters": count_parameters(theirs),
        "ms": ms, "library ms": library_ms, "times as fast": options.median_ratio(rounds, 1, 0),
        "MB": peaks[0] / 1e6, "library MB": peaks[1] / 1e6,
    }  # fmt: skip
