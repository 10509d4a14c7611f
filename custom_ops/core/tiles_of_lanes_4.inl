// The tiles of a kernel whose lanes are parts of the map, where 4 vectors of sums fit in registers.

constexpr Tile kTiles[] = {{2, 2, RunTile<2, 2>},
                           {1, 1, RunTile<1, 1>},
                           {1, 2, RunTile<1, 2>},
                           {1, 3, RunTile<1, 3>},
                           {1, 4, RunTile<1, 4>}};

constexpr LaneKernel kLaneKernel = {kTiles, sizeof(kTiles) / sizeof(Tile), 1, 1, Pack, Gather, Unpack, nullptr,
                                    nullptr};
