// Folds by an engine (lora/fold_engine.h): the kernels of the GPU, whose bodies run here, give the
// bytes and the figures of the processor's merge, bit for bit, and a merge with them is the merge
// without.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>

#include "core/error.h"
#include "merge/certificate.h"
#include "merge/merge.h"
#include "merge/row_kernels.h"
#include "merge/update.h"
#include "tests/merge/host_fold_engine.h"
#include "tests/merge/models.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using core::DType;
using tests::config_of;
using tests::HostFoldEngine;
using tests::slurp;
using tests::TempDir;
using tests::TileBytes;
using tests::write_noisy_adapter;

constexpr std::array kTypes{DType::kF32, DType::kF16, DType::kBF16};

/// Noise of very different sizes: numbers that round to zero, denormal ones, large ones.
std::vector<float> wide_noise(std::size_t count, double largest, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> exponent(-40, 0);
  std::uniform_real_distribution<double> mantissa(-1, 1);
  std::vector<float> values(count);
  for (float& value : values)
    value = static_cast<float>(largest * mantissa(random) * std::exp2(exponent(random)));
  return values;
}

/// An update of two adapters whose ranks add up, and weights that make its products inexact.
Update update_of(std::int64_t rows, std::int64_t columns, std::int64_t rank, double size,
                 Update::Layout layout, unsigned seed) {
  std::vector<Term> terms;
  const bool turned = layout == Update::Layout::kInOut;
  for (const std::int64_t part : {rank - rank / 3, rank / 3}) {
    if (part == 0) continue;
    Term term;
    term.factors.target = {
        {"m.q_proj", turned ? rows : columns, turned ? columns : rows}, part, 0, size / 3};
    term.factors.a =
        wide_noise(static_cast<std::size_t>(part * term.factors.target.module.in), 1, seed);
    term.factors.b =
        wide_noise(static_cast<std::size_t>(part * term.factors.target.module.out), 1, seed + 1);
    term.weight = terms.empty() ? 0.7 : -1.1;
    terms.push_back(std::move(term));
    seed += 2;
  }
  return {std::move(terms), layout};
}

std::vector<float> decoded(DType type, const std::vector<std::byte>& bytes) {
  const auto width = static_cast<std::size_t>(core::size_of(type));
  std::vector<float> values(bytes.size() / width);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = tests::decode(type, bytes.data() + i * width);
  return values;
}

/// What the processor makes of a tile: bytes and sums of its rows.
struct Expected {
  std::vector<std::byte> bytes;
  std::vector<RowSums> rows;
};

Expected by_processor(const Update& update, const std::vector<float>& base, DType to) {
  Expected expected;
  const auto width = static_cast<std::size_t>(update.columns());
  const std::size_t row_bytes = width * static_cast<std::size_t>(core::size_of(to));
  expected.bytes.resize(static_cast<std::size_t>(update.rows()) * row_bytes);
  std::vector<double> block(static_cast<std::size_t>(Update::kRowBlock * update.stride()));
  for (std::int64_t row = 0; row < update.rows(); ++row) {
    if (row % Update::kRowBlock == 0) update.compute(row, block);
    const auto at = static_cast<std::size_t>(row % Update::kRowBlock * update.stride());
    const auto place = static_cast<std::size_t>(row);
    expected.rows.push_back(round_row(to, std::span(base).subspan(place * width, width),
                                      std::span<const double>(block).subspan(at, width),
                                      expected.bytes.data() + place * row_bytes));
  }
  return expected;
}

RowSums sums_of(const lora::FoldedRow& row) {
  return {row.base, row.update, row.kept, row.error, row.changed, false};
}

