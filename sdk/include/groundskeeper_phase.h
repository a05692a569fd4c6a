/* What a native phase (`kind = "native"` in its manifest) is to a Groundskeeper host: C11, no library.
 *
 * A native phase is a shared library that exports `groundskeeper_phase_v1`. It means the same as a component: what
 * rows, columns, asks and their rules are is said in `phase.wit`, and this header repeats none of it. It runs in the
 * host's process with all of the host's rights, so a host loads one only if its operator trusts it.
 *
 * A run is one call of `gk_phase.run`. The phase reads through the callbacks of `gk_run` and asks through them; an ask
 * is put into the run's plan and nothing else happens. When `run` returns GK_OK, the host checks the plan and applies
 * it; otherwise plan, memory and metrics are dropped, and log lines are kept.
 *
 * - Whatever the host hands out, `gk_run` and every pointer got through it, lives until `run` (or `check`) returns, also
 *   if the host has given the run up by then. Nothing of it may be kept beyond.
 * - What the phase hands to a callback is copied before the callback returns.
 * - Callbacks may be called from any thread until `run` returns; asks count in the order of their calls.
 * - Nothing may unwind out of `check`, `run` or a callback. Text is UTF-8 and not closed by a zero.
 * - The host calls nothing but one function of a phase at a time, and never unloads the library.
 *
 * Each struct that may grow begins with its size in bytes: what lies beyond is not there. GK_HAS asks for it. */
#ifndef GROUNDSKEEPER_PHASE_H
#define GROUNDSKEEPER_PHASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this header: `gk_phase.abi`. It changes with the name of the entry, and only if it has to. */
#define GK_ABI 1u

/* Whether `*it`, a `type`, is long enough to have `member`: for members that a later header appends. */
#define GK_HAS(type, it, member) ((it)->size >= offsetof(type, member) + sizeof((it)->member))

/* A value of a column, or `gk_tick.since_last_s`, that is not known. */
#define GK_UNKNOWN UINT32_MAX

/* Limits of `phase.wit`. Going beyond one breaks a rule and ends the run. */
#define GK_TESTS 8
#define GK_ROWS 16384
#define GK_ASKS_PER_PLAN 4096
#define GK_REASON_BYTES 200
#define GK_METRICS 16
#define GK_METRIC_NAME_BYTES 40

/* Text, or bytes. `at` may be null if `len` is 0. */
typedef struct gk_text {
    const char *at;
    size_t len;
} gk_text;

/* A text from a string literal. */
#define GK_TEXT(literal) ((gk_text){(literal), sizeof(literal) - 1})

/* What `check` and `run` return. */
enum {
    GK_OK = 0,
    /* For `run`: may work next time. For `check`: these settings will not do. Say why by `fail`. */
    GK_FAILED = 1,
    /* Will not work until the phase or its settings change. Say why by `fail`. */
    GK_FAILED_FOR_GOOD = 2,
    /* The phase's own language caught a panic or an exception. Its text by `fail`. */
    GK_PANICKED = 3,
    /* A callback said that a rule was broken. Then the host knows which, and `fail` is not needed. */
    GK_RULE_BROKEN = 4
};

/* The tables that have rows. */
enum { GK_PEERS = 0, GK_BOOK = 1 };

/* The kinds of action, by their numbers in the journal, and what they take besides `row` (of peers; of the book for the
 * two that dial). */
enum {
    GK_DISCONNECT = 0,           /* reason */
    GK_DISCONNECT_IF_SILENT = 1, /* reason */
    GK_HEALTH = 2,               /* number: points, may be negative; reason */
    GK_PING = 3,                 /* rows instead of row */
    GK_PING_MATCHING = 4,        /* tests, no row */
    GK_DIAL = 5,                 /* reason */
    GK_PROBE = 6,                /* nothing else */
    GK_PROTECT = 7,              /* number: seconds; reason */
    GK_BAN = 8,                  /* number: seconds; reason */
    GK_FORGET_BROADCASTS = 9,    /* number: seconds; no row */
    GK_FORGET_ADDRESSES = 10,    /* number: seconds; no row */
    GK_AGAIN_IN = 11             /* number: ticks; no row */
};

