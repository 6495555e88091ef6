// The best sequence of tags of a linear chain, in doubles.
#pragma once
#include "weights.h"

namespace {

template <class real>
struct BestChain {
  using N = Double;
  using reals = N::reals;
  static constexpr int L = N::LANES;

  int64_t steps, tags, width;
  bool over_time;
  const real* scores = nullptr;
  Array<double> table, f, next;

  BestChain(int64_t steps, int64_t tags, bool over_time) : steps(steps), tags(tags), width((tags + L - 1) / L * L), over_time(over_time), table(tags * width), f(width), next(width) {}

  const real* transitions(const real* from, int64_t t) const { return over_time ? from + t * tags * tags : from; }
  void read(const real* from) {
    if (from == scores) return;
    scores = from;
    for (int64_t i = 0; i < tags; i++)
      for (int64_t j = 0; j < tags; j++) table[i * width + j] = from[i * tags + j];
  }

  // T vectors of the best scores before the next position.
  template <int T>
  INLINE void best_of(int64_t column) {
    reals most[T];
    each<T>([&](auto t) { most[t] = splat<N>(f[0]) + load<reals>(&table[column + t * L]); });
    for (int64_t i = 1; i < tags; i++) {
      const reals own = splat<N>(f[i]);
      each<T>([&](auto t) { most[t] = largest<N>(most[t], own + load<reals>(&table[i * width + column + t * L])); });
    }
    each<T>([&](auto t) { store(&next[column + t * L], most[t]); });
  }

  // The score of the best sequence; `scores`, (N, K), are those of the best prefixes by their last tag.
  double forward(const real* unary, const real* from, int64_t length, double* kept) {
    for (int64_t t = 0; t < length; t++) {
      for (int64_t j = 0; j < tags; j++) kept[t * tags + j] = f[j] = (t ? next[j] : 0) + unary[t * tags + j];
      if (t + 1 == length) break;
      read(transitions(from, t));
      int64_t c = 0;
      for (; c + 4 * L <= width; c += 4 * L) best_of<4>(c);
      for (; c < width; c += L) best_of<1>(c);
    }
    return *std::max_element(f.begin(), f.begin() + tags);
  }

  // Its tags, and -1 behind it.
  void trace(const real* from, int64_t length, const double* kept, int32_t* events) const {
    std::fill(events + length, events + steps, -1);
    for (int64_t t = length - 1, j = 0; t >= 0; t--) {
      const double* f = kept + t * tags;
      const real* into = t + 1 < length ? transitions(from, t) + j : nullptr;
      int64_t best = 0;
      double most = 0;
      for (int64_t i = 0; i < tags; i++) {
        const double x = f[i] + (into ? double(into[i * tags]) : 0);
        if (i == 0 || x > most) most = x, best = i;
      }
      events[t] = int32_t(j = best);
    }
  }
};

}  // namespace
