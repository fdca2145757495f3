#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace weft::core {

/// SHA-256 (FIPS 180-4) of sixteen streams side by side, a lane of 512-bit registers each. One
/// stream alone goes as fast by Sha256, whose instructions wait for each other; sixteen together go
/// more than twice as fast. The digests are the same. For use by one thread.
class Sha256Lanes {
 public:
  static constexpr std::size_t kLanes = 16;
  static constexpr std::size_t kBlock = 64;  ///< Bytes that SHA-256 takes at a time.

  /// Where each lane's bytes begin.
  using Sources = std::array<const std::byte*, kLanes>;

  /// True when the processor has the instructions (AVX-512F and BW); else nothing below may be
  /// called.
  [[nodiscard]] static bool available() noexcept;

  /// Begins a stream in a lane.
  void start(std::size_t lane) noexcept;
  /// Feeds every lane `blocks` blocks of its bytes. Lanes without a stream must have bytes too;
  /// what comes of them is of no account.
  void update(const Sources& from, std::size_t blocks) noexcept;
  /// The same of BF16 numbers as floats: a block is 16 numbers, 32 of a source's bytes.
  void update_bf16(const Sources& from, std::size_t blocks) noexcept;
  /// Ends a lane's stream with its last bytes, fewer than a block, and gives the digest as 64
  /// lower-case hexadecimal digits.
  [[nodiscard]] std::string finish(std::size_t lane, std::span<const std::byte> rest);

 private:
  /// Word i of every lane's state.
  alignas(64) std::array<std::array<std::uint32_t, kLanes>, 8> state_{};
  std::array<std::uint64_t, kLanes> fed_{};  ///< Bytes of each stream so far.
};

}  // namespace weft::core
