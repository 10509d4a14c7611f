#include "scratch.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace tfc {
namespace {

struct Buffer {
  float* data;
  size_t floats;
  std::thread::id user;  // the last one
};

std::mutex mutex;
int users = 0;

std::vector<Buffer>& Kept() {
  static std::vector<Buffer> kept;
  return kept;
}

// Takes the last one that this thread had, which is in the caches of its processor; or else the last of any.
Buffer TakeKept() {
  auto& kept = Kept();
  if (kept.empty()) return {};
  const auto mine = std::find_if(kept.rbegin(), kept.rend(),
                                 [](const Buffer& buffer) { return buffer.user == std::this_thread::get_id(); });
  const auto taken = mine == kept.rend() ? kept.end() - 1 : mine.base() - 1;
  const Buffer buffer = *taken;
  kept.erase(taken);
  return buffer;
}

}  // namespace

Scratch::Scratch(size_t floats) : data_(nullptr), floats_(floats) {
  {
    const std::lock_guard lock(mutex);
    const Buffer kept = TakeKept();
    if (kept.data != nullptr && kept.floats >= floats) {
      data_ = kept.data;
      floats_ = kept.floats;
      return;
    }
    std::free(kept.data);
  }
  constexpr size_t kLine = 64;
  data_ = static_cast<float*>(std::aligned_alloc(kLine, (floats * sizeof(float) + kLine - 1) / kLine * kLine));
}

Scratch::~Scratch() {
  if (data_ == nullptr) return;
  const std::lock_guard lock(mutex);
  if (users > 0) {
    Kept().push_back({data_, floats_, std::this_thread::get_id()});
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
