#include "merge/changes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "checkpoint/roles.h"
#include "core/error.h"
#include "lora/targets.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
using checkpoint::TensorInfo;
using Part = Use::Part;

constexpr std::string_view kWeight = ".weight";

/// Numbers that are compared at a time.
constexpr std::int64_t kTileElements = std::int64_t{1} << 18;

/// A tensor as numbers in tiles of rows; `same` says whether the base's are equal to it.
/// Throws where it holds NaN or infinity.
bool equal_numbers(const Checkpoint& saved, const TensorInfo& info, const Checkpoint& base,
                   const TensorInfo* other) {
  bool equal = other != nullptr && other->shape == info.shape;
  const std::int64_t width = std::max<std::int64_t>(1, info.row_elements());
  const std::int64_t step = std::max<std::int64_t>(1, kTileElements / width);
  std::vector<float> a;
  std::vector<float> b;
  for (std::int64_t begin = 0; begin < info.rows(); begin += step) {
    const std::int64_t end = std::min(info.rows(), begin + step);
    a.resize(static_cast<std::size_t>((end - begin) * width));
    saved.read_rows(info, begin, end, a);
    saved.release(info, begin, end);
    if (!std::ranges::all_of(a, [](float value) { return std::isfinite(value); })) {
      throw InputError(
          "{}: '{}' holds numbers that are not finite; the training diverged or the file is "
          "damaged",
          info.file.string(), info.name);
    }
    if (!equal) continue;
    b.resize(a.size());
    base.read_rows(*other, begin, end, b);
    base.release(*other, begin, end);
    equal = a == b;
  }
  return equal;
}

class Matcher {
 public:
  Matcher(const Checkpoint& base, std::span<const WeightedAdapter> adapters)
      : base_(base),
        adapters_(adapters),
        roles_(checkpoint::roles_of(base)),
        embedding_(roles_.embedding),
        base_tied_(roles_.tied) {}

  Changes run() {
    for (std::size_t i = 0; i < adapters_.size(); ++i) collect(i);
    require_known_roles();
    changes_.tied = base_tied_;
    if (base_tied_) settle_tie();
    for (auto& [name, change] : changes_.tensors) settle_source(name, change);
    std::erase_if(changes_.tensors, [&](const auto& item) {
      const Change& change = item.second;
      return change.uses.empty() && change.source == &base_ && base_.find(item.first) != nullptr;
    });
    for (const auto& [name, change] : changes_.tensors) check_shapes(name, change);
    for (const WeightedAdapter& adapter : adapters_) require_complete(*adapter.file);
    note_vocabulary();
    return std::move(changes_);
  }

 private:
  void collect(std::size_t index) {
    const lora::PeftFile& file = *adapters_[index].file;
    const auto add = [&](const std::string& tensor, std::size_t target, Part part) {
      changes_.tensors[stored_name(tensor)].uses.push_back({index, target, part});
    };
    for (std::size_t t = 0; t < file.targets().size(); ++t) {
      const lora::Target& target = file.targets()[t];
      if (target.kind == lora::TargetKind::kExperts && add_split_experts(index, t, target))
        continue;
      add(lora::weight_name(target), t, Part::kPair);
      if (file.config().extras.lora_bias) add(lora::bias_name(target), t, Part::kBias);
    }
    for (std::size_t t = 0; t < file.rows().size(); ++t) {
      add(file.rows()[t].tensor, t, Part::kRows);
    }
    for (std::size_t t = 0; t < file.saved().size(); ++t) {
      add(file.saved()[t].tensor, t, Part::kSaved);
    }
  }

  /// The base's name of a tensor: the head has that of its family, whatever the adapter calls it,
  /// and an adapter of the model without its head leaves the beginning of all names away.
  [[nodiscard]] std::string stored_name(const std::string& tensor) const {
    const std::string_view prefix = checkpoint::optional_prefix(base_.config());
    const std::string whole = std::string(prefix) + tensor;
    if (base_.find(tensor) == nullptr && base_.find(whole) != nullptr) return whole;
    const bool other = base_.find(tensor) == nullptr && checkpoint::is_head_name(tensor);
    return other && !roles_.head_name.empty() ? roles_.head_name : tensor;
  }

