// A linear chain in plain numbers: products of matrices, with a power of two for every step (linear_chain/recurrence.md).
//
// a[t] are the sums over all prefixes by their last tag, the largest from 1 to 2; sums[t] = a[t] E, where E are the weights of transitions over the best one into a tag, are kept
// between sweeps, and so are the shifts of a step: the score that weights of tags are over, and the power of two. As long as none of them is below LOWEST, no digit depends on what is flushed to zero; other examples are left to `log_chain.h`.
#pragma once
#include "weights.h"

enum Kind { SCALED, EXACT, IMPOSSIBLE };

namespace {

template <class N> constexpr typename N::real LOWEST = std::is_same<N, Single>::value ? 1e-25 : 1e-270;
// Scores whose last digit is a part of 1 at most; of larger ones, what is rounded off a sum would be larger than 1.
template <class N> constexpr typename N::real PRECISE = std::is_same<N, Single>::value ? 0x1p20 : 0x1p49;
// Products of small sums and small weights are lifted by a power of two until they are scaled.
template <class N> constexpr int LIFT = std::is_same<N, Single>::value ? 100 : 900;

// What a call has for one example.
template <class real>
struct Example {
  int64_t length;
  const real *unary, *unary_end;              // (N, K), and the end of the array that it is part of
  const real *transitions, *transitions_end;  // (1 or N - 1, K, K)
  real *sums, *shifts;                        // (N, K), (N, 2)
  int32_t* kind;
  real *high, *low;
  const real *unary_tangent, *transitions_tangent;
  real *of_unary, *of_transitions;  // results
};

// Weights of the transitions of one step.
template <class N>
struct Table {
  using real = typename N::real;
  using reals = typename N::reals;
  static constexpr int L = N::LANES;

  int64_t tags, width;
  const real *scores = nullptr, *end = nullptr;
  bool restricted = false;           // whether some are forbidden
  Array<real> into, weights, back;   // scores of the best one into each tag; weights over it, [from, to], and [to, from]

  explicit Table(int64_t tags) : tags(tags), width((tags + L - 1) / L * L), into(width), weights(tags * width), back(tags * width) {}

  INLINE Row<N> row(int64_t i) const { return {scores + i * tags, end, tags, real(FORBIDDEN)}; }

  void read(const real* from, const real* until, bool both) {
    if (from == scores) return;
    scores = from, end = until;
    reals least{};
    for (int64_t v = 0; v < width / L; v++) {
      reals most = splat<N>(real(4 * FORBIDDEN));
      for (int64_t i = 0; i < tags; i++) {
        const reals x = row(i)[v];
        most = largest<N>(most, x);
        least = smallest<N>(least, Row<N>{scores + i * tags, end, tags, 0}[v]);
      }
      store(&into[v * L], most);
      for (int64_t i = 0; i < tags; i++) store(&weights[i * width + v * L], weight<N>(row(i)[v], -most, reals{}));
    }
    restricted = lowest_of<N>(least) < LEGAL;
    for (int64_t i = 0; both && i < tags; i++)
      for (int64_t j = 0; j < tags; j++) back[j * width + i] = weights[i * width + j];
  }
  bool allows(int64_t i, int64_t j) const { return !(scores[i * tags + j] < LEGAL); }
};

template <class N>
struct ScaledChain {
  using real = typename N::real;
  using word = typename N::word;
  using reals = typename N::reals;
  using words = typename N::words;
  static constexpr int L = N::LANES, TIMES = 16, MOST = 4;  // steps whose products are added at once; examples at a time

  static constexpr real LIFTED = std::is_same<N, Single>::value ? 0x1p100 : 0x1p900;

  int64_t steps, tags, width, vectors;
  bool over_time;
  Table<N> table, other;
  Array<real> zeros, a, y, p, r, alive;                     // (examples, width)
  Array<real> left, right, pairs;                           // (examples, TIMES, width), (examples, tags, width)
  Array<real> slopes, rates, gains, da, dp, dr;             // of tangents

