/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What simulations share: a range of seeds, run in batches, each in a process of its own; the
 * parent names the seed that a batch died of.
 *
 *     sim-NAME [--seeds A..B] [--rounds N] [--jobs N]
 */
#pragma once

#include <stdint.h>

struct sim_program {
    const char *name;
    void (*run_seed)(uint64_t seed, unsigned rounds); /* does not return from a failure */
    uint64_t seeds_default;
    unsigned rounds_default;
    unsigned batch_seeds;
    const char *outcome; /* "nothing lost" */
};

/* The exit status. */
int sim_main(int argc, char **argv, const struct sim_program *program);
