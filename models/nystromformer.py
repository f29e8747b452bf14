"""Nystromformer: softmax attention approximated from a few landmark positions (Nystrom method).

Xiong et al. 2021 (arXiv:2102.03902), equations 13 (the three kernels) and 11 (iterative pseudo-inverse), with the
depth-wise convolution of section 3.3 as a skip connection for the values.
B batch, L length, D model width, M landmarks, H heads, K width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lra.nn.attention import MultiHeadAttention


def segment_weights(mask: Tensor, n_landmarks: int) -> tuple[Tensor, Tensor]:
    """Weights that average consecutive segments of each example's real positions.

    mask     (B, L) bool
    returns  (B, M, L) weights, and (B, M) bool: which landmarks are used; an example has no more than real positions
    """
    length = mask.sum(1, keepdim=True)
    used = length.clamp(max=n_landmarks)
    segment = torch.arange(mask.shape[1], device=mask.device) * used // length  # (B, L)
    landmark = torch.arange(n_landmarks, device=mask.device)
    member = (segment[:, None] == landmark[:, None]) & mask[:, None]  # (B, M, L)
    return member / member.sum(-1, keepdim=True).clamp(min=1), landmark < used


def iterative_inverse(a: Tensor, n_iterations: int) -> Tensor:
    """Moore-Penrose inverse of positive matrices (..., M, M) whose rows sum to one (equation 11, lemma 1).

    The start is scaled by the largest column sum of each matrix, so examples do not depend on each other.
    """
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    z = a.transpose(-1, -2) / a.sum(-2, keepdim=True).amax(-1, keepdim=True)
    for _ in range(n_iterations):
        az = a @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z


class Nystromformer(MultiHeadAttention):
    """softmax(Q K~) pinv(softmax(Q~ K~)) softmax(Q~ K) V, with landmarks Q~, K~ the means of segments: O(L M).

    n_landmarks   M; segments are cut over the real positions of each example, so padding changes nothing
    conv_kernel   odd length of the depth-wise convolution over the values, one filter for each head; 0 for none
    n_iterations  of the pseudo-inverse
    """

    def __init__(
        self,
        d_model: int,
        max_len: int,
        *,
        n_landmarks: int = 64,
        conv_kernel: int = 35,
        n_iterations: int = 6,
        n_heads: int = 4,
        d_qkv: int | None = None,
    ) -> None:
        super().__init__(d_model, n_heads, d_qkv)
        if conv_kernel and conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel {conv_kernel} is even; hint: an odd length gives the filter a centre")
        self.n_landmarks, self.n_iterations = n_landmarks, n_iterations
        self.out = nn.Linear(self.d_qkv, d_model)
        self.conv = None
        if conv_kernel:
            size, padding = (conv_kernel, 1), (conv_kernel // 2, 0)
            self.conv = nn.Conv2d(n_heads, n_heads, size, padding=padding, groups=n_heads, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in self.qkv_heads(x, mask))  # each (B, H, L, K)
        # padded positions hold the bias of the projection, which the convolution must not read
        v = v * mask[:, None, :, None]
        weights, used = segment_weights(mask, self.n_landmarks)
        weights = weights.to(q.dtype)
        q_mean = torch.einsum("bml,bhlk->bhmk", weights, q)
        k_mean = torch.einsum("bml,bhlk->bhmk", weights, k)
        # softmax(Q~ K) V and the last product below are attention with few queries and with few keys
        values = F.scaled_dot_product_attention(q_mean, k, v, attn_mask=mask[:, None, None])  # (B, H, M, K)
        mixed = (self.inverse(q_mean, k_mean, used) @ values.to(q_mean.dtype)).to(v.dtype)
        y = F.scaled_dot_product_attention(q, k_mean, mixed, attn_mask=used[:, None, None])  # (B, H, L, K)
        if self.conv is not None:
            y = y + self.conv(v)
        return self.out(y.transpose(1, 2).flatten(-2))  # (B, L, D)

    def inverse(self, q_mean: Tensor, k_mean: Tensor, used: Tensor) -> Tensor:
        """pinv(softmax(Q~ K~)) (B, H, M, M); unused landmarks get rows of the identity, which leave the rest alone."""
        # the iteration does not converge in reduced precision
        with torch.autocast(q_mean.device.type, enabled=False):
            wide = torch.float64 if q_mean.dtype == torch.float64 else torch.float32
            scores = q_mean.to(wide) @ k_mean.to(wide).transpose(-1, -2) / q_mean.shape[-1] ** 0.5
            kernel = scores.masked_fill(~used[:, None, None], -torch.inf).softmax(-1)
            eye = torch.eye(self.n_landmarks, dtype=wide, device=used.device)
            kernel = torch.where(used[:, None, :, None], kernel, eye)
            return iterative_inverse(kernel, self.n_iterations).to(q_mean.dtype)
