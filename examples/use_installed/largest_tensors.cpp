// Prints the three largest tensors of a model (a Hugging Face directory or a GGUF file) with the
// root mean square of their values: what it takes to read any base model with weft's libraries.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/error.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: largest_tensors MODEL\n");
    return 2;
  }
  try {
    const auto model = weft::checkpoint::Checkpoint::open(argv[1]);
    std::vector<weft::checkpoint::TensorInfo> tensors = model.tensors();
    std::ranges::stable_sort(
        tensors, [](const auto& a, const auto& b) { return a.elements() > b.elements(); });
    tensors.resize(std::min<std::size_t>(3, tensors.size()));
    for (const auto& tensor : tensors) {
      double sum = 0;
      for (const float value : model.read(tensor)) sum += static_cast<double>(value) * value;
      fmt::print("{:<44} {:>12} values  {:<5} rms {:.5f}\n", tensor.name, tensor.elements(),
                 tensor.storage_name, std::sqrt(sum / static_cast<double>(tensor.elements())));
    }
  } catch (const weft::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.exit_code());
  }
  return 0;
}
