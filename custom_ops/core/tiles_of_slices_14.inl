// The tiles of kernels that put words together out of slices, where 16 vectors of sums fit in registers.

template <int slices, int rows, int columns>
constexpr Tile kOfSlices = {rows, columns, RunSlices<slices, rows, columns>};

constexpr Tile kPairTiles[] = {
    kOfSlices<2, 1, 1>, kOfSlices<2, 1, 2>, kOfSlices<2, 1, 3>, kOfSlices<2, 1, 4>, kOfSlices<2, 1, 5>,
    kOfSlices<2, 1, 6>, kOfSlices<2, 1, 7>, kOfSlices<2, 1, 8>, kOfSlices<2, 2, 1>, kOfSlices<2, 2, 2>,
    kOfSlices<2, 2, 3>, kOfSlices<2, 2, 4>, kOfSlices<2, 4, 1>, kOfSlices<2, 4, 2>, kOfSlices<2, 7, 1>,
};
constexpr Tile kQuadTiles[] = {
    kOfSlices<4, 1, 1>, kOfSlices<4, 1, 2>, kOfSlices<4, 1, 3>, kOfSlices<4, 1, 4>,
    kOfSlices<4, 2, 1>, kOfSlices<4, 2, 2>, kOfSlices<4, 4, 1>,
};

constexpr LaneKernel kPairKernel = {
    kPairTiles, sizeof(kPairTiles) / sizeof(Tile), 1, 2, PackSlices<2>, Gather, Unpack, nullptr, nullptr};
constexpr LaneKernel kQuadKernel = {
    kQuadTiles, sizeof(kQuadTiles) / sizeof(Tile), 1, 4, PackSlices<4>, Gather, Unpack, nullptr, nullptr};
