/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the restore engine share.  The essay is in restore.c. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "basic/pool.h"
#include "basic/vector.h"
#include "repo/repository.h"
#include "restore/restore.h"
#include "tree/beneath.h"
#include "tree/catalog.h"
#include "tree/key.h"
#include "tree/meta.h"

#define BATCH_SEALED_MAX   (4u << 20)   /* bytes of one read */
#define BATCH_GAP_MAX      (128u << 10) /* bytes not wanted that are read along */
#define BATCH_PLAIN_MAX    (16u << 20)  /* wanted bytes of one batch: no worker has it all */
#define WINDOW_JOBS_FIRST  1024u        /* the first window is small: workers wait for it */
#define WINDOW_JOBS_MAX    16384u
#define WINDOW_PIECES_MAX  65536u
#define WINDOW_NODES_MAX   2048u
#define WINDOW_SPLIT_MAX   1024u      /* files of more than one piece */
#define FILE_EXTENTS_MAX   (1u << 28) /* of one file; a catalog that says more is refused */
#define IN_PLACE_MIN       MIB        /* bytes; smaller files are written anew */
#define PREALLOCATE_MIN    (4 * MIB)  /* bytes; smaller ones the file system lays out well */
#define TEMPORARY_NAME_MAX 40
#define JOB_LOCKS          64u

enum restore_mode {
    RESTORE_WRITE,
    RESTORE_DRY_RUN,
    RESTORE_VERIFY,
};

/* ---- what is restored, and to where: restore-select.c ---- */

struct selection {
    char *base;   /* the path in the backup that becomes the target; "" is its root */
    char *single; /* name in base of the one thing to restore, when that is no directory */
    bool base_found;
    struct entry base_entry;
    const struct exclude_set *includes, *excludes; /* NULL: none */
    const struct string_vector *roots;
};

enum wanted {
    WANTED_NO,  /* and nothing below it */
    WANTED_WAY, /* a directory that may lead to something wanted */
    WANTED_YES, /* itself; of a directory also what is below it, unless excluded */
};

/* ---- a directory of the target: restore-node.c ---- */

struct restore_node {
    struct restore_node *parent; /* valid as long as the node is on the stack */
    char *path;                  /* below the target; "" is the target itself */
    char *place;                 /* where it stands until an atomic restore puts it in its place;
                                    else the same */
    char *source;                /* the same directory in the backup */
    struct entry entry;          /* its attributes */
    bool has_entry;
    bool way;      /* only leads to what is restored: attributes are set only if it was made */
    bool made;     /* by this run: holds nothing else.  In a dry run: is not there */
    bool staged;   /* it is what an atomic restore puts in its place, with all that is in it */
    bool replaces; /* something is in that place */
    _Atomic bool changed; /* an atomic restore changes names in it */
    bool inherits;        /* what is made in it may get attributes from it: ACL, setgid, flags */
    bool delete_extra;
    bool prepared;        /* of one that was there: flags and mode let us work in it */
    uint32_t saved_flags; /* +i and +a that were cleared to work in it */
    mode_t saved_mode;    /* as it was before, when mode_changed */
    bool mode_changed;
    struct error_report error;  /* why it cannot be used */
    struct string_vector names; /* what belongs in it; collected for delete_extra */
    int fd;
    unsigned fd_users;
    unsigned refs;
};
DEFINE_VECTOR(restore_node_vector, struct restore_node *);

/* ---- one file, or anything but a directory: restore-job.c ---- */

/* What is in the place of an entry. */
enum found {
    FOUND_NOTHING,
    FOUND_OTHER,      /* another type, or another device or link target */
    FOUND_CONTENTS,   /* a regular file with other contents */
    FOUND_ATTRIBUTES, /* the same contents, other attributes */
    FOUND_SAME,
};

