#include "model/constants.h"

#include <ATen/ops/tensor.h>

#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace weft::model {

at::Tensor constant(std::span<const float> values, at::Device device) {
  using Key = std::pair<std::string, std::string>;
  static std::mutex mutex;
  // Never destroyed: at the end of the process a device's own library may be gone before.
  static auto& kept = *new std::map<Key, at::Tensor>;
  const std::span<const std::byte> bytes = std::as_bytes(values);
  const Key key{device.str(), {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
  const std::lock_guard lock(mutex);
  at::Tensor& tensor = kept[key];
  if (!tensor.defined()) {
    tensor = at::tensor(at::ArrayRef<float>(values.data(), values.size()),
                        at::TensorOptions().dtype(at::kFloat))
                 .to(device);
  }
  return tensor;
}

}  // namespace weft::model
