// Best paths for every structure.
#include "best.h"
#include "structures.h"

namespace {

enum { FORWARD, TRACE };

template <class real, class S>
void run(const Call& call) {
  const int64_t size = (call.strips - 1) * S::states * (call.columns + 1);
  on_examples<Best<real, S>>(call, [&](auto& lattice, int64_t b) {
    read_slots<real>(call, b, S::slots, lattice.slots, nullptr);
    double* heads = (double*)call.heads + b * size;
    if (call.sweep == FORWARD) call.values[b] = lattice.forward(heads, call.last + 3 * b);
    else lattice.trace(heads, call.last + 3 * b, call.by_rows, call.places + b * call.times, call.times);
  });
}

}  // namespace

EXPORTED int64_t best(const Call* call, int64_t structure, int64_t wide) {
  return with_structure(structure, [&](auto s) { return (wide ? run<double, decltype(s)>(*call) : run<float, decltype(s)>(*call)), int64_t(0); });
}

// Rows of a strip.
EXPORTED int64_t best_rows(int64_t structure, int64_t wide) {
  return with_structure(structure, [&](auto s) -> int64_t { return wide ? Best<double, decltype(s)>::ROWS : Best<float, decltype(s)>::ROWS; });
}
