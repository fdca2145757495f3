#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace weft::core {

/// The processes ("ranks") that do one work together, seen from one of them. Only copies of
/// bytes and the largest of whole numbers travel through it, so that no result depends on the order
/// in which a library adds. Every rank makes the same calls in the same order, each from the thread
/// that made the communicator. A lost rank ends all of them (docs/data-parallel.md).
class Communicator {
 public:
  virtual ~Communicator() = default;

  /// This process, from 0 to size() - 1.
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;

  struct Outgoing {
    int to = 0;
    std::span<const std::byte> bytes;
  };
  struct Incoming {
    int from = 0;
    std::span<std::byte> bytes;
  };
  /// Sends and receives all of these, and returns when both are done. What goes from one rank to
  /// another arrives in the order of the list, in pieces of the same sizes.
  virtual void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) = 0;
  /// The largest of the ranks' values. Nobody has it before all have called.
  [[nodiscard]] virtual std::int64_t largest(std::int64_t value) = 0;
  /// All ranks have come to the end of their work, be it good or bad. A process that ends without
  /// it is taken for lost.
  virtual void finish() = 0;

  /// The rank that writes files and speaks to the terminal.
  [[nodiscard]] bool is_first() const { return rank() == 0; }
};

/// One process alone.
class SingleProcess final : public Communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 1; }
  void exchange(std::span<const Outgoing>, std::span<const Incoming>) override {}
  [[nodiscard]] std::int64_t largest(std::int64_t value) override { return value; }
  void finish() override {}
};

}  // namespace weft::core
