// What a processor can do for Needleman-Wunsch with one linear gap score: one kernel for this recurrence alone, all lengths equal and a multiple of a strip.
//
// Gap scores are taken into the scores, so P(i, j) = P(i-1, j) + P(i, j-1) + exp(s - 2 gap) P(i-1, j-1). The state is u = P(i-1, j) / P(i, j) and
// l = P(i, j-1) / P(i, j), the weights of the two gaps: with n = exp(s - 2 gap) u l + u + l of the neighbours they become u / n and l / n. No range is tested; it is that of these benchmarks.
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "lanes.h"

using N = Single;
using reals = N::reals;
using words = N::words;
constexpr int L = N::LANES, GROUPS = 4, ROWS = GROUPS * L, TIMES = 8, Q = 8;

static INLINE words lanes_from(int first) {
  words lane;
  for (int l = 0; l < L; l++) lane[l] = first + l;
  return lane;
}

// Scores of a block of times, skewed: row r at time t is column t - r.
static INLINE void read(const float* s, int64_t size, int64_t t0, float* x) {
  for (int r0 = 0; r0 < ROWS; r0 += Q) {
    const int64_t c = t0 - r0;
    if (c - Q + 1 >= 0 && c + Q <= size) {
      Square<Q, float>::row square[Q];
      each<Q>([&](auto r) { square[r] = load<Square<Q, float>::row>(s + (r0 + r) * size + c - r); });
      Square<Q, float>::transpose(square);
      each<Q>([&](auto q) { store(x + q * ROWS + r0, square[q]); });
    } else {
      for (int q = 0; q < Q; q++)
        for (int r = 0; r < Q; r++) x[q * ROWS + r0 + r] = c + q - r >= 0 && c + q - r < size ? s[(r0 + r) * size + c + q - r] : 0;
    }
  }
}

static INLINE void write(float* p, int64_t size, int64_t t0, const float* x) {
  for (int r0 = 0; r0 < ROWS; r0 += Q) {
    const int64_t c = t0 - r0;
    if (c - Q + 1 >= 0 && c + Q <= size) {
      Square<Q, float>::row square[Q];
      each<Q>([&](auto q) { square[q] = load<Square<Q, float>::row>(x + q * ROWS + r0); });
      Square<Q, float>::transpose(square);
      each<Q>([&](auto r) { store(p + (r0 + r) * size + c - r, square[r]); });
    } else {
      for (int q = 0; q < Q; q++)
        for (int r = 0; r < Q; r++)
          if (c + q - r >= 0 && c + q - r < size) p[(r0 + r) * size + c + q - r] = x[q * ROWS + r0 + r];
    }
  }
}

struct Pair {
  int64_t size, times;
  std::vector<float> row, up, left, weights;  // l of the row above a strip; flows into it; (strips, times, 2, ROWS)

  Pair(int64_t size, bool gradient)
      : size(size), times((size + ROWS - 1 + TIMES - 1) / TIMES * TIMES), row(times + ROWS), up(times + ROWS), left(times + ROWS), weights(gradient ? size / ROWS * times * 2 * ROWS : 0) {}

  template <bool STORE>
  double forward(const float* s, float gap) {
    std::fill(row.begin(), row.end(), 1.0f);
    for (int64_t i = 0; i < size; i += ROWS) {
      reals u[GROUPS], l[GROUPS];
      for (int g = 0; g < GROUPS; g++) u[g] = l[g] = splat<N>(1);
      float* w = STORE ? &weights[i / ROWS * times * 2 * ROWS] : nullptr;
      for (int64_t t0 = 0; t0 < times; t0 += TIMES) {
        alignas(64) float x[TIMES * ROWS];
        read(s + i * size, size, t0, x);
        for (int q = 0; q < TIMES; q++) {
          const int64_t t = t0 + q;
          reals above[GROUPS];
          each<GROUPS>([&](auto g) { above[g] = shift_up<N>(g ? l[g ? g - 1 : 0] : splat<N>(row[t]), l[g]); });
          each<GROUPS>([&](auto g) {
            reals m;
            words e;
            exponential<N>(load<reals>(x + q * ROWS + g * L) - 2 * gap, m, e);
            const reals match = from_bits<N>(bits_of<N>(m) + (e << N::BITS));
            const reals share = 1 / (match * u[g] * above[g] + u[g] + above[g]);
            u[g] *= share, l[g] = above[g] * share;
            if (t < ROWS) u[g] = lanes_from(g * L) > int(t) ? splat<N>(1) : u[g];
            if (STORE) store(w + (2 * t) * ROWS + g * L, u[g]), store(w + (2 * t + 1) * ROWS + g * L, l[g]);
          });
          if (t >= ROWS - 1) row[t - ROWS + 1] = l[GROUPS - 1][L - 1];
        }
      }
      for (int64_t j = size; j < int64_t(row.size()); j++) row[j] = 1;
    }
    double value = 2.0 * size * gap;
    for (int64_t j = 0; j < size; j++) value -= std::log(row[j]);
    return value;
  }

