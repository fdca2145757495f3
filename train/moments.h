#pragma once

#include <vector>

namespace weft::train {

/// First and second moment of one factor (train/optimizer.h).
struct Moments {
  std::vector<float> first;
  std::vector<float> second;
};

}  // namespace weft::train
