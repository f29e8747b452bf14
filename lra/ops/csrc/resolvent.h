// Frequencies and coefficients of lra/ops/ssm_kernels/resolvent.py for one feature, and the gradients of the latter. In
// double precision, because near a pole the gradients of p and q are large and cancel in those of the parameters.

#pragma once

#include <cmath>
#include <complex>
#include <vector>

using Z = std::complex<double>;

// dt (H,), A, B (H, N), C (K, H, N), P (R, H, N), or their gradients
struct Parameters {
    REAL* dt;
    std::complex<REAL>*A, *B, *C, *P;
};

// s, c, s^2, c^2, -2 s c of a vector of frequencies; the tables are F_pad apart
template <class T> struct Node {
    V<T> s, c, ss, cc, sc;
    Node() = default;
    Node(const T* nodes, long F_pad, long f)
        : s(load(nodes + f)), c(load(nodes + F_pad + f)), ss(load(nodes + 2 * F_pad + f)),
          cc(load(nodes + 3 * F_pad + f)), sc(load(nodes + 4 * F_pad + f)) {}
    // from single frequencies f[0], f[1], ...
    Node(const T* nodes, long F_pad, const long* f) {
        V<T>* rows[] = {&s, &c, &ss, &cc, &sc};
        for (int row = 0; row < 5; ++row)
            for (int i = 0; i < W<T>; ++i) (*rows[row])[i] = nodes[row * F_pad + f[i]];
    }
    // Masks lane i: D becomes -1.
    void mask(long i) { s[i] = ss[i] = 1, c[i] = cc[i] = sc[i] = 0; }
};

// one pole of one feature
template <class T> struct Pole { T alpha, beta, p[J], q[J]; };

// without the checks for infinity of operator*
static inline Z times(Z a, Z b) {
    return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
}
static inline double inner(Z a, Z b) { return a.real() * b.real() + a.imag() * b.imag(); }

// a = dt/2 A, and the factors of the residues v: (C, P*) and (B, P), scaled by dt/2
struct Factors {
    double half, root;
    Z A, B, P[R + 1], a, left[ROWS], right[1 + R];

    // i = h N + n
    Factors(const Parameters& x, long h, long i, long HN) : half(x.dt[h] / 2.0), root(std::sqrt(half)) {
        A = Z(x.A[i]), B = Z(x.B[i]), a = half * A, right[0] = half * B;
        for (int k = 0; k < K; ++k) left[k] = Z(x.C[k * HN + i]);
        for (int r = 0; r < R; ++r) {
            P[r] = Z(x.P[r * HN + i]);
            right[1 + r] = root * P[r], left[K + r] = root * std::conj(P[r]);
        }
    }
};

template <class T> static void read_poles(const Parameters& x, long h, long H, std::vector<Pole<T>>& poles) {
    long N = poles.size();
    for (long n = 0; n < N; ++n) {
        Factors f(x, h, h * N + n, H * N);
        poles[n].alpha = f.a.real();
        poles[n].beta = inner(f.a, f.a);
        for (int j = 0; j < J; ++j) {
            Z v = times(f.left[j % ROWS], f.right[j / ROWS]);
            poles[n].p[j] = 2 * v.real();
            poles[n].q[j] = -2 * inner(v, f.a);
        }
    }
}

// Turns the gradients of alpha, beta, p, q into those of the parameters and writes them.
static void write_gradients(const Parameters& x, const std::vector<Pole<double>>& poles, long h, long H, Parameters d) {
    long N = poles.size(), HN = H * N;
    double d_dt = 0;
    for (long n = 0; n < N; ++n) {
        const Pole<double>& g = poles[n];
        long i = h * N + n;
        Factors f(x, h, i, HN);
        Z d_a = g.alpha + 2 * g.beta * f.a, d_left[ROWS] = {}, d_right[1 + R] = {};
        for (int j = 0; j < J; ++j) {
            Z &left = f.left[j % ROWS], &right = f.right[j / ROWS], d_v = 2 * g.p[j] - 2 * g.q[j] * f.a;
            d_left[j % ROWS] += times(d_v, std::conj(right));
            d_right[j / ROWS] += times(d_v, std::conj(left));
            d_a -= 2 * g.q[j] * times(left, right);
        }
        d.A[i] = std::complex<REAL>(f.half * d_a);
        d.B[i] = std::complex<REAL>(f.half * d_right[0]);
        for (int k = 0; k < K; ++k) d.C[k * HN + i] = std::complex<REAL>(d_left[k]);
        d_dt += inner(f.A, d_a) + inner(f.B, d_right[0]);
        for (int r = 0; r < R; ++r) {
            // P is used as a column and, conjugated, as a row
            Z d_P = d_right[1 + r] + std::conj(d_left[K + r]);
            d.P[r * HN + i] = std::complex<REAL>(f.root * d_P);
            d_dt += inner(f.P[r], d_P) / (2 * f.root);
        }
    }
    d.dt[h] = d_dt / 2;
}
