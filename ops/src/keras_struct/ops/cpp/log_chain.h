// A linear chain in log space, at any range: messages are pairs of doubles that stand for their exact sum (messages.py, linear_chain/portable.py).
#pragma once
#include "scaled_chain.h"

namespace {

template <class real>
struct LogChain {
  using N = Double;
  using reals = N::reals;
  static constexpr int L = N::LANES;

  int64_t steps, tags, width, vectors;
  bool over_time;
  const real* scores = nullptr;
  Array<double> table, tangents;               // (tags, width): scores of transitions, and their tangents
  Array<double> high, low, da, dc;             // (steps, width)
  Array<double> peak, rest, p, dp, pairs, rows;  // (width), and sums of rows in lanes
  double end_peak, end_top, end_total;

  LogChain(int64_t steps, int64_t tags, bool over_time) : steps(steps), tags(tags), width((tags + L - 1) / L * L), vectors(width / L), over_time(over_time) {}

  void allocate() {
    if (!high.empty()) return;
    for (auto* x : {&table, &tangents, &pairs}) x->assign(tags * width, FORBIDDEN);
    for (auto* x : {&high, &low, &da, &dc}) x->resize(steps * width);
    for (auto* x : {&peak, &rest, &p, &dp}) x->resize(width);
    rows.resize(2 * tags * L);
  }

  void read(Array<double>& to, const real* from, int64_t t) const {
    if (over_time) from += t * tags * tags;
    for (int64_t i = 0; i < tags; i++)
      for (int64_t j = 0; j < tags; j++) to[i * width + j] = from[i * tags + j];
  }
  void read(const Example<real>& e, int64_t t) {
    if (over_time || scores != e.transitions) read(table, e.transitions, t);
    scores = e.transitions;
  }

  static INLINE reals decay(reals x) { return x < splat<N>(-700) ? reals{} : weight<N>(x); }

  // Log-weight of tag i before the tags of a vector, over the best one.
  INLINE reals logit(int64_t t, int64_t i, int64_t v, reals peak) const {
    const reals x = splat<N>(high[t * width + i]), y = load<reals>(&table[i * width + v * L]);
    const reals sum = x + y, part = sum - x, error = (x - (sum - part)) + (y - part);
    return (sum - peak) + (error + splat<N>(low[t * width + i]));
  }
  INLINE void extremes(int64_t t, int64_t v, reals& peak, reals& top, reals& sum) const {
    peak = top = splat<N>(16 * FORBIDDEN);
    for (int64_t i = 0; i < tags; i++) peak = largest<N>(peak, splat<N>(high[t * width + i]) + load<reals>(&table[i * width + v * L]));
    for (int64_t i = 0; i < tags; i++) top = largest<N>(top, logit(t, i, v, peak));
    sum = reals{};
    for (int64_t i = 0; i < tags; i++) sum += decay(logit(t, i, v, peak) - top);
  }

  // high + low = peak + rest + score, low being below the rounding of high.
  void join(int64_t t, int64_t j, double peak, double rest, double score) {
    const double sum = peak + score, part = sum - peak, error = ((peak - (sum - part)) + (score - part)) + rest;
    high[t * width + j] = sum + error;
    low[t * width + j] = (sum - high[t * width + j]) + error;
  }

  void messages(const Example<real>& e) {
    allocate();
    scores = nullptr;
    for (int64_t j = 0; j < tags; j++) join(0, j, 0, 0, e.unary[j]);
    for (int64_t t = 0; t + 1 < e.length; t++) {
      read(e, t);
      for (int64_t v = 0; v < vectors; v++) {
        reals most, top, sum;
        extremes(t, v, most, top, sum);
        store(&peak[v * L], most);
        for (int l = 0; l < L; l++) rest[v * L + l] = top[l] + std::log(sum[l]);
      }
      for (int64_t j = 0; j < tags; j++) join(t + 1, j, peak[j], rest[j], e.unary[(t + 1) * tags + j]);
    }
    const double *h = &high[(e.length - 1) * width], *l = &low[(e.length - 1) * width];
    end_peak = *std::max_element(h, h + tags), end_top = 16 * FORBIDDEN, end_total = 0;
    for (int64_t j = 0; j < tags; j++) end_top = std::max(end_top, (h[j] - end_peak) + l[j]);
    for (int64_t j = 0; j < tags; j++) end_total += std::exp(((h[j] - end_peak) + l[j]) - end_top);
  }

  void forward(const Example<real>& e) {
    messages(e);
    ExactSum total;
    total.add(end_peak), total.add(end_top), total.add(std::log(end_total));
    total.write(e.high, e.low);
    if (end_peak < LEGAL) *e.kind = IMPOSSIBLE;
  }

  // Probabilities of the last tags.
  void ends(int64_t t) {
    for (int64_t j = 0; j < tags; j++) p[j] = std::exp(((high[t * width + j] - end_peak) + low[t * width + j]) - end_top) / end_total;
  }

