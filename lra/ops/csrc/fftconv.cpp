// The long convolution of lra/ops/fftconv.py in single precision, and real Fourier transforms of lengths 2^a, a > 1: a
// vector of features is transformed at a time.
//
// A circular convolution of length 2 M is a product of polynomials modulo x^2M - 1. The modulus splits into factors:
// x^R - 1 = (x^R/2 - 1)(x^R/2 + 1) over the reals; a real polynomial modulo x^2m + 1 is a complex one modulo x^m - i,
// with the upper half of its coefficients as imaginary parts; and x^2m - c = (x^m - w)(x^m + w) with w^2 = c, down to
// factors x^r - c, r = 1, 3 or 5, where polynomials are multiplied directly. Input and output fill at most the lower M
// coefficients, so the first split costs nothing. No step reorders coefficients.
//
// The factors x^m - c form a binary tree with x^m - i as node 1 and children 2 k and 2 k + 1 of node k. The table has
// for each node the square roots w of c: those of the children, of the node, and their product; see `node_table`.
//
// Letters: B batch, H features, L input length, K kernels of length T.

#include <algorithm>

#include "parallel.h"
#include "simd.h"

using F = V<float>;
constexpr int LANES = W<float>;
// complex numbers of a block that stays in the first-level cache during both transforms
constexpr long BLOCK = 16384 / sizeof(F);

// coefficients re[j] and im[j] = re[j + offset]
struct Block {
    F* re;
    long offset;
    Block operator+(long j) const { return {re + j, offset}; }
    Complex<float> get(long j) const { return {re[j], re[j + offset]}; }
    void put(long j, Complex<float> z) const { re[j] = z.re, re[j + offset] = z.im; }
};

struct Scalar { float re, im; };
static inline Complex<float> times(Scalar w, Complex<float> z) {
    return {w.re * z.re - w.im * z.im, w.re * z.im + w.im * z.re};
}
static inline Complex<float> times_conj(Scalar w, Complex<float> z) {
    return {w.re * z.re + w.im * z.im, w.re * z.im - w.im * z.re};
}
static inline Complex<float> times_i(Complex<float> z) { return {-z.im, z.re}; }

// square roots for the split of a node into four: of its first child, of itself, their product
struct Node { Scalar child, own, both; };

// From modulus x^4q - c to its four factors x^q - c', or back, where everything is multiplied by 4.
static inline void split4(Block x, long q, Node w) {
    for (long j = 0; j < q; ++j) {
        Complex<float> a0 = x.get(j), a1 = times(w.child, x.get(j + q));
        Complex<float> a2 = times(w.own, x.get(j + 2 * q)), a3 = times(w.both, x.get(j + 3 * q));
        Complex<float> s0 = a0 + a2, s1 = a0 - a2, t0 = a1 + a3, t1 = times_i(a1 - a3);
        x.put(j, s0 + t0), x.put(j + q, s0 - t0), x.put(j + 2 * q, s1 + t1), x.put(j + 3 * q, s1 - t1);
    }
}
static inline void join4(Block x, long q, Node w) {
    for (long j = 0; j < q; ++j) {
        Complex<float> b0 = x.get(j), b1 = x.get(j + q), b2 = x.get(j + 2 * q), b3 = x.get(j + 3 * q);
        Complex<float> s0 = b0 + b1, t0 = b0 - b1, s1 = b2 + b3, t1 = times_i(b3 - b2);
        x.put(j, s0 + s1), x.put(j + q, times_conj(w.child, t0 + t1));
        x.put(j + 2 * q, times_conj(w.own, s0 - s1)), x.put(j + 3 * q, times_conj(w.both, t0 - t1));
    }
}
static inline void split2(Block x, long q, Node w) {
    for (long j = 0; j < q; ++j) {
        Complex<float> a = x.get(j), b = times(w.own, x.get(j + q));
        x.put(j, a + b), x.put(j + q, a - b);
    }
}
static inline void join2(Block x, long q, Node w) {
    for (long j = 0; j < q; ++j) {
        Complex<float> a = x.get(j), b = x.get(j + q);
        x.put(j, a + b), x.put(j + q, times_conj(w.own, a - b));
    }
}

