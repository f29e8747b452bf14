"""Triton kernels for the spectrum of a normal-plus-low-rank system and its gradients; see backend.py.

H features, N poles, S copies of the system, K outputs (1 or 2), n_freq frequencies f with s = sin and c = cos of half
their angle (lra.ops.ssm_kernels.resolvent). Complex arrays are real ones with a last axis of 2.
"""

import triton
import triton.language as tl

from lra.ops.ssm_kernels.triton.complex import load2, mul, store2


@triton.jit
def numerator(v_re, v_im, a_re, a_im):
    """p and q of the residue v of pole a."""
    return 2 * v_re, -2 * (v_re * a_re + v_im * a_im)


@triton.jit
def reciprocal(a_re, a_im, s, c):
    """1 / D, D = c^2 |a|^2 - s^2 - 2 i s c Re a."""
    x = c * c * (a_re * a_re + a_im * a_im) - s * s
    y = -2 * s * c * a_re
    scale = 1 / (x * x + y * y)
    return x * scale, -y * scale


@triton.jit
def add_pole(sum_re, sum_im, p, q, sr_re, sr_im, cr_re, cr_im):
    """Add (i s p + c q) / D, given s / D and c / D."""
    return sum_re + q * cr_re - p * sr_im, sum_im + q * cr_im + p * sr_re


@triton.jit
def pole_sums(dt, A, B, C, P, s, c, h, H, S, N, K: tl.constexpr):
    """Sums C_0 B, C_0 P, C_1 B, C_1 P, P* B, P* P at the frequencies of s and c; those of C_1 are zero if K is 1."""
    half = tl.load(dt + h) / 2
    root = tl.sqrt(half)
    zero = s * 0
    cb0_re, cb0_im, cp0_re, cp0_im = zero, zero, zero, zero
    cb1_re, cb1_im, cp1_re, cp1_im = zero, zero, zero, zero
    pb_re, pb_im, pp_re, pp_im = zero, zero, zero, zero
    for n in range(N):
        o = 2 * (h % S * N + n)
        a_re, a_im = half * tl.load(A + o), half * tl.load(A + o + 1)
        b_re, b_im = half * tl.load(B + o), half * tl.load(B + o + 1)
        p_re, p_im = root * tl.load(P + o), root * tl.load(P + o + 1)
        r_re, r_im = reciprocal(a_re, a_im, s, c)
        sr_re, sr_im, cr_re, cr_im = s * r_re, s * r_im, c * r_re, c * r_im

        o = 2 * (h * N + n)
        c_re, c_im = tl.load(C + o), tl.load(C + o + 1)
        v_re, v_im = mul(c_re, c_im, b_re, b_im)
        p, q = numerator(v_re, v_im, a_re, a_im)
        cb0_re, cb0_im = add_pole(cb0_re, cb0_im, p, q, sr_re, sr_im, cr_re, cr_im)
        v_re, v_im = mul(c_re, c_im, p_re, p_im)
        p, q = numerator(v_re, v_im, a_re, a_im)
        cp0_re, cp0_im = add_pole(cp0_re, cp0_im, p, q, sr_re, sr_im, cr_re, cr_im)
        if K == 2:
            c_re, c_im = tl.load(C + 2 * H * N + o), tl.load(C + 2 * H * N + o + 1)
            v_re, v_im = mul(c_re, c_im, b_re, b_im)
            p, q = numerator(v_re, v_im, a_re, a_im)
            cb1_re, cb1_im = add_pole(cb1_re, cb1_im, p, q, sr_re, sr_im, cr_re, cr_im)
            v_re, v_im = mul(c_re, c_im, p_re, p_im)
            p, q = numerator(v_re, v_im, a_re, a_im)
            cp1_re, cp1_im = add_pole(cp1_re, cp1_im, p, q, sr_re, sr_im, cr_re, cr_im)
        v_re, v_im = mul(p_re, -p_im, b_re, b_im)
        p, q = numerator(v_re, v_im, a_re, a_im)
        pb_re, pb_im = add_pole(pb_re, pb_im, p, q, sr_re, sr_im, cr_re, cr_im)
        p, q = numerator(p_re * p_re + p_im * p_im, 0.0, a_re, a_im)
        pp_re, pp_im = add_pole(pp_re, pp_im, p, q, sr_re, sr_im, cr_re, cr_im)
    return cb0_re, cb0_im, cp0_re, cp0_im, cb1_re, cb1_im, cp1_re, cp1_im, pb_re, pb_im, pp_re, pp_im


