# LibTorch as imported targets: weft::torch is libtorch_cpu and libc10, nothing of CUDA or Python.
#
# find_package(Torch) of a CUDA wheel wants a CUDA toolkit, so the two libraries are imported here.
# WEFT_TORCH_ROOT is the folder with lib/libtorch_cpu.so: the `torch` folder of an unpacked wheel,
# or an unpacked LibTorch archive.

if(NOT WEFT_TORCH_ROOT)
  if(DEFINED ENV{WEFT_CACHE})
    set(weft_cache "$ENV{WEFT_CACHE}")
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(weft_cache "$ENV{XDG_CACHE_HOME}/weft")
  else()
    set(weft_cache "$ENV{HOME}/.cache/weft")
  endif()
  set(WEFT_TORCH_ROOT "${weft_cache}/libtorch-2.15.0/torch")
endif()
if(NOT EXISTS "${WEFT_TORCH_ROOT}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "no LibTorch in '${WEFT_TORCH_ROOT}' (lib/libtorch_cpu.so is missing): "
    "run script/setup, set -DWEFT_TORCH_ROOT=..., or build without it (-DWEFT_TORCH=OFF)")
endif()
message(STATUS "LibTorch: ${WEFT_TORCH_ROOT}")

foreach(library c10 torch_cpu)
  add_library(weft_${library} SHARED IMPORTED GLOBAL)
  set_target_properties(weft_${library} PROPERTIES
    IMPORTED_LOCATION "${WEFT_TORCH_ROOT}/lib/lib${library}.so"
    IMPORTED_NO_SONAME OFF)
endforeach()

# at::parallel_for is a template: it runs on LibTorch's threads only where it is compiled with OpenMP,
# and linked with the OpenMP library that LibTorch itself uses (a wheel brings its own copy; a second
# runtime would double the threads). Otherwise every kernel of ours would silently use one thread.
file(GLOB weft_openmp_library "${WEFT_TORCH_ROOT}/lib/libgomp*.so*")
if(NOT weft_openmp_library)
  set(weft_openmp_library gomp)  # a LibTorch that was built with the system's
endif()

add_library(weft_torch_interface INTERFACE)
add_library(weft::torch ALIAS weft_torch_interface)
# The wheel has headers of its own, newer fmt among LibTorch's; those of the fmt that weft links must
# be found first. Their folder is often /usr/include, which compilers do not let one put in front.
get_target_property(weft_fmt_include fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/include_first)
file(CREATE_LINK ${weft_fmt_include}/fmt ${CMAKE_BINARY_DIR}/include_first/fmt SYMBOLIC)
target_include_directories(weft_torch_interface SYSTEM INTERFACE
  $<BUILD_INTERFACE:${CMAKE_BINARY_DIR}/include_first>
  $<BUILD_INTERFACE:${WEFT_TORCH_ROOT}/include>)
target_link_libraries(weft_torch_interface INTERFACE
  $<BUILD_INTERFACE:weft_torch_cpu> $<BUILD_INTERFACE:weft_c10>
  $<BUILD_INTERFACE:${weft_openmp_library}>)
target_compile_options(weft_torch_interface INTERFACE $<BUILD_INTERFACE:-fopenmp>)
# The wheel's libtorch_cpu names CUDA's small runtime libraries, which its own RPATH finds.
target_link_options(weft_torch_interface INTERFACE -Wl,--allow-shlib-undefined)
list(APPEND CMAKE_BUILD_RPATH "${WEFT_TORCH_ROOT}/lib")
list(APPEND CMAKE_INSTALL_RPATH "$ORIGIN/../lib" "${WEFT_TORCH_ROOT}/lib")

# One precompiled header for every target that computes with tensors.
file(WRITE ${CMAKE_BINARY_DIR}/weft_torch_pch.cpp.in "// Exists so that the precompiled header has an owner.\n")
configure_file(${CMAKE_BINARY_DIR}/weft_torch_pch.cpp.in ${CMAKE_BINARY_DIR}/weft_torch_pch.cpp COPYONLY)
add_library(weft_torch_pch STATIC ${CMAKE_BINARY_DIR}/weft_torch_pch.cpp)
target_compile_features(weft_torch_pch PUBLIC cxx_std_20)
target_link_libraries(weft_torch_pch PRIVATE weft_flags weft::torch fmt::fmt)  # fmt: same FMT_SHARED as users
target_precompile_headers(weft_torch_pch PRIVATE <ATen/ATen.h> <vector> <string> <span> <filesystem>
  <nlohmann/json.hpp> <fmt/format.h>)
