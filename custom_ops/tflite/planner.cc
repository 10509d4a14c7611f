#include "planner.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

namespace tfc::tflite {
namespace {

// By so much a prediction may be wrong and nothing is lost. In int8 maps are moved for less work, so that where
// they are, which nobody foresees, counts for more.
constexpr double kMargin = 1.03, kInt8Margin = 1.1;
// With several threads, so many wake-ups does a stretch take longer that lies between what another runtime
// computes, as networks of small layers showed: before it, and behind it, threads wait for a processor that those
// of the other runtime keep, and parts of maps lie in caches of theirs.
constexpr double kHandovers = 2;
constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int kCandidates = 6;    // tilings that are tried for maps of one size
constexpr int kLargestTile = 16;  // vectors of a tile that any kernel may have
constexpr tfc_tiles kAnyTiles = {0, 0, 0};

using Size = std::pair<int32_t, int32_t>;

// What one way to run a unit costs, per image.
struct Way {
  double dense, sparse, alone, wake;
  const char* kernel;
  tfc_tiles tiles;
};

// What taken units cost together, on all threads and on one.
struct Cost {
  double together = 0, alone = 0;

  Cost& operator+=(const Cost& other) {
    together += other.together;
    alone += other.alone;
    return *this;
  }
};

// The best tiles of some units, and what each costs with them, or where it is left.
struct Found {
  tfc_tiles tiles;
  std::vector<Cost> costs;
};

// Numbers from 0, some of which belong together.
class Sets {
 public:
  explicit Sets(size_t count) : first_(count) { std::iota(first_.begin(), first_.end(), 0); }

  void Join(size_t a, size_t b) {
    a = First(a);
    b = First(b);
    first_[std::max(a, b)] = std::min(a, b);
  }

  // In rising order of their first members, and each in rising order.
  std::vector<std::vector<size_t>> All() {
    std::vector<std::vector<size_t>> sets;
    std::vector<size_t> place(first_.size());
    for (size_t member = 0; member < first_.size(); ++member) {
      const size_t first = First(member);
      if (first == member) {
        place[member] = sets.size();
        sets.emplace_back();
      }
      sets[place[first]].push_back(member);
    }
    return sets;
  }

 private:
  size_t First(size_t member) {
    size_t found = member;
    while (first_[found] != found) found = first_[found];
    return first_[member] = found;
  }

  std::vector<size_t> first_;  // of the set, or nearer to it
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

  // The choice for every unit, of which those are taken.
  std::vector<Choice> Choices(const std::vector<bool>& taken) {
    const std::vector<bool> inner = Inner(taken);
    std::vector<Choice> choices(units_.size());
    for (const std::vector<size_t>& members : Parts(taken, inner)) {
      const tfc_tiles tiles = Best(members, taken, inner).tiles;
      for (const size_t unit : members) choices[unit] = ChoiceOf(unit, taken[unit], inner, tiles);
    }
    return choices;
  }

  std::vector<Choice> Search() {
    std::vector<bool> taken(units_.size(), true);
    double seconds = Seconds(taken);
    for (;;) {  // turns over what helps most, until nothing does
      double least = seconds;
      std::vector<bool> best;
      for (std::vector<bool>& other : Others(taken)) {
        const double others = Seconds(other);
        if (others >= least * (1 - 1e-6)) continue;
        least = others;
        best = std::move(other);
      }
      if (best.empty()) return Choices(taken);
      taken = std::move(best);
      seconds = least;
    }
  }

  // Of units that are all taken, and follow each other.
  int32_t Threads() {
    const std::vector<bool> taken(units_.size(), true);
    Cost cost;
    for (const Cost& each : Costs(taken)) cost += each;
    return cost.together + wake_ < cost.alone ? setting_.threads : 1;
  }

 private:
  // ------------------------------------------------------------ what all costs