  /// Embedding and head are changed only where it is known whether they are one matrix.
  void require_known_roles() const {
    if (!roles_.head_name.empty()) return;
    for (const auto& [name, change] : changes_.tensors) {
      if (!name.ends_with(kWeight)) continue;
      const std::string path = name.substr(0, name.size() - kWeight.size());
      const std::string_view last = lora::last_name(path);
      if (!lora::is_embedding_or_head(path) || last == "wpe" || last == "embed_positions") continue;
      const bool is_embedding = embedding_ != nullptr && embedding_->name == name;
      if (is_embedding && base_tied_) continue;
      throw InputError(
          "adapter '{}' changes '{}', and weft does not know how a model of type '{}' ('{}') "
          "stores "
          "its output head, so that the change could be lost; state tie_word_embeddings in its "
          "config.json, or fold the adapter with PEFT",
          file_of(change.uses.front()).directory().string(), name,
          base_.config().value("model_type", "unknown"), base_.path().string());
    }
  }

  void note_without_effect(const Use& use, const std::string& why) {
    const lora::PeftFile& file = file_of(use);
    for (const std::string& key : keys_of(file, use)) {
      changes_.without_effect.push_back({file.directory().string(), key, why});
    }
  }

  /// transformers 5 stacks the experts of some families, which their files hold one by one
  /// (conversion_mapping.py): gate and up above each other in gate_up_proj. False where the base
  /// has the stack, or has no such experts.
  bool add_split_experts(std::size_t index, std::size_t t, const lora::Target& target) {
    const std::string& path = target.module.path;
    constexpr std::string_view kExperts = "mlp.experts.";
    const std::size_t at = path.rfind(kExperts);
    if (base_.find(path) != nullptr || at == std::string::npos) return false;
    const std::string parameter = path.substr(at + kExperts.size());
    struct Layout {
      std::string_view folder;
      std::array<std::string_view, 3> names;  // gate, up, down
    };
    constexpr std::array<Layout, 2> kLayouts{
        {{"mlp.experts.", {"gate_proj", "up_proj", "down_proj"}},
         {"block_sparse_moe.experts.", {"w1", "w3", "w2"}}}};
    for (const Layout& layout : kLayouts) {
      const std::string folder = path.substr(0, at) + std::string(layout.folder);
      const auto name_of = [&](std::int64_t expert, std::size_t part) {
        return fmt::format("{}{}.{}.weight", folder, expert, layout.names[part]);
      };
      if (base_.find(name_of(0, 2)) == nullptr) continue;
      if (parameter != "gate_up_proj" && parameter != "down_proj") return false;
      const bool both = parameter == "gate_up_proj";
      for (std::int64_t expert = 0; expert < target.experts; ++expert) {
        const std::int64_t half = both ? target.module.out / 2 : 0;
        for (std::size_t part = both ? 0 : 2; part < (both ? 2U : 3U); ++part) {
          changes_.tensors[name_of(expert, part)].uses.push_back(
              {index, t, Part::kExpert, expert, part == 1 ? half : 0});
        }
      }
      if (base_.find(name_of(target.experts, 2)) == nullptr) return true;
      throw InputError("adapter '{}' fits a stack of {} experts, the base '{}' has more: '{}'",
                       adapters_[index].file->directory().string(), target.experts,
                       base_.path().string(), name_of(target.experts, 2));
    }
    return false;
  }

  /// Every layer of the base that the configuration chooses has factors.
  void require_complete(const lora::PeftFile& adapter) const {
    std::set<std::string> present;
    for (const lora::Target& target : adapter.targets()) {
      present.insert(stored_name(lora::weight_name(target)));
    }
    const lora::TargetRule rule(adapter.config());
    for (const lora::Module& module : lora::linear_modules(base_)) {
      if (present.contains(module.path + std::string(kWeight))) continue;
      if (!rule.selects(module.path)) continue;
      throw InputError(
          "adapter '{}' chooses '{}' in '{}' but has no factors for it; it is incomplete, or "
          "was trained on another model",
          adapter.directory().string(), module.path, base_.path().string());
    }
  }

