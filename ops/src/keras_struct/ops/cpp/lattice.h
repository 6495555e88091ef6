// Sweeps over the lattice of two sequences, for a structure that is known to the compiler (recurrence.md).
//
// A strip is some rows of nodes, one a lane; lane r is in column t - r at time t. Messages are numbers with an exponent, so there is no logarithm, and a value may
// be as large or small as it likes; the weights of the moves into a node are quotients of them. Between sweeps only the last row of each strip is kept.
#pragma once
#include <cmath>
#include <vector>

#include "frame.h"

enum Sweep { VALUE, STORED_WEIGHTS, TANGENT, STORED_TANGENT };

namespace {

// Messages of one row for each state, m * 2^e at each column, and their tangents d.
template <class N>
struct Row {
  std::vector<typename N::real> m, d;
  std::vector<typename N::word> e;
  int64_t width;
  Row(int states, int64_t columns) : m(states * (columns + TIMES), 0), d(m), e(states * (columns + TIMES), N::ZERO), width(columns + TIMES) {}
  void clear() {
    std::fill(m.begin(), m.end(), 0);
    std::fill(d.begin(), d.end(), 0);
    std::fill(e.begin(), e.end(), N::ZERO);
  }
};

template <class N, class S>
struct Lattice : Frame<typename N::real> {
  using Frame<typename N::real>::columns, Frame<typename N::real>::rows, Frame<typename N::real>::n1, Frame<typename N::real>::n2;
  using Frame<typename N::real>::start, Frame<typename N::real>::end;
  using real = typename N::real;
  using word = typename N::word;
  using reals = typename N::reals;
  using words = typename N::words;
  static constexpr int L = N::LANES, STATES = S::states, MOVES = S::moves, SLOTS = S::slots, GROUPS = S::states > 1 ? 2 : 4, ROWS = GROUPS * N::LANES;

  // Whether all moves into a state have the score of the cell: it is multiplied once.
  static constexpr bool shared(int state) {
    for (int k = 0; k < MOVES; k++)
      if (S::move[k].target == state && S::move[k].slot != 0) return false;
    return true;
  }

  Slot slots[SLOTS], tangents[SLOTS];
  Row<N> above, below;
  std::vector<real> weights, slopes;              // (MOVES, T, ROWS): of every move into a node, and the tangent of its term
  std::vector<real> nodes;                        // (STATES, T, ROWS): tangents of messages
  std::vector<real> ends, end_slopes;             // (STATES, T, ROWS): probabilities that a path ends, and their tangents
  std::vector<real> pending[2], arriving[2];      // (STATES, columns): probabilities, and tangents, that a strip gets from below and those that leave it above
  std::vector<real> rates;                        // (K - 1, STATES, width): tangents in the last row of every strip
  double widest;                                  // largest legal score
  double slope_of_total;
  real total_m, total_d;                          // the sum over all paths, and the tangent of the log-partition
  word total_e;
  int64_t steps;                                  // most times of a strip

  Lattice(int64_t rows, int64_t columns)
      : Frame<real>(rows, columns), above(STATES, columns + 1 + ROWS), below(STATES, columns + 1 + ROWS), steps((columns + ROWS + TIMES) / TIMES * TIMES) {}

  static int64_t strips(int64_t rows) { return rows / ROWS + 1; }

  // Lengths of an example; what the strips keep, (strips - 1, STATES, 2, columns + 1).
  word* head(word* heads, int64_t k) const { return heads + k * STATES * 2 * (columns + 1); }

  void save(word* head) const {
    for (int s = 0; s < STATES; s++) {
      memcpy(head + (2 * s) * (columns + 1), &below.m[s * below.width], (n2 + 1) * sizeof(word));
      memcpy(head + (2 * s + 1) * (columns + 1), &below.e[s * below.width], (n2 + 1) * sizeof(word));
    }
  }
  void restore(const word* head) {
    for (int s = 0; s < STATES; s++) {
      memcpy(&above.m[s * above.width], head + (2 * s) * (columns + 1), (n2 + 1) * sizeof(word));
      memcpy(&above.e[s * above.width], head + (2 * s + 1) * (columns + 1), (n2 + 1) * sizeof(word));
      for (int64_t j = n2 + 1; j < above.width; j++) above.m[s * above.width + j] = 0, above.e[s * above.width + j] = N::ZERO;
    }
  }

