// Sweeps over the lattice of two sequences, for a structure that is known to the compiler (recurrence.md).
//
// A strip is some rows of nodes, one a lane; lane r is in column t - r at time t. Messages are numbers with an exponent, so there is no logarithm, and a value may
// be as large or small as it likes; the weights of the moves into a node are quotients of them. Between sweeps only the last row of each strip is kept.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "lanes.h"

enum Where { CORNER, BORDER, ANYWHERE };

// A move as in `spec.py`: source -1 is a start of score 0. A slot is a potential as the structure sees it, slot 0 that of the cells; -1 is score 0.
struct Move {
  int source, target, di, dj, slot;
};

// A potential of one example and its marginals: stride 0 where all rows share it. No pointer: all scores are 0.
struct Slot {
  const void* data;
  void* result;
  int64_t row;
};

namespace {

constexpr int TIMES = 8;  // a block: what is read, transposed and normalised at once
constexpr double LN2 = 0.6931471805599453;

// Messages of one row for each state, (m, e) at each column.
template <class N>
struct Row {
  std::vector<typename N::real> m;
  std::vector<typename N::word> e;
  int64_t width;
  Row(int states, int64_t columns) : m(states * (columns + TIMES), 0), e(states * (columns + TIMES), N::ZERO), width(columns + TIMES) {}
  void clear() {
    std::fill(m.begin(), m.end(), 0);
    std::fill(e.begin(), e.end(), N::ZERO);
  }
};

template <class N, class S>
struct Lattice {
  using real = typename N::real;
  using word = typename N::word;
  using reals = typename N::reals;
  using words = typename N::words;
  static constexpr int L = N::LANES, STATES = S::states, MOVES = S::moves, SLOTS = S::slots, GROUPS = S::states > 1 ? 2 : 4, ROWS = GROUPS * N::LANES;
  static constexpr int Q = 32 / sizeof(real);  // side of the squares that are transposed

  int64_t rows, columns;  // of the arrays
  int64_t n1, n2;         // of the example
  Slot slots[SLOTS];
  Row<N> above, below;
  std::vector<real> weights, ends;        // (MOVES, T, ROWS) and (T, ROWS)
  std::vector<real> pending, arriving;    // (STATES, columns): probabilities that enter a strip from below, and those that leave it
  double widest;                          // largest legal score
  real total_m;
  word total_e;
  int64_t steps;                          // most times of a strip

  Lattice(int64_t rows, int64_t columns)
      : rows(rows), columns(columns), above(STATES, columns + 1 + ROWS), below(STATES, columns + 1 + ROWS), steps((columns + ROWS + TIMES) / TIMES * TIMES) {}

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

  // Groups of lanes that the strip at row `first` needs.
  int groups(int64_t first) const {
    int64_t left = n1 + 1 - first;
    for (int g = 1; g < GROUPS; g *= 2)
      if (left <= g * L) return g;
    return GROUPS;
  }
  template <class F>
  void with_groups(int64_t first, F f) {
    int g = groups(first);
    if (g == 1) f(std::integral_constant<int, 1>());
    else if (g == 2) f(std::integral_constant<int, 2>());
    else f(std::integral_constant<int, GROUPS>());
  }

