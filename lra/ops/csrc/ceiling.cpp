// The arithmetic ceiling of a roofline: multiply-adds on registers alone.

#include "parallel.h"
#include "simd.h"

#if defined(__aarch64__)
#define REGISTER "+w"
#elif defined(__AVX512F__)
#define REGISTER "+v"
#else
#define REGISTER "+x"
#endif

// Operations done by `threads` threads in so many rounds; a multiply-add is two.
extern "C" double multiply_adds(long rounds, int threads) {
    constexpr int CHAINS = 12;
    parallel(threads, threads, [=](long, int) {
        V<float> x[CHAINS] = {}, a = V<float>{} + 0.5f, b = V<float>{} + 1.0f;
        for (long i = 0; i < rounds; ++i)
#pragma GCC unroll 12
            for (int c = 0; c < CHAINS; ++c) {
                x[c] = x[c] * a + b;
                // keeps the compiler from changing the chain
                asm volatile("" : REGISTER(x[c]));
            }
    });
    return 2.0 * CHAINS * W<float> * rounds * threads;
}
