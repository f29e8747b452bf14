// The sums of lra/kernels/pairs.py, Woodbury and their gradients, for one precision, number of outputs and rank.
//
// A vector of frequencies stays in registers while a loop runs over the poles (forward), or a pole's sums stay there
// while a loop runs over a tile of frequencies (backward). Features are shared out among threads.
//
// REAL, OUTPUTS and RANK are given on the command line. Letters: H features, N poles, F frequencies, J sums, row by row
// over (C_1 .. C_K, P*_1 .. P*_R) x (B, P_1 .. P_R). `nodes` holds s, c, s^2, c^2, -2 s c, each padded to F_pad.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

using T = REAL;
constexpr int K = OUTPUTS, R = RANK, J = (K + R) * (1 + R), W = 64 / sizeof(T), TILE = 24;
typedef T V __attribute__((vector_size(64)));

struct Complex {
    V re, im;
};
static inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
static inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
static inline Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
static inline Complex operator*(V a, Complex b) { return {a * b.re, a * b.im}; }
static inline Complex conj(Complex a) { return {a.re, -a.im}; }
static inline Complex inverse(Complex a) {
    V scale = T(1) / (a.re * a.re + a.im * a.im);
    return {scale * a.re, -scale * a.im};
}

static inline V load(const T* x) {
    V v;
    std::memcpy(&v, x, sizeof v);
    return v;
}

struct Node {
    V s, c, ss, cc, sc;
    Node(const T* nodes, long F_pad, long f)
        : s(load(nodes + f)), c(load(nodes + F_pad + f)), ss(load(nodes + 2 * F_pad + f)),
          cc(load(nodes + 3 * F_pad + f)), sc(load(nodes + 4 * F_pad + f)) {}
};

// one pole of one feature
struct Pole {
    T alpha, beta, p[J], q[J];
};

static inline Complex reciprocal(const Pole& pole, const Node& w) {
    V x = w.cc * pole.beta - w.ss, y = w.sc * pole.alpha;
    V scale = T(1) / (x * x + y * y);
    return {x * scale, -y * scale};
}

static inline void pole_sums(const Pole* poles, long N, const Node& w, Complex* sums) {
    for (int j = 0; j < J; ++j) sums[j] = {V{}, V{}};
    for (long n = 0; n < N; ++n) {
        Complex r = reciprocal(poles[n], w), sr = w.s * r, cr = w.c * r;
        for (int j = 0; j < J; ++j) {
            T p = poles[n].p[j], q = poles[n].q[j];
            sums[j].re += q * cr.re;
            sums[j].im += q * cr.im;
            sums[j].re -= p * sr.im;
            sums[j].im += p * sr.re;
        }
    }
}

typedef decltype(V{} > V{}) Mask;
static inline Complex pick(Mask first, Complex a, Complex b) {
    return {first ? a.re : b.re, first ? a.im : b.im};
}
static inline V square(Complex a) { return a.re * a.re + a.im * a.im; }

// M x = y, or of the transpose. Close to a pole the rows are nearly parallel: their determinant loses what tells them
// apart, elimination by the larger one keeps it
static inline void solve(const Complex M[R + 1][R + 1], bool transpose, const Complex* y, Complex* x) {
    if constexpr (R == 1) {
        x[0] = inverse(M[0][0]) * y[0];
    } else if constexpr (R == 2) {
        Complex a = M[0][0], b = M[0][1], c = M[1][0], d = M[1][1];
        if (transpose) std::swap(b, c);
        Mask second = square(c) > square(a);
        Complex pivot = inverse(pick(second, c, a)), ratio = pick(second, a, c) * pivot;
        Complex beside = pick(second, d, b), top = pick(second, y[1], y[0]);
        x[1] = inverse(pick(second, b, d) - ratio * beside) * (pick(second, y[0], y[1]) - ratio * top);
        x[0] = pivot * (top - beside * x[1]);
    }
}

// M = 1 + c P* D P, and x with M x = P* D B
static inline void woodbury(const Complex* sums, const Node& w, Complex M[R + 1][R + 1], Complex* x) {
    Complex y[R + 1];
    for (int r = 0; r < R; ++r) {
        const Complex* low = sums + (K + r) * (1 + R);
        y[r] = low[0];
        for (int t = 0; t < R; ++t) M[r][t] = w.c * low[1 + t];
        M[r][r].re += T(1);
    }
    solve(M, false, y, x);
}

static void read_poles(const T* alpha, const T* beta, const T* p, const T* q, long H, long N, long h, Pole* poles) {
    for (long n = 0; n < N; ++n) {
        poles[n].alpha = alpha[h * N + n];
        poles[n].beta = beta[h * N + n];
        for (int j = 0; j < J; ++j) {
            poles[n].p[j] = p[(j * H + h) * N + n];
            poles[n].q[j] = q[(j * H + h) * N + n];
        }
    }
}

// work(h) for every feature, shared out one by one
template <class Work>
static void parallel(long H, int threads, Work work) {
    std::atomic<long> next{0};
    auto worker = [&] {
        auto own = work;
        for (long h; (h = next++) < H;) own(h);
    };
    std::vector<std::thread> others;
    for (int t = 1; t < std::min<long>(threads, H); ++t) others.emplace_back(worker);
    worker();
    for (auto& other : others) other.join();
}