  // Scores of cells of a block of times, (TIMES, G lanes): forbidden outside of the lattice.
  template <int G>
  INLINE void read_cells(const Slot& slot, int64_t first, int64_t t0, real* x) const {
    constexpr int R = G * L;
    const real* data = (const real*)slot.data;
    for (int r0 = 0; r0 < R; r0 += Q)
      for (int q0 = 0; q0 < TIMES; q0 += Q) {
        int64_t c = t0 + q0 - r0 - 1, i = first + r0;  // column of the first row; node row
        if (n1 == 0 || i > n1 || c + Q <= 0 || c - Q + 1 >= n2) {
          for (int q = 0; q < Q; q++)
            for (int r = 0; r < Q; r++) x[(q0 + q) * R + r0 + r] = real(-1e30);
        } else if (c - Q + 1 >= 0 && c + Q <= n2) {
          typename Square<Q, real>::row square[Q];
          each<Q>([&](auto r) {
            using row = typename Square<Q, real>::row;
            square[r] = i + r > n1 ? row{} - real(1e30) : load<row>(data + std::max(i + r - 1, int64_t(0)) * slot.row + c - r);
          });
          Square<Q, real>::transpose(square);
          each<Q>([&](auto q) { store(x + (q0 + q) * R + r0, square[q]); });
        } else {
          for (int q = 0; q < Q; q++)
            for (int r = 0; r < Q; r++) {
              const int64_t row = i + r - 1, column = c + q - r;
              x[(q0 + q) * R + r0 + r] = row >= 0 && row < n1 && column >= 0 && column < n2 ? data[row * slot.row + column] : real(-1e30);
            }
        }
      }
    if (first == 0)
      for (int q = 0; q < TIMES; q++) x[q * R] = real(-1e30);
  }

  template <int G>
  INLINE void write_cells(const Slot& slot, int64_t first, int64_t t0, const real* x) const {
    constexpr int R = G * L;
    real* data = (real*)slot.result;
    for (int r0 = 0; r0 < R; r0 += Q)
      for (int q0 = 0; q0 < TIMES; q0 += Q) {
        int64_t c = t0 + q0 - r0 - 1, i = first + r0;
        if (i > n1 || c + Q <= 0 || c - Q + 1 >= n2) continue;
        if (c - Q + 1 >= 0 && c + Q <= n2) {
          typename Square<Q, real>::row square[Q];
          each<Q>([&](auto q) { square[q] = load<typename Square<Q, real>::row>(x + (q0 + q) * R + r0); });
          Square<Q, real>::transpose(square);
          each<Q>([&](auto r) {
            if (i + r >= 1 && i + r <= n1) store(data + (i + r - 1) * slot.row + c - r, square[r]);
          });
        } else {
          for (int r = 0; r < Q; r++)
            for (int q = 0; q < Q; q++) {
              int64_t column = c + q - r;
              if (i + r >= 1 && i + r <= n1 && column >= 0 && column < n2) data[(i + r - 1) * slot.row + column] = x[(q0 + q) * R + r0 + r];
            }
        }
      }
  }