  // f(groups of lanes) that the strip at row `first` needs; doubles, which are for tests and the careful, have one program.
  template <class F>
  void with_groups(int64_t first, F f) {
    constexpr int FEW = std::max(1, Frame<real>::Q / L);
    if constexpr (std::is_same<N, Single>::value)
      if (n1 + 1 - first <= FEW * L) return f(std::integral_constant<int, FEW>());
    f(std::integral_constant<int, GROUPS>());
  }

  static INLINE words lanes_of(int g) {
    words lane;
    for (int l = 0; l < L; l++) lane[l] = g * L + l;
    return lane;
  }
  // Whether paths may end at time t in some lane of a strip.
  INLINE bool ends_at(int64_t first, int64_t height, int64_t t) const {
    return end == ANYWHERE || (end == CORNER ? t == n2 + n1 - first && n1 - first < height : n1 - first < height || t >= n2);
  }
  // The lanes in which they do.
  INLINE words end_lanes(int64_t first, int64_t t, int g) const {
    const words lane = lanes_of(g), row = lane + word(first), column = word(t) - lane;
    if (end == CORNER) return (row == word(n1)) & (column == word(n2));
    const words inside = (row > 0) & (row <= word(n1)) & (column > 0) & (column <= word(n2));
    return end == ANYWHERE ? inside : inside & ((row == word(n1)) | (column == word(n2)));
  }
  // Whether paths start in some lane, besides by moves from START.
  INLINE bool starts_at(int64_t first, int64_t height, int64_t t) const {
    return start == CORNER ? first == 0 && t == 0 : start == BORDER && (first == 0 || t < height);
  }
  INLINE words start_lanes(int64_t first, int64_t t, int g, words& border) const {
    const words lane = lanes_of(g), row = lane + word(first), column = word(t) - lane;
    if (start == CORNER) return border = (row == 0) & (column == 0);
    border = (row == 0) | (column == 0);
    return border & (n1 > 0 && n2 > 0 ? (row < word(n1)) & (column < word(n2)) : words{});
  }

  // Gaps of the lanes of a strip.
  template <int G>
  INLINE void read_gaps(int64_t first, const Slot* from, reals (&x)[SLOTS][G]) const {
    for (int k = 1; k < SLOTS; k++) {
      alignas(64) real row[G * L];
      for (int r = 0; r < G * L; r++) row[r] = this->gap(from[k], first + r);
      for (int g = 0; g < G; g++) x[k][g] = load<reals>(row + g * L);
    }
  }
  static INLINE void note(reals x, reals& wide) {
    x = x > splat<N>(-5e29f) ? x : reals{};
    wide = largest<N>(wide, largest<N>(x, -x));
  }

