#include "merge/adapter_deltas.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "core/error.h"
#include "core/number.h"
#include "core/parallel.h"
#include "merge/row_kernels.h"
#include "merge/update.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
using checkpoint::TensorInfo;
using Part = Use::Part;

/// Rows whose squares are summed at a time; fixed, so that sums do not depend on the threads.
constexpr std::int64_t kNormRows = 256;

using core::index;

/// Rows [begin, end) of a tensor as floats, in a buffer of the thread's own.
std::span<const float> read(const Checkpoint& model, const TensorInfo& info, std::int64_t begin,
                            std::int64_t end, std::vector<float>& buffer) {
  buffer.resize(index((end - begin) * info.row_elements()));
  model.read_rows(info, begin, end, buffer);
  return buffer;
}

/// weight * (factor * (W + U) - W), the factor a number per row or per column that makes the norms
/// what the magnitudes say.
class DoraDeltas : public RowDeltas {
 public:
  DoraDeltas(const Change& change, Update update, std::vector<float> magnitude, double weight,
             bool by_column)
      : source_(*change.source),
        info_(*change.info),
        update_(std::move(update)),
        weight_(weight),
        by_column_(by_column) {
    factors_ = squared_norms();
    for (std::size_t i = 0; i < factors_.size(); ++i) {
      const double norm = std::sqrt(factors_[i]);
      if (norm == 0) {
        throw NumericError("'{}': output {} has norm 0, which DoRA divides by", info_.name, i);
      }
      factors_[i] = static_cast<double>(magnitude[i]) / norm;
    }
  }

  [[nodiscard]] std::int64_t rank() const noexcept override { return update_.rank(); }
  [[nodiscard]] std::int64_t stride() const noexcept override { return update_.stride(); }

  void compute(std::int64_t begin, std::span<double> out) const override {
    for_block(begin, out, [&](std::int64_t row, const float* base, double* delta) {
      for (std::int64_t j = 0; j < info_.row_elements(); ++j) {
        const double before = base[j];
        const double factor = factors_[index(by_column_ ? j : row)];
        delta[j] = weight_ * (factor * (before + delta[j]) - before);
      }
    });
  }

 private:
  /// body(row, W, U) for the rows of a block, U in `out`.
  template <typename Body>
  void for_block(std::int64_t begin, std::span<double> out, const Body& body) const {
    thread_local std::vector<float> buffer;
    const std::int64_t end = std::min(info_.rows(), begin + kRowBlock);
    const std::span<const float> base = read(source_, info_, begin, end, buffer);
    update_.compute(begin, out);
    for (std::int64_t row = begin; row < end; ++row) {
      body(row, base.data() + (row - begin) * info_.row_elements(),
           out.data() + (row - begin) * stride());
    }
  }

  /// Of W + U: per row, or per column as the sum over chunks of rows in order.
  [[nodiscard]] std::vector<double> squared_norms() const {
    const std::int64_t rows = info_.rows();
    const std::int64_t width = info_.row_elements();
    const std::int64_t chunks = (rows + kNormRows - 1) / kNormRows;
    std::vector<double> sums(index(by_column_ ? chunks * width : rows), 0.0);
    core::parallel_for(chunks, 1, [&](std::int64_t first, std::int64_t last) {
      std::vector<double> block(index(kRowBlock * stride()));
      for (std::int64_t chunk = first; chunk < last; ++chunk) {
        const std::int64_t begin = chunk * kNormRows;
        const std::int64_t end = std::min(rows, begin + kNormRows);
        for (std::int64_t at = begin; at < end; at += kRowBlock) {
          for_block(at, block, [&](std::int64_t row, const float* base, const double* update) {
            for (std::int64_t j = 0; j < width; ++j) {
              const double value = static_cast<double>(base[j]) + update[j];
              sums[index(by_column_ ? chunk * width + j : row)] += value * value;
            }
          });
        }
        source_.release(info_, begin, end);
      }
    });
    if (!by_column_) return sums;
    for (std::int64_t chunk = 1; chunk < chunks; ++chunk) {
      for (std::int64_t j = 0; j < width; ++j) sums[index(j)] += sums[index(chunk * width + j)];
    }
    sums.resize(index(width));
    return sums;
  }

  const Checkpoint& source_;
  const TensorInfo& info_;
  Update update_;
  double weight_;
  bool by_column_;
  std::vector<double> factors_;
};

/// weight * (T - W) for some rows or all of a tensor.
class ReplacingDeltas : public RowDeltas {
 public:
  ReplacingDeltas(const Change& change, double weight)
      : source_(*change.source), info_(*change.info), weight_(weight) {}

  [[nodiscard]] std::int64_t stride() const noexcept override { return info_.row_elements(); }

  void compute(std::int64_t begin, std::span<double> out) const override {
    thread_local std::vector<float> before;
    thread_local std::vector<float> after;
    const auto width = index(info_.row_elements());
    after.resize(width);
    std::ranges::fill(out, 0.0);
    const std::int64_t end = std::min(info_.rows(), begin + kRowBlock);
    for (std::int64_t row = begin; row < end; ++row) {
      if (!replacement(row, after)) continue;
      const std::span<const float> base = read(source_, info_, row, row + 1, before);
      const std::span<double> delta = out.subspan(index(row - begin) * width, width);
      subtract(after, base, delta);
      if (weight_ != 1) scale(weight_, delta);
    }
  }

