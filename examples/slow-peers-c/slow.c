/* Drops peers that stay slow: a few per run, the slowest first, and never below a floor. The same phase as
 * `examples/slow-peers`, in C without a C library. `phase.c` and `phase.h` are generated from the contract. */
#include "phase.h"

#include <stdlib.h>
#include <string.h>

#define UNKNOWN UINT32_MAX

typedef groundskeeper_phase_types_test_t test_t;

/* ---- Settings: a JSON object of whole numbers. ---- */

typedef struct {
    const char *name;
    uint32_t value, least, most;
} setting_t;

enum { RTT_OVER_MS, SETTLE_S, KEEP, MAX_PER_RUN, SETTINGS };

/* Half a second, because the far side of the Earth is 300 ms away; two minutes are four pings. */
static const setting_t DEFAULTS[SETTINGS] = {
    [RTT_OVER_MS] = {"rtt_over_ms", 500, 10, 60000},
    [SETTLE_S] = {"settle_s", 120, 0, 86400},
    [KEEP] = {"keep", 8, 0, 1000000},
    [MAX_PER_RUN] = {"max_per_run", 2, 1, 64},
};

typedef struct {
    const uint8_t *at, *end;
} scan_t;

/* Skips blanks, and then `wanted` if it comes next. */
static bool comes(scan_t *scan, char wanted) {
    while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\t')) scan->at++;
    if (scan->at == scan->end || *scan->at != (uint8_t)wanted) return false;
    scan->at++;
    return true;
}

static bool comes_name(scan_t *scan, const char *name) {
    size_t len = strlen(name);
    if ((size_t)(scan->end - scan->at) <= len || scan->at[len] != '"') return false;
    for (size_t i = 0; i < len; i++) {
        if (scan->at[i] != (uint8_t)name[i]) return false;
    }
    scan->at += len + 1;
    return true;
}

static bool comes_number(scan_t *scan, uint32_t *number) {
    comes(scan, ' ');
    uint64_t sum = 0;
    const uint8_t *first = scan->at;
    while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9' && sum <= UINT32_MAX) {
        sum = sum * 10 + (*scan->at++ - '0');
    }
    *number = (uint32_t)sum;
    return scan->at > first && sum <= UINT32_MAX;
}

/* Null, or what is wrong with them. */
static const char *read_settings(phase_string_t *text, setting_t settings[SETTINGS]) {
    memcpy(settings, DEFAULTS, sizeof DEFAULTS);
    scan_t scan = {text->ptr, text->ptr + text->len};
    if (!comes(&scan, '{')) return "settings are no object";
    for (bool more = !comes(&scan, '}'); more; more = !comes(&scan, '}')) {
        size_t i = 0;
        if (!comes(&scan, '"')) return "settings have a comma too many or too few";
        while (i < SETTINGS && !comes_name(&scan, settings[i].name)) i++;
        if (i == SETTINGS) return "unknown setting; there are rtt_over_ms, settle_s, keep and max_per_run";
        if (!comes(&scan, ':') || !comes_number(&scan, &settings[i].value)) return "a setting is no whole number";
        if (settings[i].value < settings[i].least || settings[i].value > settings[i].most) {
            return "out of range: rtt_over_ms is 10 to 60000, settle_s 0 to 86400, keep 0 to 1000000, "
                   "max_per_run 1 to 64";
        }
        comes(&scan, ',');
    }
    return NULL;
}

/* ---- The phase. ---- */

static phase_string_t text(const char *literal) {
    phase_string_t text;
    phase_string_set(&text, literal);
    return text;
}

static void append(phase_string_t *to, const char *literal) {
    memcpy(to->ptr + to->len, literal, strlen(literal));
    to->len += strlen(literal);
}

static void append_number(phase_string_t *to, uint32_t number) {
    if (number > 9) append_number(to, number / 10);
    to->ptr[to->len++] = (uint8_t)('0' + number % 10);
}

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

void exports_groundskeeper_phase_lifecycle_describe(exports_groundskeeper_phase_lifecycle_descriptor_t *ret) {
    phase_string_dup(&ret->summary, "drops peers that stay slow");
    phase_string_dup(&ret->version, "0.1.0");
    phase_string_dup(&ret->toolkit, "wit-bindgen c 0.60.0");
}

bool exports_groundskeeper_phase_lifecycle_check(phase_string_t *settings, phase_string_t *err) {
    setting_t read[SETTINGS];
    const char *problem = read_settings(settings, read);
    if (problem) phase_string_dup(err, problem);
    return !problem;
}

bool exports_groundskeeper_phase_lifecycle_run(exports_groundskeeper_phase_lifecycle_tick_t *now,
                                               phase_string_t *settings,
                                               exports_groundskeeper_phase_lifecycle_failure_t *err) {
    (void)now;
    setting_t set[SETTINGS];
    const char *problem = read_settings(settings, set);
    if (problem) {
        err->tag = EXPORTS_GROUNDSKEEPER_PHASE_LIFECYCLE_FAILURE_PERMANENT;
        phase_string_dup(&err->val.permanent, problem);
        return false;
    }

    groundskeeper_phase_peers_totals_t totals;
    groundskeeper_phase_peers_totals_now(&totals);
    uint32_t floor = set[KEEP].value > totals.least ? set[KEEP].value : totals.least;
    if (totals.connected <= floor) return true;

    test_t tests[] = {
        {text("rtt-us"), set[RTT_OVER_MS].value * 1000 + 1, UNKNOWN},
        {text("age-s"), set[SETTLE_S].value, UNKNOWN},
        {text("protected"), 0, 0},
    };
    groundskeeper_phase_peers_query_t query = {
        .tests = {tests, sizeof tests / sizeof *tests},
        .sort_by = {true, {text("rtt-us"), true}},
        .limit = smaller(totals.connected - floor, set[MAX_PER_RUN].value),
    };
    groundskeeper_phase_peers_list_row_t slow;
    groundskeeper_phase_peers_select(&query, &slow);

    phase_string_t column = text("rtt-us");
    phase_list_string_t columns = {&column, 1};
    phase_list_u32_t rtt_us;
    groundskeeper_phase_peers_facts(&slow, &columns, &rtt_us);
    for (size_t i = 0; i < slow.len; i++) {
        uint8_t room[64];
        phase_string_t reason = {room, 0};
        append(&reason, "round trip ");
        append_number(&reason, rtt_us.ptr[i] / 1000);
        append(&reason, " ms (limit ");
        append_number(&reason, set[RTT_OVER_MS].value);
        append(&reason, "ms)");
        groundskeeper_phase_disconnect_ask(slow.ptr[i], &reason);
    }
    return true;
}
