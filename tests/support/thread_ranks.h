#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "core/communicator.h"

namespace weft::tests {

/// Ranks that are threads of this process.
class ThreadRanks {
 public:
  explicit ThreadRanks(int size) : size_(size), barrier_(size) {}

  template <typename Body>
  void run(const Body& body) {
    std::vector<std::thread> threads;
    for (int r = 0; r < size_; ++r) {
      threads.emplace_back([&, r] {
        Rank rank(*this, r);
        body(rank);
      });
    }
    for (std::thread& one : threads) one.join();
  }

 private:
  class Rank : public core::Communicator {
   public:
    Rank(ThreadRanks& all, int rank) : all_(all), rank_(rank) {}
    [[nodiscard]] int rank() const override { return rank_; }
    [[nodiscard]] int size() const override { return all_.size_; }
    void exchange(std::span<const Outgoing> outgoing, std::span<const Incoming> incoming) override {
      {
        const std::lock_guard lock(all_.mutex_);
        for (const Outgoing& one : outgoing)
          all_.mail_[{rank_, one.to}].push_back({one.bytes.begin(), one.bytes.end()});
      }
      all_.barrier_.arrive_and_wait();
      std::map<int, std::size_t> taken;
      for (const Incoming& one : incoming) {
        const auto& bytes = all_.mail_.at({one.from, rank_}).at(taken[one.from]++);
        EXPECT_EQ(bytes.size(), one.bytes.size());  // and on, since the others wait
        std::copy_n(bytes.begin(), std::min(bytes.size(), one.bytes.size()), one.bytes.begin());
      }
      all_.barrier_.arrive_and_wait();
      if (rank_ == 0) all_.mail_.clear();
      all_.barrier_.arrive_and_wait();
    }
    [[nodiscard]] std::int64_t largest(std::int64_t value) override {
      {
        const std::lock_guard lock(all_.mutex_);
        all_.values_.push_back(value);
      }
      all_.barrier_.arrive_and_wait();
      const std::int64_t most = *std::ranges::max_element(all_.values_);
      all_.barrier_.arrive_and_wait();
      if (rank_ == 0) all_.values_.clear();
      all_.barrier_.arrive_and_wait();
      return most;
    }
    void finish() override { all_.barrier_.arrive_and_wait(); }

   private:
    ThreadRanks& all_;
    int rank_;
  };

  int size_;
  std::barrier<> barrier_;
  std::mutex mutex_;
  std::map<std::pair<int, int>, std::vector<std::vector<std::byte>>> mail_;
  std::vector<std::int64_t> values_;
};

}  // namespace weft::tests
