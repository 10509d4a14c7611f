// For a backend of int8 that has defined
//
//   StoreAllScaled(to, sums, by, residual)
//
// for 16 sums: times their scales, between bounds, rounded to even, and a zero added; then a residual, if it is
// not NULL. Of the last filters there may be fewer.
inline void StoreScaled(int8_t* to, int32_t filters, const Sums& sums, const Requantization& by,
                        const int8_t* residual) {
  if (filters == kLanes) {
    StoreAllScaled(to, sums, by, residual);
    return;
  }
  int8_t all[kLanes], others[kLanes] = {};
  for (int32_t i = 0; residual != nullptr && i < filters; ++i) others[i] = residual[i];
  StoreAllScaled(all, sums, by, residual == nullptr ? nullptr : others);
  for (int32_t i = 0; i < filters; ++i) to[i] = all[i];
}
