// Running a plan whose lanes are parts of the map.
#include <algorithm>
#include <cstring>
#include <vector>

#include "run.h"
#include "threads.h"

namespace tfc {
namespace {

// One region of one image, for some of the shares, counted through all chunks.
struct Task {
  int32_t image, region_row, region_column;
  int32_t first_share, end_share;
};

// Some of the shares of a chunk, and the filters of it that they are.
struct Part {
  const Chunk& chunk;
  int32_t first_share, end_share;

  int32_t FirstFilter() const { return ShareBegin(chunk.filters, first_share); }
  int32_t Filters() const { return ShareBegin(chunk.filters, end_share) - FirstFilter(); }
};

constexpr uint32_t kAllLanes = (1u << kLanes) - 1;

int32_t FloorDiv(int32_t a, int32_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// What one thread does and the memory it does it in: the planes of a block, the sums of a chunk, zeros, which
// stand in for pixels off the map, and a pixel that stands in for outputs there.
class Runner {
 public:
  Runner(const tfc_plan& plan, const Maps& maps)
      : plan_(plan),
        stream_(plan.structure->stream),
        outline_(plan.structure->outline),
        shape_(outline_.shape),
        tiling_(outline_.tiling),
        tiled_(outline_.work.tiled),
        kernel_(*outline_.kernel->lanes),
        input_(static_cast<const float*>(maps.input)),
        residual_(static_cast<const float*>(maps.residual)),
        output_(maps.output),
        words_((shape_.channels + outline_.work.depth - 1) / outline_.work.depth),
        plane_words_(static_cast<ptrdiff_t>(tiling_.plane_lines) * kLanes),
        sum_words_(static_cast<ptrdiff_t>(tiling_.Vectors()) * kLanes),
        pixels_(tiled_.input ? 0 : static_cast<size_t>(tiling_.Positions()) * tiling_.Lanes()),
        residual_pixels_(maps.residual == nullptr || tiled_.residual ? 0 : sum_words_),
        output_pixels_(tiled_.output ? 0 : sum_words_),
        moves_(tiled_.input && !outline_.work.in_place ? tiling_.Positions() : 0),
        scratch_(PlaneWords() + SumWords() + std::max(words_, shape_.filters) + shape_.filters),
        whole_words_(WholeWords() ? 1 : static_cast<size_t>(shape_.height) * shape_.width * words_),
        planes_(scratch_.data()),
        sums_(planes_ + PlaneWords()),
        zeros_(sums_ + SumWords()),
        nowhere_(zeros_ + std::max(words_, shape_.filters)) {
    if (planes_ == nullptr) return;
    if (tiling_.slices > 1) FindSlots();
    for (const int32_t row : tiling_.rows.source) {
      for (const int32_t column : tiling_.columns.source) {
        last_row_ = std::max(last_row_, row);
        last_column_ = std::max(last_column_, column);
        if (!pixels_.empty()) offsets_.push_back((int64_t{row} * shape_.width + column) * words_);
      }
    }
    const int32_t zero = Int8() ? plan_.int8.requantization.input_zero : 0;
    std::memset(zeros_, zero, sizeof(float) * std::max(words_, shape_.filters));
  }

  bool Ready() const { return planes_ != nullptr && whole_words_.data() != nullptr; }

  void Run(const Task& task) {
    task_ = task;
    if (!moves_.empty()) FindMoves();
    if (!pixels_.empty()) FindInputPixels();
    if (!residual_pixels_.empty()) FindOutputPixels<const float*>(residual_, zeros_, &residual_pixels_);
    if (!output_pixels_.empty()) FindOutputPixels<void*>(output_, nowhere_, &output_pixels_);
    if (kernel_.enter != nullptr) kernel_.enter();
    for (int32_t first = task.first_share; first < task.end_share;) {
      const int32_t chunk = first / kShares, next = std::min(task.end_share, (chunk + 1) * kShares);
      RunPart({stream_.chunks[chunk], first - chunk * kShares, next - chunk * kShares});
      first = next;
    }
    if (kernel_.leave != nullptr) kernel_.leave();
  }

 private:
  bool Int8() const { return plan_.structure->type == kInt8; }
  size_t PlaneWords() const { return outline_.work.in_place ? 0 : plane_words_ * (tiling_.block_channels + 1); }
  size_t SumWords() const {
    return tiled_.output ? 0 : sum_words_ * CeilDiv(stream_.chunks.front().filters, kLanes) * kLanes;
  }

  void RunPart(const Part& part) {
    if (part.Filters() == 0) return;
    const Chunk& chunk = part.chunk;
    float* sums = tiled_.output
                      ? Region(static_cast<float*>(output_), shape_.filters) + chunk.first_filter * sum_words_
                      : sums_;
    const float* begin = Begin(part, sums);
    const bool by_share = kernel_.unpack != nullptr && !tiled_.output;
    for (const Step& step : chunk.steps) {
      const float* planes = Planes(step);
      if (by_share && &step == &chunk.steps.back()) return Finish(part, planes, begin, sums);
      SumBlock(part, step, planes, begin, sums);
      begin = sums;
    }
  }

  // By share: sums are handed out while they are in the nearest cache.
  void Finish(const Part& part, const float* planes, const float* begin, float* sums) {
    for (int32_t share = part.first_share; share < part.end_share; ++share) {
      const Part some = {part.chunk, share, share + 1};
      if (some.Filters() == 0) continue;
      SumBlock(some, part.chunk.steps.back(), planes, begin, sums);
      UnpackTile(some);
    }
  }

  // ------------------------------------------------------------ where things are

  // The first output of a lane's tile.
  int32_t TileRow(int lane) const {
    return (task_.region_row * tiling_.lane_rows + tiling_.LaneRow(lane)) * tiling_.tile.rows;
  }
  int32_t TileColumn(int lane) const {
    return (task_.region_column * tiling_.lane_columns + tiling_.LaneColumn(lane)) * tiling_.tile.columns;
  }

  // The task's region, or one `rows` below and `columns` to the right, of a map in tiles.
  template <typename Float>
  Float* Region(Float* map, int32_t channels, int32_t rows = 0, int32_t columns = 0) const {
    const int64_t region = int64_t{task_.image} * tiling_.Regions() +
                           int64_t{task_.region_row + rows} * tiling_.region_columns + task_.region_column +
                           columns;
    return map + region * channels * sum_words_;
  }

  // Position by position, those of all lanes.
  void FindInputPixels() {
    if (!WholeWords() && task_.image != copied_) CopyImage();
    const float* image =
        WholeWords() ? input_ + task_.image * int64_t{shape_.height} * shape_.width * words_ : whole_words_.data();
    if (tiling_.slices > 1) return FindStripPixels(image);
    const tfc_shape& s = shape_;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t top = int64_t{TileRow(lane)} * s.stride_height - s.pad_top,
                    left = int64_t{TileColumn(lane)} * s.stride_width - s.pad_left;
      const bool inside = top >= 0 && top + last_row_ < s.height && left >= 0 && left + last_column_ < s.width;
      const float** to = pixels_.data() + lane;
      if (inside) {
        const float* first = image + (top * s.width + left) * words_;
        for (size_t i = 0; i < offsets_.size(); ++i) to[i * kLanes] = first + offsets_[i];
      } else {
        FindPixels(image, top, left, to);
      }
    }
  }

  void FindPixels(const float* image, int64_t top, int64_t left, const float** to) const {
    for (const int32_t row : tiling_.rows.source) {
      const int64_t y = top + row;
      for (const int32_t column : tiling_.columns.source) {
        const int64_t x = left + column;
        const bool on = y >= 0 && y < shape_.height && x >= 0 && x < shape_.width;
        *to = on ? image + (y * shape_.width + x) * words_ : zeros_;
        to += kLanes;
      }
    }
  }

  void FindStripPixels(const float* image) {
    const tfc_shape& s = shape_;
    for (const Strip::Phase& phase : tiling_.strip.phases) {
      const float** pixels = pixels_.data() + static_cast<ptrdiff_t>(phase.first_line) * tiling_.Lanes();
      EachStretch(phase.lines, [&](const Stretch& stretch) {
        const int64_t y = stretch.row * s.stride_height + phase.row - s.pad_top;
        int64_t x = stretch.column * s.stride_width + phase.column - s.pad_left;
        const bool on = y >= 0 && y < s.height;
        const float* row = on ? image + y * s.width * words_ : zeros_;
        for (int32_t place = stretch.begin; place < stretch.end; ++place, x += s.stride_width) {
          pixels[slots_[place]] = on && x >= 0 && x < s.width ? row + x * words_ : zeros_;
        }
      });
    }
  }

  // Places of a strip in one row, and where that begins.
  struct Stretch {
    int32_t begin, end;  // from the first one of the region
    int64_t row, column;
  };

  // Four neighbours in a line are neighbours still where a kernel puts words together out of slices.
  void FindSlots() {
    const int32_t lanes = tiling_.Lanes();
    for (int32_t place = 0; place < std::max(tiling_.strip.lines, tiling_.tile.columns) * lanes; ++place) {
      const int32_t line = place / lanes, fours = place % lanes / 4;
      slots_.push_back(line * lanes + fours % tiling_.slices * kLanes + fours / tiling_.slices * 4 + place % 4);
    }
  }

  // Calls `find(stretch)` for so many lines of a strip, from the region's first.
  template <typename Find>
  void EachStretch(int32_t lines, const Find& find) const {
    const int32_t pitch = tiling_.strip.pitch, count = lines * tiling_.Lanes();
    int64_t at = int64_t{task_.region_column} * tiling_.tile.columns * tiling_.Lanes();
    for (int32_t begin = 0; begin < count;) {
      const int64_t row = at / pitch, column = at % pitch;
      const auto end = static_cast<int32_t>(std::min<int64_t>(count, begin + pitch - column));
      find(Stretch{begin, end, row, column});
      at += end - begin;
      begin = end;
    }
  }

  // Whether pixels of the input begin and end with words.
  bool WholeWords() const { return shape_.channels % outline_.work.depth == 0; }

  // Into one whose pixels do; no weight reads what fills them up.
  void CopyImage() {
    const int64_t pixels = int64_t{shape_.height} * shape_.width, channels = shape_.channels;
    const auto* from = reinterpret_cast<const uint8_t*>(input_) + task_.image * pixels * channels;
    auto* to = reinterpret_cast<uint8_t*>(whole_words_.data());
    const int64_t bytes = int64_t{words_} * kWordBytes;
    int64_t left = pixels;
    for (; left * channels >= bytes; --left, from += channels, to += bytes) {  // with bytes of the pixels behind
      for (int32_t w = 0; w < words_; ++w) std::memcpy(to + w * kWordBytes, from + w * kWordBytes, kWordBytes);
    }
    std::memset(to, 0, static_cast<size_t>(left * bytes));
    for (; left > 0; --left, from += channels, to += bytes) std::memcpy(to, from, static_cast<size_t>(channels));
    copied_ = task_.image;
  }

  // Of a map of the size of the output; off it, another place.
  template <typename Pointer>
  void FindOutputPixels(Pointer map, Pointer off, std::vector<Pointer>* pixels) const {
    const OutputSize size = outline_.size;
    const auto pixel_bytes = static_cast<uintptr_t>(shape_.filters) * (Int8() ? sizeof(int8_t) : sizeof(float));
    const auto image = reinterpret_cast<uintptr_t>(map) +
                       static_cast<uintptr_t>(task_.image) * size.height * size.width * pixel_bytes;
    const auto at = [&](int64_t y, int64_t x) {
      const uintptr_t pixel = static_cast<uintptr_t>(y) * size.width + static_cast<uintptr_t>(x);
      return y < size.height && x < size.width ? reinterpret_cast<Pointer>(image + pixel * pixel_bytes) : off;
    };
    if (tiling_.slices > 1) {
      EachStretch(tiling_.tile.columns, [&](const Stretch& stretch) {
        for (int32_t place = stretch.begin; place < stretch.end; ++place) {
          (*pixels)[slots_[place]] = at(stretch.row, stretch.column + place - stretch.begin);
        }
      });
      return;
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      const int32_t top = TileRow(lane), left = TileColumn(lane);
      Pointer* to = pixels->data() + lane;
      for (int32_t y = top; y < top + tiling_.tile.rows; ++y) {
        for (int32_t x = left; x < left + tiling_.tile.columns; ++x, to += kLanes) *to = at(y, x);
      }
    }
  }

  // ------------------------------------------------------------ planes with a rim, from a map in tiles

  void FindMoves() {
    Move* move = moves_.data();
    lanes_.resize(static_cast<size_t>(tiling_.Positions()) * kLanes);
    int32_t* lanes = lanes_.data();
    for (const int32_t row : tiling_.rows.source) {
      for (const int32_t column : tiling_.columns.source) {
        FindMove(row - shape_.pad_top, column - shape_.pad_left, lanes, move++);
        lanes += kLanes;
      }
    }
  }

  // Of the position so far from a lane's first. All lanes move by as many lanes.
  void FindMove(int32_t row, int32_t column, int32_t* lanes, Move* move) const {
    const int32_t down = FloorDiv(row, tiling_.tile.rows), right = FloorDiv(column, tiling_.tile.columns);
    const int32_t position =
        (row - down * tiling_.tile.rows) * tiling_.tile.columns + column - right * tiling_.tile.columns;
    move->lanes = lanes;
    move->count = 0;
    uint32_t masks[3][3] = {};  // of the regions above, beside and below
    for (int lane = 0; lane < kLanes; ++lane) {
      const int32_t lane_row = tiling_.LaneRow(lane) + down, lane_column = tiling_.LaneColumn(lane) + right;
      const int32_t rows = FloorDiv(lane_row, tiling_.lane_rows),
                    columns = FloorDiv(lane_column, tiling_.lane_columns);
      lanes[lane] = (lane_row - rows * tiling_.lane_rows) * tiling_.lane_columns + lane_column -
                    columns * tiling_.lane_columns;
      const int32_t y = TileRow(lane) + row, x = TileColumn(lane) + column;
      if (y >= 0 && y < shape_.height && x >= 0 && x < shape_.width) masks[rows + 1][columns + 1] |= 1u << lane;
    }
    for (int32_t i = 0; i < 9; ++i) {
      if (masks[i / 3][i % 3] == 0) continue;
      const float* region = Region(input_, shape_.channels, i / 3 - 1, i % 3 - 1);
      move->parts[move->count++] = {region + position * kLanes, masks[i / 3][i % 3]};
    }
    if (down == 0 && right == 0 && masks[1][1] == kAllLanes) move->lanes = nullptr;
  }

  // ------------------------------------------------------------ the work

  const float* Planes(const Step& step) {
    if (outline_.work.in_place) return Region(input_, shape_.channels) + step.first_word * sum_words_;
    if (tiled_.input) {
      GatherBlock(step);
    } else {
      kernel_.pack({pixels_.data(), tiling_.Positions(), stream_.planes.data(), step.first_word, step.end_word,
                    words_, step.first_plane, step.planes, planes_, plane_words_});
    }
    return planes_;
  }

  void GatherBlock(const Step& step) {
    float* to = planes_;
    for (int32_t channel = step.first_word; channel < step.end_word;) {
      int32_t end = channel;
      while (end < step.end_word && stream_.planes[end] >= 0) ++end;
      kernel_.gather({moves_.data(), tiling_.Positions(), channel, end - channel, sum_words_, to, plane_words_});
      to += (end - channel) * plane_words_;
      channel = end;
      while (channel < step.end_word && stream_.planes[channel] < 0) ++channel;
    }
  }

  // What the sums of a chunk begin with, besides the bias.
  const float* Begin(const Part& part, float* sums) const {
    if (residual_ == nullptr || Int8()) return nullptr;  // in int8 it is added to outputs
    const int32_t chunk_first = part.chunk.first_filter, first = chunk_first + part.FirstFilter();
    if (tiled_.residual) return Region(residual_, shape_.filters) + chunk_first * sum_words_;
    const int32_t end = first + part.Filters();
    kernel_.pack({residual_pixels_.data(), tiling_.Vectors(), nullptr, first, end, end, first, part.Filters(),
                  sums + part.FirstFilter() * sum_words_, sum_words_});
    return sums;
  }

  void SumBlock(const Part& part, const Step& step, const float* planes, const float* begin, float* sums) const {
    const Chunk& chunk = part.chunk;
    const Step::Start& start = step.starts[part.first_share];
    TileJob job;
    job.counts = stream_.counts.data() + start.count;
    job.slots = stream_.slots.data() + start.slot;
    job.lines = stream_.lines.data() + start.line;
    const Int8Numbers& numbers = plan_.int8;
    if (Int8()) {
      job.values = numbers.values.data() + start.value * kWordBytes;
    } else {
      job.values = plan_.values.data() + start.value;
    }
    job.filters = part.Filters();
    job.input = planes;
    job.row_bytes = static_cast<ptrdiff_t>(tiling_.columns.source.size()) * kLanes * sizeof(float);
    job.plane_bytes = plane_words_ * kWordBytes;
    job.sums = sums;
    job.begin = begin;
    const void* bias = Int8() ? static_cast<const void*>(numbers.bias.data() + chunk.first_filter)
                              : plan_.bias.data() + chunk.first_filter;
    job.bias = &step == &chunk.steps.front() ? bias : nullptr;
    job.last = &step == &chunk.steps.back();
    job.low = plan_.structure->range.low;
    job.high = plan_.structure->range.high;
    job.pixels = output_pixels_.data();
    job.residuals = residual_pixels_.empty() ? nullptr : residual_pixels_.data();
    job.first_filter = chunk.first_filter;
    job.end_filter = chunk.first_filter + chunk.filters;
    if (Int8()) job.requantization = numbers.From(chunk.first_filter);
    tiling_.tile.run(job);
  }

  void UnpackTile(const Part& part) const {
    const int32_t first = part.FirstFilter(), filter = part.chunk.first_filter + first;
    const Requantization requantization = Int8() ? plan_.int8.From(filter) : Requantization{};
    const int32_t in_line = Int8() ? kWordBytes : 1;  // vectors
    for (int32_t v = 0; v < tiling_.Vectors(); v += in_line) {
      const float* const* residuals = residual_pixels_.empty() ? nullptr : residual_pixels_.data() + v * kLanes;
      kernel_.unpack({std::min(in_line, tiling_.Vectors() - v), output_pixels_.data() + v * kLanes, residuals,
                      filter, part.Filters(), sums_ + first * sum_words_ + v / in_line * kLanes, sum_words_,
                      requantization});
    }
  }

  const tfc_plan& plan_;
  const Stream& stream_;
  const Outline& outline_;
  const tfc_shape& shape_;
  const Tiling& tiling_;
  const Tiled& tiled_;
  const LaneKernel& kernel_;
  const float *input_, *residual_;
  void* output_;
  int32_t words_;  // of a pixel of the input
  ptrdiff_t plane_words_, sum_words_;
  std::vector<int32_t> slots_;              // by place of a region's strip: which lane it is, all lines together
  std::vector<int64_t> offsets_;            // by position: how far from a lane's first pixel, in words
  int32_t last_row_ = 0, last_column_ = 0;  // that any position is in, from there
  std::vector<const float*> pixels_;        // (positions, lanes)
  std::vector<const float*> residual_pixels_;  // (vectors, lanes)
  std::vector<void*> output_pixels_;           // likewise
  std::vector<Move> moves_;                    // by position
  std::vector<int32_t> lanes_;                 // (positions, lanes)
  Scratch scratch_, whole_words_;
  int32_t copied_ = -1;  // the image in `whole_words_`
  float *planes_, *sums_, *zeros_, *nowhere_;
  Task task_;
};

}  // namespace

tfc_status RunLanes(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads) {
  const Outline& outline = plan.structure->outline;
  const Tiling& tiling = outline.tiling;
  return ShareOut(DivisionOf(outline, batch, threads), [&](const auto& tasks) {
    Runner runner(plan, maps);
    if (!runner.Ready()) return false;
    tasks([&](const Piece& piece) {
      runner.Run({static_cast<int32_t>(piece.region / tiling.Regions()),
                  static_cast<int32_t>(piece.region / tiling.region_columns % tiling.region_rows),
                  static_cast<int32_t>(piece.region % tiling.region_columns), piece.begin, piece.end});
    });
    return true;
  });
}

}  // namespace tfc
