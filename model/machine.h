#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weft::model {

/// What this machine computes with.
struct Machine {
  std::string processor;              ///< As the system names it
  int cores = 0;                      ///< That the process may use
  std::uint64_t available_bytes = 0;  ///< Memory
  struct Cache {
    std::string name;  ///< "L1 data", "L2", "L3"
    std::uint64_t bytes = 0;
    int cores = 1;  ///< That share one
  };
  std::vector<Cache> caches;

  /// A set of kernels (model/kernels/sets.h) and the rate of its products, 10^9 operations a second
  /// on all cores together, operands in the cache.
  struct Rate {
    std::string kernels;
    double bfloat16 = 0;
    double float32 = 0;
  };
  std::vector<Rate> rates;
  std::string chosen;             ///< What products are computed with,
  bool forced = false;            ///< because WEFT_KERNELS says so.
  bool prefers_bfloat16 = false;  ///< What `dtype: auto` means
};

/// Measures for about so many seconds.
[[nodiscard]] Machine describe_machine(double seconds);

}  // namespace weft::model
