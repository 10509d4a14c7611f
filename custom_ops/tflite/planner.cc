#include "planner.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

namespace tfc::tflite {
namespace {

constexpr double kMargin = 1.03;  // by so much a prediction may be wrong and nothing is lost
constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int kCandidates = 6;    // tilings that are tried for maps of one size
constexpr int kLargestTile = 16;  // vectors of a tile that any kernel may have
constexpr tfc_tiles kAnyTiles = {0, 0, 0};

using Size = std::pair<int32_t, int32_t>;

// What one way to run a unit costs, per image.
struct Way {
  double dense, sparse;
  const char* kernel;
  tfc_tiles tiles;
};

class Planner {
 public:
  Planner(const std::vector<Unit>& units, const std::vector<bool>& visible, const Setting& setting)
      : units_(units), visible_(visible), setting_(setting), ways_(units.size()) {
    for (const Unit& unit : units_) {
      sizes_.push_back({});
      tfc_output_size(&unit.shape, &sizes_.back().first, &sizes_.back().second);
    }
  }

  // The choice for every unit, of which those are taken, and what it costs in all.
  double Formats(const std::vector<bool>& taken, std::vector<Choice>* choices) {
    choices->assign(units_.size(), {});
    const std::vector<bool> inner = Inner(taken);
    std::vector<int> parts = Parts(taken, inner);
    double seconds = 0;
    for (size_t first = 0; first < units_.size(); ++first) {
      if (!taken[first]) {
        const Way& way = Find(first, kAnyTiles, false, false, false);
        (*choices)[first] = {false, way.kernel, {}, false, false, false, way.dense, way.sparse};
        seconds += way.dense * units_[first].images;
      } else if (parts[first] == static_cast<int>(first)) {
        seconds += Part(Members(parts, parts[first]), inner, choices);
      }
    }
    return seconds;
  }

  std::vector<Choice> Search() {
    std::vector<bool> taken(units_.size(), true);
    std::vector<Choice> choices, others;
    double seconds = Formats(taken, &choices);
    for (;;) {  // turns over what helps most, until nothing does
      double least = seconds;
      size_t best = units_.size();
      for (size_t unit = 0; unit < units_.size(); ++unit) {
        taken[unit] = !taken[unit];
        const double other = Formats(taken, &others);
        if (other < least * (1 - 1e-6)) {
          least = other;
          best = unit;
        }
        taken[unit] = !taken[unit];
      }
      if (best == units_.size()) return choices;
      taken[best] = !taken[best];
      seconds = Formats(taken, &choices);
    }
  }

 private:
  // ------------------------------------------------------------ which maps may be in tiles

  bool TakesTiles(size_t unit) const {
    const tfc_shape& s = units_[unit].shape;
    return s.stride_height == 1 && s.stride_width == 1 && Size(s.height, s.width) == sizes_[unit];
  }

  // By map: whether a unit makes it, only units use it, and all of them can take it in tiles. A dense layer sees
  // a map as one row of pixels, which is not how a convolution has made it.
  std::vector<bool> Inner(const std::vector<bool>& taken) const {
    std::vector<int> maker(visible_.size(), -1);
    std::vector<bool> inner(visible_.size());
    for (size_t map = 0; map < visible_.size(); ++map) inner[map] = !visible_[map];
    for (size_t unit = 0; unit < units_.size(); ++unit) {
      const Unit& u = units_[unit];
      if (!taken[unit] || !TakesTiles(unit) || !MadeLike(maker[u.input], unit)) inner[u.input] = false;
      if (u.residual >= 0 && (!taken[unit] || !MadeLike(maker[u.residual], unit))) inner[u.residual] = false;
      if (taken[unit]) maker[u.output] = static_cast<int>(unit);
    }
    for (size_t map = 0; map < visible_.size(); ++map) inner[map] = inner[map] && maker[map] >= 0;
    return inner;
  }

  // Whether the maps that both units make are of one size.
  bool MadeLike(int maker, size_t unit) const {
    return maker >= 0 && sizes_[maker] == sizes_[unit] && units_[maker].images == units_[unit].images;
  }

  // By unit: the first of those that such maps join it with.
  std::vector<int> Parts(const std::vector<bool>& taken, const std::vector<bool>& inner) const {
    std::vector<int> parts(units_.size()), maker(visible_.size(), -1);
    std::iota(parts.begin(), parts.end(), 0);
    for (size_t unit = 0; unit < units_.size(); ++unit) {
      if (!taken[unit]) continue;
      for (const int32_t map : {units_[unit].input, units_[unit].residual}) {
        if (map >= 0 && inner[map] && maker[map] >= 0) Join(&parts, maker[map], static_cast<int>(unit));
      }
      maker[units_[unit].output] = static_cast<int>(unit);
    }
    return parts;
  }

  static void Join(std::vector<int>* parts, int a, int b) {
    const int kept = std::min((*parts)[a], (*parts)[b]), gone = std::max((*parts)[a], (*parts)[b]);
    std::replace(parts->begin(), parts->end(), gone, kept);
  }

