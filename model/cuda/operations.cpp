// The operations on a GPU: kernels of this folder where there are some, else formulas over ATen
// (model/aten/). Numbers of double, which only tests use, go by the formulas.

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/tensor.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cublas_v2.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "model/aten/aten.h"
#include "model/constants.h"
#include "model/cuda/cuda.h"
#include "model/cuda/launch.h"
#include "model/cuda/rows.h"
#include "model/cuda/tree_attention.h"
#include "model/cuda/tree_blocks.h"

namespace weft::model {
namespace {

cudaStream_t stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

/// Calls body(T{}) for the element type as kernels know it. False for one they do not know.
template <typename Body>
bool for_type(at::ScalarType type, const Body& body) {
  if (type == at::kFloat) {
    body(float{});
  } else if (type == at::kBFloat16) {
    body(cuda::Bf16{});
  } else {
    return false;
  }
  return true;
}

template <typename T>
const T* data(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<const T*>(tensor.const_data_ptr()) : nullptr;
}
template <typename T>
T* mutable_data(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
}

/// Numbers of the host as bytes where `like` is.
template <typename T>
at::Tensor on_device(const std::vector<T>& values, const at::Tensor& like) {
  const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(T));
  at::Tensor host = at::empty({bytes}, at::TensorOptions().dtype(at::kByte));
  std::copy_n(reinterpret_cast<const std::uint8_t*>(values.data()), bytes,
              host.mutable_data_ptr<std::uint8_t>());
  return host.to(like.device());
}

// ---- Products ----------------------------------------------------------------------------------

void check(cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) throw IoError("cuBLAS: {}", cublasGetStatusString(status));
}

/// cuBLAS with a workspace of its own: without one its choice, and so the bits, could depend on
/// what else is running.
class Blas {
 public:
  static cublasHandle_t handle() {
    static Blas blas;
    check(cublasSetStream(blas.handle_, stream()));
    check(cublasSetWorkspace(blas.handle_, blas.workspace_.mutable_data_ptr(), kWorkspace));
    return blas.handle_;
  }

