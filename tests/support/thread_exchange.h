#pragma once

#include <gtest/gtest.h>

#include <barrier>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/exchange.h"

namespace weft::tests {

/// Ranks that are threads and hand each other tensors as a library between GPUs does, with no
/// communicator on the way. As such a library it would hang or mix up tensors where a send has no
/// receive of the same size in the same order, so that this is looked at in every exchange.
class ThreadExchange {
 public:
  explicit ThreadExchange(int size)
      : size_(size), barrier_(size), sent_(static_cast<std::size_t>(size)) {}

  [[nodiscard]] std::unique_ptr<model::TensorExchange> of_rank(int rank) {
    return std::make_unique<Rank>(*this, rank);
  }

 private:
  class Rank final : public model::TensorExchange {
   public:
    Rank(ThreadExchange& all, int rank) : all_(all), rank_(rank) {}
    [[nodiscard]] int rank() const override { return rank_; }
    [[nodiscard]] int size() const override { return all_.size_; }
    [[nodiscard]] std::string name() const override { return "threads"; }

    void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) override {
      all_.sent_[static_cast<std::size_t>(rank_)] = {outgoing.begin(), outgoing.end()};
      for (const Outgoing& one : outgoing) {
        check(one.to, one.values);
        for (const Incoming& other : incoming) EXPECT_FALSE(overlap(one.values, other.values));
      }
      for (const Incoming& one : incoming) check(one.from, one.values);
      all_.barrier_.arrive_and_wait();
      for (int from = 0; from < size(); ++from) {
        std::vector<at::Tensor> sent;
        for (const Outgoing& one : all_.sent_[static_cast<std::size_t>(from)]) {
          if (one.to == rank_) sent.push_back(one.values);
        }
        std::size_t next = 0;
        for (const Incoming& one : incoming) {
          if (one.from != from) continue;
          const bool fits = next < sent.size() && sent[next].numel() == one.values.numel();
          EXPECT_TRUE(fits) << "tensor " << next << " from rank " << from << " to rank " << rank_;
          if (fits) one.values.copy_(sent[next]);
          ++next;
        }
        EXPECT_EQ(next, sent.size()) << "from rank " << from << " to rank " << rank_;
      }
      all_.barrier_.arrive_and_wait();
    }

   private:
    void check(int other, const at::Tensor& values) const {
      EXPECT_TRUE(other >= 0 && other < size() && other != rank_) << other;
      EXPECT_TRUE(values.is_contiguous());
      EXPECT_EQ(values.scalar_type(), at::kFloat);
    }
    static bool overlap(const at::Tensor& a, const at::Tensor& b) {
      const float* const of_a = a.const_data_ptr<float>();
      const float* const of_b = b.const_data_ptr<float>();
      return of_a < of_b + b.numel() && of_b < of_a + a.numel();
    }

    ThreadExchange& all_;
    int rank_;
  };

  int size_;
  std::barrier<> barrier_;
  std::vector<std::vector<model::TensorExchange::Outgoing>> sent_;  ///< By each rank
};

}  // namespace weft::tests
