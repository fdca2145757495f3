#include "model/exchange.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>

#include <array>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/ranks.h"
#include "model/cuda_library.h"

namespace weft::model {
namespace {

std::span<std::byte> bytes_of(const at::Tensor& values) {
  return {reinterpret_cast<std::byte*>(values.mutable_data_ptr<float>()),
          static_cast<std::size_t>(values.numel()) * sizeof(float)};
}

/// Every rank sends its number to every other, and looks at what it gets.
void require_works(TensorExchange& exchange, at::Device device) {
  const auto options = at::TensorOptions(at::kFloat).device(device);
  const at::Tensor own = at::full({1}, exchange.rank() + 1, options);
  std::vector<TensorExchange::Outgoing> outgoing;
  std::vector<TensorExchange::Incoming> incoming;
  for (int other = 0; other < exchange.size(); ++other) {
    if (other == exchange.rank()) continue;
    outgoing.push_back({other, own});
    incoming.push_back({other, at::full({1}, -1, options)});
  }
  exchange.exchange(outgoing, incoming);
  for (const TensorExchange::Incoming& one : incoming) {
    const auto found = one.values.item<float>();
    if (found == static_cast<float>(one.from + 1)) continue;
    throw IoError("a first number from rank {} arrived as {}", one.from, found);
  }
}

DirectWay nccl(const core::Communicator& ranks) {
  return {
      .make_name =
          [] {
            std::array<char, kWeftCudaGroup> name{};
            if (const char* const problem = cuda_library().group(name.data()))
              throw IoError("{}", problem);
            return std::string(name.data(), name.size());
          },
      .join =
          [rank = ranks.rank(), size = ranks.size()](const std::string& name) {
            TensorExchange* joined = nullptr;
            if (const char* const problem = cuda_library().join(name.data(), size, rank, &joined))
              throw IoError("{}", problem);
            return std::unique_ptr<TensorExchange>(joined);
          }};
}

}  // namespace

void HostExchange::exchange(std::span<const Outgoing> outgoing,
                            std::span<const Incoming> incoming) {
  // Of what is on the host already these are the tensors themselves.
  std::vector<at::Tensor> here;
  std::vector<core::Communicator::Outgoing> sent;
  for (const Outgoing& one : outgoing) {
    here.push_back(one.values.cpu());
    sent.push_back({one.to, bytes_of(here.back())});
  }
  std::vector<core::Communicator::Incoming> received;
  const std::size_t first = here.size();
  for (const Incoming& one : incoming) {
    here.push_back(one.values.is_cpu()
                       ? one.values
                       : at::empty(one.values.sizes(), at::TensorOptions(at::kFloat)));
    received.push_back({one.from, bytes_of(here.back())});
  }
  ranks_.exchange(sent, received);
  for (std::size_t i = 0; i < incoming.size(); ++i) {
    if (!incoming[i].values.is_cpu()) incoming[i].values.copy_(here[first + i]);
  }
}

std::unique_ptr<TensorExchange> begin_exchange(core::Communicator& ranks, const DirectWay& way,
                                               at::Device device, const core::Log& log) {
  try {
    std::string name;
    core::on_first(ranks, [&] { name = way.make_name(); });
    name = core::broadcast(ranks, name, 0);
    std::unique_ptr<TensorExchange> direct;
    core::together(ranks, [&] { direct = way.join(name); });
    core::together(ranks, [&] { require_works(*direct, device); });
    core::tell(log, core::Level::kInfo, fmt::format("gradients travel over {}", direct->name()));
    return direct;
  } catch (const std::exception& problem) {
    // In all ranks, since they came to it together.
    std::string_view why = problem.what();
    why = why.substr(0, why.find('\n'));
    core::tell(log, core::Level::kInfo,
               fmt::format("gradients travel over the host, with the same numbers: {}", why));
    return std::make_unique<HostExchange>(ranks);
  }
}

std::unique_ptr<TensorExchange> open_exchange(core::Communicator& ranks,
                                              const ComputeDevice& device, const core::Log& log) {
  if (ranks.size() == 1 || !device.is_gpu()) return std::make_unique<HostExchange>(ranks);
  return begin_exchange(ranks, nccl(ranks), device.device, log);
}

}  // namespace weft::model
