/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the model test share.  The essay is in model-instant.c.
 *
 * Everything exists twice: SUBJECT is the instantly restored tree, MODEL the ordinarily restored
 * one.  Whatever is done is done to the subject first, and then to the model.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "basic/macro.h"
#include "basic/vector.h"
#include "repo/repository.h"

enum side {
    SUBJECT,
    MODEL,
    SIDES,
};

enum file_system {
    FS_EXT4,
    FS_XFS,
    FS_BTRFS,
    FS_KINDS,
};

#define ACTORS_MAX   3u
#define KILLS_MAX    3u
#define SHARED_FILES 6u
#define CHILD_FILES  2u
#define ID_XATTR     "user.model"
#define TIMES_SET_SEC                                                          \
    UINT64_C(1500000000) /* what threads set lies behind it, the backup before \
                          */
#define PATH_LEN 512u

/* What the seed decides, beside the operations. */
struct settings {
    uint64_t seed;
    enum file_system fs;
    uint64_t whole_file_max, limit_bytes_per_s;
    unsigned actors, operations; /* of each */
    unsigned kills;
    bool power_cut;
    bool verbose;
};

/* ---- model-world.c: where it happens ---- */

struct volume {
    enum file_system fs;
    enum side side;
    char image[PATH_LEN], dir[PATH_LEN];
    char device[32]; /* "": not mounted */
};

/* Runs fn as the second process of a pid and mount namespace of its own, with its own tmpfs at the
 * temporary directory and at /run.  Whatever ends the world unmounts, and kills, all that is in it.
 * The pid of its first process, and a pidfd. */
pid_t world_start(void (*fn)(void *), void *data, int *ret_pidfd);
/* In the world: the place for the images of volumes. */
void world_make_images(void);
bool world_has(enum file_system fs);
const char *world_fs_name(enum file_system fs);
void volume_make(struct volume *v, enum file_system fs, enum side side);
void volume_mount(struct volume *v);
void volume_remove(struct volume *v);
/* The image as it is now, of a volume in use. */
void volume_snapshot(const struct volume *v);
/* Unmounts it, and mounts the snapshot instead. */
void volume_return_to_snapshot(struct volume *v);
/* The pid of a process of this world with that name; 0: there is none. */
pid_t world_find(const char *comm);
bool world_is_alive(pid_t pid);
bool world_is_daemon(const char *comm);
/* Calls back for every process. */
void world_each(void (*fn)(pid_t pid, const char *comm, void *data), void *data);

/* ---- model-backup.c: from the source to both trees ---- */

struct origin {
    struct repository *repo;
    struct backup *backup;
    char repo_dir[PATH_LEN];
};

/* Makes the source tree and its backup; once in a world. */
void origin_make(struct origin *origin);
void origin_release(struct origin *origin);
void origin_restore(struct origin *origin, const char *target);
void origin_start_instant(struct origin *origin, const struct settings *s, const char *target);
/* To the running restore; it need not answer. */
void instant_tell(const struct settings *s, const char *request);
/* Until all daemons have ended by themselves. */
void instant_wait_for_end(void);
/* What the daemons have said, to standard error. */
void instant_print_words(void);

/* ---- model-history.c: what has become of each file ---- */

enum change_flags {
    CHANGE_EMPTIES = 1 << 0, /* the file was empty in between */
    CHANGE_MOVES = 1 << 1,   /* ... had holes elsewhere in between */
};

struct change {
    uint64_t start_ns, end_ns; /* CLOCK_MONOTONIC */
    bool is_sync;              /* nothing changed: all that was there is on the disk */
    unsigned flags;
    uint64_t size_before;
    uint64_t from, to; /* where the state before differs from the one after */
    uint8_t *before;   /* it, there; nothing of it lies behind its end */
};
DEFINE_VECTOR(change_vector, struct change);

struct record {
    ino_t ino;            /* of the model; 0: in use again */
    uint64_t id;          /* ID_XATTR, on both sides */
    int fd;               /* of the model */
    bool is_new;          /* made by an operation */
    bool touched;         /* attributes were changed */
    bool written;         /* or nearly */
    bool dirty;           /* in this operation */
    bool found;           /* after the power cut */
    unsigned dirty_flags; /* enum change_flags */
    uint64_t removed_ns;  /* when a name of it was first removed; 0: never */
    uint8_t *data;        /* the state, as long as the seed has a power cut */
    uint64_t size;
    struct change_vector changes;
};

#define RECORDS_MAX 256u
struct history {
    struct record records[RECORDS_MAX];
    size_t count;
};

struct actor;
struct handle;
/* The record of the file, with its state when keep_states. */
struct record *history_add(struct history *history, int model_fd, bool keep_states);
void model_history_release(struct history *history);
/* The file was written to, in this operation, or it was tried: its mtime may be that of our last
 * fill from now on. */
void note_write_to(struct actor *a, int model_fd, unsigned flags);
void note_touch(struct actor *a, int model_fd);
void note_sync(struct actor *a, int model_fd);
void note_create(struct actor *a, const struct handle *h);
/* A name of it, and that is going to be removed. */
void note_remove(struct actor *a, const char *path);
void history_end_operation(struct actor *a);
bool history_has_written(const struct history *history, ino_t model_ino);

