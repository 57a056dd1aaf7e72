/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the hydrator share.  The essay, and the order of locks, is in hydrator.c. */
#pragma once

#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <time.h>

#include "basic/error.h"
#include "filter/protocol.h"
#include "repo/frame-cache.h"
#include "repo/repository.h"
#include "restore/crawler.h"
#include "restore/fill.h"
#include "restore/hydrator.h"
#include "restore/load-order.h"
#include "restore/manifest.h"
#include "restore/restore.h"
#include "restore/throttle-probe.h"

#define DEMAND_THREADS     4u
#define BACKGROUND_THREADS 2u
#define IDLE_FILES_MAX     512u /* kept open, with what is missing of them known */
#define FRAME_CACHE_BYTES  (48u << 20)
#define SYNC_FILES_MAX     2048u                /* filled, not yet synced */
#define FILLED_FILES_MAX   (4 * SYNC_FILES_MAX) /* those that are being synced included */
#define SYNC_BYTES_MAX     (128u << 20)
#define SYNC_INTERVAL_NS   (2 * NSEC_PER_SEC)
#define RETRY_NS           (NSEC_PER_SEC / 2)
#define PROBLEMS_MAX       100u
#define LATENCY_BUCKETS    64u

/* What is known of the file of an ordinal. */
enum file_state {
    FILE_PLANNED, /* in the catalog; not seen in the tree by this process */
    FILE_FRESH,   /* made by this process and not touched since: all is missing */
    FILE_TODO,    /* its extents say what is missing */
    FILE_FILLED,  /* all is there; not yet synced */
    FILE_DONE,    /* native */
    FILE_GONE,    /* deleted */
    FILE_FAILED,  /* could not be filled in the background; tried again later */
};
DEFINE_VECTOR(state_vector, uint8_t);
DEFINE_VECTOR(ordinal_vector, uint64_t);
DEFINE_VECTOR(directory_vector, uint32_t);

/* What the background takes first, see hydrator-background.c. */
enum background_class {
    CLASS_REST,
    CLASS_BESIDE,
    CLASS_ORDER,
    CLASS_CRAWL,
    CLASS_BULK,
    CLASS_COUNT, /* none: it was asked for by name */
};

struct request {
    struct filter_request filter;
    uint64_t received_ns;
    bool crawls; /* of a process that goes through the tree */
    struct request *next;
};

struct request_list {
    struct request *first, **last;
};

struct file_queue {
    struct file *first, **last;
};

/* A file somebody works on, or worked on lately. */
struct file {
    /* guarded by hydrator.lock */
    struct filter_handle handle;
    struct file *hash_next;
    struct request_list requests;
    struct file *queue_next; /* demand queue, or the retry list */
    struct file *filled_next;
    bool queued;    /* in one of the demand queues or the retry list */
    bool in_crawl;  /* in the queue of those that only crawlers wait for */
    bool busy;      /* a thread owns it */
    bool in_filled; /* in the list of files to be synced */
    uint64_t retry_ns;
    uint64_t last_used;
    uint64_t ordinal; /* UINT64_MAX: not known yet */

    /* the owner's */
    bool loaded;
    int fd;
    struct pending pending;
    struct fill fill;
    bool own;          /* the one that we made; not one in a snapshot with its mark */
    bool fresh;        /* nothing of it was there when it was loaded */
    bool doubtful;     /* what was written may not have reached the disk */
    int32_t truncator; /* thread that was let through to truncate it while opening; 0: none */
    int32_t truncator_call;
    uint64_t truncator_ns;
};

struct problem {
    char *path, *what;
};
DEFINE_VECTOR(problem_vector, struct problem);

struct hydrator {
    struct instant_config config;
    struct repository *repo;
    struct backup *backup;
    struct manifest *manifest;
    struct frame_cache *frames;
    struct source_set *sources;
    int channel_fd, tree_fd, report_fd, proc_fd;
    uint64_t start_ns;
    bool resumed;
    _Atomic bool has_manifest;     /* an ordinal means what it meant when its file was made */
    crypto_generichash_state hash; /* of what was planned; the catalog's thread's own */
    struct buffer last_key;        /* that was planned; the same */
    _Atomic bool walk_needed;      /* some handles may be unknown */
    struct string_vector made;     /* hydrator-made.c: paths; empty but while placing */

