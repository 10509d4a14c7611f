// One word of each of 16 pixels, in plain C++.
inline Vector Pick(const float* const* pixels, ptrdiff_t word) {
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) __builtin_memcpy(&lanes[lane], pixels[lane] + word, kWordBytes);
  return Load(lanes);
}
