/* A native phase in C, for tests: disconnects whom it finds slower than half a second, up to 4, slowest first. */
#include "groundskeeper_phase.h"

#include <stdlib.h>
#include <string.h>

static const uint32_t *rtt;

static int slowest_first(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (rtt[x] != rtt[y]) return rtt[x] > rtt[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

static int has(gk_text text, const char *wanted) {
    size_t len = strlen(wanted);
    for (size_t i = 0; i + len <= text.len; i++) {
        if (memcmp(text.at + i, wanted, len) == 0) return 1;
    }
    return 0;
}

static uint32_t check(const gk_run *run) {
    if (has(run->settings, "peek")) {
        gk_totals totals;
        run->totals(run->host, &totals);
        return GK_OK;
    }
    if (run->settings.len == 2) return GK_OK;
    run->fail(run->host, GK_TEXT("settings: there are none"));
    return GK_FAILED;
}

static uint32_t odd(const gk_run *run, const char *what) {
    gk_ask ask = {.size = sizeof ask, .kind = GK_DISCONNECT, .reason = {"\xff", 1}};
    if (strcmp(what, "kind") == 0) ask.kind = 99;
    if (strcmp(what, "short") == 0) ask.size = 8;
    if (strcmp(what, "number") == 0) ask.kind = GK_AGAIN_IN, ask.number = -1;
    if (strcmp(what, "metric") == 0) return run->metric(run->host, GK_TEXT("a"), GK_ADD, 0.5) ? GK_RULE_BROKEN : GK_OK;
    if (strcmp(what, "name") == 0) {
        gk_name name;
        return run->name(run->host, GK_BOOK, 7, &name) ? GK_RULE_BROKEN : GK_OK;
    }
    if (strcmp(what, "deaf") == 0) {
        run->ask(run->host, &ask);
        ask = (gk_ask){.size = sizeof ask, .kind = GK_AGAIN_IN, .number = 2};
        run->ask(run->host, &ask);
        return GK_OK;
    }
    return run->ask(run->host, &ask) ? GK_RULE_BROKEN : GK_OK;
}

static uint32_t run(const gk_run *run) {
    static const char *const words[] = {"kind", "short", "number", "metric", "name", "deaf", "text"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (has(run->settings, words[i])) return odd(run, words[i]);
    }
    if (!GK_HAS(gk_run, run, fail)) return GK_FAILED_FOR_GOOD;
    if (run->column(run->host, GK_PEERS, GK_TEXT("no such column"))) return GK_FAILED_FOR_GOOD;
    rtt = run->column(run->host, GK_PEERS, GK_TEXT("rtt-us"));
    if (!rtt) {
        run->fail(run->host, GK_TEXT("this host knows no rtt-us"));
        return GK_FAILED_FOR_GOOD;
    }
    uint32_t rows = run->rows(run->host, GK_PEERS), slow = 0;
    uint32_t *order = malloc((rows + 1) * sizeof *order);
    for (uint32_t row = 0; row < rows; row++) {
        if (rtt[row] != GK_UNKNOWN && rtt[row] > 500000) order[slow++] = row;
    }
    qsort(order, slow, sizeof *order, slowest_first);
    uint32_t result = GK_OK;
    for (uint32_t i = 0; i < slow && i < 4 && result == GK_OK; i++) {
        gk_ask ask = {.size = sizeof ask, .kind = GK_DISCONNECT, .row = order[i], .reason = GK_TEXT("slow")};
        if (run->ask(run->host, &ask)) result = GK_RULE_BROKEN;
    }
    free(order);
    return result;
}

const gk_phase *groundskeeper_phase_v1(void) {
    static const gk_phase phase = {
        .size = sizeof(gk_phase),
        .abi = GK_ABI,
        .summary = {"drops slow peers, in C", 22},
        .version = {"1.0.0", 5},
        .toolkit = {"cc", 2},
        .check = check,
        .run = run,
    };
    return &phase;
}