/* ---- model-run.c: one seed ---- */

struct run {
    struct settings settings;
    struct origin *origin;
    struct volume volumes[SIDES];
    char trees[SIDES][PATH_LEN];
    int tree_fds[SIDES];
    uint64_t start_ns;      /* CLOCK_REALTIME */
    uint64_t start_mono_ns; /* the same, CLOCK_MONOTONIC */
    struct actor *actors[ACTORS_MAX];
    struct history shared; /* files that all read */
    struct power {
        uint64_t begin_ns, end_ns; /* the cut was in between */
    } power;
    char kills[KILLS_MAX][64]; /* what was killed when, in words */
    unsigned kill_count;
    atomic_bool stopping;
};

uint64_t now_ns(void); /* CLOCK_MONOTONIC */
/* Since the seed began. */
double run_seconds(const struct run *run);
void run_say(const struct run *run, const char *what);
void run_seed(struct origin *origin, const struct settings *settings);
/* What was done, and by whom: when a run fails. */
void run_explain(void);

/* ---- model-compare.c ---- */

/* Both trees, completely.  Aborts at a difference. */
void compare_trees(const struct run *run);

/* ---- model-chaos.c ---- */

/* A thread that kills daemons. */
struct chaos {
    struct run *run;
    uint64_t random;
    pthread_t thread;
};
void chaos_start(struct chaos *chaos, struct run *run);
void chaos_join(struct chaos *chaos);

/* ---- model-power.c ---- */

/* At some moment, while the actors are at it. */
void power_cut(struct run *run);
/* The daemons are dead, the volume is as it was at the cut, the restore goes on. */
void power_return(struct run *run);
/* What is found. */
void power_check(struct run *run, bool complete);

/* ---- model-actor.c: a thread that does things to its own files ---- */

#define TRACE_LINES  32u
#define TRACE_LEN    200u
#define HANDLES_MAX  4u
#define NAMES_MAX    64u
#define DIRS_MAX     6u
#define BUFFER_LEN   (1u << 20)
#define SIZE_MAX_LEN (6 * MIB) /* files do not become longer */

struct name {
    bool used;
    bool is_program; /* never written to */
    unsigned dir;
    char leaf[48];
};

/* The same file, open on both sides. */
struct handle {
    bool used, writable, readable, append, direct;
    int fds[SIDES];
    char path[128];
};

struct actor {
    struct run *run;
    unsigned index;
    pthread_t thread;
    uint64_t random;
    uint64_t file_counter;
    char dirs[DIRS_MAX][64]; /* below the tree */
    struct name names[NAMES_MAX];
    struct handle handles[HANDLES_MAX];
    const struct handle *pinned; /* not closed to make room */
    struct history history;
    uint64_t id_counter;
    uint64_t operation_ns;   /* when it began */
    uint8_t *buffers[SIDES]; /* BUFFER_LEN, page-aligned */
    uint8_t *data;           /* the same, for what is written to both */
    const char *operation;
    unsigned operation_count;
    char trace[TRACE_LINES][TRACE_LEN];
    unsigned trace_count;
};

struct actor *actor_new(struct run *run, unsigned index);
void actor_start(struct actor *a);
void actor_join(struct actor *a);
void actor_free(struct actor *a);
void actor_print_trace(const struct actor *a);

/* A random number below limit. */
uint64_t pick(struct actor *a, uint64_t limit);
bool chance(struct actor *a, unsigned percent);
/* A place in a file of that size: near its borders, near those of pages, behind its end, anywhere.
 */
uint64_t pick_offset(struct actor *a, uint64_t size);
uint64_t pick_len(struct actor *a);
_printf_(2, 3) void trace(struct actor *a, const char *format, ...);
_printf_(2, 3) _noreturn_ void differ(struct actor *a, const char *format, ...);
/* Both results are the same, or the test ends.  A result below 0 goes with its errno.  Returns the
 * subject's. */
long same(struct actor *a, const char *what, const long results[SIDES], const int errors[SIDES]);
void same_bytes(struct actor *a, const char *what, const void *subject, const void *model,
                uint64_t len, uint64_t offset);

/* A file of this actor, or (shared) also one that all read. */
struct name *pick_name(struct actor *a);
/* Its path below the tree. */
void name_path(const struct actor *a, const struct name *name, char path[PATH_LEN]);
/* A name that is not there yet; NULL: there are too many. */
struct name *new_name(struct actor *a);

/* ---- model-file.c: handles ---- */

/* Opens it, and compares.  NULL: it could not be opened. */
struct handle *handle_open(struct actor *a, const char *path, int flags);
/* One that is open for that (O_RDONLY, O_WRONLY, O_RDWR, with O_APPEND or O_DIRECT), or a new one.
 */
struct handle *handle_pick(struct actor *a, int flags);
void handle_close(struct handle *h);
void handles_close(struct actor *a);
/* Of the model. */
uint64_t handle_size(const struct handle *h);

/* ---- model-ops-*.c ---- */

struct operation {
    const char *name;
    unsigned weight;
    void (*run)(struct actor *a);
};
struct operations {
    const struct operation *items;
    size_t count;
};
extern const struct operations data_operations, space_operations, name_operations,
    kernel_operations;