// From modulus x^m - c of a node to its smallest factors, and back; large blocks one quarter after the other.
static void split(Block x, long m, const Node* table, long node) {
    if (m > BLOCK) {
        split4(x, m / 4, table[node]);
        for (int i = 0; i < 4; ++i) split(x + i * m / 4, m / 4, table, 4 * node + i);
        return;
    }
    long count = 1;
    for (; m % 4 == 0; m /= 4, count *= 4)
        for (long b = 0; b < count; ++b) split4(x + b * m, m / 4, table[node * count + b]);
    if (m % 2 == 0)
        for (long b = 0; b < count; ++b) split2(x + b * m, m / 2, table[node * count + b]);
}
static void join(Block x, long m, const Node* table, long node) {
    if (m > BLOCK) {
        for (int i = 0; i < 4; ++i) join(x + i * m / 4, m / 4, table, 4 * node + i);
        join4(x, m / 4, table[node]);
        return;
    }
    long count = 1;
    for (; m % 4 == 0; m /= 4) count *= 4;
    if (m % 2 == 0)
        for (long b = 0; b < count; ++b) join2(x + b * m, m / 2, table[node * count + b]);
    while (count > 1) {
        count /= 4, m *= 4;
        for (long b = 0; b < count; ++b) join4(x + b * m, m / 4, table[node * count + b]);
    }
}

// the odd factor of m
static inline long odd_part(long m) { while (m % 2 == 0) m /= 2; return m; }

// a b modulo x^r - c, or conj(a) b: the polynomial with the conjugate values at the roots of the modulus, |c| = 1
template <int r, bool CONJ>
static inline void multiply_polynomials(const Complex<float>* a, const Complex<float>* b, Scalar c, Complex<float>* out) {
    for (int j = 0; j < r; ++j) out[j] = {F{}, F{}};
    for (int i = 0; i < r; ++i)
        for (int j = 0; j < r; ++j) {
            Complex<float> y = (CONJ ? conj(a[i]) : a[i]) * b[j];
            int to = CONJ ? j - i : i + j;
            if (to < 0) y = times_conj(c, y), to += r;
            if (to >= r) y = times(c, y), to -= r;
            out[to] = out[to] + y;
        }
}

// Calls put(j, product) for the products of the factors of a node.
template <bool CONJ, class Put> static inline void multiply(Block a, Block b, long m, const Node* table, long node, Put put) {
    auto by = [&](auto r) {
        long count = m / r;
        for (long f = 0; f < count; ++f) {
            Complex<float> x[r], y[r], z[r];
            for (int j = 0; j < r; ++j) x[j] = a.get(f * r + j), y[j] = b.get(f * r + j);
            Scalar w = r > 1 ? table[node * count + f].own : Scalar{};
            multiply_polynomials<r, CONJ>(x, y, {w.re * w.re - w.im * w.im, 2 * w.re * w.im}, z);
            for (int j = 0; j < r; ++j) put(f * r + j, z[j]);
        }
    };
    switch (odd_part(m)) {
        case 1: return by(std::integral_constant<int, 1>());
        case 3: return by(std::integral_constant<int, 3>());
        default: return by(std::integral_constant<int, 5>());
    }
}

// x = x k modulo x^m - c
static void convolve_block(Block x, Block k, long m, const Node* table, long node) {
    if (m > BLOCK) {
        split4(x, m / 4, table[node]);
        for (int i = 0; i < 4; ++i) convolve_block(x + i * m / 4, k + i * m / 4, m / 4, table, 4 * node + i);
        join4(x, m / 4, table[node]);
        return;
    }
    split(x, m, table, node);
    multiply<false>(x, k, m, table, node, [=](long j, Complex<float> z) { x.put(j, z); });
    join(x, m, table, node);
}

