// Sums over all paths, marginals and curvature for every structure.
#include "lattice.h"
#include "structures.h"

namespace {

enum { FORWARD, BACKWARD, CURVATURE };

template <class N, class S>
void run(const Call& call) {
  const int64_t size = (call.strips - 1) * S::states * 2 * (call.columns + 1);
  on_examples<Lattice<N, S>>(call, [&](auto& lattice, int64_t b) {
    read_slots<typename N::real>(call, b, S::slots, lattice.slots, lattice.tangents);
    auto* heads = (typename N::word*)call.heads + b * size;
    if (call.sweep == FORWARD) {
      lattice.forward(heads, call.totals + 2 * b);
      call.outside[b] = !lattice.in_range();
    } else if (!call.outside[b]) {
      const double* total = call.totals + 2 * b;
      call.sweep == BACKWARD ? lattice.template back<false>(heads, total) : lattice.template back<true>(heads, total);
    }
  });
}

template <class F>
int64_t with_numbers(int64_t wide, F f) {
  return wide ? f(Double()) : f(Single());
}

}  // namespace

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