enum job_way {
    JOB_NEW,      /* nothing is there */
    JOB_REPLACE,  /* made under a hidden name, then put in the place of what is there */
    JOB_IN_PLACE, /* what differs is written into the file that is there */
    JOB_ATTRIBUTES,
    JOB_KEEP,
};

/* The names of one inode: restore-link.c. */
struct link_group {
    uint64_t inode;
    uint64_t likeness; /* hash of all else that names of one file have in common */
    uint32_t fs_index;
    enum { LINK_PENDING, LINK_DONE, LINK_FAILED } state;
    char *path;  /* of the first one, below the target */
    char *place; /* where that stands for now, as of a node */
    dev_t dev;
    ino_t ino;
};

struct job {
    struct restore_node *node;
    struct entry entry;
    struct link_group *group; /* NULL: it has one name */
    enum job_way way;
    enum found found;
    uint8_t *differs; /* one flag an extent, when compared with a file that is there */
    uint32_t piece_total;
    bool must_look;   /* something may be there */
    bool is_link;     /* a further name: its size is counted with the first */
    bool staged;      /* made in the stage, for an atomic restore to put in its place */
    bool placeholder; /* made without its data, which comes later */
    uint64_t ordinal; /* of a placeholder */
    _Atomic uint32_t pieces_left;
    /* The rest is guarded by the job's lock as long as pieces are being written. */
    _Atomic bool failed;
    bool opened;
    bool touched; /* the file that was there is being changed */
    int fd;
    char temporary[TEMPORARY_NAME_MAX]; /* "": none */
    struct error_report error;
    char name[]; /* in the node's directory */
};
DEFINE_VECTOR(job_vector, struct job *);

/* ---- a window: restore-window.c ---- */

/* Part of a file that comes from one chunk. */
struct piece {
    struct chunk_location location;
    struct job *job;
    uint64_t offset; /* in the file */
    uint32_t extent;
    uint32_t len;
};
DEFINE_VECTOR(piece_vector, struct piece);

/* Pieces whose frames are read at once; sealed_len 0: no place is known, each is looked up. */
struct batch {
    uint32_t first, count;
    uint32_t sealed_offset, sealed_len;
};
DEFINE_VECTOR(batch_vector, struct batch);

struct restore_window {
    struct job_vector jobs;
    struct job_vector links;          /* further names of what a job makes */
    struct restore_node_vector nodes; /* directories whose descriptors the jobs use */
    struct restore_node_vector
        finish; /* directories that are complete with this window, deepest first */
    struct piece_vector pieces;
    struct batch_vector batches;
    struct job_vector whole; /* jobs without pieces */
    size_t extent_count;
    unsigned split_count; /* jobs of more than one extent */
    unsigned jobs_max;
    /* the phase that runs */
    _Atomic size_t next;
    unsigned running;          /* tasks; guarded by restore.window_lock */
    struct window_task *tasks; /* one a thread */
    struct restore *restore;
    bool comparing;
};

/* What a worker needs for itself. */
struct worker {
    struct frame_codec *codec;
    uint8_t *sealed; /* BATCH_SEALED_MAX + FRAME_SEALED_MAX */
    uint8_t *plain;  /* FRAME_PLAIN_MAX; for reading files */
    struct worker *next;
};

struct other_fs {
    dev_t dev;
    int fd;
};
DEFINE_VECTOR(other_fs_vector, struct other_fs);

/* chattr flags to be set when all further names of the file have been made. */
struct late_flags {
    char *dir, *name;
    struct entry entry;
};
DEFINE_VECTOR(late_flags_vector, struct late_flags);

struct restore_stage;

struct restore {
    struct repository *repo;
    const struct backup *backup;
    const struct restore_options *options;
    enum restore_mode mode;
    struct selection selection;
    int root_fd; /* the target; -EBADF when it is not there, in a dry run */
    bool root_made;
    dev_t root_dev;
    bool totals_known; /* of the progress */
    struct owner_map *owners;
    struct page_reader *pages;
    const struct catalog_store *store;
    struct dir_cache *dirs;      /* of the planning thread */
    struct restore_stage *stage; /* of an atomic restore, in its first pass; else NULL */

