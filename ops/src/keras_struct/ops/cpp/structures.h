// The structures on the lattice that are compiled, and what a call brings.
#pragma once
#include "frame.h"
#include "threads.h"

namespace {

// Matches, deletions and insertions.
struct Linear {
  static constexpr int states = 1, moves = 3, slots = 3;
  static constexpr Move move[] = {{0, 0, 1, 1, 0}, {0, 0, 1, 0, 1}, {0, 0, 0, 1, 2}};
};

// Every move has the score of the cell that it enters.
struct Warping {
  static constexpr int states = 1, moves = 3, slots = 1;
  static constexpr Move move[] = {{0, 0, 1, 1, 0}, {0, 0, 1, 0, 0}, {0, 0, 0, 1, 0}};
};

struct Monotonic {
  static constexpr int states = 1, moves = 2, slots = 1;
  static constexpr Move move[] = {{0, 0, 1, 1, 0}, {0, 0, 1, 0, 0}};
};

// Linear gaps of a local alignment: a match, or gaps since the last one.
struct Local {
  static constexpr int states = 2, moves = 7, slots = 3;
  static constexpr Move move[] = {{-1, 0, 1, 1, 0}, {0, 0, 1, 1, 0}, {1, 0, 1, 1, 0}, {0, 1, 1, 0, 1}, {1, 1, 1, 0, 1}, {0, 1, 0, 1, 2}, {1, 1, 0, 1, 2}};
};

// A match, a row gap, a column gap; slots: cells, openings of rows and columns, extensions, and openings after a gap in the other sequence.
struct Gapped {
  static constexpr int states = 3, moves = 10, slots = 7;
  static constexpr Move move[] = {{-1, 0, 1, 1, 0}, {0, 0, 1, 1, 0}, {1, 0, 1, 1, 0}, {2, 0, 1, 1, 0}, {0, 1, 1, 0, 1},
                                  {1, 1, 1, 0, 3},  {2, 1, 1, 0, 5}, {0, 2, 0, 1, 2}, {2, 2, 0, 1, 4}, {1, 2, 0, 1, 6}};
};

}  // namespace

// The arguments of a sweep, as `cpp/__init__.py` declares them. A stride of 0 is an axis that is shared; columns lie side by side in slot 0, and are shared in others.
struct Call {
  int64_t batch, rows, columns, threads, strips, sweep;
  int64_t start, end, empty, forbidden;  // bits of the slots without data that no move may use
  const int32_t* lengths;  // (B, 2)
  const void* data[8];     // of every slot, or nothing for a score of 0
  void* results[8];        // likewise
  const void* tangents[8]; // likewise
  int64_t strides[8][2];   // batch, row
  int64_t result_strides[8];
  void* heads;             // what is kept of the strips
  double* totals;          // (B, 2): mantissa and exponent of the sum over all paths
  double* values;          // (B,): of the best path
  int32_t* outside;        // whether an example is out of range
  int32_t* last;           // (B, 3): where the best path ends, row, column and state
  int32_t* places;         // (B, times): its nodes
  int64_t times, by_rows;
};

namespace {

// f(structure) for the structure with a number, the place in `KERNELS` of `alignment/native_cpp.py`.
template <class F>
int64_t with_structure(int64_t number, F f) {
  switch (number) {
    case 0: return f(Linear());
    case 1: return f(Warping());
    case 2: return f(Monotonic());
    case 3: return f(Local());
    case 4: return f(Gapped());
  }
  return -1;
}

// The slots of an example.
template <class real>
void read_slots(const Call& call, int64_t b, int count, Slot* slots, Slot* tangents) {
  for (int k = 0; k < count; k++) {
    const auto* data = (const real*)call.data[k];
    const auto* tangent = (const real*)call.tangents[k];
    auto* result = (real*)call.results[k];
    const int64_t row = call.strides[k][1], whole = call.result_strides[k] * b;
    slots[k] = {data ? data + call.strides[k][0] * b : nullptr, result ? result + whole : nullptr, row, call.forbidden >> k & 1 ? -1e30 : 0};
    if (tangents) tangents[k] = {tangent ? tangent + whole : nullptr, nullptr, row, 0};
  }
}

// work(lattice, example) for all examples, by several threads with a lattice each.
template <class Lattice, class F>
void on_examples(const Call& call, F work) {
  auto make = [&] {
    Lattice lattice(call.rows, call.columns);
    lattice.start = Where(call.start), lattice.end = Where(call.end), lattice.empty = call.empty;
    return lattice;
  };
  in_parallel(call.batch, call.threads, make, [&](auto& lattice, int64_t b) {
    lattice.n1 = call.lengths[2 * b], lattice.n2 = call.lengths[2 * b + 1];
    work(lattice, b);
  });
}

}  // namespace