  [[nodiscard]] const lora::PeftFile& file_of(const Use& use) const {
    return *adapters_[use.adapter].file;
  }
  [[nodiscard]] const TensorInfo& saved_info(const Use& use) const {
    const lora::PeftFile& file = file_of(use);
    return *file.tensors().find(file.saved()[use.target].key);
  }

  /// Decides whether embedding and head stay one matrix.
  void settle_tie() {
    const auto embedding = changes_.tensors.find(embedding_->name);
    const auto head = changes_.tensors.find(roles_.head_name);
    const bool has_embedding = embedding != changes_.tensors.end();
    const bool has_head = head != changes_.tensors.end();
    if (has_embedding && has_head && same_change(embedding->second.uses, head->second.uses)) {
      for (const Use& use : head->second.uses) {
        note_without_effect(
            use, fmt::format("(the same as of '{}', which is the head)", embedding_->name));
      }
      changes_.tensors.erase(head);
      return;
    }
    const bool rows_only =
        has_embedding && std::ranges::all_of(embedding->second.uses, [](const Use& use) {
          return use.part == Part::kRows;
        });
    const bool unchanged = has_embedding && !has_head && changes_nothing(embedding->second.uses);
    if (!has_head && (!has_embedding || rows_only || unchanged)) return;
    changes_.tied = false;
    changes_.untied = true;
    changes_.why = !has_head        ? "an adapter changes the embedding alone"
                   : !has_embedding ? "an adapter changes the output head alone"
                                    : "adapters change embedding and output head differently";
    if (roles_.head_name.empty()) {
      throw InputError(
          "{}, and weft does not know how a model of type '{}' ('{}') stores a head of its own",
          changes_.why, base_.config().value("model_type", "unknown"), base_.path().string());
    }
    Change& own = changes_.tensors[roles_.head_name];
    if (!has_embedding) return;
    for (const Use& use : changes_.tensors.at(embedding_->name).uses) {
      if (use.part == Part::kRows) own.uses.push_back(use);  // A tied head has them too.
    }
  }

  /// Only whole embeddings that are the base's.
  [[nodiscard]] bool changes_nothing(const std::vector<Use>& uses) const {
    return std::ranges::all_of(uses, [&](const Use& use) {
      return use.part == Part::kSaved &&
             equal_numbers(file_of(use).tensors(), saved_info(use), base_, embedding_);
    });
  }

  /// True when the head is changed as the embedding is: by the same adapters, with equal numbers.
  [[nodiscard]] bool same_change(const std::vector<Use>& embedding,
                                 const std::vector<Use>& head) const {
    return embedding.size() == head.size() &&
           std::ranges::equal(embedding, head, [&](const Use& a, const Use& b) {
             return a.adapter == b.adapter && a.part == b.part && same_part(a, b);
           });
  }

  [[nodiscard]] bool same_part(const Use& a, const Use& b) const {
    const lora::PeftFile& file = file_of(a);
    if (a.part == Part::kSaved) {
      return saved_info(a).shape == saved_info(b).shape &&
             equal_numbers(file.tensors(), saved_info(a), file.tensors(), &saved_info(b));
    }
    if (a.part == Part::kRows) {
      const lora::TrainedRows& x = file.rows()[a.target];
      const lora::TrainedRows& y = file.rows()[b.target];
      return x.rows == y.rows && file.numbers(x.key) == file.numbers(y.key);
    }
    return a.part == Part::kPair && same_pair(file, a.target, b.target);
  }

  /// The head's A and B are the embedding's B and A transposed (PEFT's ensure_weight_tying).
  [[nodiscard]] static bool same_pair(const lora::PeftFile& file, std::size_t embedding,
                                      std::size_t head) {
    const lora::Factors x = file.load(embedding);
    const lora::Factors y = file.load(head);
    const auto rank = static_cast<std::size_t>(x.target.rank);
    const auto is_transposed = [&](const std::vector<float>& m, const std::vector<float>& n) {
      const std::size_t columns = m.size() / rank;  // m is [rank, columns], n its transpose.
      if (n.size() != m.size()) return false;
      for (std::size_t i = 0; i < m.size(); ++i) {
        if (m[i] != n[i % columns * rank + i / columns]) return false;
      }
      return true;
    };
    return x.target.kind == lora::TargetKind::kEmbedding && x.target.scale == y.target.scale &&
           x.target.rank == y.target.rank && file.magnitude(embedding) == file.magnitude(head) &&
           is_transposed(x.a, y.b) && is_transposed(y.a, x.b);
  }

