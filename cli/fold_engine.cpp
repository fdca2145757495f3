#include "cli/fold_engine.h"

#include <utility>

namespace weft::cli {
namespace {

/// The library's engine, with its failures as exceptions of the program.
class OpenedEngine final : public lora::FoldEngine {
 public:
  explicit OpenedEngine(FoldEngineCalls calls) : calls_(std::move(calls)) {}

  [[nodiscard]] const std::string& description() const override { return calls_.description; }
  void begin(const lora::ScaledPairs& pairs, core::DType from, core::DType to) override {
    calls_.begin(pairs, from, to).rethrow();
  }
  void submit(std::int64_t first_row, std::span<const std::byte> base) override {
    calls_.submit(first_row, base).rethrow();
  }
  void collect(std::span<std::byte> out, std::span<lora::FoldedRow> rows) override {
    calls_.collect(out, rows).rethrow();
  }

 private:
  FoldEngineCalls calls_;
};

}  // namespace

std::unique_ptr<lora::FoldEngine> open_fold_engine(const std::string& device) {
  if (device == "cpu") return nullptr;
  const auto open = reinterpret_cast<OpenFoldEngine>(torch_symbol("weft_open_fold_engine"));
  FoldEngineCalls calls;
  open(device, calls).rethrow();
  return std::make_unique<OpenedEngine>(std::move(calls));
}

}  // namespace weft::cli
