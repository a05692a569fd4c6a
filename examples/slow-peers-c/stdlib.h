/* What the bindings need of a C library; `mini.c` has it. */
#ifndef STDLIB_H
#define STDLIB_H

#include <stddef.h>

void *malloc(size_t size);
void *realloc(void *old, size_t size);
void free(void *at);
_Noreturn void abort(void);

#endif