  /// Chooses the numbers that a tensor starts from.
  void settle_source(const std::string& name, Change& change) {
    change.source = &base_;
    change.info = base_.find(name);
    if (change.info == nullptr && is_head(name) && base_tied_) change.info = embedding_;
    std::erase_if(change.uses, [&](const Use& use) {
      const bool equal = use.part == Part::kSaved &&
                         equal_numbers(file_of(use).tensors(), saved_info(use), base_, change.info);
      if (equal) note_without_effect(use, fmt::format("(equal to the base's '{}')", name));
      return equal;
    });
    std::vector<Use> saved;
    std::ranges::copy_if(change.uses, std::back_inserter(saved),
                         [](const Use& use) { return use.part == Part::kSaved; });
    if (change.info == nullptr && saved.empty()) explain_missing(name, change);
    if (saved.empty()) return;
    const bool fits = change.info != nullptr && std::ranges::all_of(saved, [&](const Use& use) {
                        return change.info->shape == saved_info(use).shape;
                      });
    if (saved.size() == change.uses.size() && fits) return;  // Added as differences.
    const Use& use = saved.front();
    if (saved.size() > 1 || adapters_[use.adapter].weight != 1) {
      throw InputError(
          "adapter '{}' replaces '{}' by a tensor that cannot be weighed against the base's (it "
          "has another shape, or other changes belong on top of it); fold it alone, with weight 1",
          file_of(use).directory().string(), name);
    }
    note_replacement(use, name);
    change.source = &file_of(use).tensors();
    change.info = &saved_info(use);
    std::erase_if(change.uses, [](const Use& item) { return item.part == Part::kSaved; });
  }

  /// The tensor takes the base's place before anything is added to it.
  void note_replacement(const Use& use, const std::string& name) {
    note_without_effect(use, fmt::format("(takes the place of '{}')", name));
  }

  [[nodiscard]] bool is_head(const std::string& name) const {
    return !roles_.head_name.empty() && name == roles_.head_name;
  }

  [[noreturn]] void explain_missing(const std::string& name, const Change& change) const {
    if (change.uses.front().part == Part::kBias) {
      throw InputError(
          "adapter '{}' has a bias for '{}' (lora_bias), which the base '{}' does not have; such "
          "an adapter cannot be folded (nor does PEFT)",
          file_of(change.uses.front()).directory().string(), name, base_.path().string());
    }
    lora::explain_missing(base_, name);
  }

  void check_shapes(const std::string& name, const Change& change) const {
    for (const Use& use : change.uses) {
      const lora::PeftFile& file = file_of(use);
      if (use.part == Part::kExpert) {
        check_expert(file.targets()[use.target], file, *change.info);
      } else if (use.part == Part::kPair) {
        const lora::Target& target = file.targets()[use.target];
        if (change.info->shape.size() == 3 && target.kind == lora::TargetKind::kExperts) {
          check_experts(target, file, *change.info);
          continue;
        }
        lora::require_fit(base_, target, change.info->shape);
      } else if (use.part == Part::kRows) {
        check_rows(file.rows()[use.target], file, *change.info);
      } else if (use.part == Part::kBias) {
        check_size(file, name, file.targets()[use.target].module.out, *change.info);
      }
    }
    const bool whole_embedding = embedding_ != nullptr && embedding_->name == name;
    if (change.source == &base_ || whole_embedding || is_head(name)) return;
    const TensorInfo* const info = base_.find(name);
    if (info != nullptr && info->shape == change.info->shape) return;
    throw InputError("{}: '{}' has shape [{}], the base '{}' {}", change.info->file.string(),
                     change.info->name, fmt::join(change.info->shape, ", "), base_.path().string(),
                     info == nullptr ? "lacks this tensor"
                                     : fmt::format("has [{}]", fmt::join(info->shape, ", ")));
  }

