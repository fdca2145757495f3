#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/communicator.h"
#include "core/log.h"
#include "model/device.h"

namespace weft::model {

/// Copies tensors between ranks, as core::Communicator does bytes: nothing is added on the way, so
/// that no result depends on it. Every rank makes the same calls in the same order, each from the
/// thread that opened its device.
class [[gnu::visibility("default")]] TensorExchange {
 public:
  TensorExchange() = default;
  virtual ~TensorExchange() = default;
  TensorExchange(const TensorExchange&) = delete;
  TensorExchange& operator=(const TensorExchange&) = delete;

  /// As those of the communicator.
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int size() const = 0;
  /// How tensors travel, for logs and records: "the host", "NCCL 2.30.7".
  [[nodiscard]] virtual std::string name() const = 0;

  struct Outgoing {
    int to = 0;
    at::Tensor values;
  };
  struct Incoming {
    int from = 0;
    at::Tensor values;
  };
  /// Sends and receives all of these, and returns when both are done. All are contiguous and fp32,
  /// on the device of the rank, and may be empty. What goes from one rank to another arrives in the
  /// order of the list, in tensors of the same sizes. Nothing that is received may overlap what is
  /// sent. IoError where it fails; then the other ranks fail too, at the latest after ten minutes.
  virtual void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) = 0;
};

/// Through the memory of the hosts, whatever the device.
class HostExchange final : public TensorExchange {
 public:
  /// The communicator must outlive it.
  explicit HostExchange(core::Communicator& ranks) : ranks_(ranks) {}
  [[nodiscard]] int rank() const override { return ranks_.rank(); }
  [[nodiscard]] int size() const override { return ranks_.size(); }
  [[nodiscard]] std::string name() const override { return "the host"; }
  void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) override;

 private:
  core::Communicator& ranks_;
};

/// A way between devices that has to be begun, which may fail.
struct DirectWay {
  /// Made by one rank for all.
  std::function<std::string()> make_name;
  /// Called by all ranks with that name.
  std::function<std::unique_ptr<TensorExchange>(const std::string& name)> join;
};

/// The direct way where it can be begun in all ranks and carries a first tensor from each to each
/// of them; else the host, which gives the same bits, and one line to `log` that says why. All
/// ranks call it, and all get the same.
[[nodiscard]] std::unique_ptr<TensorExchange> begin_exchange(core::Communicator& ranks,
                                                             const DirectWay& way,
                                                             at::Device device,
                                                             const core::Log& log);

/// For tensors on this device: NCCL between GPUs, else the host. All ranks call it.
[[nodiscard]] std::unique_ptr<TensorExchange> open_exchange(core::Communicator& ranks,
                                                            const ComputeDevice& device,
                                                            const core::Log& log);

}  // namespace weft::model
