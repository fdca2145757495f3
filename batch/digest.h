#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace weft::batch {

/// Digests of what steps read, each computed once.
class InputDigests {
 public:
  /// Of a file its bytes; of a folder the names and bytes of its files, of a model's weights their
  /// values, as they are kept between runs (checkpoint/digest_store.h). "missing" where there is
  /// nothing.
  [[nodiscard]] std::string of(const std::filesystem::path& path);
  /// What was written since is read again.
  void forget(const std::filesystem::path& path);

 private:
  std::map<std::string, std::string> known_;
};

}  // namespace weft::batch