@triton.jit
def inverse_core(pp_re, pp_im, c):
    """1 / W, W = 1 + c P* D P."""
    w_re, w_im = 1 + c * pp_re, c * pp_im
    scale = 1 / (w_re * w_re + w_im * w_im)
    return w_re * scale, -w_im * scale


@triton.jit
def spectrum_forward(dt, A, B, C, P, SIN, COS, out, H, S, N, n_freq, K: tl.constexpr, BLOCK: tl.constexpr):
    h = tl.program_id(0)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = f < n_freq
    s, c = tl.load(SIN + f, mask=mask, other=1.0), tl.load(COS + f, mask=mask, other=0.0)
    cb0_re, cb0_im, cp0_re, cp0_im, cb1_re, cb1_im, cp1_re, cp1_im, pb_re, pb_im, pp_re, pp_im = pole_sums(
        dt, A, B, C, P, s, c, h, H, S, N, K
    )
    w_re, w_im = inverse_core(pp_re, pp_im, c)
    x_re, x_im = mul(w_re, w_im, pb_re, pb_im)
    o = 2 * (h * n_freq + f)
    u_re, u_im = mul(cp0_re, cp0_im, x_re, x_im)
    y_re, y_im = mul(c, s, cb0_re - c * u_re, cb0_im - c * u_im)
    store2(out, o, mask, y_re, y_im)
    if K == 2:
        u_re, u_im = mul(cp1_re, cp1_im, x_re, x_im)
        y_re, y_im = mul(c, s, cb1_re - c * u_re, cb1_im - c * u_im)
        store2(out, 2 * H * n_freq + o, mask, y_re, y_im)


@triton.jit
def woodbury_backward(dt, A, B, C, P, SIN, COS, grad, X, Z, H, S, N, n_freq, K: tl.constexpr, BLOCK: tl.constexpr):
    """Store x = P* D B / W and z = -c conj(1 / W) sum_k conj(C_k D P) g_k, the gradient of P* D B."""
    h = tl.program_id(0)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = f < n_freq
    s, c = tl.load(SIN + f, mask=mask, other=1.0), tl.load(COS + f, mask=mask, other=0.0)
    _, _, cp0_re, cp0_im, _, _, cp1_re, cp1_im, pb_re, pb_im, pp_re, pp_im = pole_sums(
        dt, A, B, C, P, s, c, h, H, S, N, K
    )
    w_re, w_im = inverse_core(pp_re, pp_im, c)
    x_re, x_im = mul(w_re, w_im, pb_re, pb_im)
    o = 2 * (h * n_freq + f)
    g_re, g_im = load2(grad, o, mask)
    g_re, g_im = mul(c, -s, g_re, g_im)
    z_re, z_im = mul(cp0_re, -cp0_im, g_re, g_im)
    if K == 2:
        g_re, g_im = load2(grad, 2 * H * n_freq + o, mask)
        g_re, g_im = mul(c, -s, g_re, g_im)
        u_re, u_im = mul(cp1_re, -cp1_im, g_re, g_im)
        z_re, z_im = z_re + u_re, z_im + u_im
    z_re, z_im = mul(w_re, -w_im, z_re, z_im)
    store2(X, o, mask, x_re, x_im)
    store2(Z, o, mask, -c * z_re, -c * z_im)


@triton.jit
def add_frequency(d_p, d_q, t_re, t_im, e_re, e_im, p, q, s, c, sr_re, sr_im, cr_re, cr_im):
    """Add one sum's terms to the gradients of p and q and to T = sum_j e_j (i s p_j + c q_j).

    e is the conjugate of the gradient of that sum.
    """
    d_p -= e_re * sr_im + e_im * sr_re
    d_q += e_re * cr_re - e_im * cr_im
    sp, cq = s * p, c * q
    return d_p, d_q, t_re + e_re * cq - e_im * sp, t_im + e_im * cq + e_re * sp


@triton.jit
def residue_backward(d_p, d_q, v_re, v_im, a_re, a_im, da_re, da_im):
    """Sum the gradients of p and q over frequencies; turn them into those of the residue v and the pole a."""
    d_p, d_q = tl.sum(d_p, 1), tl.sum(d_q, 1)
    return 2 * d_p - 2 * a_re * d_q, -2 * a_im * d_q, da_re - 2 * v_re * d_q, da_im - 2 * v_im * d_q