  // One strip forward, from `above` (and `above_d`) to `below`.
  template <int G, Sweep W>
  void advance(int64_t first) {
    constexpr int R = G * L;
    constexpr bool WEIGHTS = W != VALUE, TANGENTS = W == TANGENT || W == STORED_TANGENT, STORED = W == STORED_WEIGHTS || W == STORED_TANGENT;
    const int64_t times = (n2 + R + TIMES - 1) / TIMES * TIMES;
    reals m[STATES][G], up_m[STATES][G], gap_m[SLOTS][G], d[STATES][G], up_d[STATES][G], gap_d[SLOTS][G], end_m[G], wide{};
    words e[STATES][G], up_e[STATES][G], gap_e[SLOTS][G], end_e[G];
    const words lowest = splat_word<N>(N::ZERO);
    each<STATES>([&](auto s) {
      each<G>([&](auto g) {
        m[s][g] = up_m[s][g] = d[s][g] = up_d[s][g] = reals{}, e[s][g] = up_e[s][g] = lowest;
      });
    });
    each<G>([&](auto g) { end_m[g] = reals{}, end_e[g] = lowest; });
    {
      reals x[SLOTS][G];
      read_gaps<G>(first, slots, x);
      if (TANGENTS) read_gaps<G>(first, tangents, gap_d);
      for (int k = 1; k < SLOTS; k++)
        for (int g = 0; g < G; g++) exponential<N>(x[k][g], gap_m[k][g], gap_e[k][g]), note(x[k][g], wide);
    }
    const reals inverse = splat<N>(real(1) / total_m), always = splat<N>(start == ANYWHERE ? 1 : 0);
    const words always_e = splat_word<N>(start == ANYWHERE ? 0 : N::FORBIDDEN);
    for (int64_t t0 = 0; t0 < times; t0 += TIMES) {
      alignas(64) real x[TIMES * R], dx[TANGENTS ? TIMES * R : 1];
      alignas(64) word n[TIMES * R];
      this->template read_cells<R>(slots[0], first, t0, x, real(-1e30));
      if (TANGENTS) this->template read_cells<R>(tangents[0], first, t0, dx, 0);
      for (int k = 0; k < TIMES * R; k += L) {
        const reals y = load<reals>(x + k);
        reals p;
        words q;
        exponential<N>(y, p, q);
        if (W == VALUE) note(y, wide);
        store(x + k, p);
        store(n + k, q);
      }
      for (int q = 0; q < TIMES; q++) {
        const int64_t t = t0 + q;
        reals new_m[STATES][G], arrive_m[STATES][G], new_d[STATES][G], arrive_d[STATES][G];
        words new_e[STATES][G], arrive_e[STATES][G];
        each<STATES>([&](auto s) {
          each<G>([&](auto g) {
            constexpr int before = g ? g - 1 : 0;
            arrive_m[s][g] = shift_up<N>(g ? m[s][before] : splat<N>(above.m[s * above.width + t]), m[s][g]);
            arrive_e[s][g] = shift_up<N>(g ? e[s][before] : splat_word<N>(above.e[s * above.width + t]), e[s][g]);
            if constexpr (TANGENTS) arrive_d[s][g] = shift_up<N>(g ? d[s][before] : splat<N>(above.d[s * above.width + t]), d[s][g]);
          });
        });
        const bool starts = starts_at(first, R, t);
        each<G>([&](auto g) {
          const reals cell_m = load<reals>(x + q * R + g * L);
          const words cell_e = load<words>(n + q * R + g * L);
          words border{}, legal{};
          if (starts) legal = start_lanes(first, t, g, border);
          each<STATES>([&](auto b) {
            reals term[MOVES], sum{}, slope{};
            words exponent[MOVES], most = splat_word<N>(2 * N::ZERO);
            each<MOVES>([&](auto k) {
              constexpr Move move = S::move[k];
              if constexpr (move.target == b) {
                term[k] = always, exponent[k] = always_e;
                if constexpr (move.source >= 0) {
                  constexpr int a = move.source < 0 ? 0 : move.source;
                  term[k] = move.di == 0 ? m[a][g] : move.dj == 0 ? arrive_m[a][g] : up_m[a][g];
                  exponent[k] = move.di == 0 ? e[a][g] : move.dj == 0 ? arrive_e[a][g] : up_e[a][g];
                }
                if constexpr (move.slot == 0 && !shared(b)) term[k] *= cell_m, exponent[k] += cell_e;
                if constexpr (move.slot > 0) term[k] *= gap_m[move.slot][g], exponent[k] += gap_e[move.slot][g];
                most = largest<N>(most, exponent[k]);
              }
            });
            const words base = most - N::BIAS;
            each<MOVES>([&](auto k) {
              if constexpr (S::move[k].target == b) term[k] *= power<N>(exponent[k] - base), sum += term[k];
            });
            if constexpr (WEIGHTS) {
              reals share = sum > reals{} ? 1 / sum : reals{};
              if (starts) share = border ? reals{} : share;
              if constexpr (!TANGENTS) {
                // Products with the reciprocal add up to 1 or less, never to more: what is missing would add up along a path.
                reals missing = splat<N>(1);
                each<MOVES>([&](auto k) {
                  if constexpr (S::move[k].target == b) term[k] *= share, missing -= term[k];
                });
                each<MOVES>([&](auto k) {
                  if constexpr (S::move[k].target == b) term[k] += term[k] * missing;
                });
              }
              each<MOVES>([&](auto k) {
                constexpr Move move = S::move[k];
                if constexpr (move.target == b) {
                  // A quotient is exactly 1 where one term is all, so that the tangent of a certain path has no noise.
                  if constexpr (TANGENTS) term[k] = share > reals{} ? term[k] / sum : reals{};
                  if constexpr (TANGENTS) {
                    reals tangent{};
                    if constexpr (move.source >= 0) {
                      constexpr int a = move.source < 0 ? 0 : move.source;
                      tangent = move.di == 0 ? d[a][g] : move.dj == 0 ? arrive_d[a][g] : up_d[a][g];
                    }
                    if constexpr (move.slot == 0) tangent += load<reals>(dx + q * R + g * L);
                    if constexpr (move.slot > 0) tangent += gap_d[move.slot][g];
                    slope += term[k] * tangent;
                    if constexpr (STORED) store(&slopes[(k * steps + t) * ROWS + g * L], tangent);
                  }
                  if constexpr (STORED) store(&weights[(k * steps + t) * ROWS + g * L], term[k]);
                }
              });
              if constexpr (TANGENTS) new_d[b][g] = slope;
              if constexpr (W == STORED_TANGENT) store(&nodes[(b * steps + t) * ROWS + g * L], slope);
            }
            if constexpr (shared(b)) sum *= cell_m, most += cell_e;
            if (starts) {
              const words here = b == 0 ? legal : words{};
              sum = border ? (here ? splat<N>(1) : reals{}) : sum;
              most = border ? (here ? words{} : lowest) : most;
            }
            new_m[b][g] = sum;
            new_e[b][g] = most;
          });
        });
        each<STATES>([&](auto s) {
          const int64_t j = std::max(t - (R - 1), int64_t(0)) + s * below.width;
          each<G>([&](auto g) {
            up_m[s][g] = arrive_m[s][g], up_e[s][g] = arrive_e[s][g];
            m[s][g] = new_m[s][g], e[s][g] = new_e[s][g];
            if constexpr (TANGENTS) up_d[s][g] = arrive_d[s][g], d[s][g] = new_d[s][g];
          });
          below.m[j] = m[s][G - 1][L - 1];
          below.e[j] = e[s][G - 1][L - 1];
          if constexpr (TANGENTS) below.d[j] = d[s][G - 1][L - 1];
        });
        if (ends_at(first, R, t)) {
          each<G>([&](auto g) {
            // Elsewhere state 0 of the cells is zero already.
            const words here = end == ANYWHERE ? ~words{} : end_lanes(first, t, g);
            each<STATES>([&](auto s) {
              if (s > 0 && end == ANYWHERE) return;
              if constexpr (W == VALUE) {
                const words there = here ? e[s][g] : lowest, most = largest<N>(end_e[g], there), base = most - N::BIAS;
                end_m[g] = end_m[g] * power<N>(end_e[g] - base) + (here ? m[s][g] : reals{}) * power<N>(there - base);
                end_e[g] = most;
              } else {
                reals p = m[s][g] * power<N>(e[s][g] - total_e + N::BIAS) * inverse;
                p = here ? p : reals{};
                if constexpr (W == TANGENT) end_m[g] += p * d[s][g];
                if constexpr (STORED) store(&ends[(s * steps + t) * ROWS + g * L], p);
                if constexpr (W == STORED_TANGENT) store(&end_slopes[(s * steps + t) * ROWS + g * L], reals(p * (d[s][g] - total_d)));
              }
            });
          });
        }
      }
      each<STATES>([&](auto s) {
        each<G>([&](auto g) {
          normalise<N>(m[s][g], e[s][g]);
          normalise<N>(up_m[s][g], up_e[s][g]);
        });
      });
      if (W == VALUE && end != CORNER) each<G>([&](auto g) { normalise<N>(end_m[g], end_e[g]); });
      if constexpr (W == TANGENT) {
        each<G>([&](auto g) {
          for (int l = 0; l < L; l++) slope_of_total += end_m[g][l];
          end_m[g] = reals{};
        });
      }
    }
    for (int s = 0; s < STATES; s++)
      for (int64_t j = 0; j <= n2; j += L) {
        reals x = load<reals>(&below.m[s * below.width + j]);
        words y = load<words>(&below.e[s * below.width + j]);
        normalise<N>(x, y);
        store(&below.m[s * below.width + j], x);
        store(&below.e[s * below.width + j], y);
      }
    if (W == VALUE) {
      for (int l = 0; l < L; l++) widest = std::max(widest, double(wide[l]));
      each<G>([&](auto g) {
        for (int l = 0; l < L; l++) add_total(end_m[g][l], end_e[g][l]);
      });
    }
  }

