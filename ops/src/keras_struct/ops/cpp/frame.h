// What all sweeps know of an example: its lengths, its scores, and how a strip of rows reads and writes them.
#pragma once
#include <algorithm>

#include "lanes.h"

enum Where { CORNER, BORDER, ANYWHERE };

// A move as in `spec.py`: source -1 is a start of score 0. A slot is a potential as the structure sees it, slot 0 that of the cells; -1 is score 0.
struct Move {
  int source, target, di, dj, slot;
};

// A potential of one example and its marginals: stride 0 where all rows share it. Without data it is the same number everywhere.
struct Slot {
  const void* data;
  void* result;
  int64_t row;
  double otherwise;
};

namespace {

constexpr int TIMES = 8;  // a block: what is read, transposed and normalised at once

// Of numbers as they are given.
template <class real>
struct Frame {
  static constexpr int Q = 32 / sizeof(real);  // side of the squares that are transposed

  int64_t rows, columns;  // of the arrays
  int64_t n1, n2;         // of the example
  Where start, end;
  bool empty;             // whether there is one more path, of score 0

  Frame(int64_t rows, int64_t columns) : rows(rows), columns(columns) {}

  // Scores of cells of a block of times, (TIMES, R), and what is outside of the lattice.
  template <int R>
  INLINE void read_cells(const Slot& slot, int64_t first, int64_t t0, real* x, real outside) const {
    const real* data = (const real*)slot.data;
    for (int r0 = 0; r0 < R; r0 += Q)
      for (int q0 = 0; q0 < TIMES; q0 += Q) {
        int64_t c = t0 + q0 - r0 - 1, i = first + r0;  // column of the first row; node row
        if (n1 == 0 || i > n1 || c + Q <= 0 || c - Q + 1 >= n2) {
          for (int q = 0; q < Q; q++)
            for (int r = 0; r < Q; r++) x[(q0 + q) * R + r0 + r] = outside;
        } else if (c - Q + 1 >= 0 && c + Q <= n2) {
          typename Square<Q, real>::row square[Q];
          each<Q>([&](auto r) {
            using row = typename Square<Q, real>::row;
            square[r] = i + r > n1 ? row{} + outside : load<row>(data + std::max(i + r - 1, int64_t(0)) * slot.row + c - r);
          });
          Square<Q, real>::transpose(square);
          each<Q>([&](auto q) { store(x + (q0 + q) * R + r0, square[q]); });
        } else {
          for (int q = 0; q < Q; q++)
            for (int r = 0; r < Q; r++) {
              const int64_t row = i + r - 1, column = c + q - r;
              x[(q0 + q) * R + r0 + r] = row >= 0 && row < n1 && column >= 0 && column < n2 ? data[row * slot.row + column] : outside;
            }
        }
      }
    if (first == 0)
      for (int q = 0; q < TIMES; q++) x[q * R] = outside;
  }

  template <int R>
  INLINE void write_cells(const Slot& slot, int64_t first, int64_t t0, const real* x) const {
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

  // The row of a potential that a row of nodes reads.
  INLINE int64_t row_of(int64_t i) const { return std::min(std::max(i, int64_t(1)), std::max(n1, int64_t(1))) - 1; }

  // The score of a gap in a row of nodes.
  real gap(const Slot& slot, int64_t i) const { return slot.data ? ((const real*)slot.data)[slot.row * row_of(i)] : real(slot.otherwise); }
};

}  // namespace
