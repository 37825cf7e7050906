# Links db/seeds/*.jsonl into the library as data.
#
# NAME.generic.jsonl, where there is one, takes NAME.jsonl's place in a build without CUDA (db/README.md says why).
#
# include() it, with_cuda set: it sets KS_SEEDS_SOURCE to a generated seeds_data.c that the library must compile, and makes CMake run
# again when a seed comes, goes or changes (the sizes are written into the source, so that the table is constant).
# Also usable alone: cmake -Dwith_cuda=ON -DKS_SEEDS_DIR=... -DKS_SEEDS_SOURCE=.../seeds_data.c -P db/seeds.cmake

if(NOT DEFINED KS_SEEDS_DIR)
    set(KS_SEEDS_DIR "${CMAKE_CURRENT_LIST_DIR}/seeds")
endif()
if(NOT DEFINED KS_SEEDS_SOURCE)
    set(KS_SEEDS_SOURCE "${CMAKE_CURRENT_BINARY_DIR}/seeds_data.c")
endif()
get_filename_component(ks_seeds_dir "${KS_SEEDS_DIR}" ABSOLUTE)

if(CMAKE_SCRIPT_MODE_FILE)
    file(GLOB ks_seed_files "${ks_seeds_dir}/*.jsonl")
else()
    file(GLOB ks_seed_files CONFIGURE_DEPENDS "${ks_seeds_dir}/*.jsonl")
endif()
list(FILTER ks_seed_files EXCLUDE REGEX "\\.generic\\.jsonl$")
list(SORT ks_seed_files)

set(ks_seed_data "")
set(ks_seed_externs "")
set(ks_seed_rows "")
set(ks_seed_inputs "")
set(ks_seed_index 0)
foreach(ks_seed_path IN LISTS ks_seed_files)
    get_filename_component(ks_seed_name "${ks_seed_path}" NAME_WLE)
    if(NOT ks_seed_name MATCHES "^[A-Za-z0-9._-]+$")
        message(FATAL_ERROR "seed ${ks_seed_path}: its name may hold letters, digits, '.', '_' and '-' alone")
    endif()
    set(ks_seed_generic "${ks_seeds_dir}/${ks_seed_name}.generic.jsonl")
    if(NOT with_cuda AND EXISTS "${ks_seed_generic}")
        set(ks_seed_path "${ks_seed_generic}")
    endif()
    file(SIZE "${ks_seed_path}" ks_seed_bytes)
    list(APPEND ks_seed_inputs "${ks_seed_path}")
    # twice: once for the C string, once for the assembler's
    string(REGEX REPLACE "([\\\"])" "\\\\\\\\\\\\\\1" ks_seed_quoted "${ks_seed_path}")
    set(ks_seed_symbol "ks_seed_${ks_seed_index}")
    string(APPEND ks_seed_data "        \".globl ${ks_seed_symbol}\\n.hidden ${ks_seed_symbol}\\n\"\n"
        "        \".type ${ks_seed_symbol}, %object\\n${ks_seed_symbol}:\\n\"\n"
        "        \".incbin \\\"${ks_seed_quoted}\\\"\\n.byte 0\\n\"\n"
        "        \".size ${ks_seed_symbol}, . - ${ks_seed_symbol}\\n\"\n")
    string(APPEND ks_seed_externs "extern const char ${ks_seed_symbol}[] __attribute__((visibility(\"hidden\")));\n")
    string(APPEND ks_seed_rows "    {\"${ks_seed_name}\", ${ks_seed_symbol}, ${ks_seed_bytes}},\n")
    math(EXPR ks_seed_index "${ks_seed_index} + 1")
endforeach()

set(ks_seed_text "/* Made by db/seeds.cmake from ${ks_seed_index} seed(s); not to be edited. */\n#include \"seeds.h\"\n\n")
string(APPEND ks_seed_text "extern const ks_seed ks_seed_table[];\nextern const size_t ks_seed_count;\n\n")
if(ks_seed_index GREATER 0)
    string(APPEND ks_seed_text "__asm__(\".pushsection .rodata\\n\"\n${ks_seed_data}        \".popsection\\n\");\n")
    string(APPEND ks_seed_text "${ks_seed_externs}\n")
endif()
# the last row is no seed: C has no arrays without elements
string(APPEND ks_seed_text "const ks_seed ks_seed_table[] = {\n${ks_seed_rows}    {NULL, NULL, 0},\n};\n")
string(APPEND ks_seed_text "const size_t ks_seed_count = ${ks_seed_index};\n")

set(ks_seed_before "")
if(EXISTS "${KS_SEEDS_SOURCE}")
    file(READ "${KS_SEEDS_SOURCE}" ks_seed_before)
endif()
if(NOT ks_seed_before STREQUAL ks_seed_text) # else every configure would rebuild it
    file(WRITE "${KS_SEEDS_SOURCE}" "${ks_seed_text}")
endif()
if(NOT CMAKE_SCRIPT_MODE_FILE)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ks_seed_inputs})
    set_source_files_properties("${KS_SEEDS_SOURCE}" PROPERTIES OBJECT_DEPENDS "${ks_seed_inputs}")
endif()