    pthread_mutex_t record_lock; /* one writes the record on the target; taken before lock */
    bool record_removed;         /* guarded by record_lock: there must be none any more */

    pthread_mutex_t lock;
    pthread_cond_t demand_ready;     /* the demand queue is not empty, or stopping */
    pthread_cond_t background_ready; /* something for the background, or stopping */
    pthread_cond_t released;         /* a file is not busy any more */
    pthread_cond_t filled_ready;     /* files to be synced, a limit to be recorded, or stopping */
    pthread_cond_t ended;            /* remaining has become 0, or stopping, or cancelled */
    bool stopping, lost;             /* lost: the filter has gone */

    /* all guarded by lock */
    struct file **buckets;
    size_t bucket_count, file_count, idle_count;
    struct file_queue demand, crawl; /* crawl: only crawlers wait for those */
    unsigned crawl_busy;             /* threads that serve the latter */
    unsigned crawl_passed;           /* files of others that went before its first one */
    struct file *retry_first;
    unsigned demand_active, crawl_active; /* requests received and not answered; of crawlers */
    struct crawler_table crawlers;
    size_t crawl_next; /* whose turn it is in the background */
    struct file *filled_first;
    size_t filled_count, syncing_count;
    size_t filled_max, idle_max; /* hydrator_set_files_max() */
    uint64_t shortage_ns;        /* when a file could not be opened for want of descriptors */
    uint64_t filled_bytes, filled_since_ns;
    struct state_vector states;          /* by ordinal */
    uint64_t remaining;                  /* files that are neither done nor gone */
    struct directory_vector directories; /* by ordinal: a number, the same as its neighbour's when
                                            they are in the same directory */
    struct ordinal_vector asked;         /* by name, to be filled at once */
    struct ordinal_vector next[CLASS_COUNT]; /* those of each class that are known; from the end */
    struct load_order *order;                /* NULL: none */
    uint64_t bulk_next;                      /* ordinal */
    uint64_t ahead, ahead_end; /* how far, and up to which ordinal, files are wanted ahead */
    struct throttle throttle;
    unsigned background_active; /* threads that fill or sync in the background */
    uint64_t pass_ns;           /* when the bulk may begin from the start again */
    bool background_on, paused, cancelled;
    bool limit_due;      /* the record has another one */
    uint64_t filling_ns; /* when the background began; 0: not yet */
    enum instant_phase phase;
    bool waiting; /* for the repository, before anything else */
    uint64_t clock;

    /* hydrator-order.c; guarded by lock */
    bool order_busy, order_late; /* the list is being read; nobody waits for it any more */
    char *order_text;            /* what was read */
    size_t order_text_len;
    bool recording;   /* wanted, and has not failed */
    bool record_anew; /* not what a predecessor has begun */
    int record_fd;
    struct buffer recorded;      /* lines to be written */
    bool record_busy;            /* the thread is opening or writing */
    struct state_vector demands; /* by ordinal: whether it has been recorded */
    pthread_cond_t record_ready; /* lines to be written, or they have been; the list was read */

    /* told by status; guarded by lock */
    uint64_t bytes_total, bytes_done, files_done, files_failed;
    uint64_t unread; /* of the last look at the whole mount: files or directories */
    struct ordinal_vector planned_bytes; /* of each file, while a resume looks what is there */
    double rate_bytes_per_s;             /* of the last seconds */
    uint64_t demand_count, demand_bytes;
    uint64_t latency[LATENCY_BUCKETS]; /* of answered requests; see hydrator-status.c */
    uint64_t directory_count;
    char degraded[256]; /* "": all is well */
    char outage[256];   /* why a source was out of reach */
    uint64_t outage_ns; /* the last time; 0: never */
    struct problem_vector problems;
    uint64_t problem_count;
};