// out (K, H, F, 2)
extern "C" void spectrum(const T* alpha, const T* beta, const T* p, const T* q, const T* nodes, T* out, long H, long N,
                         long F, long F_pad, int threads) {
    parallel(H, threads, [=, poles = std::vector<Pole>(N)](long h) mutable {
        read_poles(alpha, beta, p, q, H, N, h, poles.data());
        for (long f = 0; f < F; f += W) {
            Node w(nodes, F_pad, f);
            Complex sums[J], M[R + 1][R + 1], x[R + 1];
            pole_sums(poles.data(), N, w, sums);
            woodbury(sums, w, M, x);
            for (int k = 0; k < K; ++k) {
                const Complex* row = sums + k * (1 + R);
                Complex y = row[0];
                for (int r = 0; r < R; ++r) y = y - w.c * (row[1 + r] * x[r]);
                y = Complex{w.c, w.s} * y;
                T* o = out + 2 * ((k * H + h) * F + f);
                T pairs[2 * W];
                for (int i = 0; i < W; ++i) pairs[2 * i] = y.re[i], pairs[2 * i + 1] = y.im[i];
                std::memcpy(o, pairs, 2 * std::min<long>(W, F - f) * sizeof(T));
            }
        }
    });
}

// the conjugates e of the gradients of the sums, from that of the spectrum:
// y_k = a_k - c u_k x with M x = b:  da = g,  du = -c g conj x,  M* db = -c sum_k conj(u_k) g_k,  dM = -db conj x
static inline void woodbury_backward(const Complex* sums, const Node& w, const Complex* g, Complex* e) {
    Complex M[R + 1][R + 1], x[R + 1], dx[R + 1], db[R + 1];
    woodbury(sums, w, M, x);
    for (int r = 0; r < R; ++r) dx[r] = {V{}, V{}};
    for (int k = 0; k < K; ++k) {
        const Complex* row = sums + k * (1 + R);
        Complex y = Complex{w.c, w.s} * conj(g[k]), cy = -w.c * y;
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
}

struct Sums {
    V alpha, beta, p[J], q[J];
};

static T total(V v) {
    T sum = 0;
    for (int i = 0; i < W; ++i) sum += v[i];
    return sum;
}

// grad (K, H, F, 2) -> the gradients of alpha, beta (H, N), p, q (J, H, N)
extern "C" void spectrum_backward(const T* alpha, const T* beta, const T* p, const T* q, const T* nodes, const T* grad,
                                  T* d_alpha, T* d_beta, T* d_p, T* d_q, long H, long N, long F, long F_pad,
                                  int threads) {
    parallel(H, threads, [=, poles = std::vector<Pole>(N), acc = std::vector<Sums>(N),
                          e = std::vector<Complex>(TILE * J)](long h) mutable {
        read_poles(alpha, beta, p, q, H, N, h, poles.data());
        std::memset(static_cast<void*>(acc.data()), 0, N * sizeof(Sums));
        for (long start = 0; start < F; start += TILE * W) {
            int width = std::min<long>(TILE, (F - start + W - 1) / W);
            for (int t = 0; t < width; ++t) {
                long f = start + t * W;
                Node w(nodes, F_pad, f);
                Complex sums[J], g[K];
                pole_sums(poles.data(), N, w, sums);
                for (int k = 0; k < K; ++k) {
                    T pairs[2 * W] = {};
                    std::memcpy(pairs, grad + 2 * ((k * H + h) * F + f), 2 * std::min<long>(W, F - f) * sizeof(T));
                    for (int i = 0; i < W; ++i) g[k].re[i] = pairs[2 * i], g[k].im[i] = pairs[2 * i + 1];
                }
                woodbury_backward(sums, w, g, &e[t * J]);
            }
            for (long n = 0; n < N; ++n) {
                const Pole pole = poles[n];
                Sums a = acc[n];
                for (int t = 0; t < width; ++t) {
                    Node w(nodes, F_pad, start + t * W);
                    Complex r = reciprocal(pole, w), sr = w.s * r, cr = w.c * r;
                    // T = sum_j e_j (i s p_j + c q_j)
                    Complex sp = {V{}, V{}}, cq = {V{}, V{}};
                    for (int j = 0; j < J; ++j) {
                        Complex x = e[t * J + j];
                        a.p[j] -= x.re * sr.im;
                        a.p[j] -= x.im * sr.re;
                        a.q[j] += x.re * cr.re;
                        a.q[j] -= x.im * cr.im;
                        sp.re += x.re * pole.p[j];
                        sp.im += x.im * pole.p[j];
                        cq.re += x.re * pole.q[j];
                        cq.im += x.im * pole.q[j];
                    }
                    Complex S = {w.c * cq.re - w.s * sp.im, w.c * cq.im + w.s * sp.re};
                    S = S * (r * r);
                    a.alpha += w.sc * S.im;
                    a.beta -= w.cc * S.re;
                }
                acc[n] = a;
            }
        }
        for (long n = 0; n < N; ++n) {
            d_alpha[h * N + n] = total(acc[n].alpha);
            d_beta[h * N + n] = total(acc[n].beta);
            for (int j = 0; j < J; ++j) {
                d_p[(j * H + h) * N + n] = total(acc[n].p[j]);
                d_q[(j * H + h) * N + n] = total(acc[n].q[j]);
            }
        }
    });
}
