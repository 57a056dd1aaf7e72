/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A load order: which files were asked for first when a restored tree was used, and so are likely
 * to be asked for first the next time.
 *
 * It is text, one path of the backup a line, as text_escape() writes it; see umbra-hydrated(8).
 * Anybody may have written it, for another backup, and nothing depends on it but what the
 * background of a restore does first: a line that is no path, or that the backup has no file for,
 * is passed over and counted.
 *
 * The catalog may have far more files than the order, so the order is looked up for each file as
 * the catalog is walked; keys are compared by a hash that nobody outside can foresee.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/buffer.h"
#include "basic/cleanup.h"
#include "basic/macro.h"

#define LOAD_ORDER_HEAD \
    "# umbra load order: paths of a backup, in the order in which they were asked for\n"
#define LOAD_ORDER_BYTES_MAX (64u << 20)
#define LOAD_ORDER_FILES_MAX (1u << 21)

struct load_order;
void load_order_free(struct load_order *order);
DEFINE_CLEANUP_PTR(struct load_order *, load_order_free);

/* Any bytes; what comes beyond LOAD_ORDER_BYTES_MAX counts as one bad line.  -ENOMEM. */
_must_check_ int load_order_parse(const char *text, size_t len, struct load_order **ret_order);
/* What may take for ever, when the file is on a disk that stands still: a regular file's text,
 * malloc'ed, not much more than LOAD_ORDER_BYTES_MAX. */
_must_check_ int load_order_fetch(const char *path, char **ret_text, size_t *ret_len);
/* Both. */
_must_check_ int load_order_read(const char *path, struct load_order **ret_order);

/* Lines that are no path, and those beyond LOAD_ORDER_FILES_MAX. */
uint64_t load_order_bad_count(const struct load_order *order);
/* Different paths. */
uint64_t load_order_path_count(const struct load_order *order);
/* Paths that load_order_found() was called for. */
uint64_t load_order_found_count(const struct load_order *order);

/* The restore has a file of that key: the catalog's (tree/key.h). */
void load_order_found(struct load_order *order, const uint8_t *key, size_t key_len,
                      uint64_t ordinal);
/* The next of those that were found, each once.  False: there is none. */
bool load_order_next(struct load_order *order, uint64_t *ret_ordinal);

/* Appends the line of a path, given as a key; nothing when there is no memory. */
void load_order_put(struct buffer *b, const uint8_t *key, size_t key_len);
