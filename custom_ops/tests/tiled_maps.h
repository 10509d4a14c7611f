// Maps in tiles, as `sparse_conv.h` tells of them, in plain loops.
#ifndef TFCOMPRESS_TESTS_TILED_MAPS_H_
#define TFCOMPRESS_TESTS_TILED_MAPS_H_

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "../core/sparse_conv.h"

namespace tfc_tests {

struct MapSize {
  int32_t batch, height, width, channels;
};

// On a border of 64 bytes, as long as it must be, and full of what no result may depend on.
class TiledMap {
 public:
  TiledMap(const tfc_tiles& tiles, const MapSize& size)
      : tiles_(tiles), size_(size), image_(tfc_tiled_floats(&tiles, size.height, size.width, size.channels)) {
    const size_t bytes = static_cast<size_t>(image_) * size.batch * sizeof(float);
    floats_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    for (int64_t i = 0; i < image_ * size.batch; ++i) floats_.get()[i] = std::numeric_limits<float>::quiet_NaN();
  }

  float* data() { return floats_.get(); }

  void Set(const std::vector<float>& images) {
    ForEach([&](float* tiled, size_t i) { *tiled = images[i]; });
  }
  std::vector<float> Images() {
    std::vector<float> images(size_t{1} * size_.batch * size_.height * size_.width * size_.channels);
    ForEach([&](const float* tiled, size_t i) { images[i] = *tiled; });
    return images;
  }

 private:
  struct Free {
    void operator()(float* floats) const { std::free(floats); }
  };

  // Of an image.
  int64_t Place(int32_t y, int32_t x, int32_t channel) const {
    constexpr int32_t kLanes = 16;
    const int32_t lane_columns = kLanes / tiles_.lane_rows;
    const int32_t rows = tiles_.rows * tiles_.lane_rows, columns = tiles_.columns * lane_columns;
    const int64_t region = int64_t{y / rows} * ((size_.width + columns - 1) / columns) + x / columns;
    const int32_t lane = y % rows / tiles_.rows * lane_columns + x % columns / tiles_.columns;
    const int64_t position = (region * size_.channels + channel) * tiles_.rows + y % tiles_.rows;
    return (position * tiles_.columns + x % tiles_.columns) * kLanes + lane;
  }

  template <typename Work>
  void ForEach(const Work& work) {
    size_t i = 0;
    for (int32_t image = 0; image < size_.batch; ++image) {
      for (int32_t y = 0; y < size_.height; ++y) {
        for (int32_t x = 0; x < size_.width; ++x) {
          for (int32_t c = 0; c < size_.channels; ++c) work(data() + image * image_ + Place(y, x, c), i++);
        }
      }
    }
  }

  tfc_tiles tiles_;
  MapSize size_;
  int64_t image_;
  std::unique_ptr<float, Free> floats_;
};

}  // namespace tfc_tests

#endif  // TFCOMPRESS_TESTS_TILED_MAPS_H_