  bool exact(std::int64_t row, std::span<float> out) const override {
    return weight_ == 1 && replacement(row, out);
  }

 protected:
  /// The row that takes this one's place; false where none does.
  virtual bool replacement(std::int64_t row, std::span<float> out) const = 0;

 private:
  const Checkpoint& source_;
  const TensorInfo& info_;
  double weight_;
};

class SavedDeltas : public ReplacingDeltas {
 public:
  SavedDeltas(const Change& change, double weight, const lora::PeftFile& file, std::size_t saved)
      : ReplacingDeltas(change, weight),
        tensors_(file.tensors()),
        info_(*tensors_.find(file.saved()[saved].key)) {}

 protected:
  bool replacement(std::int64_t row, std::span<float> out) const override {
    tensors_.read_rows(info_, row, row + 1, out);
    return true;
  }

 private:
  const Checkpoint& tensors_;
  const TensorInfo& info_;
};

class TrainedRowDeltas : public ReplacingDeltas {
 public:
  TrainedRowDeltas(const Change& change, double weight, const lora::PeftFile& file,
                   std::size_t rows)
      : ReplacingDeltas(change, weight), values_(file.numbers(file.rows()[rows].key)) {
    const std::vector<std::int64_t>& places = file.rows()[rows].rows;
    for (std::size_t i = 0; i < places.size(); ++i) place_.emplace(places[i], i);
  }

 protected:
  bool replacement(std::int64_t row, std::span<float> out) const override {
    const auto found = place_.find(row);
    if (found == place_.end()) return false;
    std::copy_n(values_.begin() + static_cast<std::ptrdiff_t>(found->second * out.size()),
                out.size(), out.begin());
    return true;
  }

 private:
  std::vector<float> values_;
  std::map<std::int64_t, std::size_t> place_;
};

/// weight * scale * b, for a tensor of one row.
class BiasDeltas : public RowDeltas {
 public:
  BiasDeltas(const std::vector<float>& bias, double factor) {
    for (const float value : bias) deltas_.push_back(factor * static_cast<double>(value));
  }
  [[nodiscard]] std::int64_t stride() const noexcept override {
    return static_cast<std::int64_t>(deltas_.size());
  }
  void compute(std::int64_t /*begin*/, std::span<double> out) const override {
    std::ranges::copy(deltas_, out.begin());
  }

 private:
  std::vector<double> deltas_;
};

/// weight * scale * B_e A_e for every expert e of a stack, whose rows follow each other expert by
/// expert.
class ExpertsDeltas : public RowDeltas {
 public:
  ExpertsDeltas(lora::Factors factors, double weight, bool transposed) : target_(factors.target) {
    const std::int64_t rank = target_.rank;
    for (std::int64_t e = 0; e < target_.experts; ++e) {
      lora::Factors own{target_, {}, {}};
      own.target.kind = lora::TargetKind::kLinear;
      own.target.experts = 1;
      const auto from = factors.a.begin() + e * rank * target_.module.in;
      own.a.assign(from, from + rank * target_.module.in);
      for (std::int64_t at = 0; at < target_.module.out * rank; ++at) {
        own.b.push_back(factors.b[index(at * target_.experts + e)]);
      }
      std::vector<Term> terms;
      terms.push_back({std::move(own), weight});
      experts_.emplace_back(std::move(terms),
                            transposed ? Update::Layout::kInOut : Update::Layout::kOutIn);
    }
  }

  [[nodiscard]] std::int64_t rank() const noexcept override { return target_.rank; }
  [[nodiscard]] std::int64_t stride() const noexcept override { return experts_.front().stride(); }

  void compute(std::int64_t begin, std::span<double> out) const override {
    const std::int64_t rows = experts_.front().rows();  // Of one expert.
    const std::int64_t within = begin % rows;
    experts_[index(begin / rows)].compute(within, out);
    if (within + kRowBlock <= rows) return;
    // The block goes on in the next experts, row by row: they are rarely fewer than a block.
    std::vector<double> block(index(kRowBlock * stride()));
    for (std::int64_t i = rows - within; i < kRowBlock; ++i) {
      const std::int64_t row = begin + i;
      if (row >= rows * target_.experts) return;
      experts_[index(row / rows)].compute(row % rows, block);
      std::copy_n(block.data(), stride(), out.data() + i * stride());
    }
  }

  [[nodiscard]] std::vector<Pairs> pairs() const override {
    std::vector<Pairs> all;
    for (const Update& expert : experts_) {
      const auto first = static_cast<std::int64_t>(all.size()) * expert.rows();
      all.push_back({first, expert.pairs().front().pairs});
    }
    return all;
  }

 private:
  lora::Target target_;
  std::vector<Update> experts_;
};