  void add_total(real m, word e) {
    if (m == 0) return;
    word most = std::max(e, total_e);
    total_m = real(std::ldexp(double(total_m), int(std::max(total_e - most, word(-2000)))) + std::ldexp(double(m), int(std::max(e - most, word(-2000)))));
    int shift;
    total_m = std::frexp(total_m, &shift);
    total_e = most + shift;
  }

  // The sum over all paths, mantissa and exponent; fills `heads`.
  void forward(word* heads, double* total) {
    widest = 0, total_m = 0, total_e = N::ZERO;
    if (this->empty) add_total(1, 0);
    above.clear();
    for (int64_t k = 0, first = 0; first <= n1; k++, first += ROWS) {
      with_groups(first, [&](auto g) { advance<g, VALUE>(first); });
      if (first + ROWS <= n1) {
        save(head(heads, k));
        swap();
      }
    }
    total[0] = total_m, total[1] = double(total_e);
  }

  // What a strip has left is above the next one.
  void swap() {
    std::swap(above, below);
    for (int s = 0; s < STATES; s++)
      for (int64_t j = s * above.width + n2 + 1; j < (s + 1) * above.width; j++) above.m[j] = above.d[j] = 0, above.e[j] = N::ZERO;
  }

  // Whether all exponents were small enough for a word.
  bool in_range() const { return widest * 1.4427 * double(n1 + n2 + 2) < double(N::LARGEST); }

