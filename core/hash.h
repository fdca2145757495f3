#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace weft::core {

/// SHA-256 of a stream of bytes (OpenSSL's implementation).
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);

  /// The digest of everything fed so far, as 64 lower-case hexadecimal digits. Ends the stream.
  [[nodiscard]] std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// SHA-256 of `text` in hexadecimal.
[[nodiscard]] std::string sha256(std::string_view text);

/// SHA-256 of a file's bytes in hexadecimal. Throws IoError if it cannot be read.
[[nodiscard]] std::string sha256_file(const std::filesystem::path& path);

}  // namespace weft::core
