// Cauchy sums (lra/ops/ssm_kernels/resolvent.py), Woodbury formula and gradients for one precision, K and R.
//
// A tile of frequencies and all poles at a time: first 1 / D of every pair, then sums over poles and over frequencies as
// products of small matrices, in blocks whose sums fit the registers. Threads take one feature at a time.
//
// Near a pole of the normal part, that pole's term dominates every sum. It cancels in the Woodbury formula, and in
// single precision only rounding errors would be left. Such frequencies are recomputed in double precision.
//
// REAL, OUTPUTS and RANK are compiler definitions. Letters: H features, N poles, F frequencies, J sums, column by column
// over (C_1 .. C_K, P*_1 .. P*_R) x (B, P_1 .. P_R). The node tables hold s, c, s^2, c^2, -2 s c, each padded to F_pad.

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "simd.h"

constexpr int K = OUTPUTS, R = RANK, ROWS = K + R, J = ROWS * (1 + R), TILE = 16, FLUSH_EVERY = 12;
// a frequency is near a pole if |1 + c P* D P|^2 exceeds this
constexpr REAL NEAR = 1e4;

// index of a sum; those with j < K are C x B, needed for the value but not for the gradients
constexpr int sum_of(int row, int column) { return column * ROWS + row; }

// size of the first of the fewest equal blocks of at most `most`
constexpr int block_size(int count, int most) {
    int blocks = (count + most - 1) / most;
    return (count + blocks - 1) / blocks;
}

#include "resolvent.h"

// conjugate gradients of a sum, multiplied by c and by s
template <class T> struct Weighted { Complex<T> c, s; };

// a tile of frequencies: nodes w (TILE), 1 / D as r (TILE, stride) and gradients e (TILE, J)
template <class T> struct Tile {
    // an odd stride, so that rows do not compete for the same part of the cache
    long N, stride = N + 1 - N % 2;
    int width = 0;
    std::vector<Node<T>> w = std::vector<Node<T>>(TILE);
    std::vector<Complex<T>> r = std::vector<Complex<T>>(TILE * stride);
    std::vector<Weighted<T>> e = std::vector<Weighted<T>>(TILE * J);
};

template <class T> static inline void reciprocals(const Pole<T>* poles, long N, const Node<T>& w, Complex<T>* r) {
    for (long n = 0; n < N; ++n) {
        V<T> x = w.cc * poles[n].beta - w.ss, y = w.sc * poles[n].alpha;
        V<T> scale = T(1) / (x * x + y * y);
        r[n] = {x * scale, -y * scale};
    }
}

// sums[j] = sum_n (i s p_nj + c q_nj) r_n for FROM <= j < TO
template <int FROM, int TO, class T>
static inline void pole_sums(const Pole<T>* poles, long N, const Node<T>& w, const Complex<T>* r, Complex<T>* sums) {
    constexpr int COUNT = block_size(TO - FROM, SUMS / 4);
    Complex<T> p[COUNT] = {}, q[COUNT] = {};
    for (long n = 0; n < N; ++n)
        for (int j = 0; j < COUNT; ++j) {
            p[j].re += poles[n].p[FROM + j] * r[n].re;
            p[j].im += poles[n].p[FROM + j] * r[n].im;
            q[j].re += poles[n].q[FROM + j] * r[n].re;
            q[j].im += poles[n].q[FROM + j] * r[n].im;
        }
    for (int j = 0; j < COUNT; ++j)
        sums[FROM + j] = {w.c * q[j].re - w.s * p[j].im, w.c * q[j].im + w.s * p[j].re};
    if constexpr (FROM + COUNT < TO) pole_sums<FROM + COUNT, TO>(poles, N, w, r, sums);
}

template <class Mask, class T> static inline Complex<T> pick(Mask first, Complex<T> a, Complex<T> b) {
    return {first ? a.re : b.re, first ? a.im : b.im};
}

// Solves M x = y, or with the transpose of M. Near a pole the rows are almost parallel and the determinant would
// cancel; elimination with pivoting stays accurate.
template <class T>
static inline void solve(const Complex<T> M[R + 1][R + 1], bool transpose, const Complex<T>* y, Complex<T>* x) {
    if constexpr (R == 1) {
        x[0] = inverse(M[0][0]) * y[0];
    } else if constexpr (R == 2) {
        Complex<T> a = M[0][0], b = M[0][1], c = M[1][0], d = M[1][1];
        if (transpose) std::swap(b, c);
        auto second = square(c) > square(a);
        Complex<T> pivot = inverse(pick(second, c, a)), ratio = pick(second, a, c) * pivot;
        Complex<T> right = pick(second, d, b), top = pick(second, y[1], y[0]);
        x[1] = inverse(pick(second, b, d) - ratio * right) * (pick(second, y[0], y[1]) - ratio * top);
        x[0] = pivot * (top - right * x[1]);
    }
}

