// Vectors of real and complex numbers, 64 bytes wide, and of frequencies; see cauchy.cpp.

#pragma once

#include <algorithm>
#include <cstring>

template <class T> struct Vector { typedef T type __attribute__((vector_size(64))); };
template <class T> using V = typename Vector<T>::type;
template <class T> constexpr int W = 64 / sizeof(T);

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

// Store to and load from interleaved (real, imaginary) pairs, at most `left` of them.
template <class T> static inline void store(Complex<T> z, T* to, long left) {
    T pairs[2 * W<T>];
    for (int i = 0; i < W<T>; ++i) pairs[2 * i] = z.re[i], pairs[2 * i + 1] = z.im[i];
    if (left >= W<T>) std::memcpy(to, pairs, sizeof pairs);
    else std::copy_n(pairs, 2 * left, to);
}
template <class T> static inline Complex<T> load_pairs(const T* from, long left) {
    T pairs[2 * W<T>] = {};
    if (left >= W<T>) std::memcpy(pairs, from, sizeof pairs);
    else std::copy_n(from, 2 * left, pairs);
    Complex<T> z;
    for (int i = 0; i < W<T>; ++i) z.re[i] = pairs[2 * i], z.im[i] = pairs[2 * i + 1];
    return z;
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
