// Weights, their sums and products for chains: rows of tags, as many vectors as they fill, zeros behind them.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "lanes.h"
#include "threads.h"

namespace {

constexpr double LEGAL = -5e29;  // scores below are forbidden
constexpr double FORBIDDEN = -1e30;

template <class N> constexpr typename N::real SMALLEST = std::numeric_limits<typename N::real>::min();

// f over all lanes.
template <class N, class F>
INLINE typename N::real over_lanes(typename N::reals x, F f) {
  constexpr int HALVINGS = N::LANES == 16 ? 4 : N::LANES == 8 ? 3 : N::LANES == 4 ? 2 : 1;
  each<HALVINGS>([&](auto k) {
    typename N::words index;
    for (int l = 0; l < N::LANES; l++) index[l] = l ^ (1 << k);
    x = f(x, typename N::reals(__builtin_shuffle(x, index)));
  });
  return x[0];
}
template <class N> INLINE typename N::reals smallest(typename N::reals a, typename N::reals b) { return a < b ? a : b; }
template <class N> INLINE typename N::real highest_of(typename N::reals x) { return over_lanes<N>(x, [](auto a, auto b) { return largest<N>(a, b); }); }
template <class N> INLINE typename N::real lowest_of(typename N::reals x) { return over_lanes<N>(x, [](auto a, auto b) { return smallest<N>(a, b); }); }
template <class N> INLINE typename N::real sum_of(typename N::reals x) { return over_lanes<N>(x, [](auto a, auto b) { return typename N::reals(a + b); }); }

// exp(x) for x up to 0 or little more: SMALLEST at least, and not a number where x is none.
template <class N>
INLINE typename N::reals weight(typename N::reals x) {
  const typename N::reals least = splat<N>(-N::BIAS);
  typename N::reals m;
  typename N::words e;
  exponential<N>(x < least ? least : x, m, e);
  const typename N::reals y = m * power<N>(e + N::BIAS);
  return y < splat<N>(SMALLEST<N>) ? splat<N>(SMALLEST<N>) : x == x ? y : x;
}

// exp(x + y - centre), 0 where it is forbidden; the rounding of the sum is not lost.
template <class N>
INLINE typename N::reals weight(typename N::reals x, typename N::reals y, typename N::reals centre) {
  const typename N::reals high = x + y, part = high - x, low = (x - (high - part)) + (y - part);
  return high < splat<N>(LEGAL) ? typename N::reals{} : weight<N>((high - centre) + low);
}

// A row of `count` numbers, as vectors; what is behind them is `otherwise`.
template <class N>
struct Row {
  using real = typename N::real;
  using reals = typename N::reals;
  const real *data, *end;  // of the array that it is part of
  int64_t count;
  real otherwise;