  ScaledChain(int64_t steps, int64_t tags, bool over_time)
      : steps(steps), tags(tags), width((tags + L - 1) / L * L), vectors(width / L), over_time(over_time), table(tags), other(over_time ? tags : 0), zeros(width), a(MOST * width),
        y(MOST * width), p(MOST * width), r(MOST * width), alive(MOST * width), left(MOST * TIMES * width), right(MOST * TIMES * width), pairs(MOST * tags * width) {}

  INLINE Row<N> row(const real* data, const real* end, int64_t t, double otherwise = 0) const { return {data + t * tags, end, tags, real(otherwise)}; }
  INLINE Row<N> sums_of(const Example<real>& e, int64_t t) const { return row(e.sums, e.sums + steps * tags, t); }
  void read(Table<N>& table, const Example<real>& e, int64_t t, bool both) const {
    table.read(e.transitions + (over_time ? t * tags * tags : 0), e.transitions_end, both);
  }

  // The weights of tags at a time over the best one, whose score with that of the best transition into it is returned.
  INLINE real emit(const Example<real>& e, int64_t t, const Array<real>& best, real* x) const {
    const Row<N> scores = row(e.unary, e.unary_end, t, FORBIDDEN);
    const real* into = t ? best.data() : zeros.data();
    reals most = splat<N>(real(4 * FORBIDDEN));
    for (int64_t v = 0; v < vectors; v++) most = largest<N>(most, scores[v] + load<reals>(into + v * L));
    const real centre = e.shifts[2 * t] = highest_of<N>(most);
    for (int64_t v = 0; v < vectors; v++) store(x + v * L, weight<N>(scores[v], load<reals>(into + v * L), splat<N>(centre)));
    return centre;
  }

  // a[t], in place of the weights of tags, from the sums of the step before; returns the power of two that was taken out.
  INLINE int64_t scale(const Example<real>& e, int64_t t, const real* sums, real* a) const {
    reals most{};
    for (int64_t v = 0; v < vectors; v++) {
      const reals product = load<reals>(sums + v * L) * LIFTED * load<reals>(a + v * L);
      most = largest<N>(most, product);
      store(a + v * L, product);
    }
    const int64_t exponent = (bits_of<N>(splat<N>(highest_of<N>(most)))[0] >> N::BITS) - N::BIAS;
    const real factor = e.shifts[2 * t + 1] = power<N>(splat_word<N>(word(N::BIAS - exponent)))[0];
    for (int64_t v = 0; v < vectors; v++) store(a + v * L, reals(load<reals>(a + v * L) * factor));
    return exponent - LIFT<N>;
  }

  // Whether sums that are too small are those of tags that no prefix reaches; `alive` says which those are.
  bool all_unreached(const real* sums, const real* x, real* alive) const {
    Array<real> next(width);
    for (int64_t j = 0; j < tags; j++) {
      if (!(x[j] > 0)) continue;
      next[j] = 1;
      if (sums[j] >= LOWEST<N>) continue;
      for (int64_t i = 0; i < tags; i++)
        if (alive[i] > 0 && table.allows(i, j)) return false;
      next[j] = 0;
    }
    std::copy(next.begin(), next.end(), alive);
    return true;
  }

