// The sweeps of `lattice.h` for every structure, compiled once for each kind of processor.
#include "lattice.h"

#include <atomic>
#include <thread>

namespace {

// One state: skips of rows and columns, or (DTW) three moves with the score of the cell they enter.
struct Linear {
  static constexpr int states = 1, moves = 3, slots = 3;
  static constexpr bool shared = false;
  static constexpr Where start = CORNER, end = CORNER;
  static constexpr Move move[] = {{0, 0, 1, 1, 0}, {0, 0, 1, 0, 1}, {0, 0, 0, 1, 2}};
};
struct Warping {
  static constexpr int states = 1, moves = 3, slots = 1;
  static constexpr bool shared = true;
  static constexpr Where start = CORNER, end = CORNER;
  static constexpr Move move[] = {{0, 0, 1, 1, 0}, {0, 0, 1, 0, 0}, {0, 0, 0, 1, 0}};
};
struct Local {
  static constexpr int states = 2, moves = 7, slots = 3;
  static constexpr bool shared = false;
  static constexpr Where start = ANYWHERE, end = ANYWHERE;
  static constexpr Move move[] = {{-1, 0, 1, 1, 0}, {0, 0, 1, 1, 0}, {1, 0, 1, 1, 0}, {0, 1, 1, 0, 1}, {1, 1, 1, 0, 1}, {0, 1, 0, 1, 2}, {1, 1, 0, 1, 2}};
};

}  // namespace

// The arguments of a sweep, as `cpp/__init__.py` declares them. A stride of 0 is an axis that is shared; columns lie side by side in slot 0, and are shared in others.
struct Call {
  int64_t batch, rows, columns, threads, strips, sweep;
  const int32_t* lengths;  // (B, 2)
  const void* data[8];     // of every slot, or nothing for a score of 0
  void* results[8];        // likewise
  int64_t strides[8][2];   // batch, row
  int64_t result_strides[8];
  void* heads;             // (B, strips - 1, states, 2, columns + 1)
  double* values;
  int32_t* outside;        // whether an example is out of range
};

enum { FORWARD, BACKWARD };

namespace {

template <class N, class S>
void run(const Call& call) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    Lattice<N, S> lattice(call.rows, call.columns);
    const int64_t size = (call.strips - 1) * S::states * 2 * (call.columns + 1);
    for (int64_t b; (b = next++) < call.batch;) {
      lattice.n1 = call.lengths[2 * b], lattice.n2 = call.lengths[2 * b + 1];
      for (int k = 0; k < S::slots; k++) {
        const char* data = (const char*)call.data[k];
        char* result = (char*)call.results[k];
        lattice.slots[k] = {data ? data + call.strides[k][0] * b * sizeof(typename N::real) : nullptr,
                            result ? result + call.result_strides[k] * b * sizeof(typename N::real) : nullptr, call.strides[k][1]};
      }
      auto* heads = (typename N::word*)call.heads + b * size;
      if (call.sweep == FORWARD) {
        call.values[b] = lattice.forward(heads);
        call.outside[b] = !lattice.in_range();
      } else if (!call.outside[b]) {
        lattice.backward(heads, call.values[b]);
      }
    }
  };
  std::vector<std::thread> others;
  for (int64_t k = 1; k < std::min(call.threads, call.batch); k++) others.emplace_back(work);
  work();
  for (auto& other : others) other.join();
}

// f(structure) for the structure with a number, the place in `KERNELS` of `alignment/native_cpp.py`.
template <class F>
int64_t with_structure(int64_t number, F f) {
  switch (number) {
    case 0: return f(Linear());
    case 1: return f(Warping());
    case 2: return f(Local());
  }
  return -1;
}

template <class F>
int64_t with_numbers(int64_t wide, F f) {
  return wide ? f(Double()) : f(Single());
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED int64_t lattice(const Call* call, int64_t structure, int64_t wide) {
  return with_numbers(wide, [&](auto numbers) {
    return with_structure(structure, [&](auto s) { return run<decltype(numbers), decltype(s)>(*call), int64_t(0); });
  });
}

// Rows of a strip.
EXPORTED int64_t lattice_rows(int64_t structure, int64_t wide) {
  return with_numbers(wide, [&](auto numbers) {
    return with_structure(structure, [&](auto s) -> int64_t { return Lattice<decltype(numbers), decltype(s)>::ROWS; });
  });
}

// The k-th move: source, target, di, dj, slot; 1 if there is none.
EXPORTED int64_t lattice_move(int64_t structure, int64_t k, int64_t* move) {
  return with_structure(structure, [&](auto s) -> int64_t {
    if (k >= s.moves) return 1;
    const Move& m = s.move[k];
    const int64_t found[] = {m.source, m.target, m.di, m.dj, m.slot};
    std::copy(found, found + 5, move);
    return 0;
  });
}