  INLINE reals operator[](int64_t v) const {
    const real* p = data + v * N::LANES;
    const int64_t left = count - v * N::LANES;
    if (left >= N::LANES) return load<reals>(p);
    if (p + N::LANES <= end) {
      typename N::words lane;
      for (int l = 0; l < N::LANES; l++) lane[l] = l;
      return lane < typename N::word(left) ? load<reals>(p) : splat<N>(otherwise);
    }
    reals x = splat<N>(otherwise);
    for (int64_t l = 0; l < left; l++) x[l] = p[l];
    return x;
  }
};

template <class N>
INLINE void store_row(typename N::real* row, int64_t count, int64_t v, typename N::reals x) {
  typename N::real* p = row + v * N::LANES;
  const int64_t left = count - v * N::LANES;
  if (left >= N::LANES) return store(p, x);
  alignas(64) typename N::real some[N::LANES];
  store(some, x);
  for (int64_t l = 0; l < left; l++) p[l] = some[l];
}

// y[x] = sum over i of a[x][i] rows[i], for X vectors a and T columns of vectors of a matrix.
template <class N, int X, int T>
INLINE void product_of(const typename N::real* a, const typename N::real* rows, int64_t count, int64_t width, typename N::real* y) {
  using reals = typename N::reals;
  constexpr int S = X * T >= 8 ? 1 : X * T >= 4 ? 2 : 4;  // sums at once, for an addition takes several cycles
  reals sum[S][X][T];
  each<S>([&](auto s) { each<X>([&](auto x) { each<T>([&](auto t) { sum[s][x][t] = reals{}; }); }); });
  int64_t i = 0;
  for (; i + S <= count; i += S)
    each<S>([&](auto s) {
      reals row[T];
      each<T>([&](auto t) { row[t] = load<reals>(rows + (i + s) * width + t * N::LANES); });
      each<X>([&](auto x) {
        const reals factor = splat<N>(a[x * width + i + s]);
        each<T>([&](auto t) { sum[s][x][t] += factor * row[t]; });
      });
    });
  for (; i < count; i++)
    each<X>([&](auto x) { each<T>([&](auto t) { sum[0][x][t] += splat<N>(a[x * width + i]) * load<reals>(rows + i * width + t * N::LANES); }); });
  each<X>([&](auto x) {
    each<T>([&](auto t) {
      each<S - 1>([&](auto s) { sum[0][x][t] += sum[s + 1][x][t]; });
      store(y + x * width + t * N::LANES, sum[0][x][t]);
    });
  });
}

// y[x] = a[x] M for X vectors, and a matrix (count, width).
template <class N, int X>
INLINE void product(const typename N::real* a, const typename N::real* matrix, int64_t count, int64_t width, typename N::real* y) {
  int64_t v = 0;
  for (; v + 4 * N::LANES <= width; v += 4 * N::LANES) product_of<N, X, 4>(a, matrix + v, count, width, y + v);
  if (width - v == 3 * N::LANES) product_of<N, X, 3>(a, matrix + v, count, width, y + v);
  else if (width - v == 2 * N::LANES) product_of<N, X, 2>(a, matrix + v, count, width, y + v);
  else if (width - v == N::LANES) product_of<N, X, 1>(a, matrix + v, count, width, y + v);
}

// sums[i] += sum over t of a[t][i] b[t]: I rows and T columns of vectors of a matrix.
template <class N, int I, int T>
INLINE void add_outer_of(const typename N::real* a, const typename N::real* b, int64_t times, int64_t width, typename N::real* sums) {
  using reals = typename N::reals;
  reals sum[I][T];
  each<I>([&](auto i) { each<T>([&](auto t) { sum[i][t] = load<reals>(sums + i * width + t * N::LANES); }); });
  for (int64_t k = 0; k < times; k++) {
    reals row[T];
    each<T>([&](auto t) { row[t] = load<reals>(b + k * width + t * N::LANES); });
    each<I>([&](auto i) {
      const reals factor = splat<N>(a[k * width + i]);
      each<T>([&](auto t) { sum[i][t] += factor * row[t]; });
    });
  }
  each<I>([&](auto i) { each<T>([&](auto t) { store(sums + i * width + t * N::LANES, sum[i][t]); }); });
}

// sums (count, width) += the sum of outer products of the rows of a and b, (times, width).
template <class N>
INLINE void add_outer(const typename N::real* a, const typename N::real* b, int64_t times, int64_t count, int64_t width, typename N::real* sums) {
  constexpr int I = 4, L = N::LANES;
  int64_t i = 0;
  for (; i + I <= count; i += I) {
    int64_t v = 0;
    for (; v + 4 * L <= width; v += 4 * L) add_outer_of<N, I, 4>(a + i, b + v, times, width, sums + i * width + v);
    for (; v < width; v += L) add_outer_of<N, I, 1>(a + i, b + v, times, width, sums + i * width + v);
  }
  for (; i < count; i++)
    for (int64_t v = 0; v < width; v += L) add_outer_of<N, 1, 1>(a + i, b + v, times, width, sums + i * width + v);
}

// A sum that keeps what is rounded off.
struct ExactSum {
  double high = 0, low = 0;
  void add(double x) {
    const double sum = high + x, part = sum - high;
    low += (high - (sum - part)) + (x - part);
    high = sum;
  }
  void add_product(double x, double y) {
    const double product = x * y;
    low += std::fma(x, y, -product);
    add(product);
  }
  // As a pair of numbers of a kind.
  template <class real>
  void write(real* first, real* second) const {
    *first = real(high);
    *second = real((high - double(*first)) + low);
  }
};

}  // namespace
