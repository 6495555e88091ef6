// What a processor can do for the forward-backward algorithm of a linear chain: four sentences at a time, all of one length, as many tags as fill vectors, transitions shared by all.
//
// a[t + 1] = (a[t] E) exp(unary[t + 1]) over a power of two, with E = exp(transitions). All a and all sums a E are kept. No range is tested; it is that of these benchmarks.
#include "weights.h"

using N = Single;
using reals = N::reals;
using words = N::words;
constexpr int L = N::LANES, X = 4, TIMES = 16;

struct Sentences {
  int64_t steps, tags;
  Array<float> sums, a, y, p, r, left, right, pairs;

  Sentences(int64_t steps, int64_t tags)
      : steps(steps), tags(tags), sums(X * steps * tags), a(X * (steps + 1) * tags), y(X * tags), p(X * tags), r(X * tags), left(X * TIMES * tags), right(left), pairs(X * tags * tags) {}

  void forward(const float* const* unary, const float* weights, float* const* values) {
    double scale[X] = {};
    for (int64_t t = 0; t < steps; t++) {
      if (t) product<N, X>(p.data(), weights, tags, tags, y.data());
      for (int x = 0; x < X; x++) {
        reals most{};
        float* own = &p[x * tags];
        for (int64_t v = 0; v < tags; v += L) {
          reals m, s = t ? load<reals>(&y[x * tags + v]) : splat<N>(1);
          words e;
          exponential<N>(load<reals>(unary[x] + t * tags + v), m, e);
          if (t) store(&sums[(x * steps + t - 1) * tags + v], s);
          s *= m * power<N>(e + N::BIAS);
          most = largest<N>(most, s);
          store(own + v, s);
        }
        const int exponent = (bits_of<N>(splat<N>(highest_of<N>(most)))[0] >> N::BITS) - N::BIAS;
        scale[x] += exponent;
        for (int64_t v = 0; v < tags; v += L) {
          const reals s = load<reals>(own + v) * power<N>(splat_word<N>(N::BIAS - exponent));
          store(own + v, s);
          store(&a[(x * steps + t) * tags + v], s);
        }
      }
    }
    for (int x = 0; x < X; x++) {
      double sum = 0;
      for (int64_t j = 0; j < tags; j++) sum += p[x * tags + j];
      *values[x] = float(std::log(sum) + 0.6931471805599453 * scale[x]);
    }
  }

  void backward(const float* weights, const float* back, float* const* of_unary, double* of_transitions) {
    std::fill(pairs.begin(), pairs.end(), 0);
    std::fill(r.begin(), r.end(), 0);
    int64_t kept = 0;
    for (int64_t t = steps - 1; t >= 0; t--) {
      if (t + 1 < steps) {
        for (int x = 0; x < X; x++)
          for (int64_t v = 0; v < tags; v += L) store(&r[x * tags + v], reals(load<reals>(&p[x * tags + v]) / load<reals>(&sums[(x * steps + t) * tags + v])));
        product<N, X>(r.data(), back, tags, tags, y.data());
      }
      for (int x = 0; x < X; x++) {
        reals sum{};
        const float* own = &a[(x * steps + t) * tags];
        for (int64_t v = 0; v < tags; v += L) sum += load<reals>(own + v);
        const float share = t + 1 < steps ? 1 : 1 / sum_of<N>(sum);
        for (int64_t v = 0; v < tags; v += L) {
          const reals s = load<reals>(own + v) * (t + 1 < steps ? load<reals>(&y[x * tags + v]) : splat<N>(share));
          store(&p[x * tags + v], s);
          store(of_unary[x] + t * tags + v, s);
          store(&left[(x * TIMES + kept) * tags + v], load<reals>(own + v));
          store(&right[(x * TIMES + kept) * tags + v], load<reals>(&r[x * tags + v]));
        }
      }
      if (++kept < TIMES && t) continue;
      for (int x = 0; x < X; x++) add_outer<N>(&left[x * TIMES * tags], &right[x * TIMES * tags], kept, tags, tags, &pairs[x * tags * tags]);
      kept = 0;
    }
    for (int x = 0; x < X; x++)
      for (int64_t k = 0; k < tags * tags; k++) of_transitions[k] += double(pairs[x * tags * tags + k]) * weights[k];
  }
};

// Values (B,) and gradients of unary (B, N, K) and of the transitions (K, K), for B a multiple of 4 and K of the lanes of a vector.
extern "C" __attribute__((visibility("default"))) void linear_chain(int64_t batch, int64_t steps, int64_t tags, int64_t threads, const float* unary, const float* transitions, float* values, float* of_unary,
                                                                    float* of_transitions) {
  Array<float> weights(tags * tags), back(tags * tags);
  for (int64_t i = 0; i < tags; i++)
    for (int64_t j = 0; j < tags; j++) weights[i * tags + j] = back[j * tags + i] = std::exp(transitions[i * tags + j]);
  std::vector<double> pairs(batch / X * tags * tags);
  in_parallel(
      batch / X, threads, [&] { return Sentences(steps, tags); },
      [&](auto& four, int64_t k) {
        const float* scores[X];
        float *value[X], *gradient[X];
        for (int x = 0; x < X; x++) {
          const int64_t b = k * X + x;
          scores[x] = unary + b * steps * tags, gradient[x] = of_unary + b * steps * tags, value[x] = values + b;
        }
        four.forward(scores, weights.data(), value);
        four.backward(weights.data(), back.data(), gradient, &pairs[k * tags * tags]);
      });
  for (int64_t i = 0; i < tags * tags; i++) {
    double sum = 0;
    for (int64_t k = 0; k < batch / X; k++) sum += pairs[k * tags * tags + i];
    of_transitions[i] = float(sum);
  }
}
