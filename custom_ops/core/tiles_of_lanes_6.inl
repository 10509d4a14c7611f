// The tiles of a kernel whose lanes are parts of the map, where 6 vectors of sums fit in registers.

constexpr Tile kTiles[] = {
    {3, 2, RunTile<3, 2>}, {2, 3, RunTile<2, 3>}, {2, 2, RunTile<2, 2>}, {1, 1, RunTile<1, 1>},
    {1, 2, RunTile<1, 2>}, {1, 3, RunTile<1, 3>}, {1, 4, RunTile<1, 4>}, {1, 5, RunTile<1, 5>},
    {1, 6, RunTile<1, 6>}, {4, 1, RunTile<4, 1>},
};

constexpr LaneKernel kLaneKernel = {kTiles, sizeof(kTiles) / sizeof(Tile), 1, 1, Pack, Gather, Unpack, nullptr,
                                    nullptr};
