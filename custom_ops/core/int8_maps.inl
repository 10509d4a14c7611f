// Maps to and from planes in int8, for a backend that has defined what `pack.inl` tells of, and
//
//   void ScaleSquare(const float* from, ptrdiff_t plane_words, const Requantization& by, void* const* pixels,
//                    ptrdiff_t channel)
//
// for the sums of 16 neighbouring planes: times the scales of these, between bounds, rounded to even, and a zero
// added; then the 16 of each lane to its pixel, from that channel on.

#include "int8_add.inl"
#include "pack.inl"

void Gather(const GatherJob&) {}  // maps in tiles are in float32

// Where the outputs of 16 lanes go, and what is added to them.
struct Outputs {
  void* const* pixels;
  const float* const* residuals;
};

// Of some planes, 16 at most; there is memory for 16.
void UnpackSquare(const float* from, ptrdiff_t plane_words, int32_t count, const Requantization& by,
                  const Outputs& to, ptrdiff_t channel) {
  if (count == kLanes) {
    ScaleSquare(from, plane_words, by, to.pixels, channel);
  } else {
    int8_t all[kLanes][kLanes];
    void* rows[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) rows[lane] = all[lane];
    ScaleSquare(from, plane_words, by, rows, 0);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int32_t c = 0; c < count; ++c) static_cast<int8_t*>(to.pixels[lane])[channel + c] = all[lane][c];
    }
  }
  if (to.residuals == nullptr) return;
  const Addition addition = by.addition;
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto* residual = reinterpret_cast<const int8_t*>(to.residuals[lane]);
    AddResidual(static_cast<int8_t*>(to.pixels[lane]) + channel, residual + channel, count, addition);
  }
}
