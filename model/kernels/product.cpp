#include "model/kernels/product.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "model/kernels/bf16_rows.h"
#include "model/kernels/kernel_math.h"
#include "model/kernels/multiply.h"
#include "model/kernels/pack.h"

namespace weft::model {
namespace {

using kernel::MatrixView;
using kernel::round_up;

constexpr std::int64_t kPanel = 64;       // columns whose right operands are packed at once
constexpr std::int64_t kDepth = 2048;     // of k at once: a packed panel stays in the second cache
constexpr std::int64_t kRows = 96;        // rows that meet a step of the panel in turn
constexpr std::int64_t kMostRows = 1024;  // whose sums are kept at once: 256 KiB of fp32

/// The sums' way to c.
struct Target {
  void* c = nullptr;
  std::int64_t stride = 0;
  const void* bias = nullptr;
  const void* residual = nullptr;
  std::int64_t residual_stride = 0;
  double scale = 1;
  bool add = false;
};

/// A block of sums and where it goes.
struct Block {
  std::int64_t row = 0, rows = 0, column = 0, columns = 0;
};

/// E: element of bias and residual; C: of c; W: of the sums, in rows kPanel apart.
template <typename E, typename C, typename W>
WEFT_INLINE void finish_of(const Target& t, const W* sums, const Block& block) {
  const auto scale = static_cast<W>(t.scale);
  const auto to_element = [](auto value) WEFT_INLINED {
    return kernel::narrow<C>(static_cast<kernel::Wide<C>>(value));
  };
  for (std::int64_t i = 0; i < block.rows; ++i) {
    const W* sum = sums + i * kPanel;
    C* c = static_cast<C*>(t.c) + (block.row + i) * t.stride + block.column;
    const std::int64_t n = block.columns;
    if (t.add) {
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j) c[j] = to_element(kernel::widen(c[j]) + scale * sum[j]);
      continue;
    }
    if (t.bias != nullptr) {
      const E* bias = static_cast<const E*>(t.bias) + block.column;
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j)
        c[j] = to_element(scale * sum[j] + kernel::widen(bias[j]));
    } else {
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j) c[j] = to_element(scale * sum[j]);
    }
    if (t.residual != nullptr) {
      const E* residual =
          static_cast<const E*>(t.residual) + (block.row + i) * t.residual_stride + block.column;
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j)
        c[j] = to_element(kernel::widen(c[j]) + kernel::widen(residual[j]));
    }
  }
}

#define WEFT_FINISH(E, C, W)                                                          \
  WEFT_CLONES void finish(const Target& t, E, C, const W* sums, const Block& block) { \
    finish_of<E, C, W>(t, sums, block);                                               \
  }
WEFT_FINISH(float, float, float)
WEFT_FINISH(double, double, double)
WEFT_FINISH(c10::BFloat16, c10::BFloat16, float)
/// The same by the processor's own conversion.
void finish_fast(const Target& t, const float* sums, const Block& block) {
  using c10::BFloat16;
  kernel::Finish finish{.to = static_cast<BFloat16*>(t.c) + block.row * t.stride + block.column,
                        .sums = sums,
                        .to_stride = t.stride,
                        .sums_stride = kPanel,
                        .rows = block.rows,
                        .columns = block.columns,
                        .scale = static_cast<float>(t.scale)};
  if (t.bias != nullptr) finish.bias = static_cast<const BFloat16*>(t.bias) + block.column;
  if (t.residual != nullptr) {
    finish.residual_stride = t.residual_stride;
    finish.residual =
        static_cast<const BFloat16*>(t.residual) + block.row * t.residual_stride + block.column;
  }
  kernel::finish_rows(finish);
}
WEFT_FINISH(c10::BFloat16, float, float)
WEFT_FINISH(double, float, double)

template <typename E>
struct Term {
  MatrixView<E> a{};  // [m, k]
  MatrixView<E> b{};  // [k, n], unless it is quantised
  std::int64_t k = 0;
  const QuantisedMatrix* quantised = nullptr;
  bool turned = false;
};

/// How a product is shared out at first: `row_parts` times `column_parts` threads, each with its
/// rows of all panels of its part.
struct Shares {
  std::int64_t row_parts = 1, column_parts = 1;
};

/// Packing a panel costs about as much as kPackingRows rows of its products.
constexpr std::int64_t kPackingRows = 5;