  // One strip back, with what `advance` has stored; marginals of the gaps of its lanes in `sums`. With C, products of the Hessian in their place.
  template <int G, bool C>
  void retreat(int64_t first, double (&sums)[SLOTS][ROWS]) {
    constexpr int R = G * L;
    const int64_t times = (n2 + R + TIMES - 1) / TIMES * TIMES;
    constexpr int V = C ? 2 : 1;  // probabilities, and their tangents
    reals left[V][STATES][G], up[V][STATES][G], diagonal[V][STATES][G], later[V][STATES][G];
    each<V>([&](auto v) {
      each<STATES>([&](auto s) {
        each<G>([&](auto g) { left[v][s][g] = up[v][s][g] = diagonal[v][s][g] = later[v][s][g] = reals{}; });
      });
    });
    for (int64_t t0 = times - TIMES; t0 >= 0; t0 -= TIMES) {
      alignas(64) real x[TIMES * R];
      reals gaps[SLOTS][G];
      each<SLOTS>([&](auto k) { each<G>([&](auto g) { gaps[k][g] = reals{}; }); });
      for (int q = TIMES - 1; q >= 0; q--) {
        const int64_t t = t0 + q, from = t - (R - 1);
        const bool ending = ends_at(first, R, t);
        reals p[V][STATES][G], to_left[V][STATES][G], to_up[V][STATES][G], to_diagonal[V][STATES][G];
        each<V>([&](auto v) {
          each<STATES>([&](auto s) {
            const reals entering = splat<N>(from >= 0 && from <= n2 ? pending[v][s * (columns + 2) + from] : 0);
            each<G>([&](auto g) {
              constexpr int next = g < G - 1 ? g + 1 : g;
              const reals after = g < G - 1 ? reals(up[v][s][next] + later[v][s][next]) : entering;
              p[v][s][g] = left[v][s][g] + shift_down<N>(reals(up[v][s][g] + later[v][s][g]), after);
              to_left[v][s][g] = to_up[v][s][g] = to_diagonal[v][s][g] = reals{};
            });
          });
        });
        if (ending) {
          each<STATES>([&](auto s) {
            if (s > 0 && end == ANYWHERE) return;
            each<G>([&](auto g) {
              p[0][s][g] += load<reals>(&ends[(s * steps + t) * ROWS + g * L]);
              if constexpr (C) p[V - 1][s][g] += load<reals>(&end_slopes[(s * steps + t) * ROWS + g * L]);
            });
          });
        }
        each<G>([&](auto g) {
          reals cells{};
          each<MOVES>([&](auto k) {
            constexpr Move move = S::move[k];
            const reals w = load<reals>(&weights[(k * steps + t) * ROWS + g * L]);
            reals u[V];
            u[0] = w * p[0][move.target][g];
            if constexpr (C) u[V - 1] = w * p[V - 1][move.target][g] + u[0] * (load<reals>(&slopes[(k * steps + t) * ROWS + g * L]) - load<reals>(&nodes[(move.target * steps + t) * ROWS + g * L]));
            if constexpr (move.slot == 0) cells += u[V - 1];
            if constexpr (move.slot > 0) gaps[move.slot][g] += u[V - 1];
            each<V>([&](auto v) {
              if constexpr (move.source >= 0) {
                constexpr int a = move.source < 0 ? 0 : move.source;
                if constexpr (move.di == 0) to_left[v][a][g] += u[v];
                else if constexpr (move.dj == 0) to_up[v][a][g] += u[v];
                else to_diagonal[v][a][g] += u[v];
              }
            });
          });
          store(x + q * R + g * L, cells);
        });
        each<V>([&](auto v) {
          each<STATES>([&](auto s) {
            real* row = &arriving[v][s * (columns + 2)];
            row[std::min(t, n2 + 1)] += to_up[v][s][0][0];
            if (t > 0) row[std::min(t - 1, n2 + 1)] += to_diagonal[v][s][0][0];
            each<G>([&](auto g) {
              left[v][s][g] = to_left[v][s][g], up[v][s][g] = to_up[v][s][g];
              later[v][s][g] = diagonal[v][s][g], diagonal[v][s][g] = to_diagonal[v][s][g];
            });
          });
        });
      }
      this->template write_cells<R>(slots[0], first, t0, x);
      each<SLOTS>([&](auto k) {
        if constexpr (k > 0)
          each<G>([&](auto g) {
            for (int l = 0; l < L; l++) sums[k][g * L + l] += gaps[k][g][l];
          });
      });
    }
  }