  template <int X>
  void forward(const Example<real>* e) {
    ExactSum total[X];
    int64_t exponent[X], left[X], longest = 0;  // `left` steps: none once it is known that it is not scaled
    reals least[X];
    for (int x = 0; x < X; x++) {
      left[x] = e[x].length, exponent[x] = 0, least[x] = splat<N>(1);
      if (!left[x]) continue;
      *e[x].kind = SCALED;
      if (!over_time) read(table, e[x], 0, false);
      const real centre = emit(e[x], 0, table.into, &a[x * width]);
      total[x].add(centre);
      std::copy_n(&a[x * width], width, &alive[x * width]);
      if (centre < LEGAL) *e[x].kind = IMPOSSIBLE, left[x] = 0;
      else if (!(std::abs(centre) <= PRECISE<N>)) *e[x].kind = EXACT, left[x] = 0;
      longest = std::max(longest, left[x]);
    }
    for (int64_t t = 0; t + 1 < longest; t++) {
      if (over_time) read(table, e[0], t, false);
      product<N, X>(a.data(), table.weights.data(), tags, width, y.data());
      for (int x = 0; x < X; x++) {
        if (t + 1 >= left[x]) continue;
        const real* sums = &y[x * width];
        real* own = &a[x * width];
        const real centre = emit(e[x], t + 1, table.into, own);
        total[x].add(centre);
        reals low = splat<N>(1);
        for (int64_t v = 0; v < vectors; v++) {
          const reals s = load<reals>(sums + v * L);
          store_row<N>(e[x].sums + t * tags, tags, v, s);
          low = load<reals>(own + v * L) > reals{} ? smallest<N>(low, s) : low;
        }
        const bool careful = over_time || table.restricted;  // some prefix may not exist
        if (centre < LEGAL) *e[x].kind = IMPOSSIBLE, left[x] = 0;
        else if (!(std::abs(centre) <= PRECISE<N>)) *e[x].kind = EXACT, left[x] = 0;
        else if (!careful) least[x] = smallest<N>(least[x], low);
        else if (lowest_of<N>(low) >= LOWEST<N>) std::copy_n(own, width, &alive[x * width]);
        else if (!all_unreached(sums, own, &alive[x * width])) *e[x].kind = EXACT, left[x] = 0;
        if (!left[x]) continue;
        exponent[x] += scale(e[x], t + 1, sums, own);
        if (careful && !(*std::max_element(own, own + tags) >= 1)) *e[x].kind = impossible(&alive[x * width]) ? IMPOSSIBLE : EXACT, left[x] = 0;
      }
    }
    for (int x = 0; x < X; x++) {
      if (!e[x].length) continue;
      if (left[x] && !(lowest_of<N>(least[x]) >= LOWEST<N>)) *e[x].kind = EXACT, left[x] = 0;
      if (!left[x]) continue;
      double sum = 0;
      for (int64_t j = 0; j < tags; j++) sum += a[x * width + j];
      total[x].add_product(double(exponent[x]), 0.6931471805599453);
      total[x].low += double(exponent[x]) * 2.3190468138462996e-17;
      total[x].add(std::log(sum));
      total[x].write(e[x].high, e[x].low);
    }
  }
  bool impossible(const real* alive) const {
    return std::all_of(alive, alive + tags, [](real x) { return x == 0; });
  }

  // a[t] as the forward sweep had it.
  INLINE void again(const Example<real>& e, int64_t t, const Array<real>& best, real* a) const {
    const Row<N> scores = row(e.unary, e.unary_end, t, FORBIDDEN), sums = sums_of(e, t ? t - 1 : 0);
    const real* into = t ? best.data() : zeros.data();
    const real factor = e.shifts[2 * t + 1];
    for (int64_t v = 0; v < vectors; v++) {
      const reals x = weight<N>(scores[v], load<reals>(into + v * L), splat<N>(e.shifts[2 * t]));
      store(a + v * L, t ? reals(sums[v] * LIFTED * x * factor) : x);
    }
  }

  // p[t] = a[t] q, divided by its sum, into the marginals.
  INLINE void finish(const Example<real>& e, int64_t t, const real* a, const real* q, real* p) const {
    reals sum{};
    for (int64_t v = 0; v < vectors; v++) {
      const reals x = q ? load<reals>(a + v * L) * load<reals>(q + v * L) : load<reals>(a + v * L);
      sum += x;
      store(p + v * L, x);
    }
    const reals share = splat<N>(1 / sum_of<N>(sum));
    for (int64_t v = 0; v < vectors; v++) {
      const reals x = load<reals>(p + v * L) * share;
      store(p + v * L, x);
      if (e.of_unary) store_row<N>(e.of_unary + t * tags, tags, v, x);
    }
  }

  // p[t + 1] over the sums of step t.
  INLINE void divide(const Example<real>& e, int64_t t, const real* p, real* r) const {
    const Row<N> sums = sums_of(e, t);
    for (int64_t v = 0; v < vectors; v++) {
      const reals s = sums[v], x = load<reals>(p + v * L);
      store(r + v * L, s > reals{} ? reals(x / s) : reals{});
    }
  }

