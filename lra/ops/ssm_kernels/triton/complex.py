"""Complex numbers in Triton: two registers, two neighbouring numbers in memory. Offsets count real numbers."""

import triton
import triton.language as tl


@triton.jit
def mul(a_re, a_im, b_re, b_im):
    return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re


@triton.jit
def load2(pointer, offset, mask):
    return tl.load(pointer + offset, mask=mask, other=0.0), tl.load(pointer + offset + 1, mask=mask, other=0.0)


@triton.jit
def store2(pointer, offset, mask, re, im):
    tl.store(pointer + offset, re, mask=mask)
    tl.store(pointer + offset + 1, im, mask=mask)
