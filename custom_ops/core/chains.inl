// How many sums there are of each, for a backend that has defined
//
//   constexpr int kParts;  registers that a vector takes

// A multiply-add waits for the one before it in the same sum, and a processor does so many in that time: with
// fewer sums there are several of each, for weights in turn.
constexpr int Chains(int vectors) {
  constexpr int kInFlight = 8, kMost = 4;
  const int chains = kInFlight / (vectors * kParts);
  return chains < 1 ? 1 : chains > kMost ? kMost : chains;
}
