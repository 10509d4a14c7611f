// For a backend of int8 that has defined `StoreAllScaled`: 16 sums times their scales, between bounds, rounded to
// even, and a zero added. Of the last filters there may be fewer.
inline void StoreScaled(int8_t* to, int32_t filters, const Sums& sums, const Requantization& by) {
  if (filters == kLanes) {
    StoreAllScaled(to, sums, by);
    return;
  }
  int8_t all[kLanes];
  StoreAllScaled(all, sums, by);
  for (int32_t i = 0; i < filters; ++i) to[i] = all[i];
}
