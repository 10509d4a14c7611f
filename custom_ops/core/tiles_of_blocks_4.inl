// The tiles of a kernel whose lanes are filters, where 4 vectors of sums fit in registers.

constexpr BlockTile kTiles[] = {
    {1, 4, RunBlocks<1, 4>}, {2, 2, RunBlocks<2, 2>}, {1, 3, RunBlocks<1, 3>},
    {1, 2, RunBlocks<1, 2>}, {1, 1, RunBlocks<1, 1>},
};

constexpr BlockKernel kBlockKernel = {kTiles, sizeof(kTiles) / sizeof(BlockTile)};
