/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A power cut: the image of the subject as it is at some moment, with what had reached it and
 * without what had not, is mounted again, the restore goes on, and what is found is compared with
 * what model-history.c says may be found.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "model.h"
#include "restore/instant.h"

#define CUT_MAX_US 250000

void power_cut(struct run *run)
{
    struct power *power = &run->power;
    uint64_t random = run->settings.seed ^ 1;

    (void)usleep((useconds_t)(test_random(&random) % CUT_MAX_US));
    power->begin_ns = now_ns();
    volume_snapshot(&run->volumes[SUBJECT]);
    power->end_ns = now_ns();
    atomic_store(&run->stopping, true);
    run_say(run, "the power is cut");
}

/* ---- the machine starts again ---- */

static void send_signal(pid_t pid, const char *comm, void *data)
{
    if (world_is_daemon(comm))
        (void)kill(pid, *(const int *)data);
}

/* First stopped: each of them would start the others again. */
static void kill_daemons(void)
{
    int stop = SIGSTOP, end = SIGKILL;

    do {
        world_each(send_signal, &stop);
        world_each(send_signal, &end);
        (void)usleep(1000);
    } while (world_find(NULL) != 0);
}

/* Whether the restore was not complete. */
static bool is_pending(const struct run *run)
{
    char text[8];

    if (getxattr(run->trees[SUBJECT], INSTANT_XATTR, text, 0) >= 0)
        return true;
    ASSERT_EQ(errno, ENODATA);
    return false;
}

