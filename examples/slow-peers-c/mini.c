/* The few functions of a C library that a phase needs. Memory only grows: an instance lives for one run, and what a run
 * takes is gone with it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PAGE ((size_t)65536)

/* Put there by the linker: where the heap may begin. */
extern unsigned char __heap_base;

static uintptr_t next;

void *malloc(size_t size) {
    if (next == 0) next = (uintptr_t)&__heap_base;
    /* Aligned for a double, and its size before it, for `realloc`. */
    uintptr_t at = (next + 15) & ~(uintptr_t)7;
    size_t memory = __builtin_wasm_memory_size(0) * PAGE;
    if (size > SIZE_MAX - PAGE - at) return NULL;
    if (at + size > memory) {
        size_t pages = (at + size - memory + PAGE - 1) / PAGE;
        if (__builtin_wasm_memory_grow(0, pages) == SIZE_MAX) return NULL;
    }
    next = at + size;
    ((size_t *)at)[-1] = size;
    return (void *)at;
}

void *realloc(void *old, size_t size) {
    void *at = malloc(size);
    if (old && at) {
        size_t before = ((size_t *)old)[-1];
        memcpy(at, old, before < size ? before : size);
    }
    return at;
}

void free(void *at) {
    (void)at;
}

_Noreturn void abort(void) {
    __builtin_trap();
}

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    for (size_t i = 0; i < size; i++) ((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
    return to;
}

size_t strlen(const char *text) {
    size_t len = 0;
    while (text[len]) len++;
    return len;
}

/* The bindings want the object file that holds the contract; `groundskeeper build` adds the contract by itself. */
void __component_type_object_force_link_phase(void) {
}
