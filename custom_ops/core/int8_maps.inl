// Maps to and from planes in int8, for a backend that has defined what `pack.inl` tells of, and
//
//   void ScaleSquare(const float* from, ptrdiff_t plane_words, const Requantization& by, void* const* pixels,
//                    ptrdiff_t channel)
//
// for the sums of 16 neighbouring planes: times the scales of these, between bounds, rounded to even, and a zero
// added; then the 16 of each lane to its pixel, from that channel on.

#include "pack.inl"

void Gather(const GatherJob&) {}  // maps in tiles are in float32

// Some planes, 16 at most; there is memory for 16.
void UnpackSquare(const float* from, ptrdiff_t plane_words, int32_t count, const Requantization& by,
                  void* const* pixels, ptrdiff_t channel) {
  if (count == kLanes) {
    ScaleSquare(from, plane_words, by, pixels, channel);
    return;
  }
  int8_t all[kLanes][kLanes];
  void* to[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = all[lane];
  ScaleSquare(from, plane_words, by, to, 0);
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int32_t c = 0; c < count; ++c) static_cast<int8_t*>(pixels[lane])[channel + c] = all[lane][c];
  }
}
