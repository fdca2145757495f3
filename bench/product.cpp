// Matrix products of weft and of LibTorch side by side, at the shapes of a model's layers: the rate
// in GFLOP/s and their quotient.
//
//   bench_product [--dtype bf16|f32] [--rows 512] [--rounds 15 at most]
//                 [--shape "gate up"]   only those whose name holds the text
//                 [--alone]             without LibTorch, for a profiler
#include "model/kernels/product.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/runtime.h"

namespace {

double seconds(const std::function<void()>& work) {
  const auto begun = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

/// Seconds of a shape after which no round begins: LibTorch's bf16 products take up to a hundred
/// times as long where the processor has no instructions for them.
constexpr double kEnough = 2;

/// Medians of rounds in which both take turns.
std::pair<double, double> medians(int rounds, const std::function<void()>& first,
                                  const std::function<void()>& second) {
  std::vector<double> a, b;
  double spent = 0;
  for (int i = 0; i < rounds && spent < kEnough; ++i) {
    a.push_back(seconds(first));
    b.push_back(seconds(second));
    spent += a.back() + b.back();
  }
  const auto middle = [](std::vector<double>& v) {
    std::ranges::nth_element(v, v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2));
    return v[v.size() / 2];
  };
  return {middle(a), middle(b)};
}

struct Shape {
  const char* what;
  std::int64_t m, k, n;
  bool turn_a, turn_b;  // stored as its transpose
};

}  // namespace

int main(int argc, char** argv) {
  std::string dtype = "bf16";
  std::int64_t rows = 512;
  int rounds = 15;
  int threads = 0;
  std::string only;
  bool alone = false;
  CLI::App app("Speed of matrix products beside LibTorch's");
  app.add_option("--dtype", dtype)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--rows", rows);
  app.add_option("--rounds", rounds);
  app.add_option("--threads", threads);
  app.add_option("--shape", only);
  app.add_flag("--alone", alone);
  CLI11_PARSE(app, argc, argv);
  weft::model::prepare_runtime(threads);
  const at::AutoDispatchBelowADInplaceOrView guard;
  const auto options = at::TensorOptions().dtype(dtype == "bf16" ? at::kBFloat16 : at::kFloat);
  const std::vector<Shape> shapes = {
      {"x W^T, q k v", rows, 576, 960, false, true},
      {"x W^T, o", rows, 576, 576, false, true},
      {"x W^T, gate up", rows, 576, 3072, false, true},
      {"x W^T, down", rows, 1536, 576, false, true},
      {"dy W, gate up", rows, 3072, 576, false, false},
      {"dy W, down", rows, 576, 1536, false, false},
      {"x A^T, r = 32", rows, 576, 32, false, true},
      {"m B^T, r = 32", rows, 32, 3072, false, true},
      {"dA = d^T x", 32, rows, 576, true, false},
      {"head", rows, 576, 49152, false, true},
      {"head backward", rows, 49152, 576, false, false},
  };
  fmt::print("{:16} {:>6} {:>6} {:>6}  {:>9} {:>9}  {:>6}\n", dtype, "m", "k", "n", "weft",
             "LibTorch", "ratio");
  for (const Shape& s : shapes) {
    if (std::string_view(s.what).find(only) == std::string_view::npos) continue;
    const at::Tensor a =
        s.turn_a ? at::randn({s.k, s.m}, options).t() : at::randn({s.m, s.k}, options);
    const at::Tensor b =
        s.turn_b ? at::randn({s.n, s.k}, options).t() : at::randn({s.k, s.n}, options);
    const double flops = 2e-9 * static_cast<double>(s.m * s.k * s.n);
    const auto [ours, theirs] = medians(
        rounds, [&] { (void)weft::model::product(a, b); },
        [&] {
          if (!alone) (void)at::mm(a, b);
        });
    fmt::print("{:16} {:6} {:6} {:6}  {:6.0f} GF {:6.0f} GF  {:6.2f}\n", s.what, s.m, s.k, s.n,
               flops / ours, flops / theirs, theirs / ours);
  }
  return 0;
}
