# The CUDA compiler and libraries of script/setup --cuda, beside LibTorch, whose part for GPUs they are of.
# find_package(CUDAToolkit) of CMake 3.25 does not know this tree.

cmake_path(GET WEFT_TORCH_ROOT PARENT_PATH weft_wheels)
set(WEFT_CUDA_ROOT "${weft_wheels}/nvidia/cu13" CACHE PATH "Tree with bin/nvcc, include and lib")
foreach(file bin/nvcc lib/libcublas.so.13 lib/libcudart.so)
  if(NOT EXISTS "${WEFT_CUDA_ROOT}/${file}")
    message(FATAL_ERROR "no CUDA in '${WEFT_CUDA_ROOT}' (${file} is missing): run script/setup --cuda")
  endif()
endforeach()
# NCCL's wheel has a tree of its own, or lies in CUDA's.
if(EXISTS "${weft_wheels}/nvidia/nccl/lib/libnccl.so.2")
  set(weft_nccl "${weft_wheels}/nvidia/nccl")
else()
  set(weft_nccl "${WEFT_CUDA_ROOT}")
endif()
set(WEFT_NCCL_ROOT "${weft_nccl}" CACHE PATH "Tree with include/nccl.h and lib/libnccl.so.2")
foreach(file include/nccl.h lib/libnccl.so.2)
  if(NOT EXISTS "${WEFT_NCCL_ROOT}/${file}")
    set(weft_nccl "${WEFT_NCCL_ROOT}")
    unset(WEFT_NCCL_ROOT CACHE)  # so that the next configuration looks again
    message(FATAL_ERROR "no NCCL in '${weft_nccl}' (${file} is missing): run script/setup --cuda")
  endif()
endforeach()
if(NOT EXISTS "${WEFT_TORCH_ROOT}/lib/libtorch_cuda.so")
  message(FATAL_ERROR "'${WEFT_TORCH_ROOT}' has no lib/libtorch_cuda.so: run script/setup --cuda")
endif()

set(CMAKE_CUDA_COMPILER "${WEFT_CUDA_ROOT}/bin/nvcc")
# Code for each processor and none to be translated at run time: a driver of 13.0 could not.
set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100-real 120-real)
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)  # LibTorch's
enable_language(CUDA)
# CMake 3.25 does not know that this compiler has C++20.
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
