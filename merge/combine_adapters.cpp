#include "merge/combine_adapters.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/error.h"
#include "core/output_claim.h"
#include "core/suggest.h"
#include "lora/peft_file.h"
#include "merge/tensor_input.h"
#include "merge/update.h"

namespace weft::merge {
namespace {

constexpr std::string_view kFactorPrefix = "peft_factor_";

/// The adapters' factors of one module; nothing where an adapter lacks it.
struct ModuleFactors {
  lora::Module module;
  std::vector<std::optional<lora::Factors>> own;
};

bool is_exact_sum(std::string_view method) { return method == "linear" || method == "cat"; }

/// The values of the method's parameters for every input: given ones, weights, and defaults.
class Parameters {
 public:
  Parameters(const Method& method, const ParameterValues& given) : method_(method), given_(given) {
    std::vector<std::string> names;
    for (const ParameterSpec& spec : method.parameters()) {
      if (spec.name != "weight") names.emplace_back(spec.name);
    }
    for (const auto& [name, value] : given) {
      if (std::ranges::find(names, name) != names.end()) continue;
      const std::string near = core::nearest(name, names);
      throw ConfigError("method {} has no parameter '{}'{}; it has {}", method.name(), name,
                        near.empty() ? "" : ", did you mean '" + near + "'?",
                        fmt::join(names, ", "));
    }
  }

  void fill(TensorGroup& group, const std::vector<double>& weights) const {
    group.own.assign(group.inputs.size(), {});
    for (const ParameterSpec& spec : method_.parameters()) {
      if (spec.scope == ParameterSpec::Scope::kShared) {
        group.shared.emplace(spec.name, value(spec));
        continue;
      }
      for (std::size_t i = 1; i < group.inputs.size(); ++i) {
        group.own[i].emplace(spec.name, spec.name == "weight" ? weights[i - 1] : value(spec));
      }
    }
  }

 private:
  [[nodiscard]] double value(const ParameterSpec& spec) const {
    if (const auto found = given_.find(spec.name); found != given_.end()) return found->second;
    if (spec.fallback) return *spec.fallback;
    throw ConfigError("method {} needs --parameter {}=VALUE", method_.name(), spec.name);
  }

  const Method& method_;
  const ParameterValues& given_;
};

/// A matrix [rows, columns] given row-major as an update of its own: it times the smaller identity.
Term as_term(std::string path, std::span<const float> matrix, std::int64_t rows) {
  const std::int64_t columns = static_cast<std::int64_t>(matrix.size()) / rows;
  const std::int64_t inner = std::min(rows, columns);
  lora::Factors factors = make_factors({std::move(path), columns, rows}, inner);
  std::vector<float>& one = rows <= columns ? factors.b : factors.a;
  for (std::int64_t i = 0; i < inner; ++i) one[static_cast<std::size_t>(i * inner + i)] = 1;
  std::ranges::copy(matrix, (rows <= columns ? factors.a : factors.b).begin());
  return {std::move(factors), 1};
}

/// What a method makes of updates of one matrix: the base is 0, `terms` the task vectors.
class Evaluated {
 public:
  Evaluated(const Method& method, const ParameterValues& parameters, std::string name,
            std::int64_t rows, std::int64_t columns)
      : method_(method), parameters_(method, parameters) {
    info_.name = std::move(name);
    info_.shape = {rows, columns};
    info_.storage = checkpoint::Storage::kF32;
  }

  /// Rows of the result; null when nothing changes. Lives as long as this object.
  const RowDeltas* run(std::vector<std::optional<Term>> terms, const std::vector<double>& weights,
                       std::uint64_t seed) {
    TensorGroup group;
    group.name = info_.name;
    group.base = 0;
    group.seed = seed;
    group.inputs.push_back({nullptr, &info_});
    for (auto& term : terms) {
      TensorInput input{nullptr, &info_};
      if (term) {
        input.update = std::make_shared<const Update>(std::vector<Term>{std::move(*term)},
                                                      Update::Layout::kOutIn);
      }
      group.inputs.push_back(std::move(input));
    }
    parameters_.fill(group, weights);
    deltas_ = method_.deltas(std::move(group));
    return deltas_.get();
  }

