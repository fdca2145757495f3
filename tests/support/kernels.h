#pragma once

#include <gtest/gtest.h>

#include "model/kernels/sets.h"

/// Ends a test of what only the processor's kernels promise, where WEFT_KERNELS=aten asks for the
/// device-generic operations: the memory that is planned, and a row's bits in any batch.
#define WEFT_SKIP_WITHOUT_KERNELS()                                         \
  if (weft::model::kernel::chosen_set() == weft::model::kernel::Set::kAten) \
  GTEST_SKIP() << "only the processor's kernels promise this"
