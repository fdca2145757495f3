#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/prompt.h"

namespace weft::data {

class TokenFile;

/// One example's tokens and marks, wherever they are kept (Example says what they mean).
struct ExampleView {
  std::span<const std::int32_t> tokens;
  std::span<const std::uint8_t> supervised;  ///< As long as `tokens`

  ExampleView() = default;
  ExampleView(std::span<const std::int32_t> t, std::span<const std::uint8_t> s)
      : tokens(t), supervised(s) {}
  // An example is seen as a view wherever one is wanted.
  ExampleView(const Example& example) : tokens(example.tokens), supervised(example.supervised) {}
};

/// Examples by number: those of a vector, which must outlive the table, or those of mapped files,
/// one after another, which the table keeps open. Copies are cheap. Thread-safe.
class ExampleTable {
 public:
  ExampleTable() = default;
  // The two ways to keep examples are used alike.
  ExampleTable(std::span<const Example> examples) : examples_(examples) {}
  ExampleTable(const std::vector<Example>& examples) : examples_(examples) {}
  explicit ExampleTable(std::vector<std::shared_ptr<const TokenFile>> files);

  [[nodiscard]] std::size_t size() const;
  [[nodiscard]] bool empty() const { return size() == 0; }
  /// i < size(). The view is valid as long as a copy of the table is.
  [[nodiscard]] ExampleView operator[](std::size_t i) const;

  /// Those of `numbers`, in that order; what the table keeps stays shared.
  [[nodiscard]] ExampleTable select(std::vector<std::uint32_t> numbers) const;

  /// Bytes of the files, all of which may be in memory; 0 for a vector's.
  [[nodiscard]] std::uint64_t mapped_bytes() const;

  /// Gives the pages of mapped files back; the next look reads them again. For after a pass over
  /// everything.
  void release() const;

 private:
  struct Files {
    std::vector<std::shared_ptr<const TokenFile>> all;
    std::vector<std::size_t> ends;  ///< Number of examples up to and with each file
  };

  std::span<const Example> examples_;
  std::shared_ptr<const Files> files_;
  std::shared_ptr<const std::vector<std::uint32_t>> chosen_;  ///< Null: all
};

}  // namespace weft::data
