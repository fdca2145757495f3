#pragma once

#include <string>
#include <vector>

#include "schema/foreign.h"

namespace weft::data {

/// Words for a dataset in the files of other trainers (axolotl's `datasets:`), with what each means
/// here.
[[nodiscard]] std::vector<schema::ForeignWord> dataset_words();

}  // namespace weft::data