/// Folds the whole as one tile and holds it against the processor. `odd`: rows that are to be left
/// to the processor.
void expect_same(const Update& update, DType from, const std::vector<std::byte>& stored, DType to,
                 const std::set<std::int64_t>& odd = {}) {
  const Expected expected = by_processor(update, decoded(from, stored), to);
  HostFoldEngine engine;
  engine.begin(update.pairs().front().pairs, from, to);
  engine.submit(0, stored);
  std::vector<std::byte> bytes(expected.bytes.size());
  std::vector<lora::FoldedRow> rows(expected.rows.size());
  engine.collect(bytes, rows);
  const std::size_t row_bytes = bytes.size() / rows.size();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    ASSERT_EQ(rows[i].odd != 0, odd.contains(static_cast<std::int64_t>(i))) << "row " << i;
    if (rows[i].odd != 0) continue;
    ASSERT_EQ(0, std::memcmp(bytes.data() + i * row_bytes, expected.bytes.data() + i * row_bytes,
                             row_bytes))
        << "row " << i;
    ASSERT_EQ(sums_of(rows[i]), expected.rows[i]) << "row " << i;
    ASSERT_FALSE(expected.rows[i].overflow);
  }
}

TEST(FoldKernels, GiveTheBytesAndFiguresOfTheProcessor) {
  struct Shape {
    std::int64_t rows, columns, rank;
  };
  unsigned seed = 1;
  for (const Shape shape : {Shape{1, 1, 1},
                            {3, 7, 2},
                            {4, 8, 31},
                            {5, 255, 32},
                            {9, 256, 33},
                            {2, 257, 64},
                            {6, 700, 300},
                            {13, 1031, 16}}) {
    for (const DType from : kTypes) {
      for (const DType to : kTypes) {
        const auto layout = seed % 2 == 0 ? Update::Layout::kOutIn : Update::Layout::kInOut;
        const Update update = update_of(shape.rows, shape.columns, shape.rank, 0.5, layout, seed);
        const auto base =
            wide_noise(static_cast<std::size_t>(shape.rows * shape.columns), 2, seed + 9);
        SCOPED_TRACE(testing::Message()
                     << shape.rows << " x " << shape.columns << ", rank " << shape.rank << ", "
                     << core::name_of(from) << " to " << core::name_of(to) << ", seed " << seed);
        expect_same(update, from, tests::encode(from, base), to);
        ++seed;
      }
    }
  }
}

TEST(FoldKernels, RoundNumbersBetweenTwoAndDenormalOnesAsTheProcessor) {
  // Updates of a few bits beside bases of every exponent: ties, carries, and the denormal numbers
  // of all three types.
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      constexpr std::int64_t kColumns = 600;
      const bool narrow = from == DType::kF16 || to == DType::kF16;
      Term term;
      term.factors.target = {{"m.q_proj", kColumns, 2}, 1, 0, 1};
      std::vector<float> base(2 * kColumns);
      for (int j = 0; j < kColumns; ++j) {
        const int exponent = narrow ? -30 + j % 44 : -150 + j % 270;
        const auto at = static_cast<std::size_t>(j);
        base[at] = std::ldexp(1.0F + static_cast<float>(j % 3) * 0x1p-7F, exponent);
        base[at + kColumns] = j % 5 == 0 ? -0.0F : -base[at];
        term.factors.a.push_back(std::ldexp(static_cast<float>(1 + j % 4), exponent - 9 - j % 17));
      }
      term.factors.b = {1, -0.5F};
      const auto stored = tests::encode(from, base);
      SCOPED_TRACE(testing::Message() << core::name_of(from) << " to " << core::name_of(to));
      expect_same(Update({term}, Update::Layout::kOutIn), from, stored, to);
    }
  }
}