  [[nodiscard]] RowMatrix matrix() const {
    return {deltas_.get(), info_.rows(), info_.row_elements()};
  }
  /// All rows, as floats.
  [[nodiscard]] std::vector<float> values() const {
    std::vector<float> all(static_cast<std::size_t>(info_.elements()));
    if (!deltas_) return all;
    const auto width = static_cast<std::size_t>(info_.row_elements());
    std::vector<double> rows(static_cast<std::size_t>(RowDeltas::kRowBlock * deltas_->stride()));
    for (std::int64_t begin = 0; begin < info_.rows(); begin += RowDeltas::kRowBlock) {
      deltas_->compute(begin, rows);
      const std::int64_t count = std::min(RowDeltas::kRowBlock, info_.rows() - begin);
      for (std::int64_t i = 0; i < count; ++i) {
        std::transform(rows.begin() + i * deltas_->stride(),
                       rows.begin() + i * deltas_->stride() + static_cast<std::int64_t>(width),
                       all.begin() + (begin + i) * static_cast<std::int64_t>(width),
                       [](double value) { return static_cast<float>(value); });
      }
    }
    return all;
  }

 private:
  const Method& method_;
  Parameters parameters_;
  checkpoint::TensorInfo info_;
  std::unique_ptr<const RowDeltas> deltas_;
};

/// A method that starts from a base, by the name that says whose variant is meant.
const Method& delta_method(std::string name) {
  for (const char* both : {"ties", "dare_ties", "dare_linear"}) {
    if (name == both) {
      throw ConfigError(
          "--method {0} differs between PEFT and mergekit; say {0}:peft or "
          "{0}:mergekit",
          name);
    }
    if (name == fmt::format("{}:mergekit", both)) name = both;
  }
  const Method& method = find_method(name);
  const InputRule rule = method.rule();
  if (rule.base == InputRule::Base::kRequired && rule.most == SIZE_MAX) return method;
  throw ConfigError(
      "method {} combines whole models; an adapter is made by linear, svd, "
      "knots_ties, peft_factor_... or a method that starts from a base "
      "(docs/combine_adapters.md)",
      name);
}

/// The same method for the factors of PEFT's own combination types.
const Method& factor_method(std::string_view method) {
  const std::string name(method.substr(kFactorPrefix.size()));
  if (name == "linear") return find_method("task_arithmetic");
  if (name == "magnitude_prune") return find_method(name);
  for (const char* known : {"ties", "dare_linear", "dare_ties"}) {
    if (name == known) return find_method(name + ":peft");
  }
  throw ConfigError(
      "there is no method '{}'; PEFT has peft_factor_linear, peft_factor_ties, "
      "peft_factor_dare_linear, peft_factor_dare_ties, peft_factor_magnitude_prune",
      method);
}

class Combiner {
 public:
  Combiner(const AdapterRequest& request, std::vector<lora::PeftFile> files)
      : request_(request), files_(std::move(files)) {
    for (const auto& adapter : request.adapters) weights_.push_back(adapter.weight);
    const bool factors = request.method.starts_with(kFactorPrefix);
    const bool sum = is_exact_sum(request.method) || request.method == "svd";
    if (factors) method_ = &factor_method(request.method);
    if (request.method == "knots_ties") method_ = &find_method("ties:peft");
    if (!factors && !sum && method_ == nullptr) method_ = &delta_method(request.method);
    if (sum && !request.parameters.empty()) {
      throw ConfigError("--method {} has no parameters but the adapters' weights", request.method);
    }
    if (method_ != nullptr) Parameters(*method_, request.parameters);
    if ((factors || request.method == "cat") && request.rank != 0) {
      throw ConfigError("--method {} gives the rank it gives; --method svd takes --rank",
                        request.method);
    }
  }

