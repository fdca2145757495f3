# The Rust static library of text/bridge: Hugging Face tokenizers and Jinja chat templates.

find_program(WEFT_CARGO cargo HINTS "$ENV{HOME}/.cargo/bin")
if(NOT WEFT_CARGO)
  message(FATAL_ERROR "weft needs Rust's cargo (1.85 or newer), by rustup or the distribution")
endif()
set(weft_bridge_dir ${PROJECT_SOURCE_DIR}/text/bridge)
if(WEFT_BRIDGE_TARGET_DIR)
  set(weft_bridge_target ${WEFT_BRIDGE_TARGET_DIR})
else()
  set(weft_bridge_target ${CMAKE_BINARY_DIR}/bridge)
endif()
set(weft_bridge_archive ${weft_bridge_target}/release/libweft_bridge.a)

if(EXISTS ${weft_bridge_dir}/Cargo.toml)
  file(GLOB weft_bridge_sources CONFIGURE_DEPENDS ${weft_bridge_dir}/src/*.rs)
  add_custom_command(OUTPUT ${weft_bridge_archive}
    COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${weft_bridge_target}
      ${WEFT_CARGO} build --release --locked --quiet
    WORKING_DIRECTORY ${weft_bridge_dir}
    DEPENDS ${weft_bridge_sources} ${weft_bridge_dir}/Cargo.toml ${weft_bridge_dir}/Cargo.lock
    COMMENT "Building text/bridge (Rust)"
    USES_TERMINAL VERBATIM)
  add_custom_target(weft_bridge_build ALL DEPENDS ${weft_bridge_archive})
endif()

add_library(weft_bridge STATIC IMPORTED GLOBAL)
# Programs wait for the archive, and no library does: cargo runs beside the C++ compiler.
set_target_properties(weft_bridge PROPERTIES IMPORTED_LOCATION ${weft_bridge_archive}
  INTERFACE_LINK_DEPENDS ${weft_bridge_archive})
target_link_libraries(weft_bridge INTERFACE Threads::Threads ${CMAKE_DL_LIBS} m)
