// Vectors as wide as the processor has, in the vector extension of GCC and Clang, and numbers with an exponent beside them.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

namespace {

// f(0), ..., f(N - 1), unrolled: the argument is a constant.
template <int... I, class F>
INLINE void each_of(std::integer_sequence<int, I...>, F f) {
  (f(std::integral_constant<int, I>()), ...);
}
template <int N, class F>
INLINE void each(F f) {
  each_of(std::make_integer_sequence<int, N>(), f);
}

// A number is x * 2^e; words count as many bits as the numbers.
struct Single {
  using real = float;
  using word = int32_t;
  typedef float reals __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t words __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int LANES = VECTOR_BYTES / 4, BITS = 23, BIAS = 127, DEGREE = 6;
  static constexpr float ROUND = 12582912.0f, LOG2_E = 1.44269504f;
  static constexpr float LN2_HIGH = 0.693147182f, LN2_LOW = -1.90465421e-09f;
  static constexpr float EXP[] = {0.00137577974f, 0.00836886931f, 0.0416694097f, 0.166665196f, 0.499999881f, 1.0f, 1.0f};
  static constexpr word ZERO = -(1 << 28), FORBIDDEN = -(1 << 26), LARGEST = 1 << 25;
};

struct Double {
  using real = double;
  using word = int64_t;
  typedef double reals __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t words __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int LANES = VECTOR_BYTES / 8, BITS = 52, BIAS = 1023, DEGREE = 13;
  static constexpr double ROUND = 6755399441055744.0, LOG2_E = 1.4426950408889634;
  static constexpr double LN2_HIGH = 6.93147180559945286e-01, LN2_LOW = 2.31904681384629956e-17;
  static constexpr double EXP[] = {1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0, 1 / 362880.0, 1 / 40320.0, 1 / 5040.0,
                                   1 / 720.0,        1 / 120.0,       1 / 24.0,       1 / 6.0,       0.5,          1.0,         1.0};
  static constexpr word ZERO = -(1LL << 56), FORBIDDEN = -(1LL << 54), LARGEST = 1LL << 50;
};

template <class N> INLINE typename N::reals splat(typename N::real x) { return x - typename N::reals{}; }
template <class N> INLINE typename N::words splat_word(typename N::word x) { return x - typename N::words{}; }
template <class N> INLINE typename N::words bits_of(typename N::reals x) { return (typename N::words)x; }
template <class N> INLINE typename N::reals from_bits(typename N::words x) { return (typename N::reals)x; }
template <class N> INLINE typename N::words largest(typename N::words a, typename N::words b) { return a > b ? a : b; }
template <class N> INLINE typename N::reals largest(typename N::reals a, typename N::reals b) { return a > b ? a : b; }

template <class V, class T> INLINE V load(const T* p) { V v; memcpy(&v, p, sizeof v); return v; }
template <class V, class T> INLINE void store(T* p, V v) { memcpy(p, &v, sizeof v); }

// x[l - 1] in lane l, and the last lane of `before` in lane 0; x[l + 1], and the first lane of `after` in the last.
template <class V, int... I> INLINE V shift_up(V before, V x, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(before, x, (int(sizeof...(I)) - 1 + I)...);
}
template <class N, class V> INLINE V shift_up(V before, V x) { return shift_up(before, x, std::make_integer_sequence<int, N::LANES>()); }
template <class V, int... I> INLINE V shift_down(V x, V after, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(x, after, (1 + I)...);
}
template <class N, class V> INLINE V shift_down(V x, V after) { return shift_down(x, after, std::make_integer_sequence<int, N::LANES>()); }

// exp(x) = m * 2^e with m from 0.7 to 1.5; below `forbidden`, m is 0 and e very low.
template <class N>
INLINE void exponential(typename N::reals x, typename N::reals& m, typename N::words& e) {
  using reals = typename N::reals;
  auto legal = x > splat<N>(-5e29f);
  auto shifted = x * N::LOG2_E + N::ROUND;
  reals n = shifted - N::ROUND;
  reals r = x - n * N::LN2_HIGH;
  r = r - n * N::LN2_LOW;
  reals p = splat<N>(N::EXP[0]);
  each<N::DEGREE>([&](auto k) { p = p * r + N::EXP[k + 1]; });
  m = legal ? p : reals{};
  e = legal ? bits_of<N>(shifted) - bits_of<N>(splat<N>(N::ROUND)) : splat_word<N>(N::FORBIDDEN);
}

// 2^(d - BIAS) for d <= BIAS, and 0 below the normal numbers.
template <class N>
INLINE typename N::reals power(typename N::words d) {
  return from_bits<N>(largest<N>(d, typename N::words{}) << N::BITS);
}

// m from 1 to 2, or 0 with a very low exponent.
template <class N>
INLINE void normalise(typename N::reals& m, typename N::words& e) {
  using words = typename N::words;
  words bits = bits_of<N>(m), one = splat_word<N>(typename N::word(N::BIAS) << N::BITS), mask = one - one + ((typename N::word(1) << N::BITS) - 1);
  auto zero = m == typename N::reals{};
  m = zero ? m : from_bits<N>((bits & mask) | one);
  e = zero ? splat_word<N>(N::ZERO) : e + (bits >> N::BITS) - N::BIAS;
}

// A square of Q x Q numbers, transposed.
template <int Q, class T> struct Square;
template <> struct Square<8, float> {
  typedef float row __attribute__((vector_size(32)));
  static INLINE void transpose(row* r) {
    row t[8], s[8];
    each<4>([&](auto i) {
      t[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
      t[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    });
    each<2>([&](auto i) {
      each<2>([&](auto k) {
        s[4 * i + 2 * k] = __builtin_shufflevector(t[4 * i + k], t[4 * i + 2 + k], 0, 1, 8, 9, 4, 5, 12, 13);
        s[4 * i + 2 * k + 1] = __builtin_shufflevector(t[4 * i + k], t[4 * i + 2 + k], 2, 3, 10, 11, 6, 7, 14, 15);
      });
    });
    each<4>([&](auto i) {
      r[i] = __builtin_shufflevector(s[i], s[4 + i], 0, 1, 2, 3, 8, 9, 10, 11);
      r[4 + i] = __builtin_shufflevector(s[i], s[4 + i], 4, 5, 6, 7, 12, 13, 14, 15);
    });
  }
};
template <> struct Square<4, double> {
  typedef double row __attribute__((vector_size(32)));
  static INLINE void transpose(row* r) {
    row t[4];
    each<2>([&](auto i) {
      t[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 4, 2, 6);
      t[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 1, 5, 3, 7);
    });
    each<2>([&](auto i) {
      r[i] = __builtin_shufflevector(t[i], t[2 + i], 0, 1, 4, 5);
      r[2 + i] = __builtin_shufflevector(t[i], t[2 + i], 2, 3, 6, 7);
    });
  }
};

}  // namespace
