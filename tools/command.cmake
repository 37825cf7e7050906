# The command ksauto, its manual pages, completion and data, built and installed. Included by the top CMakeLists.txt.

add_executable(ksauto_command
    tools/acceptance.c tools/apart.c tools/calibrate_plan.c tools/chains.c tools/cli.c tools/cmd_advise.c tools/cmd_bench.c tools/cmd_calibrate.c tools/cmd_db.c
    tools/cmd_devices.c tools/cmd_evaluate.c tools/cmd_fit.c tools/cmd_matmul.c tools/cmd_pin.c tools/cmd_report.c tools/cmd_search.c
    tools/dispatch.c tools/draw.c tools/explain.c tools/help.c tools/main.c tools/npy.c tools/output.c tools/page.c tools/plots.c tools/print.c
    tools/replay.c tools/report.c tools/search_measure.c tools/study.c tools/watch.c)
set_target_properties(ksauto_command PROPERTIES OUTPUT_NAME ksauto INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
target_link_libraries(ksauto_command PRIVATE ksauto ksauto_calib ksauto_build PkgConfig::CJSON Threads::Threads m)
install(TARGETS ksauto_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
# Manual pages, made of the same tables as --help by the command itself. Sanitizers and other machines' programs do not run here.
if(NOT KSAUTO_SANITIZE AND NOT CMAKE_CROSSCOMPILING)
    set(manual)
    foreach(page "" advise bench calibrate db "db check" "db export" "db import" "db info" "db merge" "db path" devices evaluate
            fit matmul pin report)
        separate_arguments(words UNIX_COMMAND "${page}")
        string(REPLACE " " "-" name "ksauto ${page}")
        string(REGEX REPLACE "-$" "" name "${name}")
        set(file ${CMAKE_CURRENT_BINARY_DIR}/man/${name}.1)
        add_custom_command(OUTPUT ${file} DEPENDS ksauto_command VERBATIM
            COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_CURRENT_BINARY_DIR}/man
            COMMAND ksauto_command ${words} --help=man > ${file})
        list(APPEND manual ${file})
    endforeach()
    add_custom_target(manual ALL DEPENDS ${manual})
    install(FILES ${manual} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()
install(FILES tools/schema.json DESTINATION share/ksauto) # of --json
install(FILES tools/ksauto.bash DESTINATION share/bash-completion/completions RENAME ksauto)
install(FILES tools/_ksauto.zsh DESTINATION share/zsh/site-functions RENAME _ksauto)
# The seeds' measurements, which `ksauto report` looks for in share, beside the command or one folder up.
file(GLOB seed_tables CONFIGURE_DEPENDS db/seeds/*.csv)
install(FILES ${seed_tables} DESTINATION share/ksauto/seeds)
file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/share/ksauto)
file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR}/db/seeds ${CMAKE_CURRENT_BINARY_DIR}/share/ksauto/seeds SYMBOLIC)
install(DIRECTORY tools/examples DESTINATION share/doc/ksauto)
