// The tiles of a kernel whose lanes are parts of the map, where 14 vectors of sums fit in registers.

constexpr Tile kTiles[] = {
    {7, 2, RunTile<7, 2>},   {2, 7, RunTile<2, 7>},   {4, 3, RunTile<4, 3>},   {3, 4, RunTile<3, 4>},
    {2, 2, RunTile<2, 2>},   {2, 4, RunTile<2, 4>},   {4, 2, RunTile<4, 2>},   {1, 1, RunTile<1, 1>},
    {1, 2, RunTile<1, 2>},   {1, 3, RunTile<1, 3>},   {1, 4, RunTile<1, 4>},   {1, 5, RunTile<1, 5>},
    {1, 6, RunTile<1, 6>},   {1, 7, RunTile<1, 7>},   {1, 8, RunTile<1, 8>},   {1, 10, RunTile<1, 10>},
    {1, 12, RunTile<1, 12>}, {1, 13, RunTile<1, 13>}, {1, 14, RunTile<1, 14>}, {7, 1, RunTile<7, 1>},
    {3, 3, RunTile<3, 3>},   {4, 1, RunTile<4, 1>},
};

constexpr LaneKernel kLaneKernel = {kTiles, sizeof(kTiles) / sizeof(Tile), 1, 1, Pack, Gather, Unpack, nullptr,
                                    nullptr};