TEST(FoldKernels, LeaveRowsOutsideOfTheTypeToTheProcessor) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr std::int64_t kRows = 9;
  constexpr std::int64_t kColumns = 530;
  for (const DType to : kTypes) {
    Term term;
    term.factors.target = {{"m.q_proj", kColumns, kRows}, 1, 0, 1};
    term.factors.a.assign(kColumns, 0x1p-12F);
    term.factors.b.assign(kRows, 1);
    std::vector<float> base(kRows * kColumns, 0.25F);
    const auto set = [&](std::int64_t row, std::int64_t column, float value) {
      base[static_cast<std::size_t>(row * kColumns + column)] = value;
    };
    set(0, 529, kInfinity);
    set(2, 0, -kInfinity);
    set(4, 300, kNan);
    // 65520 is where F16 ends; the update takes one number just beyond, one stays below.
    set(5, 511, 65520 - 0x1p-8F);
    set(6, 512, 65520 - 0x1p-8F);
    term.factors.b[6] = 16;
    std::set<std::int64_t> odd{0, 2, 4};
    if (to == DType::kF16) odd.insert(6);
    if (to == DType::kBF16) {
      set(7, 1, std::numeric_limits<float>::max());
      odd.insert(7);
    }
    SCOPED_TRACE(core::name_of(to));
    expect_same(Update({term}, Update::Layout::kOutIn), DType::kF32,
                tests::encode(DType::kF32, base), to, odd);
  }
}

TEST(FoldKernels, TakeTilesFromTheMiddle) {
  const Update update = update_of(11, 300, 20, 0.5, Update::Layout::kOutIn, 77);
  const auto stored = tests::encode(DType::kBF16, wide_noise(11 * 300, 1, 78));
  const Expected expected = by_processor(update, decoded(DType::kBF16, stored), DType::kF16);
  HostFoldEngine engine;
  engine.begin(update.pairs().front().pairs, DType::kBF16, DType::kF16);
  engine.submit(0, std::span(stored).first(4 * 600));
  engine.submit(4, std::span(stored).subspan(4 * 600));
  for (const auto& [first, count] : {std::pair{0, 4}, std::pair{4, 7}}) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(count) * 600);
    std::vector<lora::FoldedRow> rows(static_cast<std::size_t>(count));
    engine.collect(bytes, rows);
    EXPECT_EQ(0, std::memcmp(bytes.data(), expected.bytes.data() + first * 600, bytes.size()));
    for (int i = 0; i < count; ++i) {
      EXPECT_EQ(sums_of(rows[static_cast<std::size_t>(i)]),
                expected.rows[static_cast<std::size_t>(first + i)]);
    }
  }
}

// ---- Whole merges -------------------------------------------------------------------------------

/// merge.json without what a merge by another device may say otherwise.
nlohmann::json comparable(const fs::path& folder) {
  auto json = nlohmann::json::parse(slurp(folder / "merge.json"));
  for (const char* key : {"seconds", "certificate_sha256", "devices"}) json.erase(key);
  for (auto& tensor : json["folded"]) tensor.erase("device");
  return json;
}

/// A model whose matrices do not fit in one tile, and adapters of several kinds.
class EngineMerge : public ::testing::Test {
 protected:
  EngineMerge() { request.out = dir / "out"; }

  void use(const std::vector<tests::ModelTensor>& tensors) {
    request.model = tests::write_model(dir / "base", tensors);
  }
  void use_wide_model(DType type) {
    use({tests::noisy("model.embed_tokens.weight", {40, 20}, type, 1),
         tests::noisy("model.layers.0.self_attn.q_proj.weight", {24, 1037}, type, 2),
         tests::noisy("model.layers.0.mlp.up_proj.weight", {30, 20}, type, 3),
         tests::noisy("model.norm.weight", {20}, DType::kF32, 4)});
  }
  fs::path adapter(const std::string& name, std::int64_t rank = 6,
                   const std::function<void(lora::AdapterConfig&)>& change = {}) {
    lora::AdapterConfig config = config_of({"q_proj", "up_proj"}, rank, 3);
    if (change) change(config);
    return write_noisy_adapter(
        dir / name,
        {{"model.layers.0.self_attn.q_proj", 1037, 24}, {"model.layers.0.mlp.up_proj", 20, 30}},
        config, static_cast<std::uint32_t>(rank));
  }

