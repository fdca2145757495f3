#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace weft::core {

/// SHA-256 (FIPS 180-4) of sixteen streams side by side, which a processor computes faster than one
/// after the other, since the steps of one stream wait for each other: by lanes of 512-bit
/// registers more than twice as fast, by its own SHA instructions, two streams at a time, 1.7
/// times. The digests are those of Sha256. For use by one thread.
class Sha256Lanes {
 public:
  /// kWide: AVX-512F and BW. kPairs: SHA-NI and SSE 4.1.
  enum class Way : std::uint8_t { kWide, kPairs };

  static constexpr std::size_t kLanes = 16;
  static constexpr std::size_t kBlock = 64;  ///< Bytes that SHA-256 takes at a time.

  /// Where each lane's bytes begin; null: no stream is in the lane.
  using Sources = std::array<const std::byte*, kLanes>;

  /// True when the processor has the instructions of one way; else nothing below may be called.
  [[nodiscard]] static bool available() noexcept;
  [[nodiscard]] static bool available(Way way) noexcept;

  /// By the fastest way that is available.
  Sha256Lanes() noexcept;
  explicit Sha256Lanes(Way way) noexcept;

  /// Streams that are computed at once: more of them are not faster.
  [[nodiscard]] std::size_t streams() const noexcept;

  /// Begins a stream in a lane.
  void start(std::size_t lane) noexcept;
  /// Feeds every lane that has a stream `blocks` blocks of its bytes; one at least has.
  void update(const Sources& from, std::size_t blocks) noexcept;
  /// The same of BF16 numbers as floats: a block is 16 numbers, 32 of a source's bytes.
  void update_bf16(const Sources& from, std::size_t blocks) noexcept;
  /// Ends a lane's stream with its last bytes, fewer than a block, and gives the digest as 64
  /// lower-case hexadecimal digits.
  [[nodiscard]] std::string finish(std::size_t lane, std::span<const std::byte> rest);

 private:
  void run(const Sources& from, std::size_t blocks) noexcept;

  Way way_;
  /// Word i of every lane's state.
  alignas(64) std::array<std::array<std::uint32_t, kLanes>, 8> state_{};
  std::array<std::uint64_t, kLanes> fed_{};  ///< Bytes of each stream so far.
};

}  // namespace weft::core