  [[nodiscard]] bool draws() const { return method_ != nullptr && method_->draws(); }

  /// Every module of any adapter, in order of path.
  [[nodiscard]] std::vector<lora::Module> modules() const {
    std::map<std::string, lora::Module> found;
    for (const lora::PeftFile& file : files_) {
      for (const lora::Target& target : file.targets()) {
        const auto [at, fresh] = found.emplace(target.module.path, target.module);
        if (fresh || (at->second.in == target.module.in && at->second.out == target.module.out)) {
          continue;
        }
        throw InputError(
            "module '{}' is [{}, {}] in '{}' and [{}, {}] in another adapter: they are "
            "not of one base",
            target.module.path, target.module.out, target.module.in, file.directory().string(),
            at->second.out, at->second.in);
      }
    }
    std::vector<lora::Module> list;
    for (auto& [path, module] : found) list.push_back(module);
    return list;
  }

  /// The module's combined factors, and how near they are.
  [[nodiscard]] std::pair<lora::Factors, ModuleError> run(const lora::Module& module) const {
    const ModuleFactors input = load(module);
    if (request_.method.starts_with(kFactorPrefix)) return by_factors(input);
    if (request_.method == "knots_ties") return by_knots(input);
    if (method_ == nullptr) return by_sum(input);
    Evaluated evaluated(*method_, request_.parameters, module.path + ".weight", module.out,
                        module.in);
    std::vector<std::optional<Term>> terms;
    for (const auto& factors : input.own) {
      terms.push_back(factors ? std::optional<Term>({*factors, 1}) : std::nullopt);
    }
    evaluated.run(std::move(terms), weights_, request_.seed);
    return result(module, truncate_rows(evaluated.matrix(), wanted_rank(input), request_.svd));
  }

 private:
  [[nodiscard]] ModuleFactors load(const lora::Module& module) const {
    ModuleFactors input{module, {}};
    for (const lora::PeftFile& file : files_) {
      const auto found = std::ranges::find(file.targets(), module.path, [](const lora::Target& t) {
        return std::string_view(t.module.path);
      });
      input.own.emplace_back();
      if (found == file.targets().end()) continue;
      input.own.back() = file.load(static_cast<std::size_t>(found - file.targets().begin()));
    }
    return input;
  }

  /// The rank asked for, or the largest of the inputs; no more than the matrix can have.
  [[nodiscard]] std::int64_t wanted_rank(const ModuleFactors& input) const {
    std::int64_t rank = request_.rank;
    for (const auto& factors : input.own) {
      if (request_.rank == 0 && factors) rank = std::max(rank, factors->target.rank);
    }
    return std::min({rank, input.module.in, input.module.out});
  }

  static std::pair<lora::Factors, ModuleError> result(const lora::Module& module,
                                                      const LowRank& low) {
    lora::Factors factors = make_factors(module, low.rank);
    factors.a = low.right;
    factors.b = low.left;
    return {std::move(factors), {module.path, low.rank, low.norm, low.error}};
  }

  /// [w_1 s_1 B_1, ...] as [out, inner] and [A_1; ...] as [inner, in].
  struct Stacked {
    std::vector<double> b;
    std::vector<double> a;
    std::vector<std::size_t> owner;  ///< Of each of the inner columns.
    std::int64_t inner = 0;
  };
  [[nodiscard]] Stacked stack(const ModuleFactors& input, bool weighted) const {
    Stacked all;
    for (std::size_t i = 0; i < input.own.size(); ++i) {
      if (!input.own[i]) continue;
      all.owner.insert(all.owner.end(), static_cast<std::size_t>(input.own[i]->target.rank), i);
      all.a.insert(all.a.end(), input.own[i]->a.begin(), input.own[i]->a.end());
    }
    all.inner = static_cast<std::int64_t>(all.owner.size());
    all.b.resize(static_cast<std::size_t>(input.module.out * all.inner));
    std::int64_t first = 0;
    for (std::size_t i = 0; i < input.own.size(); ++i) {
      if (!input.own[i]) continue;
      const std::int64_t rank = input.own[i]->target.rank;
      const double factor = input.own[i]->target.scale * (weighted ? weights_[i] : 1);
      for (std::int64_t row = 0; row < input.module.out; ++row) {
        for (std::int64_t k = 0; k < rank; ++k) {
          all.b[static_cast<std::size_t>(row * all.inner + first + k)] =
              factor *
              static_cast<double>(input.own[i]->b[static_cast<std::size_t>(row * rank + k)]);
        }
      }
      first += rank;
    }
    return all;
  }