// dk += conj(x) g and g = conj(k) g modulo x^m - c; x is overwritten
static void correlate_block(Block x, Block g, Block k, Block dk, long m, const Node* table, long node) {
    if (m > BLOCK) {
        split4(x, m / 4, table[node]);
        split4(g, m / 4, table[node]);
        for (int i = 0; i < 4; ++i) {
            long j = i * m / 4;
            correlate_block(x + j, g + j, k + j, dk + j, m / 4, table, 4 * node + i);
        }
        join4(g, m / 4, table[node]);
        return;
    }
    split(x, m, table, node);
    split(g, m, table, node);
    multiply<true>(x, g, m, table, node, [=](long j, Complex<float> z) { dk.put(j, dk.get(j) + z); });
    multiply<true>(k, g, m, table, node, [=](long j, Complex<float> z) { g.put(j, z); });
    join(g, m, table, node);
}

// Sums and differences of the halves of x (R): from modulus x^R - 1 to x^R/2 - 1 and x^R/2 + 1; twice gives 2 x.
static inline void halves(F* x, long R) {
    for (long j = 0; j < R / 2; ++j) {
        F a = x[j], b = x[j + R / 2];
        x[j] = a + b, x[j + R / 2] = a - b;
    }
}
// the upper half, as a complex polynomial modulo x^R/4 - i
static inline Block upper(F* x, long R) { return {x + R / 2, R / 4}; }

// x (R) times the real k, or the transpose of that, modulo x^R - 1
template <class Put> static inline void multiply_real(const F* x, const F* k, long R, bool transpose, Put put) {
    for (long i = 0; i < R; ++i)
        for (long j = 0; j < R; ++j) put((transpose ? j - i + R : i + j) % R, x[i] * k[j]);
}

// Polynomials modulo x^2M - 1, of which the caller has done the first split, so that x^M - 1 is below, x^M + 1 above.
struct Transform {
    long M;
    const Node* table;

    void forward(F* x) const {
        for (long R = 2 * M;; halves(x, R)) {
            split(upper(x, R), R / 4, table, 1);
            if ((R /= 2) % 4) return;
        }
    }
    // times 2 M / r
    void back(F* x) const {
        for (long R = last();; halves(x, R)) {
            join(upper(x, 2 * R), R / 2, table, 1);
            if ((R *= 2) == 2 * M) return;
        }
    }
    // x = x k, times M / r; k is transformed
    void convolve(F* x, F* k) const {
        for (long R = 2 * M;; halves(x, R)) {
            convolve_block(upper(x, R), upper(k, R), R / 4, table, 1);
            if ((R /= 2) % 4) break;
        }
        F y[MOST] = {};
        multiply_real(x, k, last(), false, [&](long j, F z) { y[j] += z; });
        std::copy_n(y, last(), x);
        for (long R = 2 * last(); R < 2 * M; R *= 2) halves(x, R);
    }
    // dk += conj(x) g and g = conj(k) g, times M / r; k and dk are transformed, x is overwritten
    void correlate(F* x, F* g, F* k, F* dk) const {
        for (long R = 2 * M;; halves(x, R), halves(g, R)) {
            correlate_block(upper(x, R), upper(g, R), upper(k, R), upper(dk, R), R / 4, table, 1);
            if ((R /= 2) % 4) break;
        }
        F y[MOST] = {};
        multiply_real(x, g, last(), true, [&](long j, F z) { dk[j] += z; });
        multiply_real(k, g, last(), true, [&](long j, F z) { y[j] += z; });
        std::copy_n(y, last(), g);
        for (long R = 2 * last(); R < 2 * M; R *= 2) halves(g, R);
    }

  private:
    static constexpr long MOST = 10;
    long last() const { return 2 * odd_part(M); }
};

// Calls move(first position, their number) for squares of at most LANES positions.
template <class Move> static void squares(long length, Move move) {
    for (long l = 0; l < length; l += LANES) move(l, std::min<long>(LANES, length - l));
}

// Calls put(l, vector) for positions l of `count` rows of a matrix, or fills the rows with get(l).
template <class Put> static void read_rows(const float* from, int count, long stride, long length, Put put) {
    squares(length, [&](long l, long part) {
        F square[LANES] = {};
        for (int i = 0; i < count; ++i) square[i] = load<float>(from + i * stride + l, part);
        transpose<float>(square);
        for (long j = 0; j < part; ++j) put(l + j, square[j]);
    });
}
template <class Get> static void write_rows(float* to, int count, long stride, long length, Get get) {
    squares(length, [&](long l, long part) {
        F square[LANES] = {};
        for (long j = 0; j < part; ++j) square[j] = get(l + j);
        transpose<float>(square);
        for (int i = 0; i < count; ++i) store<float>(square[i], to + i * stride + l, part);
    });
}

