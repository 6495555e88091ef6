// Sums over all tag sequences of linear chains, marginals, curvature and best sequences.
#include <numeric>

#include "best_chain.h"
#include "log_chain.h"

// The arguments of a sweep, as `cpp/__init__.py` declares them. A stride of 0 is an axis that is shared.
struct ChainCall {
  int64_t batch, steps, tags, threads, sweep;
  int64_t stride, over_time;  // of the transitions: from one example to the next; whether they differ over time
  const int32_t* lengths;     // (B,)
  const void *unary, *transitions;
  const void *unary_tangent, *transitions_tangent;
  void* sums;                 // (B, N, K); for best sequences the scores of prefixes, in doubles
  void* shifts;               // (B, N, 2)
  int32_t* kinds;             // (B,)
  void *high, *low;           // (B,)
  void *of_unary, *of_transitions;  // marginals or products
  int32_t* events;            // (B, N)
};

namespace {

enum { VALUE, MARGINALS, PRODUCTS, BEST, EVENTS };

template <class real>
struct Chains {
  using N = std::conditional_t<std::is_same<real, float>::value, Single, Double>;
  const ChainCall& call;
  const int64_t square = call.tags * call.tags, matrices = call.over_time ? call.steps - 1 : 1;
  ScaledChain<N> scaled{call.steps, call.tags, bool(call.over_time)};
  LogChain<real> exact{call.steps, call.tags, bool(call.over_time)};
  FlushToZero flush;

  explicit Chains(const ChainCall& call) : call(call) {}

  template <class T> static T* at(T* array, int64_t index) { return array ? array + index : nullptr; }

  Example<real> example(int64_t b) const {
    const int64_t row = call.steps * call.tags, size = square * matrices;
    Example<real> e{};
    e.length = call.lengths[b];
    e.unary = (const real*)call.unary + b * row, e.unary_end = (const real*)call.unary + call.batch * row;
    e.transitions = (const real*)call.transitions + b * call.stride;
    e.transitions_end = (const real*)call.transitions + (call.stride ? call.batch * call.stride : size);
    e.sums = at((real*)call.sums, b * row), e.shifts = at((real*)call.shifts, b * call.steps * 2);
    e.kind = call.kinds + b;
    e.high = at((real*)call.high, b), e.low = at((real*)call.low, b);
    e.unary_tangent = at((const real*)call.unary_tangent, b * row), e.transitions_tangent = at((const real*)call.transitions_tangent, b * size);
    e.of_unary = at((real*)call.of_unary, b * row), e.of_transitions = at((real*)call.of_transitions, b * size);
    return e;
  }

  void clear(const Example<real>& e) const {
    const int64_t tags = call.tags, n = *e.kind == IMPOSSIBLE ? 0 : e.length;
    std::fill(e.of_unary + n * tags, e.of_unary + call.steps * tags, real(0));
    if (n < 2) std::fill_n(e.of_transitions, square * matrices, real(0));
    else if (call.over_time) std::fill(e.of_transitions + (n - 1) * square, e.of_transitions + matrices * square, real(0));
  }

  // Some examples at a time, that share their transitions.
  template <int X>
  void run(const int64_t* examples, int64_t count) {
    Example<real> e[X] = {}, in_range[X] = {};
    for (int64_t x = 0; x < count; x++) {
      in_range[x] = e[x] = example(examples[x]);
      if (call.sweep == VALUE) *e[x].kind = SCALED, *e[x].high = *e[x].low = 0;
      else clear(e[x]);
      if (*e[x].kind != SCALED) in_range[x].length = 0;
    }
    if (call.sweep == VALUE) scaled.template forward<X>(in_range);
    else if (call.sweep == MARGINALS) scaled.template backward<X>(in_range);
    for (int64_t x = 0; x < count; x++) {
      if (call.sweep == PRODUCTS) scaled.curvature(in_range[x]);
      if (*e[x].kind == EXACT) call.sweep == VALUE ? exact.forward(e[x]) : call.sweep == MARGINALS ? exact.backward(e[x]) : exact.curvature(e[x]);
      if (call.sweep == VALUE && *e[x].kind == IMPOSSIBLE) *e[x].high = real(FORBIDDEN), *e[x].low = 0;
    }
  }
};

template <class real>
void sums(const ChainCall& call) {
  // Examples of similar lengths go together, long ones first.
  std::vector<int64_t> order(call.batch);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return call.lengths[a] > call.lengths[b]; });
  constexpr int X = ScaledChain<typename Chains<real>::N>::MOST;
  const bool several = call.stride == 0 && !call.over_time && call.sweep != PRODUCTS && call.batch >= X * call.threads;
  const int64_t size = several ? X : 1;
  in_parallel(
      (call.batch + size - 1) / size, call.threads, [&] { return Chains<real>(call); },
      [&](auto& chains, int64_t k) {
        const int64_t count = std::min(size, call.batch - k * size);
        several ? chains.template run<X>(&order[k * size], count) : chains.template run<1>(&order[k * size], count);
      });
}

template <class real>
void best(const ChainCall& call) {
  in_parallel(
      call.batch, call.threads, [&] { return BestChain<real>(call.steps, call.tags, call.over_time); },
      [&](auto& chain, int64_t b) {
        const int64_t row = call.steps * call.tags, length = call.lengths[b];
        const real *unary = (const real*)call.unary + b * row, *transitions = (const real*)call.transitions + b * call.stride;
        double* kept = (double*)call.sums + b * row;
        if (call.sweep == EVENTS) return chain.trace(transitions, length, kept, call.events + b * call.steps);
        const double value = length ? chain.forward(unary, transitions, length, kept) : 0;
        real* high = (real*)call.high + b;
        *high = real(value);
        ((real*)call.low)[b] = real(value - double(*high));
      });
}

}  // namespace

EXPORTED int64_t chain(const ChainCall* call, int64_t wide) {
  if (call->sweep >= BEST) wide ? best<double>(*call) : best<float>(*call);
  else wide ? sums<double>(*call) : sums<float>(*call);
  return 0;
}