  [[nodiscard]] std::pair<lora::Factors, ModuleError> by_sum(const ModuleFactors& input) const {
    const Stacked all = stack(input, true);
    if (!is_exact_sum(request_.method) || request_.rank != 0) {
      return result(input.module, truncate_product(all.b, all.a, all.inner, wanted_rank(input)));
    }
    lora::Factors factors = make_factors(input.module, all.inner);
    std::ranges::transform(all.a, factors.a.begin(),
                           [](double x) { return static_cast<float>(x); });
    std::ranges::transform(all.b, factors.b.begin(),
                           [](double x) { return static_cast<float>(x); });
    const ModuleError error{input.module.path, all.inner, product_norm(all.b, all.a, all.inner), 0};
    return {std::move(factors), error};
  }

  /// [D_1, D_2, ...] = U S [V_1, V_2, ...]: ties of the S V_i, which speak of the same directions.
  [[nodiscard]] std::pair<lora::Factors, ModuleError> by_knots(const ModuleFactors& input) const {
    const Stacked all = stack(input, false);
    const Aligned aligned = align(all.b, all.a, all.owner, input.own.size());
    Evaluated evaluated(*method_, request_.parameters, input.module.path + ".weight", aligned.rank,
                        input.module.in);
    std::vector<std::optional<Term>> terms;
    for (const std::vector<float>& part : aligned.parts) {
      terms.push_back(as_term(input.module.path, part, aligned.rank));
    }
    evaluated.run(std::move(terms), weights_, request_.seed);
    const std::vector<float> merged = evaluated.values();
    const std::vector<double> right(merged.begin(), merged.end());
    const std::int64_t rank = request_.rank == 0 ? aligned.rank : wanted_rank(input);
    return result(input.module, truncate_product(aligned.left, right, aligned.rank, rank));
  }

  /// PEFT's way: A and B are combined each for themselves, with the root of weight * scale.
  [[nodiscard]] std::pair<lora::Factors, ModuleError> by_factors(const ModuleFactors& input) const {
    std::int64_t rank = 0;
    std::vector<double> roots_a;
    std::vector<double> roots_b;
    std::vector<std::optional<Term>> a;
    std::vector<std::optional<Term>> b;
    for (std::size_t i = 0; i < input.own.size(); ++i) {
      if (!input.own[i]) continue;
      const lora::Target& target = input.own[i]->target;
      if (rank != 0 && rank != target.rank) {
        throw InputError(
            "module '{}' has rank {} in one adapter and {} in another; --method {} "
            "combines factors and needs one rank",
            target.module.path, rank, target.rank, request_.method);
      }
      rank = target.rank;
      const double factor = weights_[i] * target.scale;
      roots_b.push_back(std::sqrt(std::abs(factor)));
      roots_a.push_back(factor >= 0 ? roots_b.back() : -roots_b.back());
      a.push_back(as_term(target.module.path, input.own[i]->a, rank));
      b.push_back(as_term(target.module.path, input.own[i]->b, target.module.out));
    }
    const lora::Module& module = input.module;
    Evaluated left(*method_, request_.parameters, module.path + ".lora_B.weight", module.out, rank);
    Evaluated right(*method_, request_.parameters, module.path + ".lora_A.weight", rank, module.in);
    left.run(std::move(b), roots_b, request_.seed);
    right.run(std::move(a), roots_a, request_.seed);
    lora::Factors factors = make_factors(module, rank);
    factors.a = right.values();
    factors.b = left.values();
    return {std::move(factors), difference(input, factors)};
  }