Shares share(std::int64_t m, std::int64_t n, std::int64_t threads) {
  const std::int64_t panels = (n + kPanel - 1) / kPanel;
  Shares best;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t row_parts = 1; row_parts <= threads; ++row_parts) {
    const std::int64_t column_parts = threads / row_parts;
    const std::int64_t cost = ((panels + column_parts - 1) / column_parts) *
                              ((m + row_parts - 1) / row_parts + kPackingRows);
    if (cost < least) {
      least = cost;
      best = {row_parts, column_parts};
    }
  }
  return best;
}

/// E: element of the operands; C: of the result.
template <typename E, typename C>
class Product {
 public:
  using Sum = typename kernel::Operand<E>::Sum;
  static constexpr std::int64_t kPair = kernel::Operand<E>::kPair;

  Product(std::vector<Term<E>> terms, std::int64_t m, std::int64_t n, const Target& target)
      : terms_(std::move(terms)), m_(m), n_(n), target_(target) {}

  /// Every thread begins with a part of its own, and then helps with what is left of the others':
  /// cores are seldom equally fast, and a number of panels is seldom a multiple of theirs.
  void run() const {
    const Shares shares = share(m_, n_, at::in_parallel_region() ? 1 : at::get_num_threads());
    const std::int64_t panels = (n_ + kPanel - 1) / kPanel;
    const auto cut = [](std::int64_t count, std::int64_t parts, std::int64_t i) {
      return count * i / parts;
    };
    std::deque<Part> parts;
    for (std::int64_t r = 0; r < shares.row_parts; ++r) {
      for (std::int64_t c = 0; c < shares.column_parts; ++c) {
        parts.emplace_back(cut(m_, shares.row_parts, r), cut(m_, shares.row_parts, r + 1),
                           cut(panels, shares.column_parts, c),
                           cut(panels, shares.column_parts, c + 1));
      }
    }
    const std::int64_t count = std::ssize(parts);
    at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        for (std::int64_t other = 0; other < count; ++other)
          work(parts[static_cast<std::size_t>((i + other) % count)]);
      }
    });
  }

 private:
  /// Of k between two visits to a sum: where operands have its precision, short chains keep its
  /// digits.
  static std::int64_t step() {
    if constexpr (kPair == 1) return 256;
    return kernel::kernels().bfloat16_step;
  }

  /// Left operands as the kernel reads them: rows of pairs.
  struct Left {
    const E* data = nullptr;
    std::int64_t stride = 0;
    std::int64_t depth = 0;  // k, rounded up to pairs
  };

  /// Whether the kernel can read a where it lies.
  [[nodiscard]] static bool is_direct(const Term<E>& term) {
    return term.a.column_stride == 1 && term.k % kPair == 0;
  }

  /// Rows and panels of the result, and which of them was taken last: a panel of kMostRows rows at
  /// a time.
  struct Part {
    Part(std::int64_t from_row, std::int64_t to_row, std::int64_t from_panel, std::int64_t to_panel)
        : first_row(from_row), last_row(to_row), first_panel(from_panel), last_panel(to_panel) {}
    std::int64_t first_row, last_row, first_panel, last_panel;
    std::atomic<std::int64_t> next{0};
  };

  /// Computes what no thread has taken yet.
  void work(Part& part) const {
    thread_local std::vector<E> left_buffer;
    thread_local std::vector<E> panel;
    thread_local std::vector<Sum> sums;
    const std::int64_t panels = part.last_panel - part.first_panel;
    std::vector<Left> left;
    std::vector<std::vector<Piece>> groups;
    Block block{.row = -1};
    for (;;) {
      const std::int64_t taken = part.next.fetch_add(1, std::memory_order_relaxed);
      const std::int64_t row =
          panels == 0 ? part.last_row : part.first_row + taken / panels * kMostRows;
      if (row >= part.last_row) return;
      if (row != block.row) {
        const std::int64_t end = std::min(row + kMostRows, part.last_row);
        left = pack_lefts(row, end, left_buffer);
        groups = group(left);
        grow(sums, (end - row) * kPanel);
        block.row = row;
        block.rows = end - row;
      }
      block.column = (part.first_panel + taken % panels) * kPanel;
      block.columns = std::min(kPanel, n_ - block.column);
      fill(sums.data(), left, groups, block, panel);
    }
  }

  template <typename T>
  static void grow(std::vector<T>& buffer, std::int64_t size) {
    if (std::ssize(buffer) < size) buffer.resize(static_cast<std::size_t>(size));
  }

  std::vector<Left> pack_lefts(std::int64_t row, std::int64_t end, std::vector<E>& buffer) const {
    std::int64_t size = 0;
    for (const Term<E>& term : terms_)
      if (!is_direct(term)) size += round_up(term.k, kPair) * (end - row);
    grow(buffer, size);
    std::vector<Left> left;
    E* packed = buffer.data();
    for (const Term<E>& term : terms_) {
      const std::int64_t depth = round_up(term.k, kPair);
      if (is_direct(term)) {
        left.push_back({term.a.data + row * term.a.row_stride, term.a.row_stride, depth});
        continue;
      }
      kernel::pack_left(packed, term.a, row, end, term.k);
      left.push_back({packed, depth, depth});
      packed += depth * (end - row);
    }
    return left;
  }

  /// Rows [first, first + depth) of a term's right operand, in the columns of `block`.
  static void pack(E* to, const Term<E>& term, std::int64_t first, std::int64_t depth,
                   const Block& block) {
    if (term.quantised == nullptr) {
      MatrixView<E> b = term.b;
      b.data += first * b.row_stride;
      return kernel::pack_panel(to, b, block.column, block.columns, depth);
    }
    thread_local std::vector<E> values;
    grow(values, round_up(depth, kernel::kLanes) * kPanel);
    if (term.turned) {
      const std::int64_t stride = round_up(depth, kernel::kLanes);
      term.quantised->read({block.column, block.columns, first, depth}, values.data(), stride);
      return kernel::pack_panel(to, MatrixView<E>{values.data(), 1, stride}, 0, block.columns,
                                depth);
    }
    term.quantised->read({first, depth, block.column, block.columns}, values.data(), kPanel);
    kernel::pack_panel(to, MatrixView<E>{values.data(), kPanel, 1}, 0, block.columns, depth);
  }

  /// Rows [first, first + depth) of a term's right operand.
  struct Piece {
    std::size_t term = 0;
    std::int64_t first = 0, depth = 0;
  };

  /// All pieces, in groups that are packed at once: of kDepth together at most.
  static std::vector<std::vector<Piece>> group(const std::vector<Left>& left) {
    std::vector<std::vector<Piece>> groups(1);
    std::int64_t used = 0;
    for (std::size_t i = 0; i < left.size(); ++i) {
      for (std::int64_t first = 0; first < left[i].depth; first += kDepth) {
        const std::int64_t depth = std::min(kDepth, left[i].depth - first);
        if (used + depth > kDepth) {
          groups.emplace_back();
          used = 0;
        }
        groups.back().push_back({i, first, depth});
        used += depth;
      }
    }
    return groups;
  }

  /// Sums of `block` and their way to c. A chunk of rows meets all pieces of a group while its sums
  /// are in the first cache.
  void fill(Sum* sums, const std::vector<Left>& left, const std::vector<std::vector<Piece>>& groups,
            const Block& block, std::vector<E>& panel) const {
    const std::int64_t lanes = round_up(block.columns, kernel::kLanes);
    grow(panel, kDepth * kPanel);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      E* packed = panel.data();
      for (const Piece& piece : groups[g]) {
        pack(packed, terms_[piece.term], piece.first,
             std::min(piece.depth, terms_[piece.term].k - piece.first), block);
        packed += piece.depth * lanes;
      }
      for (std::int64_t row = 0; row < block.rows; row += kRows) {
        const std::int64_t rows = std::min(kRows, block.rows - row);
        Sum* const chunk = sums + row * kPanel;
        if (groups[g].empty()) std::fill_n(chunk, rows * kPanel, Sum{});
        multiply(chunk, left, groups[g], {row, rows, lanes}, panel.data(), g > 0);
        if (g + 1 == groups.size())
          finish_chunk(chunk, {block.row + row, rows, block.column, block.columns});
      }
    }
  }

  void finish_chunk(const Sum* sums, const Block& block) const {
    if constexpr (std::is_same_v<C, c10::BFloat16>) {
      if (!target_.add && kernel::has_bf16_rows()) return finish_fast(target_, sums, block);
    }
    finish(target_, E{}, C{}, sums, block);
  }

  struct Chunk {
    std::int64_t row = 0, rows = 0, lanes = 0;
  };
  static void multiply(Sum* sums, const std::vector<Left>& left, const std::vector<Piece>& pieces,
                       const Chunk& chunk, const E* packed, bool add) {
    const std::int64_t step = Product::step();
    for (const Piece& piece : pieces) {
      const Left& a = left[piece.term];
      const E* const from = a.data + chunk.row * a.stride + piece.first;
      for (std::int64_t k = 0; k < piece.depth; k += step) {
        kernel::multiply(sums, kPanel, from + k, a.stride, packed + k * chunk.lanes,
                         {chunk.rows, chunk.lanes, std::min(step, piece.depth - k)}, add);
        add = true;
      }
      packed += piece.depth * chunk.lanes;
    }
  }

  std::vector<Term<E>> terms_;
  std::int64_t m_, n_;
  Target target_;
};

