#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "lora/peft_file.h"

namespace weft::merge {

/// An adapter and the factor of its update in the sum; 1 applies it as it was trained.
struct WeightedAdapter {
  const lora::PeftFile* file = nullptr;
  double weight = 1;
};

/// One part of an adapter that changes a tensor.
struct Use {
  enum class Part {
    kPair,   ///< targets()[target]: factors, with DoRA's magnitude where there is one.
    kBias,   ///< The bias of B of targets()[target].
    kRows,   ///< rows()[target]: rows that replace the base's.
    kSaved,  ///< saved()[target]: a tensor that replaces the base's.
    /// targets()[target]: rows of one expert of a stack, whose experts the base stores one by one.
    kExpert,
  };
  std::size_t adapter = 0;  ///< Index into the adapters.
  std::size_t target = 0;   ///< Index into that adapter's targets(), rows() or saved().
  Part part = Part::kPair;
  std::int64_t expert = 0;     ///< Of kExpert: which,
  std::int64_t first_row = 0;  ///< and the first of the rows of the stack that the tensor holds.
};

/// What becomes of one tensor: the numbers it starts from, and what is added to them.
struct Change {
  const checkpoint::Checkpoint* source = nullptr;  ///< The base, or what an adapter saves whole.
  const checkpoint::TensorInfo* info = nullptr;    ///< Of `source`; its name may be another.
  std::vector<Use> uses;
};

/// A tensor of an adapter's file and what became of it.
struct UsedKey {
  std::string adapter;  ///< Its folder.
  std::string key;
  std::string tensor{};  ///< Of the output; in brackets why it changes none.
};

/// The tensors of the adapter's file that a part is read from.
[[nodiscard]] std::vector<std::string> keys_of(const lora::PeftFile& file, const Use& use);

/// All that adapters change of a base.
struct Changes {
  std::map<std::string, Change> tensors;  ///< By name in the output.
  std::vector<UsedKey> without_effect;    ///< What an adapter holds and changes nothing.
  bool tied = false;    ///< The output's head is its embedding: it has none of its own.
  bool untied = false;  ///< The base's was, and the output's is not.
  std::string why;      ///< Of `untied`, for people.
  std::optional<std::int64_t> vocabulary;  ///< Rows of the embedding, where they changed.
};

/// Matches adapters with a base, whose embedding and head are those of its family
/// (checkpoint/roles.h). Every tensor of every adapter is used exactly once; one that is
/// saved whole and equals the base's changes nothing.
///
/// A base whose head is its embedding stays so when adapters change rows only (trained tokens), or
/// embedding and head in the same way; when they change one of them, or both differently, the
/// output has a head of its own. (PEFT's merge changes the shared matrix: both are then wrong.)
///
/// Errors as of plan_fold(); InputError where an adapter changes the embedding or the head of a
/// model that does not say whether they are one.
[[nodiscard]] Changes match_changes(const checkpoint::Checkpoint& base,
                                    std::span<const WeightedAdapter> adapters);

/// The tensor that is the input embedding; null when the base has none of a known name.
[[nodiscard]] const checkpoint::TensorInfo* embedding_of(const checkpoint::Checkpoint& base);

}  // namespace weft::merge
