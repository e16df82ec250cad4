## One library per instruction set, each with its own flags; libkern.a holds generic C and the table.
libengine_a_SOURCES += %D%/../pool.h
