// The tiles of kernels that put words together out of slices, where 16 vectors of sums fit in registers.

template <int slices, int columns>
constexpr Tile kOfSlices = {1, columns, RunSlices<slices, 1, columns>};

constexpr Tile kPairTiles[] = {kOfSlices<2, 1>, kOfSlices<2, 2>, kOfSlices<2, 3>, kOfSlices<2, 4>};
constexpr Tile kQuadTiles[] = {kOfSlices<4, 1>};

constexpr LaneKernel kPairKernel = {
    kPairTiles, sizeof(kPairTiles) / sizeof(Tile), 1, 2, PackSlices<2>, Gather, Unpack, nullptr, nullptr};
constexpr LaneKernel kQuadKernel = {
    kQuadTiles, sizeof(kQuadTiles) / sizeof(Tile), 1, 4, PackSlices<4>, Gather, Unpack, nullptr, nullptr};