  // Messages of a strip from `above`, its last row in `below`; with WEIGH, the weights of all moves and where paths end.
  template <int G, bool WEIGH>
  void advance(int64_t first) {
    constexpr int R = G * L;
    const int64_t times = (n2 + R + TIMES - 1) / TIMES * TIMES, stop = n1 - first;  // lane of the last row
    reals m[STATES][G], up_m[STATES][G], gap_m[SLOTS][G];
    words e[STATES][G], up_e[STATES][G], gap_e[SLOTS][G];
    reals end_m[G];
    words end_e[G];
    reals wide{};
    for (int s = 0; s < STATES; s++)
      for (int g = 0; g < G; g++) m[s][g] = up_m[s][g] = reals{}, e[s][g] = up_e[s][g] = splat_word<N>(N::ZERO);
    for (int g = 0; g < G; g++) end_m[g] = reals{}, end_e[g] = splat_word<N>(N::ZERO);
    for (int k = 1; k < SLOTS; k++) {
      real x[R];
      for (int r = 0; r < R; r++) x[r] = slots[k].data ? ((const real*)slots[k].data)[slots[k].row * (std::min(std::max(first + r, int64_t(1)), std::max(n1, int64_t(1))) - 1)] : real(0);
      for (int g = 0; g < G; g++) {
        reals y = load<reals>(x + g * L);
        exponential<N>(y, gap_m[k][g], gap_e[k][g]);
        y = y > splat<N>(-5e29f) ? y : reals{};
        wide = largest<N>(wide, largest<N>(y, -y));
      }
    }
    reals inverse = splat<N>(real(1) / total_m);
    for (int64_t t0 = 0; t0 < times; t0 += TIMES) {
      alignas(64) real x[TIMES * R];
      alignas(64) word n[TIMES * R];
      read_cells<G>(slots[0], first, t0, x);
      for (int k = 0; k < TIMES * R; k += L) {
        reals y = load<reals>(x + k), p;
        words q;
        exponential<N>(y, p, q);
        y = y > splat<N>(-5e29f) ? y : reals{};
        wide = largest<N>(wide, largest<N>(y, -y));
        store(x + k, p);
        store(n + k, q);
      }
      for (int q = 0; q < TIMES; q++) {
        const int64_t t = t0 + q;
        reals new_m[STATES][G], arrive_m[STATES][G];
        words new_e[STATES][G], arrive_e[STATES][G];
        each<STATES>([&](auto s) {
          each<G>([&](auto g) {
            arrive_m[s][g] = shift_up<N>(g ? m[s][g ? g - 1 : 0] : splat<N>(above.m[s * above.width + t]), m[s][g]);
            arrive_e[s][g] = shift_up<N>(g ? e[s][g ? g - 1 : 0] : splat_word<N>(above.e[s * above.width + t]), e[s][g]);
          });
        });
        each<G>([&](auto g) {
          const reals cell_m = load<reals>(x + q * R + g * L);
          const words cell_e = load<words>(n + q * R + g * L);
          each<STATES>([&](auto b) {
            reals term_m[MOVES];
            words term_e[MOVES];
            words most = splat_word<N>(2 * N::ZERO);
            each<MOVES>([&](auto k) {
              constexpr Move move = S::move[k];
              if constexpr (move.target == b) {
                reals source_m = splat<N>(1);
                words source_e = words{};
                if constexpr (move.source >= 0) {
                  constexpr int a = move.source < 0 ? 0 : move.source;
                  source_m = move.di == 0 ? m[a][g] : move.dj == 0 ? arrive_m[a][g] : up_m[a][g];
                  source_e = move.di == 0 ? e[a][g] : move.dj == 0 ? arrive_e[a][g] : up_e[a][g];
                }
                if constexpr (move.slot == 0 && !S::shared) source_m *= cell_m, source_e += cell_e;
                if constexpr (move.slot > 0) source_m *= gap_m[move.slot][g], source_e += gap_e[move.slot][g];
                term_m[k] = source_m;
                term_e[k] = source_e;
                most = largest<N>(most, source_e);
              }
            });
            reals sum{};
            const words base = most;
            each<MOVES>([&](auto k) {
              if constexpr (S::move[k].target == b) {
                term_m[k] = term_m[k] * power<N>(term_e[k] - base);
                sum += term_m[k];
              }
            });
            if constexpr (WEIGH) {
              reals share = sum > reals{} ? 1 / sum : reals{};
              each<MOVES>([&](auto k) {
                if constexpr (S::move[k].target == b) store(&weights[(k * steps + t) * ROWS + g * L], reals(term_m[k] * share));
              });
            }
            if constexpr (S::shared) sum *= cell_m, most += cell_e;
            new_m[b][g] = sum;
            new_e[b][g] = most;
          });
        });
        if (S::start == CORNER && t == 0 && first == 0) new_m[0][0][0] = 1, new_e[0][0][0] = 0;
        each<STATES>([&](auto s) {
          each<G>([&](auto g) {
            up_m[s][g] = arrive_m[s][g], up_e[s][g] = arrive_e[s][g];
            m[s][g] = new_m[s][g], e[s][g] = new_e[s][g];
          });
          below.m[s * below.width + std::max(t - (R - 1), int64_t(0))] = m[s][G - 1][L - 1];
          below.e[s * below.width + std::max(t - (R - 1), int64_t(0))] = e[s][G - 1][L - 1];
        });
        if constexpr (S::end == CORNER) {
          if (!WEIGH && stop < R && t == n2 + stop) finish<G>(m, e, stop);
        } else {
          each<G>([&](auto g) {
            if constexpr (WEIGH) {
              store(&ends[t * ROWS + g * L], reals(m[0][g] * power<N>(e[0][g] - total_e) * inverse));
            } else {
              words most = largest<N>(end_e[g], e[0][g]);
              end_m[g] = end_m[g] * power<N>(end_e[g] - most) + m[0][g] * power<N>(e[0][g] - most);
              end_e[g] = most;
            }
          });
        }
      }
      each<STATES>([&](auto s) {
        each<G>([&](auto g) {
          normalise<N>(m[s][g], e[s][g]);
          normalise<N>(up_m[s][g], up_e[s][g]);
        });
      });
      if constexpr (S::end == ANYWHERE) each<G>([&](auto g) { normalise<N>(end_m[g], end_e[g]); });
    }
    for (int s = 0; s < STATES; s++)
      for (int64_t j = 0; j <= n2; j += L) {
        reals x = load<reals>(&below.m[s * below.width + j]);
        words y = load<words>(&below.e[s * below.width + j]);
        normalise<N>(x, y);
        store(&below.m[s * below.width + j], x);
        store(&below.e[s * below.width + j], y);
      }
    for (int l = 0; l < L; l++) widest = std::max(widest, double(wide[l]));
    if (S::end == ANYWHERE && !WEIGH)
      for (int g = 0; g < G; g++)
        for (int l = 0; l < L; l++) add_total(end_m[g][l], end_e[g][l]);
  }

