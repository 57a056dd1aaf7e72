/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far a long piece of work has come.
 *
 * The workers add to atomic counters; whoever shows the progress reads them when it likes.  A total
 * that is not known yet is 0 and grows.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

struct progress {
    _Atomic uint64_t bytes_done, bytes_total;
    _Atomic uint64_t files_done, files_total;
    _Atomic uint64_t problems;
    _Atomic int cancelled; /* set (by a signal handler, too) to make the work stop soon: it returns
                              -UMBRA_E_CANCELLED */
};
