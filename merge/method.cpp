#include "merge/method.h"

#include <algorithm>

#include "core/error.h"
#include "core/suggest.h"
#include "merge/methods.h"

namespace weft::merge {

std::vector<std::size_t> TensorGroup::others() const {
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (i != base) indices.push_back(i);
  }
  return indices;
}

bool TensorGroup::all_alike() const {
  return std::ranges::all_of(inputs, [&](const TensorInput& input) {
    return input.same_numbers(reference()) && !input.update;
  });
}

std::span<const Method* const> all_methods() {
  static const std::vector<const Method*> methods = [] {
    std::vector<const Method*> list{&linear_method(), &slerp_method(), &nuslerp_method()};
    for (const Method* method : task_vector_methods()) list.push_back(method);
    list.insert(list.end(), {&model_stock_method(), &sce_method(), &multislerp_method(),
                             &karcher_method(), &nearswap_method(), &ram_method(),
                             &ramplus_method(), &arcee_fusion_method(), &passthrough_method()});
    return list;
  }();
  return methods;
}

const Method& find_method(std::string_view name) {
  std::vector<std::string> names;
  for (const Method* method : all_methods()) {
    if (method->name() == name) return *method;
    names.emplace_back(method->name());
  }
  const std::string near = core::nearest(name, names);
  throw ConfigError("there is no merge method '{}'{}; there are {}", name,
                    near.empty() ? "" : ", did you mean '" + near + "'?", fmt::join(names, ", "));
}

}  // namespace weft::merge
