#pragma once

#include <span>

#include "schema/schema.h"
#include "train/job.h"

// `runs_on:` of weft train: who will read the adapter, asked before it is trained.

namespace weft::cli {

/// ConfigError, with the key's place, for a reader that is not known.
void require_known_readers(std::span<const schema::Variant<train::TrainConfig>> runs);

/// Refused when a reader of `runs_on:` would not read the adapter as weft writes it, with why and
/// what can be done.
void require_readers(const train::Prepared& run);

}  // namespace weft::cli
