// One step of the recurrence of lra/ops/ssm_step.py for all rows and features, with skip and activation.
//
// Coefficients of a feature: A, B, conj(2 C), and for each rank P and conj(2 Q), each as M real parts and M imaginary
// parts, padded to whole vectors. Letters: B rows, H features, M states.

#include <cmath>

#include "parallel.h"
#include "simd.h"

using T = REAL;
using Z = Complex<T>;

extern "C" const int lanes = W<T>;

template <int BY, int... I> static inline V<T> rotated(V<T> v, std::integer_sequence<int, I...>) {
    return shuffle<T, (I + BY) % W<T>...>(v, v);
}
template <int BY = W<T> / 2> static inline T sum(V<T> v) {
    v += rotated<BY>(v, Lanes<T>());
    if constexpr (BY > 1) return sum<BY / 2>(v);
    return v[0];
}

static inline T gelu(T x) { return T(0.5) * x * (T(1) + std::erf(x * T(0.70710678118654752440))); }

// u, y (B, H); x, next (B, H, M) complex; D (H)
extern "C" void step(const T* coefficients, const T* D, const T* u, const T* x, T* y, T* next, long B, long H, long M,
                     int activate, int threads) {
    const long padded = (M + W<T> - 1) / W<T> * W<T>, numbers = 2 * padded, width = (3 + 2 * RANK) * numbers;
    constexpr long GROUP = 32;
    parallel((H + GROUP - 1) / GROUP, threads, [=](long group, int) {
        for (long h = group * GROUP; h < std::min(H, (group + 1) * GROUP); ++h) {
            const T* own = coefficients + h * width;
            auto get = [=](int i, long m) -> Z {
                const T* at = own + i * numbers + m;
                return {load(at), load(at + padded)};
            };
            for (long b = 0; b < B; ++b) {
                const long row = b * H + h;
                const T* from = x + 2 * row * M;
                T* to = next + 2 * row * M;
                T along[RANK + 1];
                for (int r = 0; r < RANK; ++r) {
                    V<T> total{};
                    for (long m = 0; m < M; m += W<T>) {
                        Z q = get(4 + 2 * r, m), z = load_pairs(from + 2 * m, M - m);
                        total += q.re * z.re + q.im * z.im;
                    }
                    along[r] = sum(total);
                }
                V<T> output{};
                for (long m = 0; m < M; m += W<T>) {
                    Z z = get(0, m) * load_pairs(from + 2 * m, M - m) + (V<T>{} + u[row]) * get(1, m);
                    for (int r = 0; r < RANK; ++r) z = z - (V<T>{} + along[r]) * get(3 + 2 * r, m);
                    Z c = get(2, m);
                    output += c.re * z.re + c.im * z.im;
                    store(z, to + 2 * m, M - m);
                }
                const T value = sum(output) + D[h] * u[row];
                y[row] = activate ? gelu(value) : value;
            }
        }
    });
}
