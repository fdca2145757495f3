#pragma once

#include <span>

#include "merge/method.h"

// The methods by family, one source file each; merge/method.cpp lists them.

namespace weft::merge {

[[nodiscard]] const Method& linear_method();                         // method_linear.cpp
[[nodiscard]] const Method& passthrough_method();                    // method_linear.cpp
[[nodiscard]] const Method& slerp_method();                          // method_slerp.cpp
[[nodiscard]] const Method& nuslerp_method();                        // method_slerp.cpp
[[nodiscard]] std::span<const Method* const> task_vector_methods();  // method_task_vector.cpp
[[nodiscard]] const Method& model_stock_method();                    // method_model_stock.cpp
[[nodiscard]] const Method& multislerp_method();                     // method_span.cpp
[[nodiscard]] const Method& karcher_method();                        // method_span.cpp
[[nodiscard]] const Method& nearswap_method();                       // method_near.cpp
[[nodiscard]] const Method& ram_method();                            // method_near.cpp
[[nodiscard]] const Method& ramplus_method();                        // method_near.cpp
[[nodiscard]] const Method& sce_method();                            // method_sce.cpp
[[nodiscard]] const Method& arcee_fusion_method();                   // method_arcee.cpp

}  // namespace weft::merge
