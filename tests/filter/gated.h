/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A world for the tests of umbra-filterd: a process in a pid and mount namespace of its own, with a
 * volume in it, and this test program playing the hydrator.  When the first process of the world
 * ends, or is ended by its time limit, the kernel kills everything else in it: groups are closed,
 * nothing stays mounted, and no reader waits for ever.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "basic/macro.h"
#include "filter/protocol.h"

#define GATED_RESTORE_ID UINT64_C(0x1122334455667788)
#define GATED_PROGRAM    UINT64_C(424242)

/* Shared by the test and the hydrators: the file behind --config-fd. */
struct gated_control {
    _Atomic uint32_t delay_us;  /* before each fill */
    _Atomic uint32_t hold;      /* answer nothing while set */
    _Atomic uint32_t error;     /* answer with this, and fill nothing */
    _Atomic uint32_t lazy;      /* let opens pass without filling: all, or with 2 every other one */
    _Atomic uint32_t finish;    /* say FILTER_FINISH and exit */
    _Atomic uint32_t exit_now;  /* exit with 0 and say nothing */
    _Atomic uint32_t make;      /* make one of 4000 bytes, by name, with this ordinal; then 0 */
    _Atomic uint32_t starts;    /* how many hydrators there have been */
    _Atomic uint32_t asked[6];  /* by enum filter_event */
    _Atomic uint32_t finished;  /* one has exited after FILTER_FINISH */
    struct filter_request last; /* as it came */
};

struct gated {
    char dir[256]; /* where the volume is */
    struct gated_control *control;
    int control_fd;
    int report_fd; /* what --report-fd gets is read here */
};

/* main() of a test program: plays the hydrator when it is told to. */
int gated_main(int argc, char **argv);

/* Runs fn as the first process of a world with a volume of that kind.  Skips the test when there
 * cannot be one. */
void gated_run(const char *file_system, unsigned limit_sec, void (*fn)(struct gated *g));

/* Starts umbra-filterd and waits until the gate stands. */
void gated_start(struct gated *g, unsigned deadline_sec);
/* Starts one that is expected to fail; its words go to text. */
int gated_start_failing(struct gated *g, const char *target, char *text, size_t size);
/* Starts another one, with what the store had of a dead one, as descriptors 3 and 4. */
void gated_start_again(struct gated *g, int group, int table);
/* Tells the hydrator to finish and waits until all processes are gone. */
void gated_finish(struct gated *g);

/* Makes a placeholder. */
void gated_make(struct gated *g, const char *name, uint64_t ordinal, uint64_t len);
/* What is at this place of the file; the one that is GATED_PROGRAM has the bytes of /bin/true. */
uint8_t gated_byte(uint64_t ordinal, uint64_t offset);
/* Opens, reads and compares all.  0, or the errno of what failed; a wrong byte ends the test. */
int gated_read(struct gated *g, const char *name, uint64_t ordinal, uint64_t len);
/* Waits until the value is at least that. */
void gated_wait_for(_Atomic uint32_t *value, uint32_t at_least);
/* Ends the world: this cannot be tested here. */
_noreturn_ void gated_skip(void);
char *gated_path(const struct gated *g, const char *name, char path[512]);

/* The pid of the process of this name, 0 when there is none. */
pid_t gated_find(const char *comm);
/* Waits until there is one, other than that. */
pid_t gated_await(const char *comm, pid_t other_than);
/* SIGKILL to the process of this name.  Whether there was one. */
bool gated_kill(const char *comm);
void gated_sleep_ms(unsigned ms);