  /// Merges without and with an engine: the same files and the same record. Returns the record of
  /// the second.
  nlohmann::json merge_both() {
    (void)merge_model(request);
    const fs::path plain = dir / "plain";
    fs::rename(request.out, plain);
    (void)merge_model(request, {.engine = &engine});
    EXPECT_EQ(comparable(plain), comparable(request.out));
    for (const auto& entry : fs::directory_iterator(plain)) {
      const fs::path name = entry.path().filename();
      if (name == "merge.json") continue;
      EXPECT_EQ(slurp(entry.path()), slurp(request.out / name)) << name;
    }
    EXPECT_NO_THROW((void)verify_certificate(request.out));
    return nlohmann::json::parse(slurp(request.out / "merge.json"));
  }

  TempDir dir;
  MergeRequest request;
  HostFoldEngine engine;
};

TEST_F(EngineMerge, IsTheMergeOfTheProcessorInEveryType) {
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      fs::remove_all(dir / "base");
      fs::remove_all(dir / "plain");
      fs::remove_all(request.out);
      use_wide_model(from);
      request.adapters = {{adapter("a"), 0.5}, {adapter("b", 35), -2}};
      request.dtype = to;
      SCOPED_TRACE(testing::Message() << core::name_of(from) << " to " << core::name_of(to));
      const auto record = merge_both();
      EXPECT_EQ(record["devices"][0]["name"], engine.description());
      EXPECT_EQ(record["devices"][0]["tensors"], 2);
      for (const auto& tensor : record["folded"]) EXPECT_EQ(tensor["device"], engine.description());
    }
  }
  EXPECT_EQ(engine.matrices, 2 * 9);
}

TEST_F(EngineMerge, PassesThroughTilesTwoAtATime) {
  // 2500 rows of 1037 numbers are three tiles; the samples lie in the first, second and last.
  use({tests::noisy("model.layers.0.self_attn.q_proj.weight", {2500, 1037}, DType::kBF16, 2)});
  request.adapters = {
      {write_noisy_adapter(dir / "a", {{"model.layers.0.self_attn.q_proj", 1037, 2500}},
                           config_of({"q_proj"}, 1, 1)),
       1}};
  EXPECT_EQ(merge_both()["devices"][0]["tensors"], 1);
  EXPECT_EQ(engine.tiles, 3);
}

TEST_F(EngineMerge, LeavesTheRestToTheProcessor) {
  use_wide_model(DType::kBF16);
  const std::string key = "base_model.model.model.layers.0.self_attn.q_proj.";
  auto magnitude = tests::noisy(key + "lora_magnitude_vector", {24}, DType::kF32, 13);
  for (float& value : magnitude.values) value += 1;
  const auto dora = tests::write_adapter(
      dir / "dora",
      R"({"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": ["q_proj"],)"
      R"("use_dora": true})",
      {tests::noisy(key + "lora_A.weight", {2, 1037}, DType::kF32, 11),
       tests::noisy(key + "lora_B.weight", {24, 2}, DType::kF32, 12), magnitude});
  request.adapters = {{adapter("a"), 1}, {dora, 0.5}};
  const auto record = merge_both();
  EXPECT_EQ(record["devices"][0]["tensors"], 1);
  for (const auto& tensor : record["folded"]) {
    const bool is_up = tensor["name"] == "model.layers.0.mlp.up_proj.weight";
    EXPECT_EQ(tensor.contains("device"), is_up) << tensor["name"];
  }
}

TEST_F(EngineMerge, LeavesOtherRoundingsToTheProcessor) {
  use_wide_model(DType::kBF16);
  request.adapters = {{adapter("a"), 1}};
  request.rounding = Rounding::kStochastic;
  EXPECT_EQ(merge_both()["devices"][0]["tensors"], 0);
  EXPECT_EQ(engine.matrices, 0);
}

TEST_F(EngineMerge, TakesEveryExpertOfAStack) {
  use({tests::noisy("mlp.experts.down_proj", {3, 5, 270}, DType::kF16, 2)});
  const std::string key = "base_model.model.mlp.experts.";
  request.adapters = {{tests::write_adapter(
                           dir / "experts",
                           R"({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": [],)"
                           R"("target_parameters": ["mlp.experts.down_proj"]})",
                           {tests::noisy(key + "lora_A.weight", {6, 270}, DType::kF32, 3),
                            tests::noisy(key + "lora_B.weight", {5, 6}, DType::kF32, 4)}),
                       1}};
  EXPECT_EQ(merge_both()["devices"][0]["tensors"], 1);
  EXPECT_EQ(engine.matrices, 3);
}

