"""ListOps expressions by the rules of the Long Range Arena, and their exact evaluation.

`[MAX 2 9 [MIN 4 7 ] 0 ]` is 9. Nangia & Bowman 2018 (arXiv:1804.06028), lengthened by Tay et al. 2021
(arXiv:2011.04006); rules of google-research/long-range-arena `lra_benchmarks/data/listops.py`:

- a node is an operator with probability 1/4, a digit (uniform) otherwise, and always a digit at depth `max_depth`
  (the root has depth 1);
- an operator is one of MAX, MIN, MED, SM and has 2..max_args arguments, all uniform;
- a tree is kept if min_len < length < max_len, counting digits, operators and closing brackets, not parentheses;
- no tree is kept twice: the set is drawn as one and then cut into splits.

Draw number i of a seed has its own random stream and the trees are kept in the order of their numbers, so the set
depends only on the seed and the rules, and a smaller set is a prefix of a larger one.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

OPERATORS = ("[MAX", "[MIN", "[MED", "[SM")
# 0 is padding; 1-4 operators, 5 the closing bracket, 6-15 the digits 0-9; 16 and 17 are never drawn
VOCAB = ("<pad>", *OPERATORS, "]", *"0123456789", "<unk>", "<eos>")
IDS = {token: i for i, token in enumerate(VOCAB)}
MAX, MIN, MED, SM, CLOSE, ZERO = (IDS[token] for token in (*OPERATORS, "]", "0"))
NINE = ZERO + 9

# generation stops when so many draws give fewer new trees than this
STALL_DRAWS, STALL_TREES = 2**20, 100

Tree = int | tuple[int, list["Tree"]]


class Expressions(NamedTuple):
    """Concatenated expressions; number i is tokens[offsets[i]:offsets[i + 1]].

    tokens   uint8, ids of VOCAB
    offsets  int64 (n + 1,)
    labels   uint8 (n,), the values 0..9
    depths   uint8 (n,), levels of the tree; a lone digit has 1
    """

    tokens: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    depths: np.ndarray


def from_text(text: str) -> np.ndarray:
    """Token ids, uint8, of an expression written with or without LRA's round parentheses, which are dropped.

    raises  ValueError with position and token if a token is unknown
    """
    tokens = text.replace("(", " ").replace(")", " ").split()
    try:
        return np.array([IDS[token] for token in tokens], np.uint8)
    except KeyError:
        position = next(i for i, token in enumerate(tokens) if token not in IDS)
        raise ValueError(f"position {position}: token {tokens[position]!r} is not in the ListOps vocabulary") from None


def to_text(tokens: Sequence[int], *, parentheses: bool = False) -> str:
    """The expression as text; with parentheses as in LRA's files, where each argument is one binary application.

    `[MAX 2 9 ]` becomes `( ( ( [MAX 2 ) 9 ) ] )`.
    """
    if not parentheses:
        return " ".join(VOCAB[t] for t in tokens)

    def write(tree: Tree) -> str:
        if isinstance(tree, int):
            return str(tree)
        operator, arguments = tree
        opened = "( " * (len(arguments) + 1)
        return f"{opened}{VOCAB[operator]} {' ) '.join(write(a) for a in arguments)} ) ] )"

    return write(parse(tokens))


def parse(tokens: Sequence[int]) -> Tree:
    """The tree of one expression: a digit 0..9, or (operator id, arguments).

    raises  ValueError with position and token if the expression is malformed
    """
    root: list[Tree] = []
    levels: list[tuple[int, list[Tree]]] = [(0, root)]
    for position, token in enumerate(map(int, tokens)):
        name = VOCAB[token] if token < len(VOCAB) else str(token)
        where = f"position {position}: token {name!r}"
        if len(levels) == 1 and root:
            raise ValueError(f"{where} follows a complete expression")
        if ZERO <= token <= NINE:
            levels[-1][1].append(token - ZERO)
        elif MAX <= token <= SM:
            levels.append((token, []))
        elif token != CLOSE:
            raise ValueError(f"{where} does not belong in an expression")
        elif len(levels) == 1:
            raise ValueError(f"{where} closes nothing")
        elif not levels[-1][1]:
            raise ValueError(f"{where} closes an operator without arguments")
        else:
            node = levels.pop()
            levels[-1][1].append(node)
    if len(levels) > 1:
        raise ValueError(f"position {len(tokens)}: the expression ends inside {VOCAB[levels[-1][0]]!r}")
    if not root:
        raise ValueError("position 0: the expression is empty")
    return root[0]


def evaluate(tokens: Sequence[int]) -> int:
    """The value 0..9 of one expression; the reference for the compiled `evaluate_all`.

    MED of an even number of arguments is the mean of the middle two, rounded down; SM is the sum modulo 10.
    raises  ValueError with position and token if the expression is malformed
    """

    def value(tree: Tree) -> int:
        if isinstance(tree, int):
            return tree
        operator, arguments = tree[0], sorted(value(a) for a in tree[1])
        n = len(arguments)
        if operator == MAX:
            return arguments[-1]
        if operator == MIN:
            return arguments[0]
        if operator == MED:
            return (arguments[(n - 1) // 2] + arguments[n // 2]) // 2
        return sum(arguments) % 10

    return value(parse(tokens))


def evaluate_all(tokens: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels, depths), both uint8 (n,), of all expressions at once, about sixty million tokens per second.

    raises  ValueError with expression, position and token if one is malformed
    """
    from data.generators import listops_loops as loops

    n = len(offsets) - 1
    labels, depths = np.empty(n, np.uint8), np.empty(n, np.uint8)
    levels = 255
    buffers = np.empty(levels, np.uint8), np.empty((levels, 10), np.int32)
    bad = loops.evaluate_all(tokens, offsets, labels, depths, *buffers)
    if bad >= 0:
        try:
            parse(tokens[offsets[bad] : offsets[bad + 1]].tolist())
        except ValueError as error:
            raise ValueError(f"expression {bad}, {error}") from None
        raise ValueError(f"expression {bad} nests more than {levels} operators")
    return labels, depths