    struct pool *pool;
    unsigned threads;
    pthread_mutex_t window_lock; /* struct restore_window.running, idle workers */
    pthread_cond_t window_done;
    struct worker *idle_workers;
    unsigned nodes_max, split_max; /* of one window, from the limit of open files */

    struct link_table *links;
    struct late_flags_vector late_flags;
    struct other_fs_vector other_fs; /* mounted below the target and written to */

    pthread_mutex_t job_locks[JOB_LOCKS];
    _Atomic uint64_t temporary_count;
    uint64_t temporary_seed;

    pthread_mutex_t report_lock; /* callbacks, the two below, and restore_stats' action counts */
    struct error_report fatal;
    struct string_vector failed_paths;
    _Atomic bool stopping;
    struct restore_stats stats;
    _Atomic uint64_t written_bytes, verified_bytes;
};

/* restore-report.c */
void restore_problem(struct restore *restore, const char *path, const char *fmt, ...)
    _printf_(3, 4);
/* 'c', 'w', 'a', '=', 'd' */
void restore_action(struct restore *restore, char action, const char *dir, const char *name);
/* A file of the selection is not restored; bytes: what it had added to its size. */
void restore_count_failed(struct restore *restore, const struct entry *e, uint64_t bytes);
/* Ends the whole run; the first one is kept.  Returns r. */
int restore_stop(struct restore *restore, int r);
bool restore_stopping(struct restore *restore);
/* Whether going on with other files makes no sense after r. */
bool restore_error_is_fatal(int r);
/* Something of the repository is damaged or missing: what does not need it can still be restored.
 */
bool restore_error_is_damage(int r);
/* Makes the extents complete, and checks that they are such as a file can have. */
_must_check_ int restore_load_contents(struct restore *restore, struct entry *e);
/* dir/name below the target, malloc'ed; NULL without memory. */
char *restore_join(const char *dir, const char *name);
/* For the callbacks of tree/meta.h. */
struct meta_report {
    struct restore *restore;
    const char *dir, *name;
};
void restore_meta_problem(const char *what, int r, void *userdata);
/* Whether a problem with path has been told; not while workers run. */
bool restore_has_failed(const struct restore *restore, const char *path);
void restore_sort_failed(struct restore *restore);

/* restore.c */
/* That all attributes of dir/name (of a regular file) are set at the very end of the run: those
 * flags of e keep further names from being made. */
_must_check_ int restore_put_off_flags(struct restore *restore, const char *dir, const char *name,
                                       const struct entry *e);
/* That the run writes to this file system, too, which has to be synced in the end. */
_must_check_ int restore_note_fs(struct restore *restore, int fd, dev_t dev);

/* restore-select.c */
_must_check_ int selection_init(struct restore *restore);
/* The entry of a path of the backup; the caller's. */
_must_check_ int selection_find(struct restore *restore, const char *path, struct entry *ret_entry);
void selection_release(struct selection *selection);
/* All below dir (a path of the backup) is wanted. */
bool selection_includes_dir(const struct selection *selection, const char *dir);
enum wanted selection_wants(const struct selection *selection, bool dir_included, const char *path,
                            size_t len, bool is_directory);
/* A directory outside of all roots: it only leads to them. */
bool selection_is_way(const struct selection *selection, const char *path);
/* The path below the target, inside path; path is at or below the base. */
const char *selection_target_path(const struct selection *selection, const char *path);

/* restore-plan.c */
_must_check_ int plan_run(struct restore *restore);

/* restore-node.c */
_must_check_ int restore_node_new_root(struct restore *restore, struct restore_node **ret_node);
/* Makes or finds the directory of entry e in parent. Only what ends the run is an error; else the
 * node may carry one. */
