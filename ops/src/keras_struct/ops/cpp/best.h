// The best path of every structure on the lattice: strips as in `lattice.h`, in double precision whatever the scores are, so that sums decide and not their rounding.
#pragma once
#include <vector>

#include "frame.h"

namespace {

// Of scores that are `real`, for a structure.
template <class real, class S>
struct Best : Frame<real> {
  using N = Double;
  using reals = N::reals;
  using words = N::words;
  using Frame<real>::columns, Frame<real>::n1, Frame<real>::n2, Frame<real>::start, Frame<real>::end;
  static constexpr int L = N::LANES, STATES = S::states, MOVES = S::moves, SLOTS = S::slots, GROUPS = std::max(Frame<real>::Q / L, STATES > 1 ? 2 : 4), ROWS = GROUPS * L;
  static constexpr double NEVER = -1e30, INFEASIBLE = -5e29;

  Slot slots[SLOTS];
  int64_t width, steps;
  std::vector<double> above, below;  // (STATES, width), the row above a strip, and its last one
  std::vector<int64_t> choices;      // (STATES, T, ROWS): the best move into a node
  double best;
  int64_t i, j, state;               // where the best path ends; -1 for i if nowhere, or for the empty one

  Best(int64_t rows, int64_t columns)
      : Frame<real>(rows, columns), width(columns + ROWS + 2 * TIMES), steps((columns + ROWS + TIMES) / TIMES * TIMES), above(STATES * width), below(STATES * width) {}

  static INLINE words lanes_of(int g) {
    words lane;
    for (int l = 0; l < L; l++) lane[l] = g * L + l;
    return lane;
  }

  // Lanes where paths start in state 0, of the `border` that no move enters.
  INLINE words start_lanes(int64_t first, int64_t t, int g, words& border) const {
    const words lane = lanes_of(g), row = lane + first, column = t - lane;
    if (start == CORNER) return border = (row == 0) & (column == 0);
    border = (row == 0) | (column == 0);
    return border & (n1 > 0 && n2 > 0 ? (row < n1) & (column < n2) : words{});
  }
  // Lanes where they end.
  INLINE words end_lanes(int64_t first, int64_t t, int g) const {
    const words lane = lanes_of(g), row = lane + first, column = t - lane;
    if (end == CORNER) return (row == n1) & (column == n2);
    const words inside = (row > 0) & (row <= n1) & (column > 0) & (column <= n2);
    return end == ANYWHERE ? inside : inside & ((row == n1) | (column == n2));
  }

