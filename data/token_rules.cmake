cmake_minimum_required(VERSION 3.25)

# Writes OUT with the SHA-256 of the sources that turn text into tokens (below ROOT): part of the
# name of every token file, so that tokens of other code are never taken for those of this one.
file(GLOB sources LIST_DIRECTORIES false ${ROOT}/data/*.h ${ROOT}/data/*.cpp ${ROOT}/text/*.h
  ${ROOT}/text/*.cpp ${ROOT}/text/bridge/src/*.rs ${ROOT}/text/bridge/Cargo.lock)
list(SORT sources)
set(digests "")
foreach(source IN LISTS sources)
  file(SHA256 ${source} digest)
  string(APPEND digests "${digest}\n")
endforeach()
string(SHA256 rules "${digests}")
file(CONFIGURE OUTPUT ${OUT} CONTENT "#pragma once

namespace weft::data {

/// SHA-256 of the sources that turn text into tokens.
inline constexpr const char* kTokenRules = \"@rules@\";

}  // namespace weft::data
" @ONLY)