/* A thread's own things. */
struct hydrate_worker {
    struct hydrator *hydrator;
    pthread_t thread;
    struct fill_source source;
    uint64_t debt_bytes; /* filled in the background and not yet paid for */
};

static inline uint64_t now_ns(void)
{
    struct timespec ts = {0};

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* hydrator-access.c: what the system call of a waiting thread is going to do */
struct access {
    bool truncating_open; /* answered without filling */
    bool whole;           /* all of the file first */
    bool
        durable; /* and complete on disk, the mark gone: what follows may make holes or move data */
    bool writes; /* the contents may be changed */
    uint64_t start, end; /* what has to be there; empty when start >= end */
    uint64_t tail;       /* and that page; UINT64_MAX: none */
};
void access_of_request(const struct filter_request *request, const struct instant_config *config,
                       int proc_fd, const struct stat *st, struct access *ret_access);

/* hydrator-file.c: the table of files, and what is done with one */
/* Under the lock.  The file of that handle, made when there is none; NULL without memory. */
struct file *file_get_locked(struct hydrator *h, const struct filter_handle *handle);
/* Under the lock: nobody works on it, and nobody waits for it. */
bool file_is_idle(const struct file *file);
/* Under the lock: behind the others of its class that wait for a demand thread. */
void file_queue_locked(struct hydrator *h, struct file *file);
/* Under the lock: somebody has come who is no crawler. */
void file_promote_locked(struct hydrator *h, struct file *file);
/* Under the lock: not busy any more; queued again when requests have come meanwhile. */
void file_release_locked(struct hydrator *h, struct file *file);
/* How many files may be kept open: the limit is raised as far as that is allowed. */
void hydrator_set_files_max(struct hydrator *h);
/* Under the lock: those that nobody works on are not kept open. */
void file_forget_idle_locked(struct hydrator *h);
/* The owner's.  Opens it and finds out what is missing.  -ENODATA: it is complete or gone. */
_must_check_ int file_load(struct hydrator *h, struct file *file);
/* Answers all requests of a file; the caller owns it.  Returns whether any was no crawler's. */
bool file_serve(struct hydrate_worker *worker, struct file *file);
/* Fills at most one unit in the background.  1: there is more to do, 0: filled or gone. */
_must_check_ int file_fill_unit(struct hydrate_worker *worker, struct file *file,
                                uint64_t *ret_bytes);
/* All is there and synced: takes the mark off. */
_must_check_ int file_complete(struct hydrator *h, struct file *file);
void files_free(struct hydrator *h);

/* hydrator-background.c */
void *demand_thread(void *worker);
void *background_thread(void *worker);
void *sync_thread(void *hydrator);
void *rate_thread(void *hydrator);
/* Under the lock: one file more that is full can be kept open until it is synced. */
bool background_has_room_locked(const struct hydrator *h);
/* Under the lock: so many full files are enough for a sync. */
size_t background_sync_files_locked(const struct hydrator *h);
/* Under the lock: a crawler asks for that one, and will for those behind it. */
void background_follow_locked(struct hydrator *h, struct crawler *crawler, uint64_t ordinal);
/* Under the lock: files beside and behind that one are likely to be asked for. */
void background_expect_locked(struct hydrator *h, const struct file *file);
/* Under the lock: that one now, whatever the background may do else. */
void background_ask_locked(struct hydrator *h, uint64_t ordinal);

/* hydrator-order.c */
/* Before the catalog is walked.  What cannot be read or written is told, and done without. */
void order_begin(struct hydrator *h);
/* Under the lock: the catalog has that file. */
void order_plan_locked(struct hydrator *h, const struct entry *e, uint64_t ordinal);
/* The catalog has been walked. */
void order_tell(struct hydrator *h);
/* The owner's: somebody asks for that loaded file. */
void order_note_demand(struct hydrator *h, const struct file *file);
void *order_thread(void *hydrator);
/* Lines of the load order that name no file of the restore. */
uint64_t order_ignored_locked(const struct hydrator *h);
/* Everything that was recorded is written. */
void order_end(struct hydrator *h);

/* hydrator-place.c */
/* Makes the placeholders and reports. */
_must_check_ int hydrator_place(struct hydrator *h, struct restore_stats *ret_stats);
/* After a restart: which files of the catalog are still pending. */
_must_check_ int hydrator_find(struct hydrator *h, struct restore_stats *ret_stats);
/* Looks for marks that are left in the mount of the target; those found are to do again.
 * *ret_count of them; *ret_unread as of walk_mount(). */
_must_check_ int hydrator_walk(struct hydrator *h, uint64_t *ret_count, uint64_t *ret_unread);
/* All that is pending at or below a path of the target comes next. */
_must_check_ int hydrator_want_path(struct hydrator *h, const char *path, uint64_t *ret_count);
/* How much is pending at or below a path of the target, and how many files of that have failed;
 * what cannot be read counts as both. */
_must_check_ int hydrator_count_path(struct hydrator *h, const char *path, uint64_t *ret_count,
                                     uint64_t *ret_failed);
/* The file of that ordinal is pending, and this it is. */
_must_check_ int note_found(struct hydrator *h, uint64_t ordinal, int fd, enum file_state state);
/* Removes placeholders that nobody has touched; or all of them, when nobody relies on them yet. */
_must_check_ int hydrator_remove_untouched(struct hydrator *h);
_must_check_ int hydrator_remove_placed(struct hydrator *h);
/* The record on the target directory. */
_must_check_ int hydrator_record(struct hydrator *h);
/* Takes it off for good, and durably. */
_must_check_ int hydrator_unrecord(struct hydrator *h);

/* hydrator-walk.c */
/* A file of this restore that is not complete.  fd is for reading; or O_PATH, when it cannot be
 * opened otherwise. */
typedef int (*pending_fn)(struct hydrator *h, int dir_fd, const char *name, int fd,
                          const struct pending *pending, void *userdata);
/* All of them at or below a path of the target ("": all of it), or in the mount it is in.  What
 * cannot be read, or fn fails for, is noted as a problem and passed over: *ret_unread times.  Fails
 * only for what goes on soon, when it is tried again. */
_must_check_ int walk_path(struct hydrator *h, const char *path, pending_fn fn, void *userdata,
                           uint64_t *ret_unread);
_must_check_ int walk_mount(struct hydrator *h, pending_fn fn, void *userdata,
                            uint64_t *ret_unread);
/* No descriptors, or no memory. */
bool is_shortage(int r);
_must_check_ int handle_of(int fd, struct filter_handle *ret_handle);
/* Through the private mount.  -ESTALE: it is gone. */
_must_check_ int open_handle(const struct hydrator *h, const struct filter_handle *handle,
                             int flags, int *ret_fd);

/* hydrator-made.c */
/* For restore_options.action. */
void hydrator_note_made(char action, const char *path, void *userdata);
void hydrator_forget_made(struct hydrator *h);
/* Takes it away, as far as nobody else uses it. */
void hydrator_remove_made(struct hydrator *h);
/* The failure again; when there was no space, with how much there is and should be. */
int hydrator_tell_space(const struct hydrator *h, const struct error_report *why);

/* hydrator-unnamed.c */
/* Looks for placeholders that have no name any more and are open elsewhere; those found are to do
 * again.  *ret_count of them. */
_must_check_ int hydrator_find_unnamed(struct hydrator *h, uint64_t *ret_count);

/* hydrator-status.c */
void note_problem(struct hydrator *h, const char *path, const char *what);
void note_latency_locked(struct hydrator *h, uint64_t ns);
/* Why things are not as they should be; "": they are. */
void set_degraded(struct hydrator *h, const char *text);
/* A source is out of reach; told as long as that goes on. */
void note_outage(struct hydrator *h, const char *text);
/* What is reported instead of "ready"; malloc'ed. */
char *hydrator_error_report(const char *text);
int hydrator_control(const char *request, size_t len, char **ret_response, void *userdata);

/* Under the lock. */
void set_state_locked(struct hydrator *h, uint64_t ordinal, enum file_state state);
