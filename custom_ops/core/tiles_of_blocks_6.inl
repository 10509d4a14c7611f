// The tiles of a kernel whose lanes are filters, where 6 vectors of sums fit in registers.

constexpr BlockTile kTiles[] = {
    {1, 6, RunBlocks<1, 6>}, {2, 3, RunBlocks<2, 3>}, {3, 2, RunBlocks<3, 2>},
    {1, 5, RunBlocks<1, 5>}, {1, 4, RunBlocks<1, 4>}, {2, 2, RunBlocks<2, 2>},
    {1, 3, RunBlocks<1, 3>}, {1, 2, RunBlocks<1, 2>}, {1, 1, RunBlocks<1, 1>},
};

constexpr BlockKernel kBlockKernel = {kTiles, sizeof(kTiles) / sizeof(BlockTile)};