  double Seconds(const std::vector<bool>& taken) {
    const std::vector<Cost> costs = Costs(taken);
    double seconds = 0;
    for (const std::vector<size_t>& stretch : Stretches(taken)) {
      Cost cost;
      for (const size_t unit : stretch) cost += costs[unit];
      seconds += taken[stretch.front()] ? kHandovers * wake_ + std::min(cost.together, cost.alone) : cost.together;
    }
    return seconds;
  }

  std::vector<Cost> Costs(const std::vector<bool>& taken) {
    const std::vector<bool> inner = Inner(taken);
    std::vector<Cost> costs(units_.size());
    for (const std::vector<size_t>& members : Parts(taken, inner)) {
      const Found& found = Best(members, taken, inner);
      for (size_t i = 0; i < members.size(); ++i) costs[members[i]] = found.costs[i];
    }
    return costs;
  }

  // Taken units that run one after the other, without what would let other threads fall asleep; and each other.
  std::vector<std::vector<size_t>> Stretches(const std::vector<bool>& taken) const {
    std::vector<std::vector<size_t>> stretches;
    for (size_t unit = 0; unit < units_.size(); ++unit) {
      const bool goes_on = unit > 0 && units_[unit].follows && taken[unit] && taken[unit - 1];
      if (!goes_on) stretches.emplace_back();
      stretches.back().push_back(unit);
    }
    return stretches;
  }

  // All that differ by one unit, or by a stretch that is left.
  std::vector<std::vector<bool>> Others(const std::vector<bool>& taken) const {
    std::vector<std::vector<bool>> others;
    const auto turn = [&](const std::vector<size_t>& members) {
      others.push_back(taken);
      for (const size_t unit : members) others.back()[unit] = units_[unit].needed || !taken[unit];
    };
    for (size_t unit = 0; unit < units_.size(); ++unit) turn({unit});
    for (const std::vector<size_t>& stretch : Stretches(taken)) {
      if (stretch.size() > 1) turn(stretch);
    }
    return others;
  }

  // ------------------------------------------------------------ which maps may be in tiles