// (B, H, L) with these strides, of which that of the features or that of the positions is 1
struct Array { float* data; long row, feature, position; };

// u (B, H, L), kernel (K, H, T), D (H), mask (B, L)
struct Problem {
    const float *kernel, *D;
    const bool* mask;
    long B, H, L, K, T, M;
    const Node* table;

    float scale() const { return float(odd_part(M)) / M; }
    long groups() const { return (H + LANES - 1) / LANES; }
    // Few groups of features are also divided into rows. Not by the number of threads, because sums depend on the parts.
    long parts() const { return std::min(B, std::max<long>(1, 8 / groups())); }
    long tasks() const { return groups() * parts(); }
    int lanes(long h) const { return std::min<long>(LANES, H - h); }
    bool real(long b, long l, bool masked) const { return !masked || !mask || mask[b * L + l]; }

    // Both halves of x (2 M) get row b of u at the features from h on; zero where `masked` and the mask is False.
    void read(const Array& u, long b, long h, bool masked, F* x) const {
        const float* from = u.data + b * u.row + h * u.feature;
        auto put = [=](long l, F v) { x[l] = x[M + l] = real(b, l, masked) ? v : F{}; };
        int count = lanes(h);
        if (u.feature == 1) {
            for (long l = 0; l < L; ++l) put(l, load<float>(from + l * u.position, count));
        } else {
            read_rows(from, count, u.feature, L, put);
        }
        std::fill(x + L, x + M, F{});
        std::fill(x + M + L, x + 2 * M, F{});
    }
    void write(const F* x, long b, long h, bool masked, const Array& y) const {
        float* to = y.data + b * y.row + h * y.feature;
        auto get = [=](long l) { return real(b, l, masked) ? x[l] + x[M + l] : F{}; };
        int count = lanes(h);
        if (y.feature == 1) {
            for (long l = 0; l < L; ++l) store<float>(get(l), to + l * y.position, count);
        } else {
            write_rows(to, count, y.feature, L, get);
        }
    }

    // where x (2 M) has position l of kernel k
    long at(long k, long l) const { return k ? 2 * M - 1 - l : l; }
    void read_kernel(long h, const Transform& transform, F* x) const {
        std::fill(x, x + 2 * M, F{});
        for (long k = 0; k < K; ++k)
            read_rows(kernel + (k * H + h) * T, lanes(h), T, std::min(L - k, T),
                      [&](long l, F v) { x[at(k, l)] = scale() * v; });
        if (D) x[0] += scale() * load<float>(D + h, lanes(h));
        halves(x, 2 * M);
        transform.forward(x);
    }
    void write_kernel(F* x, long h, const Transform& transform, float* dkernel, float* dD) const {
        transform.back(x);
        halves(x, 2 * M);
        for (long k = 0; k < K; ++k)
            write_rows(dkernel + (k * H + h) * T, lanes(h), T, std::min(L - k, T),
                       [&](long l) { return scale() * x[at(k, l)]; });
        store<float>(scale() * x[0], dD + h, lanes(h));
    }
};

extern "C" const int lanes = LANES;

// Threads that find work, at most so many; and numbers that `memory` of the two functions below holds for them.
extern "C" int threads_used(Problem p, int most) { return std::min<long>(most, p.tasks()); }
extern "C" long memory_size(Problem p, bool backward, int threads) {
    long buffers = threads * (backward ? 4 : 2);
    if (backward && p.parts() > 1) buffers += p.tasks();
    return buffers * 2 * p.M * LANES;
}

extern "C" void long_conv(Problem p, Array u, Array y, F* memory, int threads) {
    long size = 2 * p.M, parts = p.parts();
    Transform transform{p.M, p.table};
    parallel(p.tasks(), threads, [&](long task, int thread) {
        F *x = memory + 2 * thread * size, *k = x + size;
        long h = task / parts * LANES, part = task % parts;
        p.read_kernel(h, transform, k);
        for (long b = part * p.B / parts; b < (part + 1) * p.B / parts; ++b) {
            p.read(u, b, h, true, x);
            transform.convolve(x, k);
            p.write(x, b, h, false, y);
        }
    });
}

