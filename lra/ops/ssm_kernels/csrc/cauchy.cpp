// Cauchy sums (lra/ops/ssm_kernels/resolvent.py), Woodbury formula and gradients for one precision, K and R.
//
// Forward: a vector of frequencies stays in registers while a loop runs over the poles. Backward: the sums of a pole
// stay in registers while a loop runs over a tile of frequencies. Threads take one feature at a time.
//
// Near a pole of the normal part, that pole's term dominates every sum. It cancels in the Woodbury formula, and in
// single precision only rounding errors would be left. Such frequencies are recomputed in double precision.
//
// REAL, OUTPUTS and RANK are compiler definitions. Letters: H features, N poles, F frequencies, J sums, row by row over
// (C_1 .. C_K, P*_1 .. P*_R) x (B, P_1 .. P_R). The node tables hold s, c, s^2, c^2, -2 s c, each padded to F_pad.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <type_traits>
#include <vector>

#include "simd.h"

constexpr int K = OUTPUTS, R = RANK, J = (K + R) * (1 + R), TILE = 24, FLUSH_EVERY = 8;
// a frequency is near a pole if |1 + c P* D P|^2 exceeds this
constexpr REAL NEAR = 1e4;

#include "resolvent.h"

template <class T> static inline Complex<T> reciprocal(const Pole<T>& pole, const Node<T>& w) {
    V<T> x = w.cc * pole.beta - w.ss, y = w.sc * pole.alpha;
    V<T> scale = T(1) / (x * x + y * y);
    return {x * scale, -y * scale};
}

// the sums C x B are needed for the value but not for the gradients
constexpr bool for_value(int j) { return j < K * (1 + R) && j % (1 + R) == 0; }

template <bool VALUE, class T>
static inline void pole_sums(const Pole<T>* poles, long N, const Node<T>& w, Complex<T>* sums) {
    Complex<T> acc[J] = {};
    for (long n = 0; n < N; ++n) {
        Complex<T> r = reciprocal(poles[n], w), sr = w.s * r, cr = w.c * r;
        for (int j = 0; j < J; ++j) {
            if (!VALUE && for_value(j)) continue;
            T p = poles[n].p[j], q = poles[n].q[j];
            acc[j].re += q * cr.re;
            acc[j].im += q * cr.im;
            acc[j].re -= p * sr.im;
            acc[j].im += p * sr.re;
        }
    }
    if constexpr (VALUE) {
        std::copy(acc, acc + J, sums);
    } else {
        for (int j = 0; j < J; ++j)
            if (!for_value(j)) sums[j] = acc[j];
    }
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
        const Complex<T>* low = sums + (K + r) * (1 + R);
        y[r] = low[0];
        for (int t = 0; t < R; ++t) M[r][t] = w.c * low[1 + t];
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
    int count = 0;
    for (int i = 0; i < W<REAL>; ++i) count -= away[i];
    if (count == W<REAL>) return true;
    for (int i = 0; i < W<REAL>; ++i)
        if (!away[i]) near.push_back(f + i);
    return false;
}

// Pads the list to full vectors by repeating the last frequency.
static inline void pad_to_vectors(std::vector<long>& near) {
    while (near.size() % W<double>) near.push_back(near.back());
}

// Calls work(h) for every feature; threads take one feature at a time.
template <class Work>
static void parallel(long H, int threads, Work work) {
    std::atomic<long> next{0};
    auto worker = [&] {
        auto own_work = work;
        for (long h; (h = next++) < H;) own_work(h);
    };
    std::vector<std::thread> others;
    for (int t = 1; t < std::min<long>(threads, H); ++t) others.emplace_back(worker);
    worker();
    for (auto& other : others) other.join();
}

// Calls put(k, value) with the k-th spectrum at the frequencies of w; returns the squared norm of M.
template <class T, class Put>
static inline V<T> spectra(const std::vector<Pole<T>>& poles, const Node<T>& w, Put put) {
    Complex<T> sums[J], M[R + 1][R + 1], x[R + 1];
    pole_sums<true>(poles.data(), poles.size(), w, sums);
    V<T> size = woodbury(sums, w, M, x);
    for (int k = 0; k < K; ++k) {
        const Complex<T>* row = sums + k * (1 + R);
        Complex<T> y = row[0];
        for (int r = 0; r < R; ++r) y = y - w.c * (row[1 + r] * x[r]);
        put(k, Complex<T>{w.c, w.s} * y);
    }
    return size;
}