template <typename E>
MatrixView<E> view(const at::Tensor& matrix) {
  TORCH_INTERNAL_ASSERT(matrix.dim() == 2);
  const bool by_row = matrix.stride(1) == 1 || matrix.size(1) == 1;
  TORCH_INTERNAL_ASSERT(by_row || matrix.stride(0) == 1 || matrix.size(0) == 1,
                        "a product of a matrix that is contiguous along no dimension");
  return {matrix.const_data_ptr<E>(), by_row ? matrix.stride(0) : 1, by_row ? 1 : matrix.stride(1)};
}

template <typename E, typename C>
void run(const at::Tensor& c, std::span<const Factors> terms, const Target& target) {
  std::vector<Term<E>> views;
  for (const Factors& f : terms) {
    std::int64_t depth = 0;
    std::int64_t width = 0;
    if (f.quantised != nullptr) {
      depth = f.turned ? f.quantised->columns() : f.quantised->rows();
      width = f.turned ? f.quantised->rows() : f.quantised->columns();
    } else {
      depth = f.b.size(0);
      width = f.b.size(1);
    }
    TORCH_INTERNAL_ASSERT(f.a.size(0) == c.size(0) && width == c.size(1) && f.a.size(1) == depth);
    if (depth == 0) continue;
    views.push_back({.a = view<E>(f.a), .k = depth, .quantised = f.quantised, .turned = f.turned});
    if (f.quantised == nullptr) views.back().b = view<E>(f.b);
  }
  Product<E, C>(std::move(views), c.size(0), c.size(1), target).run();
}

}  // namespace