_must_check_ int restore_node_new(struct restore *restore, struct restore_node *parent,
                                  const struct entry *e, const char *name, bool way,
                                  struct restore_node **ret_node);
struct restore_node *restore_node_ref(struct restore_node *node);
void restore_node_unref(struct restore_node *node);
/* The descriptor is open until the put; on failure node->error says why. */
_must_check_ int restore_node_get_fd(struct restore *restore, struct restore_node *node);
void restore_node_put_fd(struct restore_node *node);
/* Everything in it is done: deletes what is too much, sets the attributes. */
_must_check_ int restore_node_finish(struct restore *restore, struct restore_node *node);

/* restore-link.c */
struct link_table;
_must_check_ int link_table_new(struct link_table **ret_table);
void link_table_free(struct link_table *table);
/* The group of e's inode; *ret_first: it is the first one, and name in node becomes the group's. */
_must_check_ int link_table_get(struct link_table *table, const struct entry *e,
                                const struct restore_node *node, const char *name,
                                struct link_group **ret_group, bool *ret_first);
/* A further name of a file: made, told or verified.  The first one is done. */
_must_check_ int link_do(struct restore *restore, struct worker *worker, struct job *link);

/* restore-job.c */
struct job *job_new(struct restore_node *node, const char *name, size_t name_len);
/* Not while workers may use the node: the reference to it is the planner's. */
void job_free(struct job *job);
DEFINE_CLEANUP_PTR(struct job *, job_free);
/* Compares with what is there and decides how the job is to be done.  Dry run, verification: that
 * is all, and it is told. */
void job_look(struct restore *restore, struct worker *worker, struct job *job);
/* In a dry run: nothing is there. */
void job_look_at_nothing(struct restore *restore, struct job *job);
/* Whether that extent has to come from the repository, and how many do. */
bool job_wants_extent(const struct job *job, size_t index);
void job_count_pieces(struct job *job);
/* Writes data to the file; one piece is done then, and with the last one the job. */
void job_write(struct restore *restore, struct job *job, const void *data, uint32_t len,
               uint64_t offset);
/* A piece that cannot be had is done, too. */
void job_fail_piece(struct restore *restore, struct job *job, int r);
/* A job without pieces, from start to end. */
void job_make(struct restore *restore, struct job *job);
/* Looked at already; its pieces one after the other, by the calling thread. */
void job_run_alone(struct restore *restore, struct worker *worker, struct job *job);
/* What a stopped run left open. */
void job_abandon(struct restore *restore, struct job *job);

/* restore-stage.c: NULL in place of a stage where nothing is staged */
_must_check_ int stage_new(struct restore *restore, struct restore_stage **ret_stage);
/* Takes everything back that was not committed. */
void stage_free(struct restore_stage *stage);
int stage_fd(const struct restore_stage *stage);
/* A name in it that nothing has. */
void stage_name(struct restore_stage *stage, char ret_name[TEMPORARY_NAME_MAX]);
/* The path of a name in it, below the target; malloc'ed, NULL without memory. */
char *stage_place(const char *name);
/* Whether that is the stage itself, which belongs to nobody's tree. */
bool stage_owns(const struct restore_node *node, const char *name);
/*
 * What the commit will do, in this order of the calls; any thread.  put: what is called staged
 * takes the place of name in the directory, where something is or nothing.
 */
_must_check_ int stage_put(struct restore_stage *stage, struct restore_node *node,
                           const char *staged, const char *name, bool something_is_there);
/* The same for a directory that is complete. */
_must_check_ int stage_put_node(struct restore_stage *stage, const struct restore_node *node);
_must_check_ int stage_delete(struct restore_stage *stage, struct restore_node *node,
                              const char *name);
/* A further name of first, a path, where nothing is. */
_must_check_ int stage_link(struct restore_stage *stage, struct restore_node *node,
                            const char *first, const char *name);
