// What `int8_blocks.inl` tells of, where it is no faster than one after the other.
inline void StoreFourScaled(int8_t* const* to, const Sums* sums, const Requantization& by) {
  for (int i = 0; i < 4; ++i) StoreAllScaled(to[i], sums[i], by, nullptr);
}