void product_(const at::Tensor& c, std::span<const Factors> terms, const Epilogue& finish) {
  TORCH_INTERNAL_ASSERT(!terms.empty() && c.dim() == 2 && (c.stride(1) == 1 || c.size(1) == 1));
  TORCH_INTERNAL_ASSERT(!finish.add || (finish.bias == nullptr && finish.residual == nullptr));
  if (c.numel() == 0 || Meter::running()) return;
  const at::ScalarType type = terms.front().a.scalar_type();
  Target target{
      .c = c.mutable_data_ptr(), .stride = c.stride(0), .scale = finish.scale, .add = finish.add};
  if (finish.bias != nullptr) {
    TORCH_INTERNAL_ASSERT(finish.bias->scalar_type() == type && finish.bias->is_contiguous());
    target.bias = finish.bias->const_data_ptr();
  }
  if (finish.residual != nullptr) {
    TORCH_INTERNAL_ASSERT(finish.residual->scalar_type() == type &&
                          finish.residual->stride(1) == 1);
    target.residual = finish.residual->const_data_ptr();
    target.residual_stride = finish.residual->stride(0);
  }
  if (c.scalar_type() == at::kFloat && type == at::kBFloat16)
    return run<c10::BFloat16, float>(c, terms, target);
  if (c.scalar_type() == at::kFloat && type == at::kDouble)
    return run<double, float>(c, terms, target);
  TORCH_INTERNAL_ASSERT(c.scalar_type() == type);
  kernel::for_type(type, [&]<typename E>(E) { run<E, E>(c, terms, target); });
}

at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor c = at::empty({a.size(0), b.size(1)}, a.options());
  product_(c, {{a, b}});
  return c;
}

}  // namespace weft::model