  // One strip forward; with STORED its choices, else the best end so far.
  template <bool STORED>
  void advance(int64_t first) {
    const int64_t times = (n2 + ROWS + TIMES - 1) / TIMES * TIMES;
    reals f[STATES][GROUPS], up[STATES][GROUPS], gaps[SLOTS][GROUPS], peak[STATES][GROUPS];
    words when[STATES][GROUPS];
    const reals never = splat<N>(NEVER), start_score = splat<N>(start == ANYWHERE ? 0 : NEVER);
    each<STATES>([&](auto s) {
      each<GROUPS>([&](auto g) { f[s][g] = up[s][g] = never, peak[s][g] = splat<N>(INFEASIBLE), when[s][g] = words{}; });
    });
    for (int k = 1; k < SLOTS; k++)
      for (int g = 0; g < GROUPS; g++)
        for (int l = 0; l < L; l++) gaps[k][g][l] = this->gap(slots[k], first + g * L + l);
    for (int64_t t0 = 0; t0 < times; t0 += TIMES) {
      alignas(64) real given[TIMES * ROWS];
      this->template read_cells<ROWS>(slots[0], first, t0, given, real(NEVER));
      for (int q = 0; q < TIMES; q++) {
        const int64_t t = t0 + q;
        reals next[STATES][GROUPS], arrive[STATES][GROUPS];
        each<STATES>([&](auto s) {
          each<GROUPS>([&](auto g) { arrive[s][g] = shift_up<N>(g ? f[s][g ? g - 1 : 0] : splat<N>(above[s * width + t]), f[s][g]); });
        });
        const bool starts = start == CORNER ? first == 0 && t == 0 : start == BORDER && (first == 0 || t < ROWS);
        each<GROUPS>([&](auto g) {
          typedef real some __attribute__((vector_size(L * sizeof(real))));
          const reals cells = __builtin_convertvector(load<some>(given + q * ROWS + g * L), reals);
          each<STATES>([&](auto b) {
            reals top = splat<N>(4 * NEVER);
            words choice{};
            each<MOVES>([&](auto k) {
              constexpr Move move = S::move[k];
              if constexpr (move.target == b) {
                reals x = start_score;
                if constexpr (move.source >= 0) {
                  constexpr int a = move.source < 0 ? 0 : move.source;
                  x = move.di == 0 ? f[a][g] : move.dj == 0 ? arrive[a][g] : up[a][g];
                }
                if constexpr (move.slot == 0) x += cells;
                if constexpr (move.slot > 0) x += gaps[move.slot][g];
                const auto better = x > top;
                top = better ? x : top;
                if constexpr (STORED) choice = better ? splat_word<N>(k) : choice;
              }
            });
            if (starts) {
              words border;
              const words legal = start_lanes(first, t, g, border);
              top = border ? (legal && b == 0 ? reals{} : never) : top;
            }
            next[b][g] = largest<N>(top, never);
            if constexpr (STORED) store(&choices[(b * steps + t) * ROWS + g * L], choice);
          });
        });
        each<STATES>([&](auto s) {
          each<GROUPS>([&](auto g) { up[s][g] = arrive[s][g], f[s][g] = next[s][g]; });
          below[s * width + std::max(t - (ROWS - 1), int64_t(0))] = f[s][GROUPS - 1][L - 1];
        });
        if (!STORED && (end == ANYWHERE || n1 - first < ROWS || (end == BORDER && t >= n2)))
          each<GROUPS>([&](auto g) {
            const words here = end_lanes(first, t, g);
            each<STATES>([&](auto s) {
              if (s > 0 && end == ANYWHERE) return;
              const words better = here & (f[s][g] > peak[s][g]);
              peak[s][g] = better ? f[s][g] : peak[s][g];
              when[s][g] = better ? splat_word<N>(t) : when[s][g];
            });
          });
      }
    }
    if (!STORED)
      for (int s = 0; s < STATES; s++)
        for (int g = 0; g < GROUPS; g++)
          for (int l = 0; l < L; l++) {
            const int64_t row = first + g * L + l, column = when[s][g][l] - g * L - l;
            // Among equals the earliest, as the strips have it.
            if (peak[s][g][l] > best || (peak[s][g][l] == best && i >= 0 && row + column < i + j)) best = peak[s][g][l], i = row, j = column, state = s;
          }
  }

  void clear(std::vector<double>& row, int64_t from) {
    for (int s = 0; s < STATES; s++) std::fill(row.begin() + s * width + from, row.begin() + (s + 1) * width, NEVER);
  }

  // The score of the best path, and where it ends; the last rows of strips in `heads`, (K - 1, STATES, columns + 1).
  double forward(double* heads, int32_t* last) {
    best = INFEASIBLE, i = -1, j = state = 0;
    clear(above, 0);
    for (int64_t k = 0, first = 0; first <= n1; k++, first += ROWS) {
      advance<false>(first);
      if (first + ROWS > n1) break;
      std::swap(above, below);
      clear(above, n2 + 1);
      for (int s = 0; s < STATES; s++) std::copy_n(&above[s * width], n2 + 1, heads + (k * STATES + s) * (columns + 1));
    }
    if (this->empty && best < 0) best = 0, i = -1;
    last[0] = i, last[1] = j, last[2] = state;
    return best > INFEASIBLE ? best : NEVER;
  }

  // The nodes of the path that ends at `last`, by their time i + j, or i; -1 elsewhere.
  void trace(const double* heads, const int32_t* last, bool by_rows, int32_t* places, int64_t count) {
    std::fill_n(places, count, -1);
    if (last[0] < 0) return;
    choices.resize(STATES * steps * ROWS);
    i = last[0], j = last[1], state = last[2];
    for (int64_t k = i / ROWS; k >= 0; k--) {
      const int64_t first = k * ROWS;
      clear(above, 0);
      for (int s = 0; s < STATES && k > 0; s++) std::copy_n(heads + ((k - 1) * STATES + s) * (columns + 1), n2 + 1, &above[s * width]);
      advance<true>(first);
      while (i >= first) {
        places[by_rows ? i : i + j] = int32_t(by_rows ? j : i);
        if (start == ANYWHERE ? state < 0 : start == CORNER ? i + j == 0 : i == 0 || j == 0) return;
        const Move& move = S::move[choices[(state * steps + j + i - first) * ROWS + i - first]];
        i -= move.di, j -= move.dj, state = move.source;
      }
    }
  }
};

}  // namespace
