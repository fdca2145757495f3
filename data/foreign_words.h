#pragma once

#include <string>
#include <vector>

#include "core/schema_foreign.h"

namespace weft::data {

/// Words for a dataset in the files of other trainers (axolotl's `datasets:`), with what each means
/// here.
[[nodiscard]] std::vector<core::ForeignWord> dataset_words();

}  // namespace weft::data
