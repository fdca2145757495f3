#include "batch/progress.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/terminal.h"

namespace weft::batch {

namespace fs = std::filesystem;

std::optional<double> RunProgress::remaining_seconds() const {
  if (total_updates <= 0 || update <= 0) return std::nullopt;
  return seconds / static_cast<double>(update) * static_cast<double>(total_updates - update);
}

std::string tail_of(const fs::path& file, std::uint64_t bytes) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return "";
  stream.seekg(0, std::ios::end);
  const auto size = static_cast<std::uint64_t>(stream.tellg());
  const std::uint64_t from = size > bytes ? size - bytes : 0;
  stream.seekg(static_cast<std::streamoff>(from));
  std::string text(static_cast<std::size_t>(size - from), '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  if (from > 0) text.erase(0, std::min(text.find('\n') + 1, text.size()));
  return text;
}

std::optional<RunProgress> read_progress(const fs::path& run, bool whole) {
  constexpr std::uint64_t kTail = 16 << 10;
  constexpr std::uint64_t kMost = std::uint64_t{256} << 20;
  std::istringstream lines(tail_of(run / "metrics.jsonl", whole ? kMost : kTail));
  std::optional<RunProgress> found;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) continue;  // A line that is still being written.
    if (!found) found.emplace();
    const auto number = [&](const char* key) {
      const auto value = json.find(key);
      return value != json.end() && value->is_number() ? value->get<double>() : 0.0;
    };
    if (json.contains("loss")) {
      found->update = static_cast<std::int64_t>(number("update"));
      found->loss = number("loss");
      found->tokens_per_second = number("tokens_per_second");
      found->tokens = static_cast<std::uint64_t>(number("total_tokens"));
      found->resident_bytes =
          std::max(found->resident_bytes, static_cast<std::uint64_t>(number("resident_bytes")));
      found->seconds = number("seconds");
    }
    if (json.contains("validation_loss") && json["validation_loss"].is_number()) {
      const double loss = number("validation_loss");
      found->validation_loss = std::min(found->validation_loss.value_or(loss), loss);
    }
  }
  return found;
}

std::string last_line(const fs::path& log) {
  std::istringstream lines(tail_of(log, 16 << 10));
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    const std::string shown = core::one_line(line.substr(line.rfind('\r') + 1));
    if (shown.find_first_not_of(' ') != std::string::npos) last = shown;
  }
  return last;
}

}  // namespace weft::batch
