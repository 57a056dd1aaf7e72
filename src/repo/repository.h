/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A repository, open: its backend, keys, parameters, and the index when somebody needs it. */
#pragma once

#include "repo/backend.h"
#include "repo/backup-object.h"
#include "repo/chunker.h"
#include "repo/config.h"
#include "repo/crypt.h"
#include "repo/index.h"
#include "repo/keys.h"
#include "repo/pack.h"

struct repository {
    struct backend *backend;
    struct keyring *keyring;
    struct repo_config config;
    char key_name[65];        /* of the key object that opened it */
    struct pack_table *names; /* pack numbers of all locations in this process */
    char *cache_dir;          /* this repository's own; NULL: none could be made */
    uint64_t gear_table[256];
    /* private: see repository_index() */
    struct index *index;
    struct repository_private *private;
};

struct repo_init_options {
    struct chunker_params chunker; /* zeros: default */
    uint32_t pack_target_bytes;    /* 0: default */
    struct key_cost key_cost;      /* zeros: default */
    const char *label;             /* of the first passphrase; NULL: "" */
};

/* Makes an empty repository in the backend (which it takes over, also on failure).  -EEXIST when
 * there is one, or when the place is not empty. */
_must_check_ int repository_init(struct backend *backend, const void *passphrase, size_t len,
                                 const struct repo_init_options *options,
                                 struct repository **ret_repo);
/* Takes the backend over, also on failure.  cache_root: NULL = UMBRA_CACHE_DIR, else
 * XDG_CACHE_HOME/umbra, else /var/cache/umbra for root, else
 * ~/.cache/umbra; "" or "none", of the variable, too: no cache directory.  -UMBRA_E_NOT_REPO,
 * -UMBRA_E_VERSION, -UMBRA_E_PASSPHRASE, -UMBRA_E_CORRUPT. */
_must_check_ int repository_open(struct backend *backend, const void *passphrase, size_t len,
                                 const char *cache_root, struct repository **ret_repo);
void repository_free(struct repository *repo);
DEFINE_CLEANUP_PTR(struct repository *, repository_free);

/* The index, opened at the first call. Thread-safe. Readers who have good hints never come here. */
_must_check_ int repository_index(struct repository *repo, struct index **ret_index);

/*
 * One chunk, verified against its id.  The hint of ref is tried first, then every place that the
 * index has.
 * -UMBRA_E_NO_CHUNK when neither has it, -UMBRA_E_CORRUPT/-UMBRA_E_SEAL when it is there and
 * damaged; notes name the pack.  data: malloc'ed.
 */
_must_check_ int repository_read_chunk(struct repository *repo, struct frame_codec *codec,
                                       enum chunk_kind kind, const struct chunk_ref *ref,
                                       void **ret_data);

/* The frame at a location, whole and decrypted but its chunks not yet verified; *ret_plain is valid
 * until the codec's next call. */
_must_check_ int repository_read_frame(struct repository *repo, struct frame_codec *codec,
                                       enum chunk_kind kind, const struct chunk_location *location,
                                       const uint8_t **ret_plain, size_t *ret_len);

/* A page store for reading catalogs.  The reader holds a codec and a small cache of opened pages;
 * thread-safe. */
struct page_reader;
_must_check_ int page_reader_new(struct repository *repo, struct page_reader **ret_reader);
void page_reader_free(struct page_reader *reader);
DEFINE_CLEANUP_PTR(struct page_reader *, page_reader_free);
const struct catalog_store *page_reader_store(struct page_reader *reader);