void power_return(struct run *run)
{
    kill_daemons();
    ASSERT_EQ(close(run->tree_fds[SUBJECT]), 0);
    volume_return_to_snapshot(&run->volumes[SUBJECT]);
    run_say(run, "the power is back");
    if (is_pending(run))
        origin_start_instant(run->origin, &run->settings, run->trees[SUBJECT]);
    run->tree_fds[SUBJECT] = open(run->trees[SUBJECT], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(run->tree_fds[SUBJECT] >= 0);
    run_say(run, "the subject stands again");
}

/* ---- one file ---- */

struct found {
    const char *path;
    uint8_t *data, *is_good; /* of each byte: whether one of the states has it */
    uint64_t size;
    uint64_t least, most; /* of the states: sizes */
    bool may_be_zero;     /* anywhere */
};

static void hold_against(struct found *f, const uint8_t *state, uint64_t size)
{
    f->least = MIN(f->least, size);
    f->most = MAX(f->most, size);
    for (uint64_t i = 0; i < f->size; i++)
        f->is_good[i] |= f->data[i] == (i < size ? state[i] : 0);
}

static void undo(const struct change *change, uint8_t *state, uint64_t *size)
{
    if (change->is_sync)
        return;
    memcpy(state + change->from, change->before, change->to - change->from);
    *size = change->size_before;
}

/* The changes that may be there or not: first <= i < last. */
static void find_window(const struct run *run, const struct record *record, size_t *ret_first,
                        size_t *ret_last)
{
    const struct change_vector *changes = &record->changes;
    size_t first = 0, last = 0;

    for (size_t i = 0; i < changes->count; i++) {
        if (changes->items[i].is_sync && changes->items[i].end_ns < run->power.begin_ns)
            first = i + 1;
        if (changes->items[i].start_ns < run->power.end_ns)
            last = i + 1;
    }
    *ret_first = first;
    *ret_last = MAX(first, last);
}

static uint8_t *copy_state(const struct record *record)
{
    uint64_t most = record->size;

    for (size_t i = 0; i < record->changes.count; i++)
        most = MAX(most, record->changes.items[i].size_before);
    uint8_t *state = malloc(most + 1);
    ASSERT_TRUE(state != NULL);
    memcpy(state, record->data, record->size);
    return state;
}

static void hold_against_states(const struct run *run, const struct record *record, struct found *f)
{
    CLEANUP_FREE uint8_t *state = copy_state(record);
    uint64_t size = record->size;
    size_t first, last;

    find_window(run, record, &first, &last);
    f->least = UINT64_MAX;
    for (size_t i = record->changes.count + 1; i-- > first;) {
        if (i <= last)
            hold_against(f, state, size);
        if (i == first)
            break;
        const struct change *change = &record->changes.items[i - 1];
        if (i <= last && change->flags & CHANGE_EMPTIES)
            f->least = 0;
        f->may_be_zero |= i <= last && change->flags;
        undo(change, state, &size);
    }
}

static void judge(const struct run *run, const struct record *record, const struct found *f)
{
    uint64_t wrong = 0, zeros = 0, first = 0;

    if (f->size < f->least || f->size > f->most)
        test_fail(__FILE__, __LINE__, "%s (id %llu): %llu bytes, expected %llu to %llu", f->path,
                  (unsigned long long)record->id, (unsigned long long)f->size,
                  (unsigned long long)f->least, (unsigned long long)f->most);
    for (uint64_t i = f->size; i > 0; i--) {
        if (f->is_good[i - 1] || (f->may_be_zero && f->data[i - 1] == 0))
            continue;
        first = i - 1;
        wrong++;
        zeros += f->data[i - 1] == 0;
    }
    (void)run;
    if (wrong > 0)
        test_fail(__FILE__, __LINE__,
                  "%s (id %llu): %llu of %llu bytes are wrong, %llu of them zero; the first at "
                  "%llu: %#x",
                  f->path, (unsigned long long)record->id, (unsigned long long)wrong,
                  (unsigned long long)f->size, (unsigned long long)zeros, (unsigned long long)first,
                  f->data[first]);
}

static void check_contents(const struct run *run, const struct record *record, const char *path,
                           int fd)
{
    struct found f = {.path = path};
    struct stat st;

    ASSERT_EQ(fstat(fd, &st), 0);
    f.size = (uint64_t)st.st_size;
    CLEANUP_FREE uint8_t *data = malloc(f.size + 1);
    CLEANUP_FREE uint8_t *is_good = calloc(1, f.size + 1);
    ASSERT_TRUE(data && is_good);
    for (uint64_t at = 0; at < f.size;) {
        ssize_t n = pread(fd, data + at, f.size - at, (off_t)at);
        if (n <= 0)
            test_fail(__FILE__, __LINE__, "%s cannot be read: %m", path);
        at += (uint64_t)n;
    }
    f.data = data;
    f.is_good = is_good;
    hold_against_states(run, record, &f);
    judge(run, record, &f);
}

static void check_attributes(const struct record *record, const char *path, int fd)
{
    struct stat subject, model;

    if (fgetxattr(fd, "trusted.umbra.pending", NULL, 0) >= 0)
        test_fail(__FILE__, __LINE__, "%s is still pending", path);
    if (record->written || record->touched)
        return;
    ASSERT_EQ(fstat(fd, &subject), 0);
    ASSERT_EQ(fstat(record->fd, &model), 0);
    if (subject.st_mtim.tv_sec != model.st_mtim.tv_sec ||
        subject.st_mtim.tv_nsec != model.st_mtim.tv_nsec || subject.st_mode != model.st_mode ||
        subject.st_uid != model.st_uid || subject.st_gid != model.st_gid)
        test_fail(__FILE__, __LINE__,
                  "%s (id %llu): mtime %lld.%09ld mode %o, expected %lld.%09ld %o", path,
                  (unsigned long long)record->id, (long long)subject.st_mtim.tv_sec,
                  subject.st_mtim.tv_nsec, subject.st_mode, (long long)model.st_mtim.tv_sec,
                  model.st_mtim.tv_nsec, model.st_mode);
}

/* ---- all of them ---- */

struct check {
    struct run *run;
    bool complete; /* no longer pending */
};

static struct record *find_id(struct history *history, uint64_t id)
{
    for (size_t i = 0; i < history->count; i++)
        if (history->records[i].id == id)
            return &history->records[i];
    return NULL;
}

/* A file that was just being made has no id yet. */
static struct record *find_record(struct run *run, int fd)
{
    char text[24] = "";
    struct record *record;

    if (fgetxattr(fd, ID_XATTR, text, sizeof(text) - 1) <= 0)
        return NULL;
    uint64_t id = strtoull(text, NULL, 10);
    record = find_id(&run->shared, id);
    for (unsigned i = 0; !record && i < run->settings.actors; i++)
        record = find_id(&run->actors[i]->history, id);
    return record;
}

static void check_file(struct check *check, const char *path, int fd)
{
    struct record *record = find_record(check->run, fd);

    if (!record)
        return;
    record->found = true;
    check_contents(check->run, record, path, fd);
    if (check->complete)
        check_attributes(record, path, fd);
}

static void check_directory(struct check *check, const char *path)
{
    char below[PATH_LEN];
    struct stat st;

    int dir_fd = openat(check->run->tree_fds[SUBJECT], path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(dir_fd >= 0);
    DIR *dir = fdopendir(dir_fd);
    ASSERT_TRUE(dir != NULL);
    for (const struct dirent *d; (d = readdir(dir));) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        (void)snprintf(below, sizeof(below), "%.200s/%s", path, d->d_name);
        CLEANUP_CLOSE int fd =
            openat(check->run->tree_fds[SUBJECT], below, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            test_fail(__FILE__, __LINE__, "%s cannot be opened: %m", below);
        ASSERT_EQ(fstat(fd, &st), 0);
        if (S_ISDIR(st.st_mode))
            check_directory(check, below);
        else
            check_file(check, below, fd);
    }
    (void)closedir(dir);
}

static bool may_be_missing(const struct run *run, const struct record *record)
{
    size_t first, last;

    find_window(run, record, &first, &last);
    return (record->removed_ns != 0 && record->removed_ns < run->power.end_ns) ||
           (record->is_new && first == 0);
}

static void check_found(const struct run *run, struct history *history)
{
    for (size_t i = 0; i < history->count; i++) {
        struct record *record = &history->records[i];
        if (!record->found && !may_be_missing(run, record))
            test_fail(__FILE__, __LINE__, "the file with id %llu is lost",
                      (unsigned long long)record->id);
        record->found = false;
    }
}

void power_check(struct run *run, bool complete)
{
    struct check check = {.run = run, .complete = complete};

    check_directory(&check, ".");
    check_found(run, &run->shared);
    for (unsigned i = 0; i < run->settings.actors; i++)
        check_found(run, &run->actors[i]->history);
}