// out (K, H, F, 2)
extern "C" void spectrum(Parameters x, const REAL* nodes, const double* exact_nodes, REAL* out, long H, long N, long F,
                         long F_pad, int threads) {
    parallel(H, threads, [=, poles = std::vector<Pole<REAL>>(N), exact = std::vector<Pole<double>>(N),
                          near = std::vector<long>()](long h) mutable {
        read_poles(x, h, H, poles);
        near.clear();
        for (long f = 0; f < F; f += W<REAL>) {
            auto put = [=](int k, Complex<REAL> y) { store(y, out + 2 * ((k * H + h) * F + f), F - f); };
            none_near(spectra(poles, Node<REAL>(nodes, F_pad, f), put), f, near);
        }
        pad_to_vectors(near);
        if (!near.empty()) read_poles(x, h, H, exact);
        for (size_t start = 0; start < near.size(); start += W<double>) {
            const long* f = &near[start];
            spectra(exact, Node<double>(exact_nodes, F_pad, f), [=](int k, Complex<double> y) {
                REAL* row = out + 2 * (k * H + h) * F;
                for (int i = 0; i < W<double>; ++i) row[2 * f[i]] = y.re[i], row[2 * f[i] + 1] = y.im[i];
            });
        }
    });
}

// Computes e, the conjugate gradients of the sums, from the gradients g of the spectra; returns the squared norm of M.
// y_k = a_k - c u_k x with M x = b:  da = g,  du = -c g conj x,  M* db = -c sum_k conj(u_k) g_k,  dM = -db conj x
template <class T>
static inline V<T> sums_backward(const std::vector<Pole<T>>& poles, const Node<T>& w, const Complex<T>* g,
                                 Complex<T>* e) {
    Complex<T> sums[J], M[R + 1][R + 1], x[R + 1], dx[R + 1], db[R + 1];
    pole_sums<false>(poles.data(), poles.size(), w, sums);
    V<T> size = woodbury(sums, w, M, x);
    for (int r = 0; r < R; ++r) dx[r] = {V<T>{}, V<T>{}};
    for (int k = 0; k < K; ++k) {
        const Complex<T>* row = sums + k * (1 + R);
        Complex<T> y = Complex<T>{w.c, w.s} * conj(g[k]), cy = -w.c * y;
        e[k * (1 + R)] = y;
        for (int r = 0; r < R; ++r) {
            e[k * (1 + R) + 1 + r] = cy * x[r];
            dx[r] = dx[r] + cy * row[1 + r];
        }
    }
    solve(M, true, dx, db);
    for (int r = 0; r < R; ++r) {
        e[(K + r) * (1 + R)] = db[r];
        for (int t = 0; t < R; ++t) e[(K + r) * (1 + R) + 1 + t] = -w.c * (db[r] * x[t]);
    }
    return size;
}

// Gradients of alpha, beta, p, q of one pole, not yet summed over vector lanes.
template <class T> struct Sums { V<T> alpha, beta, p[J], q[J]; };

// Adds the partial sums to double-precision ones and clears them: sums over all frequencies lose too much in single.
static void flush(std::vector<Sums<REAL>>& sums, std::vector<Sums<double>>& exact) {
    typedef REAL Part __attribute__((vector_size(8 * sizeof(REAL))));
    const Part* from = reinterpret_cast<const Part*>(sums.data());
    V<double>* to = reinterpret_cast<V<double>*>(exact.data());
    for (size_t i = 0; i < sums.size() * (2 + 2 * J); ++i)
        for (int part = 0; part < W<REAL>; part += 8) to[i] += __builtin_convertvector(*from++, V<double>);
    std::fill(sums.begin(), sums.end(), Sums<REAL>{});
}

