// How the sums of 16 planes become outputs: those of each lane in turn. For a backend that has defined vectors of
// 16 words as `lanes.inl` does, what `int8_store.inl` tells of, and
//
//   Sums AsSums(Vector)

void ScaleSquare(const float* from, ptrdiff_t plane_words, const Requantization& by, void* const* pixels,
                 ptrdiff_t channel) {
  Vector rows[kLanes];
  for (int c = 0; c < kLanes; ++c) rows[c] = Load(from + c * plane_words);
  Transpose(rows);
  for (int lane = 0; lane < kLanes; ++lane) {
    StoreAllScaled(static_cast<int8_t*>(pixels[lane]) + channel, AsSums(rows[lane]), by, nullptr);
  }
}
