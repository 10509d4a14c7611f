// Memory that a call needs and the next one takes over.
#ifndef TFCOMPRESS_SCRATCH_H_
#define TFCOMPRESS_SCRATCH_H_

#include <cstddef>
#include <new>

namespace tfc {

// A buffer of floats, aligned to cache lines, on loan from a store for the whole process: fresh pages for
// every call would cost more than many a convolution.
class Scratch {
 public:
  explicit Scratch(size_t floats);  // data() is NULL if there is no memory
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* data() const { return data_; }

 private:
  float* data_;
  size_t floats_;
};

// For vectors that begin with a cache line.
template <typename Number>
struct LineAllocator {
  using value_type = Number;
  static constexpr std::align_val_t kLine{64};

  LineAllocator() = default;
  template <typename Other>
  LineAllocator(const LineAllocator<Other>&) {}

  Number* allocate(size_t count) { return static_cast<Number*>(::operator new(count * sizeof(Number), kLine)); }
  void deallocate(Number* numbers, size_t) { ::operator delete(numbers, kLine); }
  friend bool operator==(const LineAllocator&, const LineAllocator&) { return true; }
  friend bool operator!=(const LineAllocator&, const LineAllocator&) { return false; }
};

// Plans count themselves: with the last one all that was kept for them is freed.
void AddScratchUser();
void RemoveScratchUser();

}  // namespace tfc

#endif  // TFCOMPRESS_SCRATCH_H_