  // Marginals of all slots, from what `forward` has left, or the products of the Hessian with `tangents`.
  template <bool C>
  void back(const word* heads, const double* total) {
    clear(total[0] > 0);
    if (total[0] == 0) return;
    weights.resize(MOVES * steps * ROWS), ends.resize(STATES * steps * ROWS);
    if (C) slopes.resize(MOVES * steps * ROWS), nodes.resize(STATES * steps * ROWS), end_slopes.resize(STATES * steps * ROWS);
    total_m = real(total[0]), total_e = word(total[1]);
    const int64_t last = n1 / ROWS, width = STATES * above.width;
    if (C) {
      slope_of_total = 0;
      rates.resize(last * width);
      above.clear();
      for (int64_t k = 0; k <= last; k++) {
        with_groups(k * ROWS, [&](auto g) { advance<g, TANGENT>(k * ROWS); });
        swap();
        if (k < last) std::copy(above.d.begin(), above.d.begin() + width, rates.begin() + k * width);
      }
      total_d = real(slope_of_total);
    }
    for (auto& row : pending) row.assign(STATES * (columns + 2), 0);
    for (int64_t k = last; k >= 0; k--) {
      const int64_t first = k * ROWS;
      above.clear();
      if (k > 0) {
        restore(head(const_cast<word*>(heads), k - 1));
        if (C) std::copy(rates.begin() + (k - 1) * width, rates.begin() + k * width, above.d.begin());
      }
      for (auto& row : arriving) row.assign(STATES * (columns + 2), 0);
      double sums[SLOTS][ROWS] = {};
      with_groups(first, [&](auto g) {
        advance<g, C ? STORED_TANGENT : STORED_WEIGHTS>(first);
        retreat<g, C>(first, sums);
      });
      for (int v = 0; v < 2; v++) std::swap(pending[v], arriving[v]);
      for (int slot = 1; slot < SLOTS; slot++)
        if (slots[slot].result) add_gaps(slots[slot], first, sums[slot]);
    }
  }

  void add_gaps(const Slot& slot, int64_t first, const double* sums) const {
    double all = 0;
    for (int64_t r = 0; r < ROWS && first + r <= n1; r++) {
      if (slot.row) ((real*)slot.result)[slot.row * this->row_of(first + r)] += real(sums[r]);
      else all += sums[r];
    }
    if (!slot.row) *(real*)slot.result += real(all);
  }

  void clear(bool some) const {
    real* cells = (real*)slots[0].result;
    for (int64_t i = 0; i < rows; i++) {
      const int64_t used = some && i < n1 ? n2 : 0;
      std::fill(cells + i * slots[0].row + used, cells + i * slots[0].row + columns, real(0));
    }
    for (int k = 1; k < SLOTS; k++)
      if (slots[k].result) std::fill((real*)slots[k].result, (real*)slots[k].result + (slots[k].row ? rows : 1), real(0));
  }
};

}  // namespace
