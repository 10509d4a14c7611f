// Running a plan whose lanes are filters.
#include <algorithm>
#include <atomic>

#include "run.h"
#include "threads.h"

namespace tfc {
namespace {

class Runner {
 public:
  Runner(const tfc_plan& plan, const Maps& maps)
      : plan_(plan),
        stream_(plan.structure->blocks),
        outline_(plan.structure->outline),
        shape_(outline_.shape),
        tiling_(outline_.block_tiling),
        maps_(maps),
        scratch_(tiling_.copies ? RowWords() * RowsRead(LargestBand()) : 1) {}

  bool Ready() const { return scratch_.data() != nullptr; }

  // Some rows or columns of a band.
  void Run(const Piece& piece) {
    const auto band = static_cast<int32_t>(piece.region % tiling_.bands);
    image_ = piece.region / tiling_.bands;
    first_row_ = band * tiling_.band_rows;
    rows_ = band + 1 == tiling_.bands ? LargestBand() : tiling_.band_rows;
    first_column_ = 0;
    columns_ = outline_.size.width;
    if (tiling_.ByColumns(outline_.size)) {
      first_column_ = piece.begin;
      columns_ = piece.end - piece.begin;
    } else {  // the last band may have more rows than others
      const int64_t rows = rows_;
      const auto begin = static_cast<int32_t>(rows * piece.begin / tiling_.band_rows);
      rows_ = static_cast<int32_t>(rows * piece.end / tiling_.band_rows) - begin;
      first_row_ += begin;
    }
    const void* input = Input();
    for (const BlockChunk& chunk : stream_.chunks) RunChunk(chunk, input);
  }

 private:
  size_t RowWords() const { return static_cast<size_t>(tiling_.width) * tiling_.words; }
  int32_t RowsRead(int32_t outputs) const {
    return (outputs - 1) * shape_.stride_height + (shape_.kernel_height - 1) * shape_.dilation_height + 1;
  }
  int32_t LargestBand() const { return outline_.size.height - (tiling_.bands - 1) * tiling_.band_rows; }

  // What the band's first output reads first: in the image itself, or in a copy with zeros around it.
  const void* Input() {
    const int64_t pixels = image_ * shape_.height * shape_.width;
    const int64_t top = int64_t{first_row_} * shape_.stride_height - shape_.pad_top;
    if (!tiling_.copies) return Floats(maps_.input) + (pixels + top * shape_.width) * tiling_.words;
    float* to = scratch_.data();
    for (int32_t row = 0; row < RowsRead(rows_); ++row, to += RowWords()) {
      CopyRow(pixels * shape_.channels, top + row, to);
    }
    return scratch_.data();
  }

  void CopyRow(int64_t image, int64_t y, float* to) const {
    const bool on = y >= 0 && y < shape_.height;
    const int32_t left = on ? std::min(shape_.pad_left, tiling_.width) : tiling_.width;
    const int32_t inside = std::min(tiling_.width - left, shape_.width);
    const int64_t first = image + y * shape_.width * shape_.channels;
    if (tiling_.depth > 1) {
      CopyBytes(first, on ? inside : 0, left, reinterpret_cast<uint8_t*>(to));
      return;
    }
    const int64_t channels = shape_.channels;
    std::fill_n(to, left * channels, 0.0f);
    if (on) std::copy_n(Floats(maps_.input) + first, inside * channels, to + left * channels);
    std::fill(to + (left + inside) * channels, to + RowWords(), 0.0f);
  }

  // `inside` pixels from that place on behind `left` ones of the padding, all of them in whole words.
  void CopyBytes(int64_t first, int32_t inside, int32_t left, uint8_t* to) const {
    const uint8_t flip = outline_.kernel->flip;
    const auto zero = static_cast<uint8_t>(plan_.int8.requantization.input_zero ^ flip);
    const int64_t pixel = int64_t{tiling_.words} * kWordBytes, channels = shape_.channels;
    std::fill_n(to, left * pixel, zero);
    const auto* from = static_cast<const uint8_t*>(maps_.input) + first;
    uint8_t* at = to + left * pixel;
    if (pixel == channels) {
      for (int64_t i = 0; i < inside * pixel; ++i) at[i] = from[i] ^ flip;
    } else {
      for (int32_t i = 0; i < inside; ++i, at += pixel, from += channels) {
        for (int64_t channel = 0; channel < channels; ++channel) at[channel] = from[channel] ^ flip;
        std::fill(at + channels, at + pixel, zero);
      }
    }
    std::fill(to + (left + inside) * pixel, to + RowWords() * kWordBytes, zero);
  }

