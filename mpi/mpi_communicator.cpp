// Communicator over MPI. Everything is copied from point to point, in bytes; what MPI adds or
// orders by itself is not used. MPI ends all ranks when it fails.

#include <dlfcn.h>
#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "core/communicator.h"

namespace weft::mpi {
namespace {

/// MPI counts with int.
constexpr std::size_t kPiece = std::size_t{1} << 30;

class MpiCommunicator final : public core::Communicator {
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

#ifdef OPEN_MPI
/// Whether this Open MPI finds its ranks over PMI-1 or PMI-2, too, and not over PMIx alone: a part
/// that it was built with, in the library or in a file beside it.
bool knows_pmi() {
  for (const char* const part : {"s1", "s2"}) {
    const std::string name = std::string("mca_pmix_") + part;
    if (::dlsym(RTLD_DEFAULT, (name + "_component").c_str()) != nullptr) return true;
    Dl_info info{};
    if (::dladdr(reinterpret_cast<const void*>(&MPI_Init_thread), &info) == 0) continue;
    std::error_code ignored;
    const auto library = std::filesystem::canonical(info.dli_fname, ignored);
    if (std::filesystem::exists(library.parent_path() / "openmpi" / (name + ".so"), ignored))
      return true;
  }
  return false;
}
#endif

}  // namespace
}  // namespace weft::mpi

/// Why MPI cannot begin here, as the end of a message; null where nothing is known to be wrong. MPI
/// itself would end the process with a page of text.
extern "C" __attribute__((visibility("default"))) const char* weft_mpi_refusal() {
#ifdef OPEN_MPI
  const auto is_set = [](const char* variable) { return std::getenv(variable) != nullptr; };
  if (is_set("PMI_RANK") && !is_set("PMIX_RANK") && !is_set("OMPI_COMM_WORLD_SIZE") &&
      !weft::mpi::knows_pmi()) {
    return "over PMI, as srun --mpi=pmi2 and the mpirun of MPICH do it, and the Open MPI that it "
           "was built with does not know that; use srun --mpi=pmix, or the mpirun of that Open MPI "
           "(docs/data-parallel.md)";
  }
#endif
  return nullptr;
}

/// The communicator of this process, which lasts until its end. Called once.
extern "C" __attribute__((visibility("default"))) weft::core::Communicator*
weft_mpi_communicator() {
  static weft::mpi::MpiCommunicator communicator;
  return &communicator;
}