  template <int X>
  void backward(const Example<real>* e) {
    if (over_time) return backward_over_time(e[0]);
    int64_t longest = 0;
    for (int x = 0; x < X; x++) longest = std::max(longest, e[x].length);
    if (!longest) return;
    read(table, e[0], 0, true);
    std::fill(pairs.begin(), pairs.end(), 0);
    std::fill(r.begin(), r.end(), 0);
    int64_t kept = 0;
    auto add = [&] {
      for (int x = 0; x < X; x++) add_outer<N>(&left[x * TIMES * width], &right[x * TIMES * width], kept, tags, width, &pairs[x * tags * width]);
      kept = 0;
    };
    for (int64_t t = longest - 1; t >= 0; t--) {
      for (int x = 0; x < X; x++)
        if (t + 1 < e[x].length) divide(e[x], t, &p[x * width], &r[x * width]);
      product<N, X>(r.data(), table.back.data(), tags, width, y.data());
      for (int x = 0; x < X; x++) {
        if (t < e[x].length) {
          again(e[x], t, table.into, &a[x * width]);
          finish(e[x], t, &a[x * width], t + 1 < e[x].length ? &y[x * width] : nullptr, &p[x * width]);
          std::copy_n(&a[x * width], width, &left[(x * TIMES + kept) * width]);
        } else {
          std::fill_n(&left[(x * TIMES + kept) * width], width, real(0));
        }
        std::copy_n(&r[x * width], width, &right[(x * TIMES + kept) * width]);
      }
      if (++kept == TIMES) add();
    }
    add();
    for (int x = 0; x < X; x++)
      if (e[x].length)
        for (int64_t i = 0; i < tags; i++)
          for (int64_t v = 0; v < vectors; v++)
            store_row<N>(e[x].of_transitions + i * tags, tags, v, reals(load<reals>(&pairs[(x * tags + i) * width + v * L]) * load<reals>(&table.weights[i * width + v * L])));
  }

  void backward_over_time(const Example<real>& e) {
    for (int64_t t = e.length - 1; t >= 0; t--) {  // `table` leads into t + 1, `other` into t
      std::swap(table, other);
      if (t > 0) read(other, e, t - 1, false);
      again(e, t, other.into, a.data());
      if (t + 1 < e.length) {
        divide(e, t, p.data(), r.data());
        for (int64_t i = 0; i < tags; i++) {
          reals sum{};
          for (int64_t v = 0; v < vectors; v++) {
            const reals x = load<reals>(&table.weights[i * width + v * L]) * load<reals>(&r[v * L]);
            sum += x;
            store_row<N>(e.of_transitions + (t * tags + i) * tags, tags, v, reals(x * a[i]));
          }
          y[i] = sum_of<N>(sum);
        }
      }
      finish(e, t, a.data(), t + 1 < e.length ? y.data() : nullptr, p.data());
    }
  }

  // Weights times tangents of scores, of one step.
  void read_slopes(const Example<real>& e, int64_t t, const Table<N>& table) {
    const int64_t square = tags * tags;
    const real *tangents = e.transitions_tangent + (over_time ? t * square : 0), *end = e.transitions_tangent + (over_time ? (steps - 1) * square : square);
    slopes.resize(tags * width);
    for (int64_t i = 0; i < tags; i++)
      for (int64_t v = 0; v < vectors; v++) store(&slopes[i * width + v * L], reals(load<reals>(&table.weights[i * width + v * L]) * row(tangents, end, i)[v]));
  }