@triton.jit
def reduce_frequencies(
    dt, A, B, C, P, SIN, COS, grad, X, Z, d_dt, dA, dB, dC, dP, H, S, N, n_freq,
    K: tl.constexpr, POLES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    h = tl.program_id(0)
    n = tl.program_id(1) * POLES + tl.arange(0, POLES)
    own = n < N
    o = 2 * (h * N + n)
    half = tl.load(dt + h) / 2
    root = tl.sqrt(half)
    shared = 2 * (h % S * N + n)
    A_re, A_im = load2(A, shared, own)
    # D of a masked pole must not be zero
    A_re = tl.where(own, A_re, -1.0)
    B_re, B_im = load2(B, shared, own)
    P_re, P_im = load2(P, shared, own)
    c0_re, c0_im = load2(C, o, own)
    c1_re, c1_im = load2(C, 2 * H * N + o, n < N * (K - 1))
    a_re, a_im = half * A_re, half * A_im
    b_re, b_im = half * B_re, half * B_im
    p_re, p_im = root * P_re, root * P_im

    # residues v of the six sums, with their p and q
    v0_re, v0_im = mul(c0_re, c0_im, b_re, b_im)
    v1_re, v1_im = mul(c0_re, c0_im, p_re, p_im)
    v2_re, v2_im = mul(c1_re, c1_im, b_re, b_im)
    v3_re, v3_im = mul(c1_re, c1_im, p_re, p_im)
    v4_re, v4_im = mul(p_re, -p_im, b_re, b_im)
    v5_re, v5_im = p_re * p_re + p_im * p_im, p_re * 0
    p0, q0 = numerator(v0_re[:, None], v0_im[:, None], a_re[:, None], a_im[:, None])
    p1, q1 = numerator(v1_re[:, None], v1_im[:, None], a_re[:, None], a_im[:, None])
    p2, q2 = numerator(v2_re[:, None], v2_im[:, None], a_re[:, None], a_im[:, None])
    p3, q3 = numerator(v3_re[:, None], v3_im[:, None], a_re[:, None], a_im[:, None])
    p4, q4 = numerator(v4_re[:, None], v4_im[:, None], a_re[:, None], a_im[:, None])
    p5, q5 = numerator(v5_re[:, None], v5_im[:, None], a_re[:, None], a_im[:, None])

    zero = tl.zeros([POLES, BLOCK], dtype=dt.dtype.element_ty)
    dp0, dq0, dp1, dq1, dp2, dq2 = zero, zero, zero, zero, zero, zero
    dp3, dq3, dp4, dq4, dp5, dq5 = zero, zero, zero, zero, zero, zero
    d_alpha, d_beta = zero, zero
    for start in range(0, n_freq, BLOCK):
        f = start + tl.arange(0, BLOCK)
        mask = f < n_freq
        # past the end: zero gradients, D = -1
        s, c = tl.load(SIN + f, mask=mask, other=1.0), tl.load(COS + f, mask=mask, other=0.0)
        of = 2 * (h * n_freq + f)
        x_re, x_im = load2(X, of, mask)
        z_re, z_im = load2(Z, of, mask)
        g_re, g_im = load2(grad, of, mask)
        # conjugate gradients: e for C D B, -c e x for C D P, conj z for P* D B, -c conj z x for P* D P
        y_re, y_im = -c * x_re, -c * x_im
        e_re, e_im = mul(c, s, g_re, -g_im)
        u_re, u_im = mul(e_re, e_im, y_re, y_im)
        w_re, w_im = mul(z_re, -z_im, y_re, y_im)

        s, c = s[None, :], c[None, :]
        r_re, r_im = reciprocal(a_re[:, None], a_im[:, None], s, c)
        sr_re, sr_im, cr_re, cr_im = s * r_re, s * r_im, c * r_re, c * r_im
        t_re, t_im = r_re * 0, r_re * 0
        dp0, dq0, t_re, t_im = add_frequency(
            dp0, dq0, t_re, t_im, e_re[None, :], e_im[None, :], p0, q0, s, c, sr_re, sr_im, cr_re, cr_im
        )
        dp1, dq1, t_re, t_im = add_frequency(
            dp1, dq1, t_re, t_im, u_re[None, :], u_im[None, :], p1, q1, s, c, sr_re, sr_im, cr_re, cr_im
        )
        if K == 2:
            g_re, g_im = load2(grad, 2 * H * n_freq + of, mask)
            e_re, e_im = mul(c, s, g_re[None, :], -g_im[None, :])
            u_re, u_im = mul(e_re, e_im, y_re[None, :], y_im[None, :])
            dp2, dq2, t_re, t_im = add_frequency(
                dp2, dq2, t_re, t_im, e_re, e_im, p2, q2, s, c, sr_re, sr_im, cr_re, cr_im
            )
            dp3, dq3, t_re, t_im = add_frequency(
                dp3, dq3, t_re, t_im, u_re, u_im, p3, q3, s, c, sr_re, sr_im, cr_re, cr_im
            )
        dp4, dq4, t_re, t_im = add_frequency(
            dp4, dq4, t_re, t_im, z_re[None, :], -z_im[None, :], p4, q4, s, c, sr_re, sr_im, cr_re, cr_im
        )
        dp5, dq5, t_re, t_im = add_frequency(
            dp5, dq5, t_re, t_im, w_re[None, :], w_im[None, :], p5, q5, s, c, sr_re, sr_im, cr_re, cr_im
        )
        rr_re, rr_im = mul(r_re, r_im, r_re, r_im)
        t_re, t_im = mul(t_re, t_im, rr_re, rr_im)
        d_alpha -= 2 * s * c * t_im
        d_beta -= c * c * t_re

    beta = 2 * tl.sum(d_beta, 1)
    da_re, da_im = tl.sum(d_alpha, 1) + a_re * beta, a_im * beta
    v0r, v0i, da_re, da_im = residue_backward(dp0, dq0, v0_re, v0_im, a_re, a_im, da_re, da_im)
    v1r, v1i, da_re, da_im = residue_backward(dp1, dq1, v1_re, v1_im, a_re, a_im, da_re, da_im)
    v2r, v2i, da_re, da_im = residue_backward(dp2, dq2, v2_re, v2_im, a_re, a_im, da_re, da_im)
    v3r, v3i, da_re, da_im = residue_backward(dp3, dq3, v3_re, v3_im, a_re, a_im, da_re, da_im)
    v4r, v4i, da_re, da_im = residue_backward(dp4, dq4, v4_re, v4_im, a_re, a_im, da_re, da_im)
    v5r, v5i, da_re, da_im = residue_backward(dp5, dq5, v5_re, v5_im, a_re, a_im, da_re, da_im)

    # v = row * column, for rows C_0, C_1, conj P and columns B, P
    i_re, i_im = mul(v0r, v0i, b_re, -b_im)
    j_re, j_im = mul(v1r, v1i, p_re, -p_im)
    store2(dC, o, own, i_re + j_re, i_im + j_im)
    if K == 2:
        i_re, i_im = mul(v2r, v2i, b_re, -b_im)
        j_re, j_im = mul(v3r, v3i, p_re, -p_im)
        store2(dC, 2 * H * N + o, own, i_re + j_re, i_im + j_im)
    i_re, i_im = mul(v4r, v4i, b_re, -b_im)
    row_re, row_im = i_re + v5r * p_re + v5i * p_im, i_im + v5i * p_re - v5r * p_im
    i_re, i_im = mul(v0r, v0i, c0_re, -c0_im)
    j_re, j_im = mul(v2r, v2i, c1_re, -c1_im)
    k_re, k_im = mul(v4r, v4i, p_re, p_im)
    db_re, db_im = i_re + j_re + k_re, i_im + j_im + k_im
    i_re, i_im = mul(v1r, v1i, c0_re, -c0_im)
    j_re, j_im = mul(v3r, v3i, c1_re, -c1_im)
    k_re, k_im = mul(v5r, v5i, p_re, p_im)
    # P gets gradients as a column and, conjugated, as a row
    dp_re, dp_im = i_re + j_re + k_re + row_re, i_im + j_im + k_im - row_im
    store2(dA, o, own, half * da_re, half * da_im)
    store2(dB, o, own, half * db_re, half * db_im)
    store2(dP, o, own, root * dp_re, root * dp_im)
    d_half = A_re * da_re + A_im * da_im + B_re * db_re + B_im * db_im + (P_re * dp_re + P_im * dp_im) / (2 * root)
    tl.store(d_dt + h * N + n, d_half / 2, mask=own)