def generate(
    n: int,
    *,
    seed: int,
    min_len: int = 500,
    max_len: int = 2000,
    max_args: int = 10,
    max_depth: int = 10,
    workers: int | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Expressions:
    """n distinct expressions with min_len < length < max_len, with values and depths.

    n         size of the set, all splits together: cut into splits, it has no expression in two of them
    workers   threads; all cores by default, with the same result
    progress  called with (done, n) now and then
    raises    ValueError if the rules make no sense or give too few distinct trees
    """
    from data.generators import listops_loops as loops

    for name, value, least in (("n", n, 1), ("max_args", max_args, 2), ("max_depth", max_depth, 1)):
        if value < least:
            raise ValueError(f"{name} {value} is below {least}")
    if max_depth > 250 or max_len - min_len < 2:
        raise ValueError(f"no length fits {min_len} < length < {max_len}, or max_depth {max_depth} is above 250")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed} is not between 0 and 2**64 - 1")
    key, workers = np.uint64(seed), workers or os.cpu_count() or 1
    draws = max(64, min(2**14, 2**24 // max_len))

    def chunk(first: int) -> list[tuple[bytes, int, int]]:
        # the last tree of a full buffer may be any length below max_len
        tokens = np.empty(draws * (max_len - 1) + max_len, np.uint8)
        ends, labels, depths = np.empty(draws, np.int64), np.empty(draws, np.uint8), np.empty(draws, np.uint8)
        kept = loops.draw_chunk(key, first, draws, min_len, max_len, max_args, max_depth, tokens, ends, labels, depths)
        starts = [0, *ends[:kept].tolist()]
        text = tokens[: starts[-1]].tobytes()
        values = zip(labels[:kept].tolist(), depths[:kept].tolist(), strict=True)
        return [(text[a:b], *v) for a, b, v in zip(starts, starts[1:], values, strict=False)]

    trees, drawn = distinct_trees(n, chunk, draws, workers, progress)
    if len(trees) < n:
        raise ValueError(
            f"only {len(trees)} distinct expressions with {min_len} < length < {max_len}, max_args {max_args}"
            f" and max_depth {max_depth} in {drawn} draws, {n} asked for: ask for fewer or widen the range"
        )
    chosen = list(trees)[:n]
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum([len(tree) for tree in chosen], out=offsets[1:])
    found = np.array(list(trees.values())[:n], np.uint8)
    return Expressions(
        np.frombuffer(bytearray().join(chosen), np.uint8), offsets, found[:, 0].copy(), found[:, 1].copy()
    )


def distinct_trees(
    n: int,
    chunk: Callable[[int], list[tuple[bytes, int, int]]],
    draws: int,
    workers: int,
    progress: Callable[[int, int], object],
) -> tuple[dict[bytes, tuple[int, int]], int]:
    """n trees or a few more with label and depth, in the order of their draws, and the number of draws.

    chunk    (tree, label, depth) of `draws` draws from a number on
    returns  fewer trees if draws hardly give new ones
    """
    trees: dict[bytes, tuple[int, int]] = {}
    submitted = drawn = checked_draws = checked_trees = 0
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[list[tuple[bytes, int, int]]]] = deque()
        while len(trees) < n:
            while len(pending) < 2 * workers:
                pending.append(pool.submit(chunk, submitted))
                submitted += draws
            for tree, label, depth in pending.popleft().result():
                trees.setdefault(tree, (label, depth))
            drawn += draws
            progress(min(len(trees), n), n)
            if drawn - checked_draws >= STALL_DRAWS:
                if len(trees) - checked_trees < STALL_TREES:
                    break
                checked_draws, checked_trees = drawn, len(trees)
        for late in pending:
            late.cancel()
    return trees, drawn