  // Tiles that would end beyond the last row or column begin earlier: they make some outputs again.
  void RunChunk(const BlockChunk& chunk, const void* input) const {
    const BlockTile& tile = tiling_.tile;
    for (int32_t r = 0; r < rows_; r += tile.rows) {
      const int32_t row = std::min(r, rows_ - tile.rows);
      for (int32_t c = 0; c < columns_; c += tile.columns) {
        RunTile(chunk, input, row, first_column_ + std::min(c, columns_ - tile.columns));
      }
    }
  }

  void RunTile(const BlockChunk& chunk, const void* input, int32_t row, int32_t column) const {
    const int32_t filters = shape_.filters, first = chunk.first_block * kLanes;
    const int64_t width = outline_.size.width;
    const int64_t pixel = (image_ * outline_.size.height + first_row_ + row) * width + column;
    const int64_t output = pixel * filters + first;
    BlockJob job;
    job.blocks = chunk.blocks;
    job.tail = std::min(filters - first - (chunk.blocks - 1) * kLanes, kLanes);
    job.input_column = static_cast<ptrdiff_t>(shape_.stride_width) * tiling_.words;
    job.input_row = static_cast<ptrdiff_t>(shape_.stride_height) * RowWords();
    job.input = Floats(input) + row * job.input_row + column * job.input_column;
    job.output_column = filters;
    job.output_row = width * filters;
    if (tiling_.depth > 1) {
      RunInt8(chunk, output, &job);
    } else {
      RunFloat32(chunk, output, &job);
    }
  }

  void RunFloat32(const BlockChunk& chunk, int64_t output, BlockJob* job) const {
    auto* to = static_cast<float*>(maps_.output) + output;
    job->output = to;
    job->begin = maps_.residual == nullptr ? nullptr : Floats(maps_.residual) + output;
    job->bias = plan_.bias.data() + chunk.first_block * kLanes;
    job->low = plan_.structure->range.low;
    job->high = plan_.structure->range.high;
    for (const BlockStep& step : chunk.steps) {
      job->values = plan_.values.data() + step.first_entry * kLanes;
      job->last = &step == &chunk.steps.back();
      RunStep(step, job);
      job->begin = to;
      job->bias = nullptr;
    }
  }

  void RunInt8(const BlockChunk& chunk, int64_t output, BlockJob* job) const {
    const Int8Numbers& numbers = plan_.int8;
    job->output = static_cast<int8_t*>(maps_.output) + output;
    job->bias = numbers.bias.data() + chunk.first_block * kLanes;
    job->requantization = numbers.From(chunk.first_block * kLanes);
    job->residual = maps_.residual == nullptr ? nullptr : static_cast<const int8_t*>(maps_.residual) + output;
    job->flip = tiling_.flip;
    const BlockStep& step = chunk.steps.front();  // the only one
    job->values = numbers.values.data() + step.first_entry * kLanes * kWordBytes;
    RunStep(step, job);
  }

  void RunStep(const BlockStep& step, BlockJob* job) const {
    job->counts = stream_.counts.data() + step.first_count;
    job->offsets = stream_.offsets.data() + step.first_entry;
    tiling_.tile.run(*job);
  }

  // Words, whatever is in them.
  static const float* Floats(const void* map) { return static_cast<const float*>(map); }

  const tfc_plan& plan_;
  const BlockStream& stream_;
  const Outline& outline_;
  const tfc_shape& shape_;
  const BlockTiling& tiling_;
  const Maps maps_;
  Scratch scratch_;
  int64_t image_ = 0;
  int32_t first_row_ = 0, rows_ = 0, first_column_ = 0, columns_ = 0;
};

}  // namespace

tfc_status RunBlocks(const tfc_plan& plan, const Maps& maps, int32_t batch, int32_t threads) {
  return ShareOut(DivisionOf(plan.structure->outline, batch, threads), [&](const auto& tasks) {
    Runner runner(plan, maps);
    if (!runner.Ready()) return false;
    tasks([&](const Piece& piece) { runner.Run(piece); });
    return true;
  });
}

}  // namespace tfc