  void add_total(real m, word e) {
    if (m == 0) return;
    word most = std::max(e, total_e);
    total_m = real(std::ldexp(double(total_m), int(std::max(total_e - most, word(-2000)))) + std::ldexp(double(m), int(std::max(e - most, word(-2000)))));
    int shift;
    total_m = std::frexp(total_m, &shift);
    total_e = most + shift;
  }

  template <int G>
  void finish(reals (&m)[STATES][G], words (&e)[STATES][G], int64_t r) {
    for (int s = 0; s < STATES; s++) add_total(m[s][r / L][r % L], e[s][r / L][r % L]);
  }

  // The log-partition, or -1e30; `heads` are filled.
  double forward(word* heads) {
    widest = 0, total_m = 0, total_e = N::ZERO;
    above.clear();
    for (int64_t k = 0, first = 0; first <= n1; k++, first += ROWS) {
      with_groups(first, [&](auto g) { advance<g, false>(first); });
      if (first + ROWS <= n1) {
        save(head(heads, k));
        std::swap(above, below);
        for (int s = 0; s < STATES; s++)
          for (int64_t j = n2 + 1; j < above.width; j++) above.m[s * above.width + j] = 0, above.e[s * above.width + j] = N::ZERO;
      }
    }
    return total_m == 0 ? -1e30 : LN2 * double(total_e) + std::log(double(total_m));
  }

  // Whether all exponents were small enough for a word.
  bool in_range() const { return widest * 1.4427 * double(n1 + n2 + 2) < double(N::LARGEST); }