  bool TakesTiles(size_t unit) const {
    const tfc_shape& s = units_[unit].shape;
    return !units_[unit].in_int8 && s.stride_height == 1 && s.stride_width == 1 &&
           Size(s.height, s.width) == sizes_[unit];
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

  // Units that such maps join, in order.
  std::vector<std::vector<size_t>> Parts(const std::vector<bool>& taken, const std::vector<bool>& inner) const {
    Sets sets(units_.size());
    std::vector<int> maker(visible_.size(), -1);
    for (size_t unit = 0; unit < units_.size(); ++unit) {
      if (!taken[unit]) continue;
      for (const int32_t map : {units_[unit].input, units_[unit].residual}) {
        if (map >= 0 && inner[map] && maker[map] >= 0) sets.Join(static_cast<size_t>(maker[map]), unit);
      }
      maker[units_[unit].output] = static_cast<int>(unit);
    }
    return sets.All();
  }

  // ------------------------------------------------------------ tiles for units that are joined

  // The best tiles of a part and what it costs with them; the same parts come again and again in a search.
  const Found& Best(const std::vector<size_t>& members, const std::vector<bool>& taken,
                    const std::vector<bool>& inner) {
    std::vector<int32_t> key;
    for (const size_t unit : members) {
      const Unit& u = units_[unit];
      const int32_t joined = inner[u.input] + 2 * inner[u.output] + 4 * (u.residual >= 0 && inner[u.residual]);
      key.push_back(taken[unit] ? static_cast<int32_t>(unit) * 8 + joined : -1 - static_cast<int32_t>(unit));
    }
    const auto [found, made] = parts_.try_emplace(std::move(key));
    if (made) found->second = FindBest(members, taken, inner);
    return found->second;
  }

  Found FindBest(const std::vector<size_t>& members, const std::vector<bool>& taken,
                 const std::vector<bool>& inner) {
    if (!taken[members.front()]) {
      const size_t unit = members.front();
      const double dense = Find(unit, kAnyTiles, false, false, false).dense * units_[unit].images;
      return {kAnyTiles, {{dense, dense}}};
    }
    Found best = {kAnyTiles, CostsWith(members, inner, kAnyTiles)};
    if (members.size() == 1) return best;
    for (const tfc_tiles& tiles : Candidates(sizes_[members.front()])) {
      std::vector<Cost> costs = CostsWith(members, inner, tiles);
      if (Together(costs) < Together(best.costs)) best = {tiles, std::move(costs)};
    }
    return best;
  }

  static double Together(const std::vector<Cost>& costs) {
    return std::accumulate(costs.begin(), costs.end(), 0.0,
                           [](double sum, const Cost& cost) { return sum + cost.together; });
  }

  Choice ChoiceOf(size_t unit, bool taken, const std::vector<bool>& inner, const tfc_tiles& tiles) {
    const Unit& u = units_[unit];
    const bool tiled = tiles.rows > 0;
    const Way& way = taken ? WayOf(unit, inner, tiles) : Find(unit, kAnyTiles, false, false, false);
    return {taken,
            way.kernel,
            taken ? way.tiles : kAnyTiles,
            tiled && inner[u.input],
            tiled && u.residual >= 0 && inner[u.residual],
            tiled && inner[u.output],
            way.dense,
            way.sparse};
  }

  // With any tiles, all maps are images.
  const Way& WayOf(size_t unit, const std::vector<bool>& inner, const tfc_tiles& tiles) {
    const Unit& u = units_[unit];
    const bool tiled = tiles.rows > 0;
    const bool in = tiled && inner[u.input], out = tiled && inner[u.output];
    const bool residual = tiled && u.residual >= 0 && inner[u.residual];
    return Find(unit, in || out || residual ? tiles : kAnyTiles, in, residual, out);
  }

  std::vector<Cost> CostsWith(const std::vector<size_t>& members, const std::vector<bool>& inner,
                              const tfc_tiles& tiles) {
    std::vector<Cost> costs;
    for (const size_t unit : members) {
      const Way& way = WayOf(unit, inner, tiles);
      const double times = units_[unit].images * (units_[unit].in_int8 ? kInt8Margin : kMargin);
      costs.push_back({way.sparse * times, way.alone * times});
      wake_ = std::max(wake_, way.wake);
    }
    return costs;
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

  // One unit stands for all of its shape: they are many in deep networks.
  double CostAtSize(Size size, const tfc_tiles& tiles) {
    double seconds = 0;
    for (const auto& [unit, count] : ShapesAtSize(size)) {
      if (seconds < kNever) seconds += count * Find(unit, tiles, TakesTiles(unit), false, true).sparse;
    }
    return seconds;
  }

  // The first unit of each shape, and how many have it.
  std::vector<std::pair<size_t, int>> ShapesAtSize(Size size) const {
    std::vector<std::pair<size_t, int>> found;
    for (size_t unit = 0; unit < units_.size(); ++unit) {
      if (sizes_[unit] != size) continue;
      const auto same = [&](const auto& other) {
        return SameShape(units_[other.first].shape, units_[unit].shape);
      };
      const auto known = std::find_if(found.begin(), found.end(), same);
      if (known == found.end()) {
        found.emplace_back(unit, 1);
      } else {
        ++known->second;
      }
    }
    return found;
  }

  static bool SameShape(const tfc_shape& a, const tfc_shape& b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

  const Way& Find(size_t unit, const tfc_tiles& tiles, bool input, bool residual, bool output) {
    const auto key = std::make_tuple(tiles.rows, tiles.columns, tiles.lane_rows, input, residual, output);
    const auto found = ways_[unit].find(key);
    if (found != ways_[unit].end()) return found->second;
    const Unit& u = units_[unit];
    const tfc_options options = {setting_.kernel, tiles, input, residual, output};
    tfc_prediction prediction = {};
    const tfc_status status =
        u.in_int8 ? tfc_int8_predict(&u.shape, &u.counts, setting_.int8_kernel, &setting_.int8_machine,
                                     setting_.threads, &prediction)
                  : tfc_predict(&u.shape, &u.counts, &options, &setting_.machine, setting_.threads, &prediction);
    const bool possible = status == TFC_OK;
    if (possible && u.dense_in_int8 && !u.in_int8) {
      const tfc_weight_counts none = {};
      tfc_prediction other = {};
      tfc_int8_predict(&u.shape, &none, nullptr, &setting_.int8_machine, setting_.threads, &other);
      prediction.dense_seconds = other.dense_seconds;
    }
    if (!possible) prediction = {0, kNever, kNever, 0, nullptr, kAnyTiles};
    return ways_[unit][key] = {prediction.dense_seconds, prediction.sparse_seconds, prediction.alone_seconds,
                               prediction.wake_seconds,  prediction.kernel,         prediction.tiles};
  }

  const std::vector<Unit>& units_;
  const std::vector<bool>& visible_;
  const Setting& setting_;
  std::vector<Size> sizes_;  // of outputs, by unit
  std::vector<std::map<std::tuple<int32_t, int32_t, int32_t, bool, bool, bool>, Way>> ways_;
  std::map<Size, std::vector<tfc_tiles>> candidates_;
  std::map<std::vector<int32_t>, Found> parts_;
  // Seconds until threads begin that sleep.
  double wake_ = 0;
};

// Units that share maps which nobody else sees, or threads: what is best for some says nothing of others.
std::vector<std::vector<size_t>> Neighbours(const std::vector<Unit>& units, const std::vector<bool>& visible,
                                            int32_t threads) {
  Sets sets(units.size());
  std::vector<int> user(visible.size(), -1);
  for (size_t unit = 0; unit < units.size(); ++unit) {
    if (threads > 1 && unit > 0 && units[unit].follows) sets.Join(unit - 1, unit);
    for (const int32_t map : {units[unit].input, units[unit].residual, units[unit].output}) {
      if (map < 0 || visible[map]) continue;
      if (user[map] >= 0) sets.Join(static_cast<size_t>(user[map]), unit);
      user[map] = static_cast<int>(unit);
    }
  }
  return sets.All();
}

// Some of the units, with maps numbered anew.
std::vector<Unit> Some(const std::vector<Unit>& units, const std::vector<size_t>& members,
                       const std::vector<bool>& visible, std::vector<bool>* seen) {
  std::map<int32_t, int32_t> numbers = {{-1, -1}};
  std::vector<Unit> some;
  for (const size_t member : members) {
    some.push_back(units[member]);
    for (int32_t* map : {&some.back().input, &some.back().residual, &some.back().output}) {
      const auto [number, made] = numbers.try_emplace(*map, static_cast<int32_t>(seen->size()));
      if (made) seen->push_back(visible[*map]);
      *map = number->second;
    }
  }
  return some;
}

}  // namespace

std::vector<Choice> Plan(const std::vector<Unit>& units, const std::vector<bool>& visible,
                         const Setting& setting) {
  if (setting.force) return PlanFormats(units, visible, setting).choices;
  std::vector<Choice> choices(units.size());
  for (const std::vector<size_t>& members : Neighbours(units, visible, setting.threads)) {
    std::vector<bool> seen;
    const std::vector<Unit> some = Some(units, members, visible, &seen);
    const std::vector<Choice> found = Planner(some, seen, setting).Search();
    for (size_t i = 0; i < members.size(); ++i) choices[members[i]] = found[i];
  }
  return choices;
}

Formats PlanFormats(const std::vector<Unit>& units, const std::vector<bool>& visible, const Setting& setting) {
  Planner planner(units, visible, setting);
  return {planner.Choices(std::vector<bool>(units.size(), true)), planner.Threads()};
}

}  // namespace tfc::tflite