enum { GK_ERROR = 0, GK_WARN = 1, GK_INFO = 2, GK_DEBUG = 3 };

/* What is done to a metric: added to a counter (whole numbers up to 4294967295), or set. */
enum { GK_ADD = 0, GK_SET = 1 };

typedef struct gk_tick {
    uint32_t number;
    uint32_t since_last_s;
    uint32_t missed;
    uint32_t late;
    uint32_t unix_s;
    uint32_t seed[2];
} gk_tick;

typedef struct gk_totals {
    uint32_t connected;
    uint32_t inbound;
    uint32_t dialing;
    uint32_t healthy;
    uint32_t least;
    uint32_t most;
} gk_totals;

typedef struct gk_broadcasts {
    uint32_t held;
    uint32_t oldest_s;
    uint32_t in_window;
    uint32_t window_s;
} gk_broadcasts;

/* For a row of the book, `address` alone. */
typedef struct gk_name {
    gk_text id;
    gk_text address;
    gk_text agent;
} gk_name;

typedef struct gk_saved {
    uint32_t version;
    gk_text bytes;
} gk_saved;

typedef struct gk_test {
    gk_text column;
    uint32_t at_least;
    uint32_t at_most;
} gk_test;

/* One ask. What its kind does not take is not read. */
typedef struct gk_ask {
    uint32_t size; /* sizeof(gk_ask) */
    uint32_t kind;
    uint32_t row;
    int64_t number;
    gk_text reason;
    const uint32_t *rows;
    size_t rows_len;
    const gk_test *tests;
    size_t tests_len;
} gk_ask;

/* One call of `check` or `run`. Each callback takes `host` first. Nothing is computed before it is asked for. In
 * `check`, `tick` is zero, and any callback but `log` and `fail` breaks a rule. */
typedef struct gk_run {
    uint32_t size;
    gk_tick tick;
    /* A JSON object made from the manifest's `[settings]`; {} if it has none. */
    gk_text settings;
    void *host;

    /* Rows of a table. */
    uint32_t (*rows)(void *host, uint32_t table);
    /* A whole column, one value per row; null if this host knows none of that name. */
    const uint32_t *(*column)(void *host, uint32_t table, gk_text name);
    /* The names that `column` knows, separated by newlines. */
    gk_text (*columns)(void *host, uint32_t table);
    /* 0, or not 0 if there is no such row, which breaks a rule: return GK_RULE_BROKEN at once. */
    int (*name)(void *host, uint32_t table, uint32_t row, gk_name *out);
    void (*totals)(void *host, gk_totals *out);
    void (*broadcasts)(void *host, gk_broadcasts *out);
    /* 1 if an earlier run stored something, 0 if none did. */
    int (*memory)(void *host, gk_saved *out);

    /* 0 if the ask is in the plan, or not 0 if it broke a rule: return GK_RULE_BROKEN at once. */
    int (*ask)(void *host, const gk_ask *ask);
    /* As for `ask`. The last call of a run counts. */
    int (*store)(void *host, uint32_t version, gk_text bytes);
    /* As for `ask`. */
    int (*metric)(void *host, gk_text name, uint32_t change, double value);
    void (*log)(void *host, uint32_t level, gk_text text);
    /* Why the call is about to return something else than GK_OK. The last call counts. */
    void (*fail)(void *host, gk_text text);
} gk_run;

/* A phase. */
typedef struct gk_phase {
    uint32_t size; /* sizeof(gk_phase) */
    uint32_t abi;  /* GK_ABI */
    /* One line: what it does. */
    gk_text summary;
    /* The phase's own version. */
    gk_text version;
    /* What it was built with. */
    gk_text toolkit;
    /* Says what is wrong with the settings. */
    uint32_t (*check)(const gk_run *run);
    /* Decides. The settings passed `check` before. */
    uint32_t (*run)(const gk_run *run);
} gk_phase;

/* The one symbol that a native phase exports. What it returns lives as long as the library. */
const gk_phase *groundskeeper_phase_v1(void);

#ifdef __cplusplus
}
#endif

#endif