/// Whether a stack is stored as [experts, in, out]. Its shape says so, but where inputs are as many
/// as outputs; then the families decide whose experts transformers calls `is_transposed`.
bool stores_experts_input_first(const Checkpoint& base, const std::vector<std::int64_t>& shape,
                                const lora::Module& module) {
  if (module.in != module.out) return shape[1] == module.in;
  const std::string family = base.config().value("model_type", "");
  return family == "gpt_oss" || family == "openai_privacy_filter" || family == "aria" ||
         family == "aria_text";
}

class SumDeltas : public RowDeltas {
 public:
  SumDeltas(std::vector<std::unique_ptr<const RowDeltas>> parts, std::int64_t columns)
      : parts_(std::move(parts)), columns_(columns) {
    for (const auto& part : parts_) stride_ = std::max(stride_, part->stride());
  }
  [[nodiscard]] std::int64_t rank() const noexcept override {
    std::int64_t sum = 0;
    for (const auto& part : parts_) sum += part->rank();
    return sum;
  }
  [[nodiscard]] std::int64_t stride() const noexcept override { return stride_; }
  void compute(std::int64_t begin, std::span<double> out) const override {
    std::ranges::fill(out, 0.0);
    std::vector<double> block;
    for (const auto& part : parts_) {
      block.resize(index(kRowBlock * part->stride()));
      part->compute(begin, block);
      for (std::int64_t row = 0; row < kRowBlock; ++row) {
        add_scaled(1, std::span(block).subspan(index(row * part->stride()), index(columns_)),
                   out.subspan(index(row * stride_), index(columns_)));
      }
    }
  }

 private:
  std::vector<std::unique_ptr<const RowDeltas>> parts_;
  std::int64_t columns_;
  std::int64_t stride_ = 0;
};

Update::Layout layout_of(const Checkpoint& base, const lora::Target& target) {
  const bool transposed = target.kind == lora::TargetKind::kEmbedding ||
                          lora::stores_input_first(base, target.module.path);
  return transposed ? Update::Layout::kInOut : Update::Layout::kOutIn;
}

std::unique_ptr<const RowDeltas> dora_deltas(const Checkpoint& base, const Change& change,
                                             const WeightedAdapter& adapter, std::size_t target) {
  lora::Factors factors = adapter.file->load(target);
  const Update::Layout layout = layout_of(base, factors.target);
  std::vector<Term> terms;
  terms.push_back({std::move(factors), 1});
  return std::make_unique<DoraDeltas>(change, Update(std::move(terms), layout),
                                      adapter.file->magnitude(target), adapter.weight,
                                      layout == Update::Layout::kInOut);
}

std::unique_ptr<const RowDeltas> part_of(const Checkpoint& base, const Change& change,
                                         const WeightedAdapter& adapter, const Use& use) {
  const lora::PeftFile& file = *adapter.file;
  switch (use.part) {
    case Part::kBias:
      return std::make_unique<BiasDeltas>(file.bias(use.target),
                                          adapter.weight * file.targets()[use.target].scale);
    case Part::kRows:
      return std::make_unique<TrainedRowDeltas>(change, adapter.weight, file, use.target);
    case Part::kSaved:
      return std::make_unique<SavedDeltas>(change, adapter.weight, file, use.target);
    default: return dora_deltas(base, change, adapter, use.target);
  }
}

}  // namespace

std::unique_ptr<const RowDeltas> make_deltas(const Checkpoint& base,
                                             std::span<const WeightedAdapter> adapters,
                                             const Change& change, std::vector<UsedKey>* used) {
  std::vector<Term> terms;  // Of plain pairs: one product of all factors side by side.
  Update::Layout layout = Update::Layout::kOutIn;
  std::vector<std::unique_ptr<const RowDeltas>> parts;
  for (const Use& use : change.uses) {
    const WeightedAdapter& adapter = adapters[use.adapter];
    if (used != nullptr) {
      for (const std::string& key : keys_of(*adapter.file, use)) {
        used->push_back({adapter.file->directory().string(), key});
      }
    }
    if (use.part == Part::kExpert) {
      terms.push_back(
          {adapter.file->load_expert(use.target, use.expert, use.first_row, change.info->rows()),
           adapter.weight});
      continue;
    }
    if (use.part == Part::kPair && change.info->shape.size() == 3) {
      lora::Factors factors = adapter.file->load(use.target);
      const bool transposed =
          stores_experts_input_first(base, change.info->shape, factors.target.module);
      parts.push_back(
          std::make_unique<ExpertsDeltas>(std::move(factors), adapter.weight, transposed));
      continue;
    }
    if (use.part != Part::kPair || adapter.file->config().extras.use_dora) {
      parts.push_back(part_of(base, change, adapter, use));
      continue;
    }
    terms.push_back({adapter.file->load(use.target), adapter.weight});
    layout = layout_of(base, terms.back().factors.target);
  }
  if (!terms.empty()) parts.push_back(std::make_unique<Update>(std::move(terms), layout));
  if (parts.size() == 1) return std::move(parts.front());
  return std::make_unique<SumDeltas>(std::move(parts), change.info->row_elements());
}

}  // namespace weft::merge
