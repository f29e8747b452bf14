// Vectors of real and complex numbers, as wide as the instruction set has them, and of frequencies; see cauchy.cpp.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

// width of a vector in bytes, and how many sums fit the registers next to what is added to them
#if defined(__AVX512F__)
#define SET "AVX-512"
constexpr int BYTES = 64, SUMS = 24;
#elif defined(__AVX2__)
#define SET "AVX2"
constexpr int BYTES = 32, SUMS = 12;
#elif defined(__aarch64__)
#define SET "NEON"
constexpr int BYTES = 16, SUMS = 16;
#else
#define SET "128-bit vectors"
constexpr int BYTES = 16, SUMS = 12;
#endif
extern "C" const char* const instruction_set = SET;

template <class T> struct Vector { typedef T type __attribute__((vector_size(BYTES))); };
template <class T> using V = typename Vector<T>::type;
template <class T> constexpr int W = BYTES / sizeof(T);

template <class T> struct Complex { V<T> re, im; };
template <class T> static inline Complex<T> operator+(Complex<T> a, Complex<T> b) { return {a.re + b.re, a.im + b.im}; }
template <class T> static inline Complex<T> operator-(Complex<T> a, Complex<T> b) { return {a.re - b.re, a.im - b.im}; }
template <class T> static inline Complex<T> operator*(Complex<T> a, Complex<T> b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class T> static inline Complex<T> operator*(V<T> a, Complex<T> b) { return {a * b.re, a * b.im}; }
template <class T> static inline Complex<T> conj(Complex<T> a) { return {a.re, -a.im}; }
template <class T> static inline V<T> square(Complex<T> a) { return a.re * a.re + a.im * a.im; }
template <class T> static inline Complex<T> inverse(Complex<T> a) {
    V<T> scale = T(1) / square(a);
    return {scale * a.re, -scale * a.im};
}

template <class T> static inline V<T> load(const T* x) {
    V<T> v;
    std::memcpy(&v, x, sizeof v);
    return v;
}

// Lanes I of the vectors a and b, those of b numbered from W.
template <class T, int... I> static inline V<T> shuffle(V<T> a, V<T> b) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, I...);
#else
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index __attribute__((vector_size(BYTES)));
    return __builtin_shuffle(a, b, Index{I...});
#endif
}
template <class T, int... I>
static inline void interleave(Complex<T> z, T* pairs, std::integer_sequence<int, I...>) {
    V<T> low = shuffle<T, (I / 2 + I % 2 * W<T>)...>(z.re, z.im);
    V<T> high = shuffle<T, (W<T> / 2 + I / 2 + I % 2 * W<T>)...>(z.re, z.im);
    std::memcpy(pairs, &low, sizeof low);
    std::memcpy(pairs + W<T>, &high, sizeof high);
}
template <class T, int... I>
static inline Complex<T> deinterleave(const T* pairs, std::integer_sequence<int, I...>) {
    V<T> low = load(pairs), high = load(pairs + W<T>);
    return {shuffle<T, 2 * I...>(low, high), shuffle<T, (2 * I + 1)...>(low, high)};
}
template <class T> using Lanes = std::make_integer_sequence<int, W<T>>;

// Store to and load from interleaved (real, imaginary) pairs, at most `left` of them.
template <class T> static inline void store(Complex<T> z, T* to, long left) {
    if (left >= W<T>) return interleave(z, to, Lanes<T>());
    T pairs[2 * W<T>];
    interleave(z, pairs, Lanes<T>());
    std::copy_n(pairs, 2 * left, to);
}
template <class T> static inline Complex<T> load_pairs(const T* from, long left) {
    if (left >= W<T>) return deinterleave(from, Lanes<T>());
    T pairs[2 * W<T>] = {};
    std::copy_n(from, 2 * left, pairs);
    return deinterleave(pairs, Lanes<T>());
}

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