 private:
  static constexpr std::size_t kWorkspace = std::size_t{32} << 20;
  Blas()
      : workspace_(at::empty({static_cast<std::int64_t>(kWorkspace)},
                             at::TensorOptions().dtype(at::kByte).device(at::kCUDA))) {
    check(cublasCreate(&handle_));
    check(cublasSetMathMode(
        handle_, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                           CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
    check(cublasSetAtomicsMode(handle_, CUBLAS_ATOMICS_NOT_ALLOWED));
  }
  at::Tensor workspace_;
  cublasHandle_t handle_ = nullptr;
};

/// A matrix as cuBLAS, which counts by columns, reads it: the transpose of a row-major one.
struct Operand {
  const void* data;
  cublasOperation_t operation;
  int stride;
  explicit Operand(const at::Tensor& matrix) : data(matrix.const_data_ptr()) {
    const bool by_row = matrix.stride(1) == 1 || matrix.size(1) == 1;
    operation = by_row ? CUBLAS_OP_N : CUBLAS_OP_T;
    const std::int64_t apart = by_row ? matrix.stride(0) : matrix.stride(1);
    const std::int64_t least = by_row ? matrix.size(1) : matrix.size(0);
    stride = static_cast<int>(std::max(apart, least));
  }
};

/// sums [m, n] fp32, rows `stride` apart, = a b + beta sums; sums in fp32.
void multiply(const at::Tensor& a, const at::Tensor& b, float* sums, std::int64_t stride,
              float beta) {
  const float alpha = 1;
  const auto type = a.scalar_type() == at::kBFloat16 ? CUDA_R_16BF : CUDA_R_32F;
  const Operand left(a), right(b);
  check(cublasGemmEx(Blas::handle(), right.operation, left.operation, static_cast<int>(b.size(1)),
                     static_cast<int>(a.size(0)), static_cast<int>(a.size(1)), &alpha, right.data,
                     type, right.stride, left.data, type, left.stride, &beta, sums, CUDA_R_32F,
                     static_cast<int>(stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

// ---- Attention ---------------------------------------------------------------------------------

/// A figure of the GPU that a tensor is on; 0 where CUDA does not tell.
int attribute(cudaDeviceAttr which, const at::Tensor& on) {
  int value = 0;
  return cudaDeviceGetAttribute(&value, which, on.device().index()) == cudaSuccess ? value : 0;
}

/// Whether LibTorch's flash attention computes this: rows of segments of their own, scores as they
/// are.
bool is_flash(const at::Tensor& qkv, const AttentionShape& shape, const Visibility& visible) {
  if (qkv.scalar_type() != at::kBFloat16 || shape.head_dim % 8 != 0 || shape.head_dim > 256 ||
      !shape.score.plain() || !shape.score.sinks.empty())
    return false;
  if (attribute(cudaDevAttrComputeCapabilityMajor, qkv) < 8) return false;
  for (std::int64_t i = 0; i < visible.segments(); ++i) {
    if (!visible.ancestors(i).empty() || visible.own(i).position != 0) return false;
  }
  return true;
}

double scale_of(const AttentionShape& shape) {
  return shape.score.scale != 0 ? shape.score.scale
                                : 1 / std::sqrt(static_cast<double>(shape.head_dim));
}

/// What flash attention takes of a row beside q, k and v.
struct Segments {
  at::Tensor ends;  ///< [segments + 1] int32: where each begins, and the end
  std::int64_t longest = 0;
  std::optional<std::int64_t> left, right;
  Segments(const Visibility& visible, std::int64_t window, const at::Tensor& like) {
    std::vector<std::int32_t> begins{0};
    for (std::int64_t i = 0; i < visible.segments(); ++i) {
      const Visibility::Range& own = visible.own(i);
      begins.push_back(static_cast<std::int32_t>(own.end));
      longest = std::max(longest, own.end - own.begin);
    }
    ends = at::tensor(begins, at::TensorOptions().dtype(at::kInt)).to(like.device());
    if (window > 0) {
      left = window - 1;
      right = 0;
    }
  }
};

/// A row's trees on the GPU.
struct Trees {
  at::Tensor positions, queries, keys_seen, keys, queries_seeing;  ///< cuda::TreeBlocks
  std::int64_t query_blocks = 0, key_blocks = 0;
  Trees(const Visibility& visible, std::int64_t window, const at::Tensor& like) {
    const cuda::TreeBlocks blocks(visible, window);
    positions = on_device(blocks.positions, like);
    queries = on_device(blocks.queries, like);
    keys_seen = on_device(blocks.keys_seen, like);
    keys = on_device(blocks.keys, like);
    queries_seeing = on_device(blocks.queries_seeing, like);
    query_blocks = std::ssize(blocks.queries);
    key_blocks = std::ssize(blocks.keys);
  }
};

/// One of these of a row; all layers with this window have the same.
template <typename Table>
const Table& of_row(const Visibility& visible, const AttentionShape& shape,
                    const at::Tensor& like) {
  return visible.table<Table>(shape.window, [&] { return Table(visible, shape.window, like); });
}

/// q, k, v of packed rows as [T, heads, head_dim] each, views.
std::vector<at::Tensor> heads_of(const at::Tensor& qkv, const AttentionShape& shape) {
  const at::Tensor all = qkv.view({qkv.size(0), -1, shape.head_dim});
  return {all.narrow(1, 0, shape.heads), all.narrow(1, shape.heads, shape.kv_heads),
          all.narrow(1, shape.heads + shape.kv_heads, shape.kv_heads)};
}

/// What the kernels of attention over trees read.
template <typename T>
cuda::AttentionInput<T> input_of(const Trees& trees, const AttentionShape& shape,
                                 const at::Tensor& qkv, bool of_keys) {
  const auto per_head = [&](const std::vector<float>& values) {
    return values.empty() ? nullptr : data<float>(constant(values, qkv.device()));
  };
  cuda::AttentionInput<T> in{};
  in.qkv = data<T>(qkv);
  in.positions = data<std::int32_t>(trees.positions);
  in.blocks = data<cuda::TokenBlock>(of_keys ? trees.keys : trees.queries);
  in.ranges = data<cuda::TokenRange>(of_keys ? trees.queries_seeing : trees.keys_seen);
  in.tokens = qkv.size(0);
  in.heads = shape.heads;
  in.kv_heads = shape.kv_heads;
  in.head_dim = shape.head_dim;
  in.window = shape.window;
  in.scale = static_cast<float>(scale_of(shape));
  in.soft_cap = static_cast<float>(shape.score.soft_cap);
  in.slopes = per_head(shape.score.slopes);
  in.slopes_in_bf16 = shape.score.slopes_in_bf16;
  in.sinks = per_head(shape.score.sinks);
  return in;
}

/// Whether the GPU's shared memory holds a block of the attention kernels.
bool fits(const AttentionShape& shape, const at::Tensor& like) {
  const std::int64_t wanted = cuda::AttentionKeys<float>::shared_floats(shape.head_dim) * 4;
  return shape.head_dim <= cuda::kMostHeadDim &&
         wanted <= attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, like);
}

constexpr int kRowThreads = 256;  // of a block that has a row

class Cuda final : public Aten {
 public:
  void products_(std::span<const ProductOf> all) const override {
    for (const ProductOf& one : all) {
      if (one.c.numel() == 0) continue;
      const bool known = for_type(one.terms.front().a.scalar_type(), [](auto) {});
      if (!known) {
        Aten::products_({&one, 1});
      } else {
        compute(one);
      }
    }
  }

  void rotate_(const at::Tensor& qkv, const AttentionShape& shape,
               const RotaryTable& table) const override {
    if (!turn(qkv, shape, table, false)) Aten::rotate_(qkv, shape, table);
  }
  void rotate_back_(const at::Tensor& gradient, const AttentionShape& shape,
                    const RotaryTable& table) const override {
    if (!turn(gradient, shape, table, true)) Aten::rotate_back_(gradient, shape, table);
  }

  [[nodiscard]] at::Tensor dropout(const at::Tensor& x, const Dropout& dropout,
                                   std::uint32_t module) const override {
    at::Tensor y = at::empty_like(x);
    return drop(x, y, dropout, module, false) ? y : Aten::dropout(x, dropout, module);
  }
  void dropout_backward_(const at::Tensor& dx, const at::Tensor& dy, const Dropout& dropout,
                         std::uint32_t module) const override {
    if (!drop(dy, dx, dropout, module, true)) Aten::dropout_backward_(dx, dy, dropout, module);
  }

  void norm(const NormRows& rows, const at::Tensor& x, const at::Tensor& y,
            Norm::Statistics* statistics) const override {
    if (!run_norm(rows, x, {}, y, statistics)) Aten::norm(rows, x, y, statistics);
  }
  void norm_add(const NormRows& rows, const at::Tensor& x, const at::Tensor& residual,
                const at::Tensor& sum, Norm::Statistics* statistics) const override {
    if (!run_norm(rows, x, residual, sum, statistics))
      Aten::norm_add(rows, x, residual, sum, statistics);
  }

  void norm_backward(const NormRows& rows, const at::Tensor& dx, const at::Tensor& dy,
                     const at::Tensor& x, const Norm::Statistics& statistics,
                     bool adds) const override {
    const bool known = for_type(x.scalar_type(), [&]<typename T>(T) {
      cuda::NormBackward<T> k{};
      k.x = data<T>(x) + rows.first;
      k.weight = data<T>(rows.weight);
      k.dy = data<T>(dy) + rows.first;
      k.dx = mutable_data<T>(dx) + rows.first;
      k.inverse = data<float>(statistics.inverse);
      k.mean = data<float>(statistics.mean);
      k.x_stride = k.dx_stride = x.size(1);
      k.groups = rows.groups;
      k.width = rows.spec.width;
      k.weight_stride = rows.has_own_weights() ? rows.spec.width : 0;
      k.plus = rows.spec.plus_one ? 1 : 0;
      k.adds = adds;
      cuda::launch(k, x.size(0) * rows.groups, kRowThreads,
                   cuda::NormBackward<T>::kSharedPerThread * kRowThreads, stream());
    });
    if (!known) Aten::norm_backward(rows, dx, dy, x, statistics, adds);
  }

  [[nodiscard]] at::Tensor activate(const at::Tensor& up, const MlpSpec& mlp) const override {
    at::Tensor y = at::empty({up.size(0), up.size(1) / (mlp.gated ? 2 : 1)}, up.options());
    return run_activation(up, y, {}, mlp) ? y : Aten::activate(up, mlp);
  }
  void activate_backward_(const at::Tensor& up, const at::Tensor& dy,
                          const MlpSpec& mlp) const override {
    if (!run_activation(up, {}, dy, mlp)) Aten::activate_backward_(up, dy, mlp);
  }

  [[nodiscard]] at::Tensor attend_row(const at::Tensor& qkv, const AttentionShape& shape,
                                      const Visibility& visible,
                                      at::Tensor* log_sums) const override {
    const std::int64_t tokens = qkv.size(0);
    if (is_flash(qkv, shape, visible)) {
      const Segments& segments = of_row<Segments>(visible, shape, qkv);
      const std::vector<at::Tensor> heads = heads_of(qkv, shape);
      auto [out, sums, random, unused, mask] = at::_flash_attention_forward(
          heads[0], heads[1], heads[2], segments.ends, segments.ends, segments.longest,
          segments.longest, 0.0, true, false, scale_of(shape), segments.left, segments.right);
      if (log_sums != nullptr) *log_sums = sums;
      return out.reshape({tokens, shape.heads * shape.head_dim});
    }
    at::Tensor out = at::empty({tokens, shape.heads * shape.head_dim}, qkv.options());
    const at::Tensor sums = at::empty({shape.heads, tokens}, qkv.options().dtype(at::kFloat));
    const bool known =
        fits(shape, qkv) && for_type(qkv.scalar_type(), [&]<typename T>(T) {
          const Trees& trees = of_row<Trees>(visible, shape, qkv);
          const cuda::AttentionForward<T> k{input_of<T>(trees, shape, qkv, false),
                                            mutable_data<T>(out), mutable_data<float>(sums)};
          cuda::launch(k, trees.query_blocks * shape.heads, cuda::kAttentionThreads,
                       cuda::AttentionForward<T>::shared_floats(shape.head_dim), stream());
        });
    if (!known) return Aten::attend_row(qkv, shape, visible, log_sums);
    if (log_sums != nullptr) *log_sums = sums;
    return out;
  }

  [[nodiscard]] at::Tensor attend_row_backward(const at::Tensor& gradient, const at::Tensor& output,
                                               const at::Tensor& qkv, const at::Tensor& log_sums,
                                               const AttentionShape& shape,
                                               const Visibility& visible) const override {
    const std::int64_t tokens = qkv.size(0);
    if (is_flash(qkv, shape, visible)) {
      const Segments& segments = of_row<Segments>(visible, shape, qkv);
      const std::vector<at::Tensor> heads = heads_of(qkv, shape);
      const auto of_heads = [&](const at::Tensor& rows) {
        return rows.view({tokens, shape.heads, shape.head_dim});
      };
      const at::Tensor no_dropout = at::empty({2}, qkv.options().dtype(c10::ScalarType::UInt64));
      const auto [dq, dk, dv] = at::_flash_attention_backward(
          of_heads(gradient), heads[0], heads[1], heads[2], of_heads(output), log_sums,
          segments.ends, segments.ends, segments.longest, segments.longest, 0.0, true, no_dropout,
          no_dropout, scale_of(shape), segments.left, segments.right);
      at::Tensor result = at::empty_like(qkv);
      const std::vector<at::Tensor> into = heads_of(result, shape);
      into[0].copy_(dq);
      into[1].copy_(dk);
      into[2].copy_(dv);
      return result;
    }
    at::Tensor result = at::empty_like(qkv);
    const bool known =
        fits(shape, qkv) && for_type(qkv.scalar_type(), [&]<typename T>(T) {
          const at::Tensor delta = (gradient.to(at::kFloat) * output.to(at::kFloat))
                                       .view({tokens, shape.heads, shape.head_dim})
                                       .sum(2)
                                       .t()
                                       .contiguous();
          const Trees& trees = of_row<Trees>(visible, shape, qkv);
          const cuda::AttentionGradients<T> gradients{data<T>(gradient), data<float>(log_sums),
                                                      data<float>(delta), mutable_data<T>(result)};
          cuda::launch(cuda::AttentionQueries<T>{input_of<T>(trees, shape, qkv, false), gradients},
                       trees.query_blocks * shape.heads, cuda::kAttentionThreads,
                       cuda::AttentionQueries<T>::shared_floats(shape.head_dim), stream());
          cuda::launch(cuda::AttentionKeys<T>{input_of<T>(trees, shape, qkv, true), gradients},
                       trees.key_blocks * shape.kv_heads, cuda::kAttentionThreads,
                       cuda::AttentionKeys<T>::shared_floats(shape.head_dim), stream());
        });
    return known ? result
                 : Aten::attend_row_backward(gradient, output, qkv, log_sums, shape, visible);
  }

  void losses_(const at::Tensor& logits, const LossRows& rows,
               std::span<double> losses) const override {
    const bool known = for_type(logits.scalar_type(), [&]<typename T>(T) {
      const at::Tensor targets =
          on_device(std::vector<std::int32_t>(rows.targets.begin(), rows.targets.end()), logits);
      const at::Tensor found = at::empty({logits.size(0)}, logits.options().dtype(at::kDouble));
      cuda::Losses<T> k{};
      k.logits = mutable_data<T>(logits);
      k.targets = data<std::int32_t>(targets);
      k.losses = mutable_data<double>(found);
      k.vocabulary = logits.size(1);
      k.cap = static_cast<float>(rows.soft_cap);
      k.gradient_scale = static_cast<float>(rows.gradient_scale);
      k.want_gradient = rows.want_gradient;
      cuda::launch(k, logits.size(0), kRowThreads, cuda::Losses<T>::kSharedPerThread * kRowThreads,
                   stream());
      const at::Tensor host = found.cpu();
      std::copy_n(host.const_data_ptr<double>(), losses.size(), losses.begin());
    });
    if (!known) Aten::losses_(logits, rows, losses);
  }

  void adamw_(const AdamWState& state, const AdamWStep& step) const override {
    cuda::AdamW k{};
    k.value = mutable_data<float>(state.values);
    k.gradient = data<float>(state.gradients);
    k.first = mutable_data<float>(state.first);
    k.second = mutable_data<float>(state.second);
    k.elements = state.values.numel();
    k.step = step;
    cuda::launch_elements(k, k.elements, stream());
  }

 private:
  /// Sums of so many rows are held at once.
  static constexpr std::int64_t kMostSums = std::int64_t{16} << 20;

  void compute(const ProductOf& one) const {
    std::vector<std::pair<at::Tensor, at::Tensor>> terms;
    for (const Factors& term : one.terms) {
      if (term.a.size(1) == 0) continue;
      at::Tensor right = term.b;
      if (term.quantised != nullptr) {
        right = dense(*term.quantised, term.a.scalar_type());
        if (term.turned) right = right.t();
      }
      terms.emplace_back(term.a, right);
    }
    const std::int64_t n = one.c.size(1);
    const Epilogue& finish = one.finish;
    const bool bare = finish.scale == 1 && !finish.bias.defined() && !finish.residual.defined();
    if (one.c.scalar_type() == at::kFloat && bare && !terms.empty()) {
      float beta = finish.add ? 1 : 0;
      for (const auto& [a, b] : terms) {
        multiply(a, b, mutable_data<float>(one.c), std::max(one.c.stride(0), n), beta);
        beta = 1;
      }
      return;
    }
    const std::int64_t most = std::max<std::int64_t>(1, kMostSums / n);
    for (std::int64_t begin = 0; begin < one.c.size(0); begin += most) {
      const std::int64_t rows = std::min(most, one.c.size(0) - begin);
      const at::Tensor sums = at::empty({rows, n}, one.c.options().dtype(at::kFloat));
      if (terms.empty()) sums.zero_();
      float beta = 0;
      for (const auto& [a, b] : terms) {
        multiply(a.narrow(0, begin, rows), b, mutable_data<float>(sums), n, beta);
        beta = 1;
      }
      const at::Tensor into = one.c.narrow(0, begin, rows);
      const at::Tensor residual =
          finish.residual.defined() ? finish.residual.narrow(0, begin, rows) : at::Tensor();
      for_type(one.c.scalar_type(), [&]<typename T>(T) {
        cuda::Finish<T> k{};
        k.sums = data<float>(sums);
        k.c = mutable_data<T>(into);
        k.bias = data<T>(finish.bias);
        k.residual = data<T>(residual);
        k.elements = rows * n;
        k.n = n;
        k.c_stride = into.stride(0);
        k.residual_stride = residual.defined() ? residual.stride(0) : 0;
        k.scale = static_cast<float>(finish.scale);
        k.adds = finish.add;
        cuda::launch_elements(k, k.elements, stream());
      });
    }
  }

  static at::Tensor dense(const QuantisedMatrix& matrix, at::ScalarType type) {
    const QuantisedMatrix::Codes codes = matrix.codes();
    at::Tensor result =
        at::empty({matrix.rows(), matrix.columns()}, codes.codes.options().dtype(type));
    for_type(type, [&]<typename T>(T) {
      cuda::Dequantise<T> k{};
      k.codes = data<std::uint8_t>(codes.codes);
      k.scales = data<float>(codes.scales);
      k.elements = result.numel();
      k.columns = matrix.columns();
      k.out = mutable_data<T>(result);
      if (codes.scale_codes.defined()) {
        k.scale_codes = data<std::uint8_t>(codes.scale_codes);
        k.table = data<float>(constant(codes.table, result.device()));
        k.tree = data<float>(constant(codes.tree, result.device()));
        k.scale_mean = codes.scale_mean;
      }
      cuda::launch_elements(k, k.elements, stream());
    });
    return result;
  }

  static bool run_norm(const NormRows& rows, const at::Tensor& x, const at::Tensor& residual,
                       const at::Tensor& y, Norm::Statistics* statistics) {
    const bool centred = rows.spec.kind == NormSpec::Kind::kLayer;
    return for_type(x.scalar_type(), [&]<typename T>(T) {
      if (statistics != nullptr) {
        const auto options = x.options().dtype(at::kFloat);
        statistics->inverse = at::empty({x.size(0), rows.groups}, options);
        if (centred) statistics->mean = at::empty({x.size(0), rows.groups}, options);
      }
      cuda::NormForward<T> k{};
      k.x = data<T>(x) + rows.first;
      k.weight = data<T>(rows.weight);
      k.bias = data<T>(rows.bias);
      if (residual.defined()) {
        k.residual = data<T>(residual) + rows.first;
        k.residual_stride = residual.size(1);
      }
      k.y = mutable_data<T>(y) + rows.first;
      if (statistics != nullptr) {
        k.inverse = mutable_data<float>(statistics->inverse);
        k.mean = centred ? mutable_data<float>(statistics->mean) : nullptr;
      }
      k.x_stride = x.size(1);
      k.y_stride = y.size(1);
      k.groups = rows.groups;
      k.width = rows.spec.width;
      k.weight_stride = rows.has_own_weights() ? rows.spec.width : 0;
      k.eps = static_cast<float>(rows.spec.eps);
      k.plus = rows.spec.plus_one ? 1 : 0;
      k.centred = centred;
      k.rounds_before_weight = rows.spec.rounds_before_weight;
      cuda::launch(k, x.size(0) * rows.groups, kRowThreads,
                   cuda::NormForward<T>::kSharedPerThread * kRowThreads, stream());
    });
  }

  static bool turn(const at::Tensor& qkv, const AttentionShape& shape, const RotaryTable& table,
                   bool back) {
    return for_type(qkv.scalar_type(), [&]<typename T>(T) {
      cuda::Rotate<T> k{};
      k.qkv = mutable_data<T>(qkv);
      k.cos = data<float>(table.cos);
      k.sin = data<float>(table.sin);
      k.tokens = qkv.size(0);
      k.width = qkv.size(1);
      k.heads = shape.heads + shape.kv_heads;
      k.head_dim = shape.head_dim;
      k.half = table.cos.size(1);
      k.interleaved = table.interleaved;
      k.back = back;
      cuda::launch_elements(k, k.tokens * k.heads * k.half, stream());
    });
  }

  static bool drop(const at::Tensor& in, const at::Tensor& out, const Dropout& dropout,
                   std::uint32_t module, bool adds) {
    return for_type(in.scalar_type(), [&]<typename T>(T) {
      cuda::Drop<T> k{};
      k.in = data<T>(in);
      k.out = mutable_data<T>(out);
      k.elements = in.numel();
      k.threshold = static_cast<std::uint32_t>(dropout.p * 0x1p32);
      k.module = module;
      k.seed = dropout.seed;
      k.keep_scale = static_cast<float>(1 / (1 - dropout.p));
      k.adds = adds;
      cuda::launch_elements(k, cuda::Drop<T>::counters(k.elements), stream());
    });
  }

  static bool run_activation(const at::Tensor& up, const at::Tensor& out, const at::Tensor& dy,
                             const MlpSpec& mlp) {
    return for_type(up.scalar_type(), [&]<typename T>(T) {
      cuda::Activate<T> k{};
      k.up = mutable_data<T>(up);
      k.out = mutable_data<T>(out);
      k.dy = data<T>(dy);
      k.width = up.size(1) / (mlp.gated ? 2 : 1);
      k.elements = up.size(0) * k.width;
      k.gate = gate_of(mlp.activation);
      k.gated = mlp.gated;
      k.limit = static_cast<float>(mlp.limit);
      cuda::launch_elements(k, k.elements, stream());
    });
  }

  static cuda::Gate gate_of(Activation activation) {
    switch (activation) {
      case Activation::kSilu: return cuda::Gate::kSilu;
      case Activation::kGelu: return cuda::Gate::kGelu;
      case Activation::kGeluTanh: return cuda::Gate::kGeluTanh;
      case Activation::kRelu: return cuda::Gate::kRelu;
      case Activation::kClampedSwish: return cuda::Gate::kClampedSwish;
    }
    return cuda::Gate::kSilu;
  }
};

}  // namespace
}  // namespace weft::model

extern "C" {

[[gnu::visibility("default")]] const char* weft_cuda_gpus(std::uint64_t* gpus, int capacity,
                                                          int* count) {
  static std::string problem;
  problem.clear();
  *count = 0;
  const cudaError_t status = cudaGetDeviceCount(count);
  if (status != cudaSuccess || *count == 0) {
    problem =
        status == cudaSuccess
            ? "this machine has no NVIDIA GPU"
            : std::string("this machine has no NVIDIA driver that CUDA 13 can use (CUDA says: ") +
                  cudaGetErrorString(status) + ")";
    return problem.c_str();
  }
  for (int i = 0; i < std::min(capacity, *count); ++i) {
    cudaDeviceProp properties{};
    if (const cudaError_t failed = cudaGetDeviceProperties(&properties, i); failed != cudaSuccess) {
      problem = cudaGetErrorString(failed);
      return problem.c_str();
    }
    // The 16 bytes of its name that no other GPU has.
    std::array<std::uint64_t, 2> halves{};
    static_assert(sizeof halves == sizeof properties.uuid);
    std::memcpy(halves.data(), &properties.uuid, sizeof halves);
    gpus[i] = halves[0] ^ (halves[1] * 0x9e3779b97f4a7c15U);
  }
  return nullptr;
}

[[gnu::visibility("default")]] const char* weft_cuda_start(int index, WeftCudaDevice* device) {
  static std::string problem;
  problem.clear();
  int count = 0;
  if (const char* const none = weft_cuda_gpus(nullptr, 0, &count)) return none;
  if (index >= count) {
    problem = "this machine has " + std::to_string(count) +
              (count == 1 ? " GPU, number 0" : " GPUs, numbers from 0 on");
    return problem.c_str();
  }
  cudaDeviceProp properties{};
  if (const cudaError_t failed = cudaGetDeviceProperties(&properties, index);
      failed != cudaSuccess) {
    problem = cudaGetErrorString(failed);
    return problem.c_str();
  }
  std::copy_n(properties.name, sizeof(device->name) - 1, device->name);
  device->major = properties.major;
  device->minor = properties.minor;
  device->total_bytes = properties.totalGlobalMem;
  if (properties.major * 10 + properties.minor < 75) {
    problem = std::string(properties.name) + " has compute capability " +
              std::to_string(properties.major) + "." + std::to_string(properties.minor) +
              ", and weft needs 7.5 or more";
    return problem.c_str();
  }
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
  // The same bits twice: no atomics in what LibTorch computes either.
  at::globalContext().setDeterministicAlgorithms(true, true);
  at::globalContext().setAllowTF32CuBLAS(false);
  static const weft::model::Cuda kForm;
  weft::model::register_operations(at::kCUDA, kForm);
  return nullptr;
}

[[gnu::visibility("default")]] std::uint64_t weft_cuda_free(int index) {
  std::size_t free = 0;
  std::size_t total = 0;
  cudaSetDevice(index);
  return cudaMemGetInfo(&free, &total) == cudaSuccess ? free : 0;
}
}
