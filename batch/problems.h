#pragma once

#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "schema/node.h"

namespace weft::batch {

/// What is wrong with a description, each thing once, to be told together.
class Problems {
 public:
  void add(const schema::Place& place, std::string_view text) {
    add_lines(fmt::format("{}: {}", place.text("JOBS.yaml"), text));
  }
  /// The lines of an error that names the places itself.
  void add_lines(std::string_view text) {
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      const std::string line(text.substr(0, end));
      if (!line.empty() && std::ranges::find(lines_, line) == lines_.end()) lines_.push_back(line);
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }
  [[nodiscard]] bool empty() const { return lines_.empty(); }
  /// Throws ConfigError with a line for each, if there are any.
  void refuse() const {
    if (!lines_.empty()) throw ConfigError("{}", fmt::join(lines_, "\n"));
  }

 private:
  std::vector<std::string> lines_;
};

}  // namespace weft::batch
