#pragma once

namespace weft::model {

/// The scalars of one update by AdamW (train/optimizer.h), for every form of it.
struct AdamWStep {
  float keep = 1;               ///< 1 - rate * decay
  float first_step = 0;         ///< 1 - beta1
  float second_keep = 0;        ///< beta2
  float second_step = 0;        ///< 1 - beta2
  float second_correction = 1;  ///< sqrt(1 - beta2^t)
  float epsilon = 0;
  float step = 0;  ///< -rate / (1 - beta1^t)
};

}  // namespace weft::model