/* name "": of the directory itself.  chattr +i and +a come after all else. */
_must_check_ int stage_set_attributes(struct restore_stage *stage, const struct restore_node *node,
                                      const char *name, const struct entry *e);
/* Size, and of the extents that differ the contents, which staged has at the same offsets. */
_must_check_ int stage_write(struct restore_stage *stage, const struct job *job,
                             const char *staged);
_must_check_ int stage_commit(struct restore_stage *stage);

/* restore-publish.c */
/* A regular file without a name where the file system can do that, else with a temporary one (""
 * when it has none), open for reading and writing. */
_must_check_ int hidden_create(struct restore *restore, int dir_fd,
                               char ret_temporary[TEMPORARY_NAME_MAX], int *ret_fd);
/* Puts that file under name, which nothing or anything may have.  temporary: as it was returned;
 * changed to what is left to be removed on failure. */
_must_check_ int hidden_publish(struct restore *restore, int dir_fd, int fd,
                                char temporary[TEMPORARY_NAME_MAX], const char *name);
/* Clears chattr +i and +a of a regular file. */
_must_check_ int publish_unlock(int dir_fd, const char *name);
/* Gives what is called temporary the place of name, whatever is there. */
_must_check_ int publish_rename(struct restore *restore, int dir_fd, const char *temporary,
                                const char *name);
void temporary_name(struct restore *restore, char ret_name[TEMPORARY_NAME_MAX]);

/* restore-compare.c */
struct comparison {
    enum found found;
    int fd; /* of a regular file, open for reading; the caller's */
    struct stat stat;
    uint64_t same_bytes;
    uint8_t *differs; /* the caller's; NULL when found is not FOUND_CONTENTS */
    char *attributes; /* which differ, for FOUND_ATTRIBUTES and FOUND_CONTENTS; the caller's */
};
void comparison_release(struct comparison *c);
/* Compares e with name in dir_fd.  An error is about the file that is there. */
_must_check_ int compare_entry(struct restore *restore, struct worker *worker, int dir_fd,
                               const char *name, const struct entry *e,
                               struct comparison *ret_comparison);
/* S_IFREG, ... */
mode_t entry_file_type(const struct entry *e);
/* Opens again what fd (perhaps O_PATH) refers to. */
_must_check_ int reopen_fd(int fd, int flags, int *ret_fd);
/* Changes the mode of what fd (perhaps O_PATH) refers to. */
_must_check_ int chmod_path(int fd, mode_t mode);
/* Opens name in dir_fd without following links or touching devices: O_PATH. */
_must_check_ int open_path(int dir_fd, const char *name, int *ret_fd, struct stat *ret_stat);

/* restore-window.c */
_must_check_ int restore_window_new(struct restore *restore, unsigned jobs_max,
                                    struct restore_window **ret_window);
void restore_window_free(struct restore_window *window);
DEFINE_CLEANUP_PTR(struct restore_window *, restore_window_free);
bool restore_window_is_full(const struct restore *restore, const struct restore_window *window);
/* Takes the job over when it succeeds. */
_must_check_ int restore_window_add_job(struct restore *restore, struct restore_window *window,
                                        struct job *job);
_must_check_ int restore_window_add_link(struct restore *restore, struct restore_window *window,
                                         struct job *link);
_must_check_ int restore_window_add_finish(struct restore_window *window,
                                           struct restore_node *node);
/* Hands the window to the workers. */
_must_check_ int restore_window_start(struct restore *restore, struct restore_window *window);
/* Waits for them. */
void restore_window_wait(struct restore *restore, struct restore_window *window);
/* After the wait: links, directories. */
_must_check_ int restore_window_finish(struct restore *restore, struct restore_window *window);
struct worker *worker_take(struct restore *restore);
void worker_give(struct restore *restore, struct worker *worker);
void worker_free_all(struct restore *restore);