  // Marginals of all matches; their sum.
  double backward(float* p) {
    double matches = 0;
    std::fill(up.begin(), up.end(), 0.0f);
    std::fill(left.begin(), left.end(), 0.0f);
    up[size - 1] = 1;
    for (int64_t i = size - ROWS; i >= 0; i -= ROWS) {
      reals stay[GROUPS], rise[GROUPS], next[GROUPS], later[GROUPS], sum{};
      for (int g = 0; g < GROUPS; g++) stay[g] = rise[g] = next[g] = later[g] = reals{};
      const float* w = &weights[i / ROWS * times * 2 * ROWS];
      for (int64_t t0 = times - TIMES; t0 >= 0; t0 -= TIMES) {
        alignas(64) float x[TIMES * ROWS];
        for (int q = TIMES - 1; q >= 0; q--) {
          const int64_t t = t0 + q, c = t - ROWS + 1;
          reals e[GROUPS];
          each<GROUPS>([&](auto g) {
            constexpr int below = g < GROUPS - 1 ? g + 1 : g;
            e[g] = stay[g] + shift_down<N>(reals(rise[g] + later[g]), g < GROUPS - 1 ? reals(rise[below] + later[below]) : splat<N>(c >= 0 ? up[c] : 0));
          });
          each<GROUPS>([&](auto g) {
            later[g] = next[g];
            rise[g] = e[g] * load<reals>(w + (2 * t) * ROWS + g * L);
            stay[g] = e[g] * load<reals>(w + (2 * t + 1) * ROWS + g * L);
            next[g] = e[g] - rise[g] - stay[g];
            if (t < ROWS) next[g] = lanes_from(g * L) > int(t) ? reals{} : next[g];  // in column 0, before all scores
            sum += next[g];
            store(x + q * ROWS + g * L, next[g]);
          });
          left[t] = next[0][0], up[t] = rise[0][0];
        }
        write(p + i * size, size, t0, x);
      }
      for (int64_t j = 0; j < size; j++) up[j] += j + 1 < size ? left[j + 1] : 0;
      std::fill(up.begin() + size, up.end(), 0.0f);
      for (int l = 0; l < L; l++) matches += sum[l];
    }
    return matches;
  }
};

// Values (B,) and, if wanted, gradients of scores (B, L, L) and of the gap score.
extern "C" __attribute__((visibility("default"))) void needleman_wunsch(int64_t batch, int64_t size, int64_t threads, const float* scores, float gap, float* values, float* gradient, float* of_gap) {
  std::atomic<int64_t> next{0};
  std::vector<double> gaps(batch);
  auto work = [&] {
    Pair pair(size, gradient);
    for (int64_t b; (b = next++) < batch;) {
      const float* s = scores + b * size * size;
      values[b] = float(gradient ? pair.forward<true>(s, gap) : pair.forward<false>(s, gap));
      if (gradient) gaps[b] = 2 * size - 2 * pair.backward(gradient + b * size * size);
    }
  };
  std::vector<std::thread> others;
  for (int64_t k = 1; k < threads; k++) others.emplace_back(work);
  work();
  for (auto& other : others) other.join();
  if (gradient) {
    *of_gap = 0;
    for (double x : gaps) *of_gap += float(x);
  }
}