// Computes M = 1 + c P* D P and x with M x = P* D B; returns the squared norm of M.
template <class T>
static inline V<T> woodbury(const Complex<T>* sums, const Node<T>& w, Complex<T> M[R + 1][R + 1], Complex<T>* x) {
    Complex<T> y[R + 1];
    V<T> size{};
    for (int r = 0; r < R; ++r) {
        y[r] = sums[sum_of(K + r, 0)];
        for (int t = 0; t < R; ++t) M[r][t] = w.c * sums[sum_of(K + r, 1 + t)];
        M[r][r].re += T(1);
        for (int t = 0; t < R; ++t) size += square(M[r][t]);
    }
    solve(M, false, y, x);
    return size;
}

// True if no frequency of the vector that starts at f is near a pole; appends those that are to `near`.
static inline bool none_near(V<REAL> size, long f, std::vector<long>& near) {
    if constexpr (R == 0 || std::is_same_v<REAL, double>) return true;
    auto away = size < NEAR;
    uint64_t words[BYTES / 8], all = ~uint64_t(0);
    std::memcpy(words, &away, BYTES);
    for (uint64_t word : words) all &= word;
    if (!~all) return true;
    for (int i = 0; i < W<REAL>; ++i)
        if (!away[i]) near.push_back(f + i);
    return false;
}

// Pads the list to full vectors by repeating the last frequency.
static inline void pad_to_vectors(std::vector<long>& near) {
    while (near.size() % W<double>) near.push_back(near.back());
}

// Calls put(k, value) with the k-th spectrum at the frequencies of w; returns the squared norm of M.
template <class T, class Put>
static inline V<T> spectra(const std::vector<Pole<T>>& poles, const Node<T>& w, Complex<T>* r, Put put) {
    Complex<T> sums[J], M[R + 1][R + 1], x[R + 1];
    reciprocals(poles.data(), poles.size(), w, r);
    pole_sums<0, J>(poles.data(), poles.size(), w, r, sums);
    V<T> size = woodbury(sums, w, M, x);
    for (int k = 0; k < K; ++k) {
        Complex<T> y = sums[sum_of(k, 0)];
        for (int r = 0; r < R; ++r) y = y - w.c * (sums[sum_of(k, 1 + r)] * x[r]);
        put(k, Complex<T>{w.c, w.s} * y);
    }
    return size;
}

// out (K, H, F, 2)
extern "C" void spectrum(Parameters x, const REAL* nodes, const double* exact_nodes, REAL* out, long H, long N, long F,
                         long F_pad, int threads) {
    parallel(H, threads, [=, poles = std::vector<Pole<REAL>>(N), exact = std::vector<Pole<double>>(N),
                          r = std::vector<Complex<REAL>>(N), exact_r = std::vector<Complex<double>>(N),
                          near = std::vector<long>()](long h, int) mutable {
        read_poles(x, h, H, poles);
        near.clear();
        for (long f = 0; f < F; f += W<REAL>) {
            auto put = [=](int k, Complex<REAL> y) { store(y, out + 2 * ((k * H + h) * F + f), F - f); };
            none_near(spectra(poles, Node<REAL>(nodes, F_pad, f), r.data(), put), f, near);
        }
        pad_to_vectors(near);
        if (!near.empty()) read_poles(x, h, H, exact);
        for (size_t start = 0; start < near.size(); start += W<double>) {
            const long* f = &near[start];
            spectra(exact, Node<double>(exact_nodes, F_pad, f), exact_r.data(), [=](int k, Complex<double> y) {
                REAL* row = out + 2 * (k * H + h) * F;
                for (int i = 0; i < W<double>; ++i) row[2 * f[i]] = y.re[i], row[2 * f[i] + 1] = y.im[i];
            });
        }
    });
}

