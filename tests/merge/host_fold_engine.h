#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/cuda/fold.h"

namespace weft::tests {

/// Numbers of a tile as `type`, aligned as the kernels want them.
class TileBytes {
 public:
  TileBytes() = default;
  explicit TileBytes(std::size_t bytes) : words_((bytes + 7) / 8), bytes_(bytes) {}
  explicit TileBytes(std::span<const std::byte> from) : TileBytes(from.size()) {
    if (!from.empty()) std::memcpy(words_.data(), from.data(), from.size());
  }
  [[nodiscard]] std::byte* data() { return reinterpret_cast<std::byte*>(words_.data()); }
  [[nodiscard]] std::span<std::byte> span() { return {data(), bytes_}; }

 private:
  std::vector<std::uint64_t> words_;
  std::size_t bytes_ = 0;
};

/// The GPU's engine for folds as far as a processor can run it: the bodies of its kernels
/// (model/cuda/fold.h) block by block, with the threads of a phase in both orders, which must give
/// one result.
class HostFoldEngine : public lora::FoldEngine {
 public:
  [[nodiscard]] const std::string& description() const override { return name_; }

  void begin(const lora::ScaledPairs& pairs, core::DType from, core::DType to) override {
    pairs_ = pairs;
    from_ = from;
    to_ = to;
    tiles_.clear();
    ++matrices;
  }

  void submit(std::int64_t first_row, std::span<const std::byte> base) override {
    if (tiles_.size() == kInFlight) throw std::logic_error("more tiles than kInFlight");
    tiles_.push_back(compute(first_row, base, false));
    Tile backwards = compute(first_row, base, true);
    EXPECT_EQ(0, std::memcmp(tiles_.back().out.data(), backwards.out.data(),
                             backwards.out.span().size()));
    for (std::size_t i = 0; i < backwards.rows.size(); ++i) {
      EXPECT_EQ(0,
                std::memcmp(&tiles_.back().rows[i], &backwards.rows[i], sizeof backwards.rows[i]))
          << "threads of a phase depend on one another";
    }
    ++tiles;
  }

  void collect(std::span<std::byte> out, std::span<lora::FoldedRow> rows) override {
    Tile tile = std::move(tiles_.front());
    tiles_.pop_front();
    if (out.size() != tile.out.span().size() || rows.size() != tile.rows.size())
      throw std::logic_error("a tile of another size");
    std::memcpy(out.data(), tile.out.data(), out.size());
    std::copy(tile.rows.begin(), tile.rows.end(), rows.begin());
    if (spoil_row >= 0 && spoil_row < tile.first_row + static_cast<std::int64_t>(rows.size()) &&
        spoil_row >= tile.first_row) {
      const auto row = static_cast<std::size_t>(spoil_row - tile.first_row);
      if (spoils_figures) {
        rows[row].kept += 1;
      } else {
        out[row * (out.size() / rows.size())] ^= std::byte{1};
      }
    }
  }

  int matrices = 0;             ///< That were begun.
  int tiles = 0;                ///< That were computed.
  std::int64_t spoil_row = -1;  ///< A row whose first byte comes out wrong,
  bool spoils_figures = false;  ///< or one of its figures.

 private:
  struct Tile {
    std::int64_t first_row = 0;
    TileBytes out;
    std::vector<lora::FoldedRow> rows;
  };

  Tile compute(std::int64_t first_row, std::span<const std::byte> base, bool backwards) const {
    const std::int64_t count =
        static_cast<std::int64_t>(base.size()) / (pairs_.columns * core::size_of(from_));
    TileBytes stored(base);
    Tile result{first_row,
                TileBytes(static_cast<std::size_t>(count * pairs_.columns * core::size_of(to_))),
                std::vector<lora::FoldedRow>(static_cast<std::size_t>(count))};
    cuda::FoldTile tile{};
    tile.base = stored.data();
    tile.left = pairs_.left.data() + first_row * pairs_.rank;
    tile.right = pairs_.right.data();
    tile.scales = pairs_.scales.data();
    tile.out = result.out.data();
    tile.rows = count;
    tile.columns = pairs_.columns;
    tile.rank = pairs_.rank;
    tile.from = from_;
    tile.to = to_;
    std::vector<lora::FoldedRow> parts(static_cast<std::size_t>(count * tile.chunks()));
    tile.parts = parts.data();
    cuda::run_on_host(tile, tile.blocks(), cuda::FoldTile::kThreads, cuda::FoldTile::kSharedFloats,
                      backwards);
    cuda::FoldRows rows{};
    rows.parts = parts.data();
    rows.rows = result.rows.data();
    rows.count = count;
    rows.chunks = tile.chunks();
    cuda::run_on_host(rows, (count + 31) / 32, 32, 1, backwards);
    return result;
  }

  std::string name_ = "cuda:0 (the processor's tests, 0.0)";
  lora::ScaledPairs pairs_;
  core::DType from_ = core::DType::kF32;
  core::DType to_ = core::DType::kF32;
  std::deque<Tile> tiles_;
};

}  // namespace weft::tests