  // Tangents of a[t] over a[t], less their mean, and of log sums of the steps between.
  void rates_forward(const Example<real>& e) {
    const real* end = e.unary_tangent + steps * tags;
    rates.resize(steps * width), gains.resize(steps * width), da.resize(width), dp.resize(width), dr.resize(width);
    for (int64_t t = 0; t < e.length; t++) {
      again(e, t, table.into, a.data());
      reals sum{}, mean{};
      for (int64_t v = 0; v < vectors; v++) {
        const reals x = load<reals>(&a[v * L]), rate = row(e.unary_tangent, end, t)[v] + (t ? load<reals>(&gains[(t - 1) * width + v * L]) : reals{});
        sum += x, mean += x * rate;
        store(&rates[t * width + v * L], rate);
      }
      const reals centre = splat<N>(sum_of<N>(mean) / sum_of<N>(sum));
      for (int64_t v = 0; v < vectors; v++) {
        const reals rate = load<reals>(&rates[t * width + v * L]) - centre;
        store(&rates[t * width + v * L], rate);
        store(&da[v * L], reals(load<reals>(&a[v * L]) * rate));
      }
      if (t + 1 == e.length) break;
      if (over_time || t == 0) read(table, e, t, false), read_slopes(e, t, table);
      product<N, 1>(da.data(), table.weights.data(), tags, width, &gains[t * width]);
      product<N, 1>(a.data(), slopes.data(), tags, width, y.data());
      for (int64_t v = 0; v < vectors; v++) {
        const reals s = sums_of(e, t)[v], gain = load<reals>(&gains[t * width + v * L]) + load<reals>(&y[v * L]);
        store(&gains[t * width + v * L], s > reals{} ? reals(gain / s) : reals{});
      }
    }
  }

  void curvature(const Example<real>& given) {
    if (!given.length) return;
    Example<real> e = given;
    e.of_unary = nullptr;
    rates_forward(e);
    std::fill(pairs.begin(), pairs.begin() + tags * width, 0);
    for (int64_t t = e.length - 1; t >= 0; t--) {  // `table` leads into t + 1, `other` into t
      if (over_time) {
        std::swap(table, other);
        if (t > 0) read(other, e, t - 1, false);
      }
      again(e, t, over_time ? other.into : table.into, a.data());
      const bool last = t + 1 == e.length;
      if (!last) {
        if (over_time) read_slopes(e, t, table);
        divide(e, t, p.data(), r.data());
        for (int64_t v = 0; v < vectors; v++) {
          const reals s = sums_of(e, t)[v], x = load<reals>(&dp[v * L]) - load<reals>(&p[v * L]) * load<reals>(&gains[t * width + v * L]);
          store(&dr[v * L], s > reals{} ? reals(x / s) : reals{});
        }
        for (int64_t i = 0; i < tags; i++) {
          const real own = a[i], rate = rates[t * width + i];
          reals sum{}, slope{};
          for (int64_t v = 0; v < vectors; v++) {
            const reals w = load<reals>(&table.weights[i * width + v * L]), used = load<reals>(&r[v * L]);
            const reals x = own * (w * (load<reals>(&dr[v * L]) + rate * used) + load<reals>(&slopes[i * width + v * L]) * used);
            sum += w * used, slope += x;
            if (over_time) store_row<N>(e.of_transitions + (t * tags + i) * tags, tags, v, x);
            else store(&pairs[i * width + v * L], reals(load<reals>(&pairs[i * width + v * L]) + x));
          }
          y[i] = sum_of<N>(sum), dp[i] = sum_of<N>(slope);
        }
      }
      finish(e, t, a.data(), last ? nullptr : y.data(), p.data());
      reals mean{};
      for (int64_t v = 0; last && v < vectors; v++) mean += load<reals>(&p[v * L]) * load<reals>(&rates[t * width + v * L]);
      const reals centre = splat<N>(sum_of<N>(mean));
      for (int64_t v = 0; v < vectors; v++) {
        if (last) store(&dp[v * L], reals(load<reals>(&p[v * L]) * (load<reals>(&rates[t * width + v * L]) - centre)));
        store_row<N>(given.of_unary + t * tags, tags, v, load<reals>(&dp[v * L]));
      }
    }
    for (int64_t i = 0; !over_time && i < tags; i++)
      for (int64_t v = 0; v < vectors; v++) store_row<N>(given.of_transitions + i * tags, tags, v, load<reals>(&pairs[i * width + v * L]));
  }
};

}  // namespace