  /// How far factors are from the exact weighted sum.
  [[nodiscard]] ModuleError difference(const ModuleFactors& input,
                                       const lora::Factors& factors) const {
    Stacked all = stack(input, true);
    const double norm = product_norm(all.b, all.a, all.inner);
    const std::int64_t rank = factors.target.rank;
    const std::int64_t inner = all.inner + rank;
    std::vector<double> b;
    for (std::int64_t row = 0; row < input.module.out; ++row) {
      b.insert(b.end(), all.b.begin() + row * all.inner, all.b.begin() + (row + 1) * all.inner);
      for (std::int64_t k = 0; k < rank; ++k) {
        b.push_back(-static_cast<double>(factors.b[static_cast<std::size_t>(row * rank + k)]));
      }
    }
    all.a.insert(all.a.end(), factors.a.begin(), factors.a.end());
    return {input.module.path, rank, norm, product_norm(b, all.a, inner)};
  }

  const AdapterRequest& request_;
  std::vector<lora::PeftFile> files_;
  std::vector<double> weights_;
  const Method* method_ = nullptr;
};

/// The provenance of the result: the base that all adapters record.
std::optional<lora::Provenance> common_provenance(const std::vector<lora::PeftFile>& files,
                                                  bool allow_other, const core::Log& log) {
  std::optional<lora::Provenance> common = files.front().provenance();
  for (const lora::PeftFile& file : files) {
    const auto& own = file.provenance();
    if (!own || own->base_weights.empty() || !common) return std::nullopt;
    if (own->base_weights == common->base_weights) continue;
    const std::string text =
        fmt::format("adapters '{}' and '{}' were trained on different base weights",
                    files.front().directory().string(), file.directory().string());
    if (!allow_other) throw InputError("{} (--allow-other-base combines them all the same)", text);
    core::tell(log, core::Level::kWarning, text);
    return std::nullopt;
  }
  if (common) common->more = nullptr;
  return common;
}

}  // namespace

AdapterReport combine_adapters(const AdapterRequest& request, const core::Log& log) {
  if (request.adapters.empty()) throw ConfigError("give at least one --adapter");
  std::vector<std::filesystem::path> inputs;
  for (const auto& adapter : request.adapters) inputs.push_back(adapter.directory);
  core::claim_output({request.out, core::OutputKind::kFolder}, inputs, request.overwrite);
  std::vector<lora::PeftFile> files;
  AdapterReport report;
  for (const auto& adapter : request.adapters) {
    files.push_back(lora::PeftFile::open(adapter.directory, log));
    files.back().require_plain("combining adapters");
    MergeReport::Adapter& input = report.adapters.emplace_back();
    input.directory = adapter.directory;
    input.weight = adapter.weight;
    input.digest = files.back().digest();
  }
  lora::Adapter adapter;
  adapter.provenance = common_provenance(files, request.allow_other_base, log);
  adapter.config.base_model_name_or_path = files.front().config().base_model_name_or_path;
  adapter.config.revision = files.front().config().revision;
  adapter.config.fan_in_fan_out = files.front().config().fan_in_fan_out;
  const Combiner combiner(request, std::move(files));
  if (request.method.starts_with(kFactorPrefix)) {
    core::tell(log, core::Level::kWarning,
               fmt::format("{} combines A and B separately, as PEFT does: the product gains terms "
                           "B_i A_j of different adapters, and is not the sum of their updates "
                           "(--method linear is)",
                           request.method));
  }
  report.method = request.method;
  report.parameters = request.parameters;
  if (combiner.draws()) report.seed = request.seed;
  for (const lora::Module& module : combiner.modules()) {
    auto [factors, error] = combiner.run(module);
    adapter.factors.push_back(std::move(factors));
    report.modules.push_back(std::move(error));
  }
  write_adapter(std::move(adapter), report, request.out, request.overwrite);
  return report;
}

}  // namespace weft::merge
