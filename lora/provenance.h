#pragma once

#include <filesystem>
#include <optional>

#include "lora/adapter.h"

namespace weft::lora {

/// weft_provenance.json of an adapter's folder, or nothing when there is none.
/// InputError when it is not what weft writes.
[[nodiscard]] std::optional<Provenance> read_provenance(const std::filesystem::path& directory);

void write_provenance(const Provenance& provenance, const std::filesystem::path& directory);

}  // namespace weft::lora