// Adds a vector of frequencies with the gradients g of the spectra to the tile; returns the squared norm of M.
// y_k = a_k - c u_k x with M x = b:  da = g,  du = -c g conj x,  M* db = -c sum_k conj(u_k) g_k,  dM = -db conj x
template <class T>
static inline V<T> append(const std::vector<Pole<T>>& poles, const Node<T>& w, const Complex<T>* g, Tile<T>& tile) {
    Complex<T> sums[J], M[R + 1][R + 1], x[R + 1], dx[R + 1], db[R + 1];
    Complex<T>* r = &tile.r[tile.width * tile.stride];
    Weighted<T>* e = &tile.e[tile.width * J];
    auto put = [=](int row, int column, Complex<T> y) { e[sum_of(row, column)] = {w.c * y, w.s * y}; };
    tile.w[tile.width++] = w;
    reciprocals(poles.data(), tile.N, w, r);
    if constexpr (R > 0) pole_sums<K, J>(poles.data(), tile.N, w, r, sums);
    V<T> size = woodbury(sums, w, M, x);
    for (int t = 0; t < R; ++t) dx[t] = {V<T>{}, V<T>{}};
    for (int k = 0; k < K; ++k) {
        Complex<T> y = Complex<T>{w.c, w.s} * conj(g[k]), cy = -w.c * y;
        put(k, 0, y);
        for (int t = 0; t < R; ++t) {
            put(k, 1 + t, cy * x[t]);
            dx[t] = dx[t] + cy * sums[sum_of(k, 1 + t)];
        }
    }
    solve(M, true, dx, db);
    for (int s = 0; s < R; ++s) {
        put(K + s, 0, db[s]);
        for (int t = 0; t < R; ++t) put(K + s, 1 + t, -w.c * (db[s] * x[t]));
    }
    return size;
}

// Removes lane i of the last vector of the tile.
template <class T> static void remove(const std::vector<Pole<T>>& poles, int i, Tile<T>& tile) {
    int t = tile.width - 1;
    tile.w[t].mask(i);
    reciprocals(poles.data(), tile.N, tile.w[t], &tile.r[t * tile.stride]);
    for (int j = 0; j < J; ++j) {
        Weighted<T>& e = tile.e[t * J + j];
        e.c.re[i] = e.c.im[i] = e.s.re[i] = e.s.im[i] = 0;
    }
}

// Gradients of alpha, beta, p, q of one pole, not yet summed over vector lanes.
template <class T> struct PoleGradient { V<T> alpha, beta, p[J], q[J]; };

// Adds the partial sums to double-precision ones and clears them: sums over all frequencies lose too much in single.
static void flush(std::vector<PoleGradient<REAL>>& sums, std::vector<PoleGradient<double>>& exact) {
    typedef REAL Part __attribute__((vector_size(W<double> * sizeof(REAL))));
    const Part* from = reinterpret_cast<const Part*>(sums.data());
    V<double>* to = reinterpret_cast<V<double>*>(exact.data());
    for (size_t i = 0; i < sums.size() * (2 + 2 * J); ++i)
        for (int part = 0; part < W<REAL>; part += W<double>) to[i] += __builtin_convertvector(*from++, V<double>);
    std::fill(sums.begin(), sums.end(), PoleGradient<REAL>{});
}

// Adds to the gradients of p_j and q_j, FROM <= j < J, of COUNT poles from n on.
template <int COUNT, int FROM, class T> static inline void add_residues(const Tile<T>& tile, long n, PoleGradient<T>* acc) {
    constexpr int PART = block_size(J - FROM, SUMS / 2 / COUNT);
    V<T> p[COUNT][PART], q[COUNT][PART];
    for (int i = 0; i < COUNT; ++i)
        for (int j = 0; j < PART; ++j) p[i][j] = acc[n + i].p[FROM + j], q[i][j] = acc[n + i].q[FROM + j];
    for (int t = 0; t < tile.width; ++t) {
        const Complex<T>* r = &tile.r[t * tile.stride + n];
        for (int j = 0; j < PART; ++j) {
            const Weighted<T>& e = tile.e[t * J + FROM + j];
            for (int i = 0; i < COUNT; ++i) {
                q[i][j] += e.c.re * r[i].re;
                q[i][j] -= e.c.im * r[i].im;
                p[i][j] -= e.s.re * r[i].im;
                p[i][j] -= e.s.im * r[i].re;
            }
        }
    }
    for (int i = 0; i < COUNT; ++i)
        for (int j = 0; j < PART; ++j) acc[n + i].p[FROM + j] = p[i][j], acc[n + i].q[FROM + j] = q[i][j];
    if constexpr (FROM + PART < J) add_residues<COUNT, FROM + PART>(tile, n, acc);
}