  template <int G>
  void retreat(int64_t first, double (&sums)[SLOTS][ROWS]) {
    constexpr int R = G * L;
    const int64_t times = (n2 + R + TIMES - 1) / TIMES * TIMES, stop = n1 - first;
    reals left[STATES][G], up[STATES][G], diagonal[STATES][G], later[STATES][G];
    for (int s = 0; s < STATES; s++)
      for (int g = 0; g < G; g++) left[s][g] = up[s][g] = diagonal[s][g] = later[s][g] = reals{};
    for (int64_t t0 = times - TIMES; t0 >= 0; t0 -= TIMES) {
      alignas(64) real x[TIMES * R];
      reals gaps[SLOTS][G];
      each<SLOTS>([&](auto k) { each<G>([&](auto g) { gaps[k][g] = reals{}; }); });
      for (int q = TIMES - 1; q >= 0; q--) {
        const int64_t t = t0 + q, from = t - (R - 1);
        reals p[STATES][G], to_left[STATES][G], to_up[STATES][G], to_diagonal[STATES][G];
        each<STATES>([&](auto s) {
          const reals entering = splat<N>(from >= 0 && from <= n2 ? pending[s * (columns + 1) + from] : 0);
          each<G>([&](auto g) {
            constexpr int next = g < G - 1 ? g + 1 : g;
            p[s][g] = left[s][g] + shift_down<N>(reals(up[s][g] + later[s][g]), g < G - 1 ? reals(up[s][next] + later[s][next]) : entering);
            to_left[s][g] = to_up[s][g] = to_diagonal[s][g] = reals{};
          });
        });
        if constexpr (S::end == CORNER) {
          if (stop < R && t == n2 + stop) p[0][stop / L][stop % L] = 1;
        } else {
          each<G>([&](auto g) { p[0][g] += load<reals>(&ends[t * ROWS + g * L]); });
        }
        each<G>([&](auto g) {
          reals cells{};
          each<MOVES>([&](auto k) {
            constexpr Move move = S::move[k];
            const reals u = load<reals>(&weights[(k * steps + t) * ROWS + g * L]) * p[move.target][g];
            if constexpr (move.slot == 0) cells += u;
            if constexpr (move.slot > 0) gaps[move.slot][g] += u;
            if constexpr (move.source >= 0) {
              constexpr int a = move.source < 0 ? 0 : move.source;
              if constexpr (move.di == 0) to_left[a][g] += u;
              else if constexpr (move.dj == 0) to_up[a][g] += u;
              else to_diagonal[a][g] += u;
            }
          });
          store(x + q * R + g * L, cells);
        });
        each<STATES>([&](auto s) {
          arriving[s * (columns + 2) + std::min(t, n2 + 1)] += to_up[s][0][0];
          if (t > 0) arriving[s * (columns + 2) + std::min(t - 1, n2 + 1)] += to_diagonal[s][0][0];
          each<G>([&](auto g) {
            left[s][g] = to_left[s][g], up[s][g] = to_up[s][g];
            later[s][g] = diagonal[s][g], diagonal[s][g] = to_diagonal[s][g];
          });
        });
      }
      write_cells<G>(slots[0], first, t0, x);
      each<SLOTS>([&](auto k) {
        if constexpr (k > 0)
          for (int r = 0; r < R; r++) sums[k][r] += gaps[k][r / L][r % L];
      });
    }
  }

  // Marginals of all slots, from what `forward` has left.
  void backward(const word* heads, double value) {
    const bool some = value > -5e29;
    clear(some);
    if (!some) return;
    weights.resize(MOVES * steps * ROWS);
    if (S::end != CORNER) ends.resize(steps * ROWS);
    pending.assign(STATES * (columns + 1), 0);
    const double exponent = std::floor(value / LN2);
    total_e = word(exponent);
    total_m = real(std::exp(value - exponent * LN2));
    const int64_t last = n1 / ROWS;
    for (int64_t k = last; k >= 0; k--) {
      const int64_t first = k * ROWS;
      if (k > 0) restore(head(const_cast<word*>(heads), k - 1));
      else above.clear();
      arriving.assign(STATES * (columns + 2), 0);
      double sums[SLOTS][ROWS] = {};
      with_groups(first, [&](auto g) {
        advance<g, true>(first);
        retreat<g>(first, sums);
      });
      for (int s = 0; s < STATES; s++) memcpy(&pending[s * (columns + 1)], &arriving[s * (columns + 2)], (n2 + 1) * sizeof(real));
      for (int slot = 1; slot < SLOTS; slot++)
        if (slots[slot].result) add_gaps(slots[slot], first, sums[slot]);
    }
  }

  void add_gaps(const Slot& slot, int64_t first, const double* sums) const {
    double all = 0;
    for (int64_t r = 0; r < ROWS && first + r <= n1; r++) {
      if (slot.row) ((real*)slot.result)[slot.row * (std::min(std::max(first + r, int64_t(1)), std::max(n1, int64_t(1))) - 1)] += real(sums[r]);
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