// Adds the contributions of `width` vectors of frequencies.
template <class T>
static void add_tile(const std::vector<Pole<T>>& poles, const Node<T>* nodes, const Complex<T>* e, int width,
                     std::vector<Sums<T>>& acc) {
    for (size_t n = 0; n < poles.size(); ++n) {
        const Pole<T> pole = poles[n];
        Sums<T> a = acc[n];
        for (int t = 0; t < width; ++t) {
            const Node<T>& w = nodes[t];
            Complex<T> r = reciprocal(pole, w), sr = w.s * r, cr = w.c * r;
            // T = sum_j e_j (i s p_j + c q_j)
            Complex<T> sp = {V<T>{}, V<T>{}}, cq = {V<T>{}, V<T>{}};
            for (int j = 0; j < J; ++j) {
                Complex<T> x = e[t * J + j];
                a.p[j] -= x.re * sr.im;
                a.p[j] -= x.im * sr.re;
                a.q[j] += x.re * cr.re;
                a.q[j] -= x.im * cr.im;
                sp.re += x.re * pole.p[j];
                sp.im += x.im * pole.p[j];
                cq.re += x.re * pole.q[j];
                cq.im += x.im * pole.q[j];
            }
            Complex<T> S = {w.c * cq.re - w.s * sp.im, w.c * cq.im + w.s * sp.re};
            S = S * (r * r);
            a.alpha += w.sc * S.im;
            a.beta -= w.cc * S.re;
        }
        acc[n] = a;
    }
}

// grad (K, H, F, 2) -> the gradients d of the parameters x
extern "C" void spectrum_backward(Parameters x, const REAL* nodes, const double* exact_nodes, const REAL* grad,
                                  Parameters d, long H, long N, long F, long F_pad, int threads) {
    auto total = [](V<double> v) { double sum = 0; for (int i = 0; i < W<double>; ++i) sum += v[i]; return sum; };
    parallel(H, threads, [=, poles = std::vector<Pole<REAL>>(N), exact = std::vector<Pole<double>>(N),
                          acc = std::vector<Sums<REAL>>(N), exact_acc = std::vector<Sums<double>>(N),
                          w = std::vector<Node<REAL>>(TILE), exact_w = std::vector<Node<double>>(TILE),
                          e = std::vector<Complex<REAL>>(TILE * J), exact_e = std::vector<Complex<double>>(TILE * J),
                          near = std::vector<long>()](long h) mutable {
        read_poles(x, h, H, poles);
        std::fill(exact_acc.begin(), exact_acc.end(), Sums<double>{});
        near.clear();
        for (long f = 0, tiles = 1; f < F; ++tiles) {
            int width = 0;
            for (; width < TILE && f < F; ++width, f += W<REAL>) {
                Complex<REAL> g[K];
                for (int k = 0; k < K; ++k) g[k] = load_pairs(grad + 2 * ((k * H + h) * F + f), F - f);
                w[width] = Node<REAL>(nodes, F_pad, f);
                size_t next = near.size();
                if (none_near(sums_backward(poles, w[width], g, &e[width * J]), f, near)) continue;
                for (; next < near.size(); ++next) {
                    long i = near[next] - f;
                    w[width].mask(i);
                    for (int j = 0; j < J; ++j) e[width * J + j].re[i] = e[width * J + j].im[i] = 0;
                }
            }
            add_tile(poles, w.data(), e.data(), width, acc);
            if (tiles % FLUSH_EVERY == 0 || f >= F) flush(acc, exact_acc);
        }
        size_t count = near.size();
        pad_to_vectors(near);
        if (count) read_poles(x, h, H, exact);
        for (size_t start = 0; start < near.size();) {
            int width = 0;
            for (; width < TILE && start < near.size(); ++width, start += W<double>) {
                Complex<double> g[K] = {};
                for (int k = 0; k < K; ++k)
                    for (int i = 0; i < W<double> && start + i < count; ++i) {
                        const REAL* from = grad + 2 * ((k * H + h) * F + near[start + i]);
                        g[k].re[i] = from[0], g[k].im[i] = from[1];
                    }
                exact_w[width] = Node<double>(exact_nodes, F_pad, &near[start]);
                sums_backward(exact, exact_w[width], g, &exact_e[width * J]);
            }
            add_tile(exact, exact_w.data(), exact_e.data(), width, exact_acc);
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