  static std::vector<size_t> Members(const std::vector<int>& parts, int part) {
    std::vector<size_t> members;
    for (size_t unit = 0; unit < parts.size(); ++unit) {
      if (parts[unit] == part) members.push_back(unit);
    }
    return members;
  }

  // ------------------------------------------------------------ tiles for units that are joined

  double Part(const std::vector<size_t>& members, const std::vector<bool>& inner, std::vector<Choice>* choices) {
    tfc_tiles best = kAnyTiles;
    double least = Cost(members, inner, best);
    if (members.size() > 1) {
      for (const tfc_tiles& tiles : Candidates(sizes_[members.front()])) {
        const double cost = Cost(members, inner, tiles);
        if (cost >= least) continue;
        least = cost;
        best = tiles;
      }
    }
    for (const size_t unit : members) {
      const Unit& u = units_[unit];
      const bool tiled = best.rows > 0;
      const Way& way = WayOf(unit, inner, best);
      (*choices)[unit] = {true,
                          way.kernel,
                          way.tiles,
                          tiled && inner[u.input],
                          tiled && u.residual >= 0 && inner[u.residual],
                          tiled && inner[u.output],
                          way.dense,
                          way.sparse};
    }
    return least;
  }

  // With any tiles, all maps are images.
  const Way& WayOf(size_t unit, const std::vector<bool>& inner, const tfc_tiles& tiles) {
    const Unit& u = units_[unit];
    const bool tiled = tiles.rows > 0;
    const bool in = tiled && inner[u.input], out = tiled && inner[u.output];
    const bool residual = tiled && u.residual >= 0 && inner[u.residual];
    return Find(unit, in || out || residual ? tiles : kAnyTiles, in, residual, out);
  }

  double Cost(const std::vector<size_t>& members, const std::vector<bool>& inner, const tfc_tiles& tiles) {
    double seconds = 0;
    for (const size_t unit : members) seconds += WayOf(unit, inner, tiles).sparse * units_[unit].images;
    return seconds * kMargin;
  }

  // The tiles that suit all units of a size best, if they have no images at all.
  const std::vector<tfc_tiles>& Candidates(Size size) {
    const auto found = candidates_.find(size);
    if (found != candidates_.end()) return found->second;
    std::vector<std::pair<double, tfc_tiles>> costs;
    for (int32_t rows = 1; rows <= kLargestTile; ++rows) {
      for (int32_t columns = 1; columns * rows <= kLargestTile; ++columns) {
        for (int32_t lane_rows = 1; lane_rows <= 16; lane_rows *= 2) {
          const double cost = CostAtSize(size, {rows, columns, lane_rows});
          if (cost < kNever) costs.push_back({cost, {rows, columns, lane_rows}});
        }
      }
    }
    std::stable_sort(costs.begin(), costs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    costs.resize(std::min<size_t>(costs.size(), kCandidates));
    std::vector<tfc_tiles>& tiles = candidates_[size];
    for (const auto& cost : costs) tiles.push_back(cost.second);
    return tiles;
  }

  double CostAtSize(Size size, const tfc_tiles& tiles) {
    double seconds = 0;
    for (size_t unit = 0; unit < units_.size() && seconds < kNever; ++unit) {
      if (sizes_[unit] == size) seconds += Find(unit, tiles, TakesTiles(unit), false, true).sparse;
    }
    return seconds;
  }

  const Way& Find(size_t unit, const tfc_tiles& tiles, bool input, bool residual, bool output) {
    const auto key = std::make_tuple(tiles.rows, tiles.columns, tiles.lane_rows, input, residual, output);
    const auto found = ways_[unit].find(key);
    if (found != ways_[unit].end()) return found->second;
    const Unit& u = units_[unit];
    const tfc_options options = {setting_.kernel, tiles, input, residual, output};
    tfc_prediction prediction = {};
    const tfc_status status =
        tfc_predict(&u.shape, &u.counts, &options, &setting_.machine, setting_.threads, &prediction);
    const bool possible = status == TFC_OK;
    return ways_[unit][key] = {possible ? prediction.dense_seconds : 0,
                               possible ? prediction.sparse_seconds : kNever, prediction.kernel, prediction.tiles};
  }

  const std::vector<Unit>& units_;
  const std::vector<bool>& visible_;
  const Setting& setting_;
  std::vector<Size> sizes_;  // of outputs, by unit
  std::vector<std::map<std::tuple<int32_t, int32_t, int32_t, bool, bool, bool>, Way>> ways_;
  std::map<Size, std::vector<tfc_tiles>> candidates_;
};

}  // namespace

std::vector<Choice> Plan(const std::vector<Unit>& units, const std::vector<bool>& visible,
                         const Setting& setting) {
  if (setting.force) return PlanFormats(units, visible, setting);
  return Planner(units, visible, setting).Search();
}

std::vector<Choice> PlanFormats(const std::vector<Unit>& units, const std::vector<bool>& visible,
                                const Setting& setting) {
  std::vector<Choice> choices;
  Planner(units, visible, setting).Formats(std::vector<bool>(units.size(), true), &choices);
  return choices;
}

}  // namespace tfc::tflite
