// Vectors of real and complex numbers, as wide as the instruction set has them.

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

// Load or store at most `left` lanes; the others are zero.
template <class T> static inline V<T> load(const T* x, long left) {
    if (left >= W<T>) return load(x);
    V<T> v{};
    for (long i = 0; i < left; ++i) v[i] = x[i];
    return v;
}
template <class T> static inline void store(V<T> v, T* to, long left) {
    if (left >= W<T>) std::memcpy(to, &v, sizeof v);
    else for (long i = 0; i < left; ++i) to[i] = v[i];
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
static inline void interleave(V<T> a, V<T> b, V<T>* out, std::integer_sequence<int, I...>) {
    out[0] = shuffle<T, (I / 2 + I % 2 * W<T>)...>(a, b);
    out[1] = shuffle<T, (W<T> / 2 + I / 2 + I % 2 * W<T>)...>(a, b);
}
template <class T, int... I>
static inline Complex<T> deinterleave(const T* pairs, std::integer_sequence<int, I...>) {
    V<T> low = load(pairs), high = load(pairs + W<T>);
    return {shuffle<T, 2 * I...>(low, high), shuffle<T, (2 * I + 1)...>(low, high)};
}
template <class T> using Lanes = std::make_integer_sequence<int, W<T>>;

// Store to and load from interleaved (real, imaginary) pairs, at most `left` of them.
template <class T> static inline void store(Complex<T> z, T* to, long left) {
    V<T> pairs[2];
    interleave<T>(z.re, z.im, pairs, Lanes<T>());
    std::memcpy(to, pairs, std::min<long>(left, W<T>) * 2 * sizeof(T));
}
template <class T> static inline Complex<T> load_pairs(const T* from, long left) {
    if (left >= W<T>) return deinterleave(from, Lanes<T>());
    T pairs[2 * W<T>] = {};
    std::copy_n(from, 2 * left, pairs);
    return deinterleave(pairs, Lanes<T>());
}

// Transposes a square of W vectors.
template <class T> static inline void transpose(V<T>* x) {
    V<T> y[W<T>];
    for (int width = 1; width < W<T>; width *= 2) {
        for (int i = 0; i < W<T> / 2; ++i) interleave<T>(x[i], x[i + W<T> / 2], y + 2 * i, Lanes<T>());
        std::copy_n(y, W<T>, x);
    }
}
