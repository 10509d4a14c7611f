// The tiles of a kernel whose lanes are filters, where 14 vectors of sums fit in registers.

constexpr BlockTile kTiles[] = {
    {1, 14, RunBlocks<1, 14>}, {2, 7, RunBlocks<2, 7>}, {7, 2, RunBlocks<7, 2>},   {1, 13, RunBlocks<1, 13>},
    {1, 12, RunBlocks<1, 12>}, {3, 4, RunBlocks<3, 4>}, {1, 10, RunBlocks<1, 10>}, {2, 5, RunBlocks<2, 5>},
    {1, 9, RunBlocks<1, 9>},   {1, 8, RunBlocks<1, 8>}, {2, 4, RunBlocks<2, 4>},   {1, 7, RunBlocks<1, 7>},
    {1, 6, RunBlocks<1, 6>},   {2, 3, RunBlocks<2, 3>}, {1, 5, RunBlocks<1, 5>},   {1, 4, RunBlocks<1, 4>},
    {2, 2, RunBlocks<2, 2>},   {1, 3, RunBlocks<1, 3>}, {1, 2, RunBlocks<1, 2>},   {1, 1, RunBlocks<1, 1>},
};

constexpr BlockKernel kBlockKernel = {kTiles, sizeof(kTiles) / sizeof(BlockTile)};
