// Examples in parallel, in memory that suits vectors and with numbers that keep their speed.
#pragma once
#include <atomic>
#include <new>
#include <thread>
#include <vector>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

// Arrays that start where a line of the cache does.
template <class T>
struct Lines {
  using value_type = T;
  Lines() = default;
  template <class U> Lines(const Lines<U>&) {}
  T* allocate(size_t count) { return (T*)::operator new(count * sizeof(T), std::align_val_t(64)); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  bool operator==(const Lines&) const { return true; }
  bool operator!=(const Lines&) const { return false; }
};
template <class T> using Array = std::vector<T, Lines<T>>;

// While it lives, numbers below the normal ones are zero: processors take a hundred times as long for them.
class FlushToZero {
#ifdef __SSE2__
  const unsigned before = __builtin_ia32_stmxcsr();

 public:
  FlushToZero() { __builtin_ia32_ldmxcsr(before | 0x8040); }
  ~FlushToZero() { __builtin_ia32_ldmxcsr(before); }
#endif
};

// work(worker, k) for k = 0, ..., count - 1, by several threads with a worker each: what `make` returns.
template <class Make, class Work>
void in_parallel(int64_t count, int64_t threads, Make make, Work work) {
  std::atomic<int64_t> next{0};
  auto loop = [&] {
    auto worker = make();
    for (int64_t k; (k = next++) < count;) work(worker, k);
  };
  std::vector<std::thread> others;
  for (int64_t k = 1; k < (threads < count ? threads : count); k++) others.emplace_back(loop);
  loop();
  for (auto& other : others) other.join();
}

}  // namespace
