// For a backend of int8 that has defined
//
//   StoreAllScaled(to, sums, by, residual)
//
// for 16 sums: times their scales, between bounds, rounded to even, and a zero added; then a residual, if it is
// not NULL. This is for the last filters, where there are fewer.
inline void StoreSomeScaled(int8_t* to, int32_t filters, const Sums& sums, const Requantization& by,
                            const int8_t* residual) {
  int8_t all[kLanes], others[kLanes] = {};
  for (int32_t i = 0; residual != nullptr && i < filters; ++i) others[i] = residual[i];
  StoreAllScaled(all, sums, by, residual == nullptr ? nullptr : others);
  for (int32_t i = 0; i < filters; ++i) to[i] = all[i];
}
