// A residual that is added to outputs in int8, 16 at most, for a backend that has defined how 16 are.
inline void AddResidual(int8_t* to, const int8_t* residual, int32_t count, const Addition& by) {
  if (count == kLanes) {
    AddSixteen(to, residual, by);
    return;
  }
  int8_t outputs[kLanes] = {}, others[kLanes] = {};
  for (int32_t i = 0; i < count; ++i) {
    outputs[i] = to[i];
    others[i] = residual[i];
  }
  AddSixteen(outputs, others, by);
  for (int32_t i = 0; i < count; ++i) to[i] = outputs[i];
}