// Adds to the gradients of alpha and beta of a pole, for WIDTH vectors of frequencies from t on.
template <int WIDTH, class T>
static inline void add_denominators(const Pole<T>& pole, const Tile<T>& tile, long n, long t, PoleGradient<T>& acc) {
    // sum_j e_j (i s p_j + c q_j)
    Complex<T> y[WIDTH] = {};
    for (int j = 0; j < J; ++j)
        for (int f = 0; f < WIDTH; ++f) {
            const Weighted<T>& e = tile.e[(t + f) * J + j];
            y[f].re += pole.q[j] * e.c.re;
            y[f].im += pole.q[j] * e.c.im;
            y[f].re -= pole.p[j] * e.s.im;
            y[f].im += pole.p[j] * e.s.re;
        }
    for (int f = 0; f < WIDTH; ++f) {
        Complex<T> r = tile.r[(t + f) * tile.stride + n], z = y[f] * (r * r);
        acc.alpha += tile.w[t + f].sc * z.im;
        acc.beta -= tile.w[t + f].cc * z.re;
    }
}

// Calls work(COUNT, n) for every COUNT poles or vectors, then work(1, n) for those that are left.
template <int COUNT, class Work> static inline void in_groups(long count, Work work) {
    long n = 0;
    for (; n + COUNT <= count; n += COUNT) work(std::integral_constant<int, COUNT>(), n);
    for (; n < count; ++n) work(std::integral_constant<int, 1>(), n);
}

// Adds the contributions of the tile and empties it.
template <class T>
static void add_tile(const std::vector<Pole<T>>& poles, Tile<T>& tile, std::vector<PoleGradient<T>>& acc) {
    in_groups<(SUMS > 12 ? 2 : 1)>(tile.N, [&](auto count, long n) { add_residues<count, 0>(tile, n, acc.data()); });
    for (long n = 0; n < tile.N; ++n)
        in_groups<4>(tile.width, [&](auto width, long t) { add_denominators<width>(poles[n], tile, n, t, acc[n]); });
    tile.width = 0;
}

// grad (K, H, F, 2) -> the gradients d of the parameters x
extern "C" void spectrum_backward(Parameters x, const REAL* nodes, const double* exact_nodes, const REAL* grad,
                                  Parameters d, long H, long N, long F, long F_pad, int threads) {
    auto total = [](V<double> v) { double sum = 0; for (int i = 0; i < W<double>; ++i) sum += v[i]; return sum; };
    parallel(H, threads, [=, poles = std::vector<Pole<REAL>>(N), exact = std::vector<Pole<double>>(N),
                          acc = std::vector<PoleGradient<REAL>>(N), exact_acc = std::vector<PoleGradient<double>>(N),
                          tile = Tile<REAL>{N}, exact_tile = Tile<double>{N}, near = std::vector<long>()](long h, int) mutable {
        read_poles(x, h, H, poles);
        std::fill(exact_acc.begin(), exact_acc.end(), PoleGradient<double>{});
        near.clear();
        for (long f = 0, tiles = 1; f < F; ++tiles) {
            for (; tile.width < TILE && f < F; f += W<REAL>) {
                Complex<REAL> g[K];
                for (int k = 0; k < K; ++k) g[k] = load_pairs(grad + 2 * ((k * H + h) * F + f), F - f);
                size_t next = near.size();
                if (none_near(append(poles, Node<REAL>(nodes, F_pad, f), g, tile), f, near)) continue;
                for (; next < near.size(); ++next) remove(poles, near[next] - f, tile);
            }
            add_tile(poles, tile, acc);
            if (tiles % FLUSH_EVERY == 0 || f >= F) flush(acc, exact_acc);
        }
        size_t count = near.size();
        pad_to_vectors(near);
        if (count) read_poles(x, h, H, exact);
        for (size_t start = 0; start < near.size();) {
            for (; exact_tile.width < TILE && start < near.size(); start += W<double>) {
                Complex<double> g[K] = {};
                for (int k = 0; k < K; ++k)
                    for (int i = 0; i < W<double> && start + i < count; ++i) {
                        const REAL* from = grad + 2 * ((k * H + h) * F + near[start + i]);
                        g[k].re[i] = from[0], g[k].im[i] = from[1];
                    }
                append(exact, Node<double>(exact_nodes, F_pad, &near[start]), g, exact_tile);
            }
            add_tile(exact, exact_tile, exact_acc);
        }
        for (long n = 0; n < N; ++n) {
            exact[n].alpha = total(exact_acc[n].alpha);
            exact[n].beta = total(exact_acc[n].beta);
            for (int j = 0; j < J; ++j) {
                exact[n].p[j] = total(exact_acc[n].p[j]);
                exact[n].q[j] = total(exact_acc[n].q[j]);
            }
        }
        write_gradients(x, exact, h, H, d);
    });
}
