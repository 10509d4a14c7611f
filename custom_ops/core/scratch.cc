#include "scratch.h"

#include <cstdlib>
#include <mutex>
#include <vector>

namespace tfc {
namespace {

struct Buffer {
  float* data;
  size_t floats;
};

std::mutex mutex;
int users = 0;

std::vector<Buffer>& Kept() {
  static std::vector<Buffer> kept;
  return kept;
}

}  // namespace

Scratch::Scratch(size_t floats) : data_(nullptr), floats_(floats) {
  {
    const std::lock_guard lock(mutex);
    auto& kept = Kept();
    if (!kept.empty()) {
      const Buffer last = kept.back();
      kept.pop_back();
      if (last.floats >= floats) {
        data_ = last.data;
        floats_ = last.floats;
        return;
      }
      std::free(last.data);
    }
  }
  constexpr size_t kLine = 64;
  data_ = static_cast<float*>(std::aligned_alloc(kLine, (floats * sizeof(float) + kLine - 1) / kLine * kLine));
}

Scratch::~Scratch() {
  if (data_ == nullptr) return;
  const std::lock_guard lock(mutex);
  if (users > 0) {
    Kept().push_back({data_, floats_});
  } else {
    std::free(data_);
  }
}

void AddScratchUser() {
  const std::lock_guard lock(mutex);
  ++users;
}

void RemoveScratchUser() {
  const std::lock_guard lock(mutex);
  if (--users > 0) return;
  for (const Buffer& buffer : Kept()) std::free(buffer.data);
  Kept().clear();
}

}  // namespace tfc
