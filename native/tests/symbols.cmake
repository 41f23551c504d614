# Objects built for one instruction set may define shared (weak) symbols in that set's own namespace only: of equal
# symbols the linker keeps one, and it could be one with instructions that an older processor lacks.
execute_process(COMMAND ${NM} -C -A ${OBJECTS} COMMAND grep -E " [WVu] " COMMAND grep -v "legato::${ISA}::"
                OUTPUT_VARIABLE foreign)
if(foreign)
  message(FATAL_ERROR "shared code outside legato::${ISA}:\n${foreign}")
endif()