  void write(real* to, const Array<double>& from) const {
    for (int64_t i = 0; i < tags; i++)
      for (int64_t j = 0; j < tags; j++) to[i * tags + j] = real(from[i * width + j]);
  }

  // f(i, v, weights of tag i before the tags of a vector) at a step.
  template <class F>
  INLINE void with_weights(int64_t t, F f) {
    for (int64_t v = 0; v < vectors; v++) {
      reals most, top, sum;
      extremes(t, v, most, top, sum);
      for (int64_t i = 0; i < tags; i++) f(i, v, reals(decay(logit(t, i, v, most) - top) / sum));
    }
  }

  void backward(const Example<real>& e) {
    messages(e);
    std::fill(pairs.begin(), pairs.end(), 0);
    for (int64_t t = e.length - 1; t >= 0; t--) {
      if (t + 1 == e.length) ends(t);
      else {
        read(e, t);
        std::fill(rows.begin(), rows.end(), 0);
        with_weights(t, [&](int64_t i, int64_t v, reals w) {
          const reals x = w * load<reals>(&p[v * L]), before = over_time ? reals{} : load<reals>(&pairs[i * width + v * L]);
          store(&pairs[i * width + v * L], reals(before + x));
          store(&rows[i * L], reals(load<reals>(&rows[i * L]) + x));
        });
        for (int64_t i = 0; i < tags; i++) p[i] = sum_of<N>(load<reals>(&rows[i * L]));
        if (over_time) write(e.of_transitions + t * tags * tags, pairs);
      }
      for (int64_t j = 0; j < tags; j++) e.of_unary[t * tags + j] = real(p[j]);
    }
    if (!over_time) write(e.of_transitions, pairs);
  }

  void rates_forward(const Example<real>& e) {
    if (!over_time) read(tangents, e.transitions_tangent, 0);
    std::fill(dc.begin(), dc.end(), 0);
    for (int64_t t = 0; t < e.length; t++) {
      const double *h = &high[t * width], *l = &low[t * width], peak = *std::max_element(h, h + tags);
      double total = 0, mean = 0, top = 16 * FORBIDDEN;
      for (int64_t j = 0; j < tags; j++) top = std::max(top, (h[j] - peak) + l[j]);
      for (int64_t j = 0; j < tags; j++) {
        const double w = std::exp(((h[j] - peak) + l[j]) - top), rate = double(e.unary_tangent[t * tags + j]) + (t ? dc[(t - 1) * width + j] : 0);
        da[t * width + j] = rate, total += w, mean += w * rate;
      }
      for (int64_t j = 0; j < tags; j++) da[t * width + j] -= mean / total;
      if (t + 1 == e.length) break;
      read(e, t);
      if (over_time) read(tangents, e.transitions_tangent, t);
      with_weights(t, [&](int64_t i, int64_t v, reals w) {
        double* to = &dc[t * width + v * L];
        store(to, reals(load<reals>(to) + w * (splat<N>(da[t * width + i]) + load<reals>(&tangents[i * width + v * L]))));
      });
    }
  }

  void curvature(const Example<real>& e) {
    messages(e);
    rates_forward(e);
    std::fill(pairs.begin(), pairs.end(), 0);
    for (int64_t t = e.length - 1; t >= 0; t--) {
      if (t + 1 == e.length) {
        ends(t);
        double mean = 0;
        for (int64_t j = 0; j < tags; j++) mean += p[j] * da[t * width + j];
        for (int64_t j = 0; j < tags; j++) dp[j] = p[j] * (da[t * width + j] - mean);
      } else {
        read(e, t);
        if (over_time) read(tangents, e.transitions_tangent, t);
        std::fill(rows.begin(), rows.end(), 0);
        with_weights(t, [&](int64_t i, int64_t v, reals w) {
          const reals rate = splat<N>(da[t * width + i]) + load<reals>(&tangents[i * width + v * L]) - load<reals>(&dc[t * width + v * L]);
          const reals x = w * load<reals>(&p[v * L]), slope = w * load<reals>(&dp[v * L]) + x * rate, before = over_time ? reals{} : load<reals>(&pairs[i * width + v * L]);
          store(&pairs[i * width + v * L], reals(before + slope));
          store(&rows[2 * i * L], reals(load<reals>(&rows[2 * i * L]) + x));
          store(&rows[(2 * i + 1) * L], reals(load<reals>(&rows[(2 * i + 1) * L]) + slope));
        });
        for (int64_t i = 0; i < tags; i++) p[i] = sum_of<N>(load<reals>(&rows[2 * i * L])), dp[i] = sum_of<N>(load<reals>(&rows[(2 * i + 1) * L]));
        if (over_time) write(e.of_transitions + t * tags * tags, pairs);
      }
      for (int64_t j = 0; j < tags; j++) e.of_unary[t * tags + j] = real(dp[j]);
    }
    if (!over_time) write(e.of_transitions, pairs);
  }
};

}  // namespace