TEST_F(EngineMerge, GoesOnWhereAStoppedOneWasAndNamesTheDeviceOfEachTensor) {
  use_wide_model(DType::kF32);
  request.adapters = {{adapter("a"), 1}};
  request.max_shard_bytes = 4000;
  std::atomic<bool> stop{false};
  const auto first = [&](FoldProgress progress) { stop = progress.done > progress.total - 1000; };
  EXPECT_THROW((void)merge_model(request, {first, &stop, &engine}), Interrupted);
  const int before = engine.matrices;
  (void)merge_model(request);
  const auto record = nlohmann::json::parse(slurp(request.out / "merge.json"));
  int named = 0;
  for (const auto& tensor : record["folded"]) named += tensor.contains("device") ? 1 : 0;
  EXPECT_EQ(named, 2);
  EXPECT_EQ(before, 2);
  ASSERT_EQ(record["devices"].size(), 1U);
  EXPECT_EQ(record["devices"][0]["name"], engine.description());
  EXPECT_EQ(record["devices"][0]["tensors"], 2);
}

TEST_F(EngineMerge, KeepsNumbersThatAreNone) {
  auto tensors = std::vector{
      tests::noisy("model.layers.0.self_attn.q_proj.weight", {24, 1037}, DType::kF16, 2)};
  tensors[0].values[1037 * 5 + 3] = std::numeric_limits<float>::quiet_NaN();
  tensors[0].values[1037 * 23 + 1036] = -std::numeric_limits<float>::infinity();
  use(tensors);
  request.adapters = {
      {adapter("a", 6,
               [](lora::AdapterConfig& config) { config.target_modules.names = {"q_proj"}; }),
       1}};
  request.dtype = DType::kF32;
  // The sums of a tensor with such numbers are none, which JSON has no word for: null.
  const auto record = merge_both();
  EXPECT_TRUE(record["folded"][0]["base_norm"].is_null());
}

TEST_F(EngineMerge, OfNumbersBeyondTheTypeIsRefusedInTheSameWords) {
  use_wide_model(DType::kBF16);
  request.adapters = {{adapter("a"), 1e6}};
  request.dtype = DType::kF16;
  EXPECT_THROWS_WITH((void)merge_model(request, {.engine = &engine}), NumericError, "65504");
  EXPECT_FALSE(fs::exists(request.out));
}

TEST_F(EngineMerge, ThatComputesOtherNumbersIsStopped) {
  use_wide_model(DType::kBF16);
  request.adapters = {{adapter("a"), 1}};
  engine.spoil_row = 12;  // The middle of 24 rows is a sample.
  EXPECT_THROWS_WITH((void)merge_model(request, {.engine = &engine}), IoError, "q_proj", "row 12",
                     "other numbers than the processor");
  EXPECT_FALSE(fs::exists(request.out));
}

TEST_F(EngineMerge, ThatSumsOtherFiguresIsStopped) {
  use_wide_model(DType::kBF16);
  request.adapters = {{adapter("a"), 1}};
  engine.spoil_row = 12;
  engine.spoils_figures = true;
  EXPECT_THROWS_WITH((void)merge_model(request, {.engine = &engine}), IoError, "q_proj", "row 12");
  EXPECT_FALSE(fs::exists(request.out));
}

TEST_F(EngineMerge, IsNamedInTheReport) {
  use_wide_model(DType::kBF16);
  request.adapters = {{adapter("a"), 1}};
  const std::string table = report_table(merge_model(request, {.engine = &engine}));
  EXPECT_THAT(table, testing::HasSubstr("2 of 2 changed tensors by cuda:0"));
  fs::remove_all(request.out);
  EXPECT_THAT(report_table(merge_model(request)), testing::Not(testing::HasSubstr("computed")));
}

}  // namespace
}  // namespace weft::merge
