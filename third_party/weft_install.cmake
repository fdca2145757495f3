# What `cmake --install` lays down: the program, its Torch library, the static libraries with their
# headers, and a package that find_package(weft) reads.

include(CMakePackageConfigHelpers)
get_property(weft_targets GLOBAL PROPERTY WEFT_INSTALLED_TARGETS)

install(TARGETS weft RUNTIME DESTINATION bin)
if(WEFT_TORCH)
  install(TARGETS weft_torch_commands LIBRARY DESTINATION lib)
  if(TARGET weft_mpi)
    install(TARGETS weft_mpi LIBRARY DESTINATION lib)
  endif()
  set_target_properties(weft_torch_interface PROPERTIES EXPORT_NAME torch)
  list(APPEND weft_targets weft_torch_interface)
endif()
install(TARGETS ${weft_targets} EXPORT weftTargets ARCHIVE DESTINATION lib)
install(FILES ${weft_bridge_archive} DESTINATION lib)
foreach(folder core schema checkpoint text lora data merge export model train eval)
  if(TARGET weft_${folder} OR folder MATCHES "^(train|eval)$")
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION include/weft
      FILES_MATCHING PATTERN "*.h" PATTERN "bridge/target" EXCLUDE PATTERN "src" EXCLUDE)
  endif()
endforeach()
install(DIRECTORY ${PROJECT_BINARY_DIR}/generated/core DESTINATION include/weft
  FILES_MATCHING PATTERN "*.h")

set(weft_package lib/cmake/weft)
install(EXPORT weftTargets NAMESPACE weft:: DESTINATION ${weft_package})
configure_package_config_file(${PROJECT_SOURCE_DIR}/third_party/weftConfig.cmake.in
  ${PROJECT_BINARY_DIR}/weftConfig.cmake INSTALL_DESTINATION ${weft_package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/weftConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/weftConfig.cmake ${PROJECT_BINARY_DIR}/weftConfigVersion.cmake
  ${PROJECT_SOURCE_DIR}/third_party/weft_dependencies.cmake DESTINATION ${weft_package})