  /// [out, in] of one expert, half of the rows where it is a part of gate_up_proj.
  static void check_expert(const lora::Target& target, const lora::PeftFile& file,
                           const TensorInfo& info) {
    const bool both = target.module.path.ends_with("gate_up_proj");
    const std::int64_t rows = both ? target.module.out / 2 : target.module.out;
    if (info.shape == std::vector<std::int64_t>{rows, target.module.in} &&
        (!both || target.module.out % 2 == 0)) {
      return;
    }
    throw InputError(
        "adapter '{}' fits experts with {} inputs and {} outputs, '{}' has shape [{}]; is it the "
        "adapter's base?",
        file.directory().string(), target.module.in, rows, info.name, fmt::join(info.shape, ", "));
  }

  /// [experts, out, in] or [experts, in, out].
  static void check_experts(const lora::Target& target, const lora::PeftFile& file,
                            const TensorInfo& info) {
    const std::vector<std::int64_t> out_in{target.experts, target.module.out, target.module.in};
    const std::vector<std::int64_t> in_out{target.experts, target.module.in, target.module.out};
    if (info.shape == out_in || info.shape == in_out) return;
    throw InputError(
        "adapter '{}' fits a stack of {} experts with {} inputs and {} outputs, '{}' has shape "
        "[{}]; is it the adapter's base?",
        file.directory().string(), target.experts, target.module.in, target.module.out, info.name,
        fmt::join(info.shape, ", "));
  }

  static void check_size(const lora::PeftFile& file, const std::string& name, std::int64_t size,
                         const TensorInfo& info) {
    if (info.elements() == size) return;
    throw InputError("adapter '{}' has a bias of {} numbers for '{}' of {}",
                     file.directory().string(), size, name, info.elements());
  }

  static void check_rows(const lora::TrainedRows& rows, const lora::PeftFile& file,
                         const TensorInfo& info) {
    const std::int64_t last = *std::ranges::max_element(rows.rows);
    if (info.shape.size() == 2 && info.row_elements() == rows.columns && last < info.rows()) return;
    throw InputError(
        "adapter '{}' has row {} of {} numbers for '{}' of shape [{}]; is it the adapter's base, "
        "with the vocabulary it was trained with?",
        file.directory().string(), last, rows.columns, rows.tensor, fmt::join(info.shape, ", "));
  }

  void note_vocabulary() {
    if (embedding_ == nullptr) return;
    const auto rows_of = [&](std::string_view name, const TensorInfo& otherwise) {
      const auto found = changes_.tensors.find(std::string(name));
      return found == changes_.tensors.end() ? otherwise.rows() : found->second.info->rows();
    };
    const std::int64_t rows = rows_of(embedding_->name, *embedding_);
    const TensorInfo* const head = roles_.head;
    const bool separate = !changes_.tied && (head != nullptr || changes_.untied);
    const std::int64_t head_rows =
        separate ? rows_of(roles_.head_name, head == nullptr ? *embedding_ : *head) : rows;
    if (rows != head_rows && (rows != embedding_->rows() || changes_.untied)) {
      throw InputError(
          "the adapters give the embedding {} rows and the output head {}; a resized vocabulary "
          "needs both (PEFT saves both: save_embedding_layers)",
          rows, head_rows);
    }
    if (rows != embedding_->rows()) changes_.vocabulary = rows;
  }

  const Checkpoint& base_;
  std::span<const WeightedAdapter> adapters_;
  checkpoint::Roles roles_;
  const TensorInfo* embedding_;
  bool base_tied_ = false;
  Changes changes_;
};

}  // namespace

std::vector<std::string> keys_of(const lora::PeftFile& file, const Use& use) {
  switch (use.part) {
    case Part::kBias: return {file.bias_key(use.target)};
    case Part::kRows: return {file.rows()[use.target].key};
    case Part::kSaved: return {file.saved()[use.target].key};
    default: return file.pair_keys(use.target);
  }
}

const TensorInfo* embedding_of(const Checkpoint& base) {
  return checkpoint::roles_of(base).embedding;
}

Changes match_changes(const Checkpoint& base, std::span<const WeightedAdapter> adapters) {
  return Matcher(base, adapters).run();
}

}  // namespace weft::merge