extern "C" void long_conv_backward(Problem p, Array dy, Array u, Array du, float* dkernel, float* dD, F* memory,
                                   int threads) {
    long size = 2 * p.M, parts = p.parts();
    F* sums = memory + 4 * threads * size;
    Transform transform{p.M, p.table};
    parallel(p.tasks(), threads, [&](long task, int thread) {
        F *x = memory + 4 * thread * size, *g = x + size, *k = g + size;
        F* sum = parts > 1 ? sums + task * size : k + size;
        long h = task / parts * LANES, part = task % parts;
        std::fill(sum, sum + size, F{});
        p.read_kernel(h, transform, k);
        for (long b = part * p.B / parts; b < (part + 1) * p.B / parts; ++b) {
            p.read(u, b, h, true, x);
            p.read(dy, b, h, false, g);
            transform.correlate(x, g, k, sum);
            p.write(g, b, h, true, du);
        }
        if (parts == 1) p.write_kernel(sum, h, transform, dkernel, dD);
    });
    if (parts == 1) return;
    parallel(p.groups(), threads, [&](long group, int) {
        F* sum = sums + group * parts * size;
        for (long part = 1; part < parts; ++part)
            for (long j = 0; j < size; ++j) sum[j] += sum[part * size + j];
        p.write_kernel(sum, group * LANES, transform, dkernel, dD);
    });
}

// where a tree of 2 M numbers has frequency f of a real signal of that length, 0 < f < M; conjugate if `sign` is -1
struct Place { int re, im, sign; };

// Calls work(memory of the thread, first row, number of rows) for every vector of rows.
template <class Work> static void for_rows(long rows, long M, F* memory, int threads, Work work) {
    parallel((rows + LANES - 1) / LANES, threads, [=](long task, int thread) {
        work(memory + 2 * M * thread, task * LANES, int(std::min<long>(LANES, rows - task * LANES)));
    });
}

// spectrum (rows, M + 1, 2) -> signal (rows, 2 M)
extern "C" void inverse_fft(const float* spectrum, float* signal, long rows, long M, const Place* places,
                            const Node* table, F* memory, int threads) {
    Transform transform{M, table};
    for_rows(rows, M, memory, threads, [=](F* x, long row, int count) {
        F real{}, ends[2];
        read_rows(spectrum + row * 2 * (M + 1), count, 2 * (M + 1), 2 * (M + 1), [&](long i, F v) {
            long f = i / 2;
            if (i % 2 == 0) real = v;
            else if (f == 0 || f == M) ends[f > 0] = real;
            else x[places[f].re] = real, x[places[f].im] = float(places[f].sign) * v;
        });
        // 1 and -1 are the roots of x^2 - 1
        x[0] = 0.5f * (ends[0] + ends[1]), x[1] = 0.5f * (ends[0] - ends[1]);
        transform.back(x);
        halves(x, 2 * M);
        write_rows(signal + row * 2 * M, count, 2 * M, 2 * M, [=](long l) { return 1.0f / M * x[l]; });
    });
}

// gradient of the signal (rows, 2 M) -> gradient of the spectrum (rows, M + 1, 2)
extern "C" void inverse_fft_backward(const float* grad, float* out, long rows, long M, const Place* places,
                                     const Node* table, F* memory, int threads) {
    Transform transform{M, table};
    for_rows(rows, M, memory, threads, [=](F* x, long row, int count) {
        read_rows(grad + row * 2 * M, count, 2 * M, 2 * M, [=](long l, F v) { x[l] = v; });
        halves(x, 2 * M);
        transform.forward(x);
        write_rows(out + row * 2 * (M + 1), count, 2 * (M + 1), 2 * (M + 1), [=](long i) {
            long f = i / 2;
            // a frequency that also represents its conjugate counts twice
            if (f == 0 || f == M) return i % 2 ? F{} : 0.5f / M * (f ? x[0] - x[1] : x[0] + x[1]);
            return 1.0f / M * (i % 2 ? float(places[f].sign) * x[places[f].im] : x[places[f].re]);
        });
    });
}
