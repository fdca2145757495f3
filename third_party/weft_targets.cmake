# The three kinds of target that the folders declare.

add_library(weft_flags INTERFACE)
target_compile_options(weft_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion)
if(WEFT_WERROR)
  target_compile_options(weft_flags INTERFACE -Werror)
endif()
if(CMAKE_UNITY_BUILD)
  # Of files that are compiled as one, some see private names and types of others.
  target_compile_options(weft_flags INTERFACE -Wno-shadow $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
endif()
if(WEFT_SANITIZE)
  target_compile_options(weft_flags INTERFACE -fsanitize=${WEFT_SANITIZE}
    -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(weft_flags INTERFACE -fsanitize=${WEFT_SANITIZE})
endif()
if(WEFT_BUILD_FUZZERS)
  # Without coverage of the libraries a fuzzer does not see what its inputs reach.
  target_compile_options(weft_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# Headers that nearly every file reads, compiled once: for the libraries, and with GoogleTest for
# their tests. Targets with LibTorch share weft_torch_pch instead (weft_torch.cmake).
function(weft_precompiled_header name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "HEADERS;DEPENDS")
  set(source ${CMAKE_BINARY_DIR}/weft_${name}_pch.cpp)
  file(CONFIGURE OUTPUT ${source} CONTENT "// Exists so that the precompiled header has an owner.\n")
  add_library(weft_${name}_pch STATIC ${source})
  target_compile_features(weft_${name}_pch PUBLIC cxx_std_20)
  target_link_libraries(weft_${name}_pch PRIVATE weft_flags ${arg_DEPENDS})
  target_precompile_headers(weft_${name}_pch PRIVATE ${arg_HEADERS})
endfunction()

# weft_library(NAME SOURCES ... [DEPENDS ...] [PRIVATE_DEPENDS ...] [TORCH])
# The library of one folder: target weft_NAME, alias weft::NAME. DEPENDS are what its headers
# include; TORCH adds LibTorch and the shared precompiled header.
function(weft_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS")
  add_library(weft_${name} STATIC ${arg_SOURCES})
  add_library(weft::${name} ALIAS weft_${name})
  set_target_properties(weft_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(weft_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/weft>)
  target_compile_features(weft_${name} PUBLIC cxx_std_20)
  target_link_libraries(weft_${name} PUBLIC ${arg_DEPENDS}
    PRIVATE $<BUILD_INTERFACE:weft_flags> ${arg_PRIVATE_DEPENDS})
  if(arg_TORCH)
    target_link_libraries(weft_${name} PUBLIC weft::torch)
    target_precompile_headers(weft_${name} REUSE_FROM weft_torch_pch)
  else()
    target_link_libraries(weft_${name} PUBLIC fmt::fmt)
    target_precompile_headers(weft_${name} REUSE_FROM weft_plain_pch)
  endif()
  set_property(GLOBAL APPEND PROPERTY WEFT_INSTALLED_TARGETS weft_${name})
endfunction()

# Tests spend their time in the libraries: compiling them fast matters more.
set(weft_test_options $<$<CONFIG:Release>:-O1>)

# weft_test(NAME SOURCES ... DEPENDS ... [LABELS ...] [TORCH])
# One GoogleTest program per folder, target test_NAME; ctest runs it as NAME.
function(weft_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "TORCH" "" "SOURCES;DEPENDS;LABELS")
  add_executable(test_${name} ${arg_SOURCES})
  target_link_libraries(test_${name} PRIVATE ${arg_DEPENDS} weft_flags GTest::gmock
    GTest::gtest_main)
  target_include_directories(test_${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_options(test_${name} PRIVATE ${weft_test_options})
  if(arg_TORCH)
    target_link_libraries(test_${name} PRIVATE weft::torch)
    target_precompile_headers(test_${name} REUSE_FROM weft_torch_test_pch)
  else()
    target_precompile_headers(test_${name} REUSE_FROM weft_test_pch)
  endif()
  # As the precompiled header was made: -fPIC, not an executable's -fPIE.
  set_target_properties(test_${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_compile_options(test_${name} PRIVATE -fPIC)
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  if(NOT arg_TORCH AND "unit" IN_LIST arg_LABELS)
    if(NOT TARGET plain_unit_tests)  # what runs under sanitizers, which LibTorch is not built for
      add_custom_target(plain_unit_tests)
    endif()
    add_dependencies(plain_unit_tests test_${name})
  endif()
  add_test(NAME ${name} COMMAND test_${name})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT 900
    ENVIRONMENT "WEFT_BIN=$<TARGET_FILE:weft>;WEFT_SOURCE_DIR=${PROJECT_SOURCE_DIR};WEFT_LEDGER=none")
endfunction()

# weft_fuzzer(NAME SOURCES ... DEPENDS ... SEEDS FOLDER)
# A libFuzzer program fuzz_NAME, and a ctest entry that runs it for a short time on its seeds.
function(weft_fuzzer name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "SEEDS" "SOURCES;DEPENDS")
  add_executable(fuzz_${name} ${arg_SOURCES})
  target_include_directories(fuzz_${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(fuzz_${name} PRIVATE ${arg_DEPENDS} weft_flags)
  target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers fuzz_${name})
  # New inputs go to the build folder, never among the seeds.
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/corpus/${name})
  add_test(NAME fuzz.${name} COMMAND fuzz_${name} -seed=1 -max_total_time=12 -max_len=65536 -rss_limit_mb=4096
    -timeout=60 -print_final_stats=0 ${CMAKE_BINARY_DIR}/corpus/${name} ${arg_SEEDS})
  set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()
