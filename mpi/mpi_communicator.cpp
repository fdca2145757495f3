// Communicator over MPI. Everything is copied from point to point, in bytes; what MPI adds or
// orders by itself is not used. MPI ends all ranks when it fails.

#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "train/communicator.h"

namespace weft::mpi {
namespace {

/// MPI counts with int.
constexpr std::size_t kPiece = std::size_t{1} << 30;

class MpiCommunicator final : public train::Communicator {
 public:
  MpiCommunicator() {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return size_; }

  void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) override {
    std::vector<MPI_Request> requests;
    for (const Incoming& one : incoming) {
      for_pieces(one.bytes, [&](std::byte* bytes, int count) {
        MPI_Irecv(bytes, count, MPI_BYTE, one.from, 0, MPI_COMM_WORLD, &requests.emplace_back());
      });
    }
    for (const Outgoing& one : outgoing) {
      for_pieces(one.bytes, [&](const std::byte* bytes, int count) {
        MPI_Isend(bytes, count, MPI_BYTE, one.to, 0, MPI_COMM_WORLD, &requests.emplace_back());
      });
    }
    MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
  }

  [[nodiscard]] std::int64_t largest(std::int64_t value) override {
    std::int64_t most = value;
    MPI_Allreduce(&value, &most, 1, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
    return most;
  }

  void finish() override { MPI_Finalize(); }

 private:
  template <typename Byte, typename Body>
  static void for_pieces(std::span<Byte> bytes, const Body& body) {
    for (std::size_t at = 0; at < bytes.size(); at += kPiece) {
      body(bytes.data() + at, static_cast<int>(std::min(kPiece, bytes.size() - at)));
    }
  }

  int rank_ = 0;
  int size_ = 1;
};

}  // namespace
}  // namespace weft::mpi

/// The communicator of this process, which lasts until its end. Called once.
extern "C" __attribute__((visibility("default"))) weft::train::Communicator*
weft_mpi_communicator() {
  static weft::mpi::MpiCommunicator communicator;
  return &communicator;
}
