// Tensors from GPU to GPU over NCCL, from point to point only: what NCCL adds has an order that
// depends on the number of ranks. The group does not block, so that a rank whose neighbour failed
// comes to an end with an error.

#include "model/exchange.h"

#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <string>
#include <thread>

#include "core/error.h"
#include "model/cuda/cuda.h"

namespace weft::model {
namespace {

static_assert(sizeof(ncclUniqueId) == kWeftCudaGroup);

using Clock = std::chrono::steady_clock;
constexpr std::chrono::minutes kToJoin{2};
/// All ranks come to an exchange together (train/trainer.cpp), so that only the copying counts.
constexpr std::chrono::minutes kToExchange{10};
constexpr std::chrono::seconds kToLeave{10};
/// How long a wait spins before it sleeps between two looks.
constexpr std::chrono::milliseconds kSpin{2};
constexpr std::chrono::microseconds kNap{50};

bool is_well(ncclResult_t status) { return status == ncclSuccess || status == ncclInProgress; }

std::string version() {
  int number = 0;
  if (ncclGetVersion(&number) != ncclSuccess) return "NCCL";
  return "NCCL " + std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
         std::to_string(number % 100);
}

/// NCCL's words for a failure, in one line.
std::string words(ncclResult_t status, ncclComm_t group) {
  std::string text = version() + " says: " + ncclGetErrorString(status);
  const char* const more = ncclGetLastError(group);
  if (more != nullptr && *more != '\0') text += std::string(" (") + more + ")";
  for (char& letter : text) {
    if (letter == '\n') letter = ' ';
  }
  return text;
}

/// Calls look() until it says that it has seen the end; false when that takes too long.
template <typename Look>
bool wait(std::chrono::milliseconds at_most, const Look& look) {
  const Clock::time_point begin = Clock::now();
  while (!look()) {
    const auto passed = Clock::now() - begin;
    if (passed > at_most) return false;
    if (passed > kSpin) std::this_thread::sleep_for(kNap);
  }
  return true;
}

class NcclExchange final : public TensorExchange {
 public:
  NcclExchange(const char* name, int ranks, int rank) : rank_(rank), size_(ranks) {
    ncclUniqueId id{};
    std::memcpy(&id, name, sizeof id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t status = ncclCommInitRankConfig(&group_, ranks, id, rank, &config);
    if (!is_well(status)) fail(status);
    settle(kToJoin);
  }

  ~NcclExchange() override { leave(); }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return size_; }
  [[nodiscard]] std::string name() const override { return version(); }

  void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) override {
    if (group_ == nullptr) throw IoError("the GPUs of the ranks have lost each other before");
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
    ncclResult_t status = ncclGroupStart();
    if (!is_well(status)) fail(status);
    // In a group that was begun everything has to be tried, and the group ended.
    const auto note = [&](ncclResult_t one) {
      if (is_well(status)) status = one;
    };
    for (const Outgoing& one : outgoing) {
      if (one.values.numel() == 0) continue;
      note(ncclSend(one.values.const_data_ptr(), static_cast<std::size_t>(one.values.numel()),
                    ncclFloat, one.to, group_, stream));
    }
    for (const Incoming& one : incoming) {
      if (one.values.numel() == 0) continue;
      note(ncclRecv(one.values.mutable_data_ptr(), static_cast<std::size_t>(one.values.numel()),
                    ncclFloat, one.from, group_, stream));
    }
    note(ncclGroupEnd());
    if (!is_well(status)) fail(status);
    settle(patience_);  // its kernels are on the stream
    finish(stream);
    patience_ = kToExchange;
  }

 private:
  /// Waits until NCCL has done what it was told.
  void settle(std::chrono::milliseconds at_most) {
    ncclResult_t state = ncclInProgress;
    const auto look = [&] {
      const ncclResult_t asked = ncclCommGetAsyncError(group_, &state);
      if (asked != ncclSuccess) state = asked;
      return state != ncclInProgress;
    };
    if (!wait(at_most, look)) fail("other ranks do not answer");
    if (state != ncclSuccess) fail(state);
  }

  /// Waits until the stream has copied everything.
  void finish(cudaStream_t stream) {
    cudaError_t copied = cudaErrorNotReady;
    ncclResult_t state = ncclSuccess;
    const auto look = [&] {
      copied = cudaStreamQuery(stream);
      if (copied != cudaErrorNotReady) return true;
      (void)cudaGetLastError();  // "not ready" is no error that anyone shall find
      const ncclResult_t asked = ncclCommGetAsyncError(group_, &state);
      if (asked != ncclSuccess) state = asked;
      return !is_well(state);
    };
    if (!wait(patience_, look)) fail("other ranks do not answer");
    if (!is_well(state)) fail(state);
    if (copied != cudaSuccess) fail(cudaGetErrorString(copied));
  }

  [[noreturn]] void fail(ncclResult_t status) { fail(words(status, group_)); }

  [[noreturn]] void fail(const std::string& why) {
    if (group_ != nullptr) (void)ncclCommAbort(group_);
    group_ = nullptr;
    throw IoError("the GPUs of the ranks cannot exchange: {}", why);
  }

  /// All ranks leave together where all is well; a rank that waits in vain leaves alone.
  void leave() noexcept {
    if (group_ == nullptr) return;
    ncclResult_t state = ncclCommFinalize(group_);
    const auto look = [&] {
      if (is_well(state) && ncclCommGetAsyncError(group_, &state) != ncclSuccess)
        state = ncclSystemError;
      return state != ncclInProgress;
    };
    const bool all_left = wait(kToLeave, look) && state == ncclSuccess;
    (void)(all_left ? ncclCommDestroy(group_) : ncclCommAbort(group_));
    group_ = nullptr;
  }

  int rank_;
  int size_;
  ncclComm_t group_ = nullptr;
  /// NCCL connects ranks when they first exchange, where it fails if it does at all.
  std::chrono::milliseconds patience_ = kToJoin;
};

}  // namespace
}  // namespace weft::model

extern "C" {

[[gnu::visibility("default")]] const char* weft_cuda_group(char* name) {
  static std::string problem;
  ncclUniqueId id{};
  if (const ncclResult_t status = ncclGetUniqueId(&id); status != ncclSuccess) {
    problem = weft::model::words(status, nullptr);
    return problem.c_str();
  }
  std::memcpy(name, &id, sizeof id);
  return nullptr;
}

[[gnu::visibility("default")]] const char* weft_cuda_join(const char* name, int ranks, int rank,
                                                          weft::model::TensorExchange** exchange) {
  static std::string problem;
  try {
    *exchange = new weft::model::NcclExchange(name, ranks, rank);
    return nullptr;
  } catch (const std::exception& failure) {
    problem = failure.what();
    return problem.c_str();
  }
}
}
