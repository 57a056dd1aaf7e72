/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the backup engine share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "basic/pool.h"
#include "repo/backup.h"
#include "repo/session.h"
#include "repo/writer.h"
#include "tree/scan.h"

#define WINDOW_ITEMS_MAX 32768u /* entries between the walk and the catalog */
#define CAPTURES_UNDER_WAY                                                \
    4096u /* entries waiting for a worker; each may hold a directory open \
           */
#define BATCH_ITEMS_MAX      128u
#define BATCH_BYTES_MAX      FRAME_PLAIN_MAX
#define JOURNAL_ENTRIES_MAX  65536u /* journaled at the latest after so many */
#define READ_ATTEMPTS        3u
#define READ_AGAIN_BYTES_MAX (64u << 20) /* larger files that change are not read again */
#define READ_BUFFER_LEN      (2u << 20)
#define ZERO_EXTENT_LEN_MIN  (64u << 10) /* shorter runs of zeros stay data */

struct link_group;

/* One entry on its way from the walk to the catalog. */
struct item {
    struct entry entry;
    char change;       /* 'N' new, 'C' changed, 'U' unchanged */
    _Atomic bool done; /* captured, or failed */
    bool failed;       /* could not be read at all: left out */
    bool journaled;
    size_t resolved_count;   /* extents known to be durable */
    struct link_group *link; /* further name of a file captured before; NULL otherwise */
    bool link_first;         /* with link: the one that is captured */

    /* until captured */
    struct scan_dir *dir; /* NULL: the root directory itself */
    const char *name;     /* in dir */
    struct statx stx;
};

struct item_ring {
    struct item **items; /* WINDOW_ITEMS_MAX */
    size_t first, count;
};

DEFINE_VECTOR(item_vector, struct item *);

/* Names of one inode. */
struct link_group {
    uint32_t fs_index;
    uint64_t inode;
    struct statx_timestamp btime,
        ctime;           /* as the walk saw the first name: an inode number may be reused */
    uint32_t names_left; /* not seen yet */
    bool captured;       /* its first name is captured in this run */
    bool unusable; /* what was captured under the first name is not this inode, or nothing: others
                      are read */
    struct entry entry; /* a copy of the captured one, from its emission on */
    struct link_group *next;
};

#define LINK_BUCKETS 4096u

struct batch {
    struct pool_task task;
    struct backup_run *run;
    size_t count;
    uint64_t bytes;
    struct item *items[BATCH_ITEMS_MAX];
};

struct read_buffer {
    struct read_buffer *next;
    uint8_t data[READ_BUFFER_LEN];
};

/* A source of entries captured earlier, read in step with the walk. */
struct previous {
    struct backup *backup; /* NULL: there is none */
    struct page_reader *reader;
    struct catalog_cursor *cursor;
    struct entry *current; /* first entry not less than the last key asked for; NULL at the end */
};

/* device number -> index into backup->file_systems */
struct known_fs {
    uint32_t dev_major, dev_minor, fs_index;
};
DEFINE_VECTOR(known_fs_vector, struct known_fs);

struct backup_run {
    struct repository *repo;
    const struct backup_options *options;
    struct backup *backup; /* the one being made */
    struct chunker chunker;

    struct pool *pool;
    struct scan *scan;
    struct writer *writer; /* NULL with dry_run, as the next three */
    struct session *session;
    struct index *index;
    struct catalog_builder *builder;
    struct page_reader *pages;

    struct previous previous;
    struct known_fs_vector known_fs;
    struct link_group *links[LINK_BUCKETS];
    uint32_t last_uid, last_gid; /* of the owner looked up last */
    bool owner_known;

    struct item_ring window;
    struct item_vector emitted; /* since the last journal */
    uint64_t journaled_packs;   /* data packs durable at the last journal */
    struct batch *batch;        /* being filled */

    pthread_mutex_t lock; /* guards what follows, and problem() calls */
    pthread_cond_t captured;
    unsigned links_waiting; /* further names in the window, each of which holds its directory; main
                               thread */
    unsigned captures_under_way; /* items in batches that are not finished */
    struct read_buffer *free_buffers;
    uint64_t read_bytes, problem_count;
    struct error_report error; /* a worker's failure that ends the backup */
};

/* ---- backup-read.c: capturing entries, in workers ---- */

/* A task of the pool: captures all items of the batch, then frees it. */
void batch_run(struct pool_task *task);
/* Tells the caller about a path; incomplete: something is missing in the backup because of it. */
void backup_problem(struct backup_run *run, const char *path, const char *what, bool incomplete);
/* The same for what is below dir; dir NULL: the root directory. */
void backup_problem_at(struct backup_run *run, const struct scan_dir *dir, const char *name,
                       const char *what, bool incomplete);

/* ---- backup-previous.c: what earlier backups know, and the tables that are carried over ---- */

_must_check_ int previous_open(struct backup_run *run);
void previous_release(struct previous *previous);
/* The entry of the previous backup with that key if the file has not changed since; NULL otherwise.
 * *ret_change: 'N', 'C' or 'U'. */
_must_check_ int previous_unchanged(struct backup_run *run, const struct buffer *key,
                                    const struct statx *stx, struct entry **ret_entry,
                                    char *ret_change);
/* Which of the backup's file systems a file is on. */
_must_check_ int fs_index_of(struct backup_run *run, const struct statx *stx, uint32_t *ret_index);

/* ---- backup.c ---- */

/* Hands the batch being filled to the pool. */
void batch_submit(struct backup_run *run);
/* Has one item captured by itself. */
_must_check_ int batch_submit_alone(struct backup_run *run, struct item *item);

/* ---- backup-window.c: from captured items to the catalog, in order ---- */

_must_check_ int window_init(struct backup_run *run);
void window_release(struct backup_run *run);
static inline bool window_empty(const struct backup_run *run)
{
    return run->window.count == 0;
}
/* Adds an entry that needs nothing any more. */
_must_check_ int backup_emit(struct backup_run *run, const struct entry *e, char change);
/* Appends an item, which the window owns from then on; makes room first if need be. */
_must_check_ int window_push(struct backup_run *run, struct item *item);
/* Emits what is ready at the front. */
_must_check_ int window_drain(struct backup_run *run);
/* Waits for all captures and emits everything. */
_must_check_ int window_finish(struct backup_run *run);
/* Blocks while too many captures are under way, helping meanwhile. */
_must_check_ int window_wait_captures(struct backup_run *run, unsigned at_most);
void item_free(struct item *item);
/* Why the backup has to end: a worker's or the writer's failure, or -UMBRA_E_CANCELLED. */
_must_check_ int backup_run_error(struct backup_run *run);
/* The group of a file with several names, made if need be; *ret_first: nobody has asked for it
 * before.  *ret_group NULL: the inode number was another file's before, or the file has changed. */
_must_check_ int link_group_get(struct backup_run *run, uint32_t fs_index, const struct statx *stx,
                                struct link_group **ret_group, bool *ret_first);
