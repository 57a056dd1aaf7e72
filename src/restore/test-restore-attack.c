/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What restore makes of the world being against it: damage, hostile catalogs and targets, no space.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "restore/test-made.h"

static struct entry *find(const struct made *m, const char *path)
{
    CLEANUP(buffer_release) struct buffer key = {0};

    key_put_path(&key, path, strlen(path));
    for (size_t i = 0; i < m->entries.count; i++) {
        struct entry *e = m->entries.items[i];
        if (key_compare(e->key, e->key_len, key.data, key.len) == 0)
            return e;
    }
    test_fail(__FILE__, __LINE__, "no entry '%s'", path);
}

static void damage(struct made *m, const char *path, size_t extent)
{
    made_damage(m, &find(m, path)->extents.items[extent].chunk);
}

/* ---- damage ---- */

/* Chunks of random bytes: frames hold up to 512 KiB, so each file of 1 MiB has frames of its own.
 */
static void heavy_tree(struct made *m)
{
    made_init(m);
    made_directory(m, "top");
    made_random(m, "top/bad", MIB, 1);
    made_random(m, "top/good", MIB, 2);
    made_random(m, "top/good2", MIB, 3);
    made_finish(m, "top", NULL);
}

TEST(damaged_new_file_is_not_left)
{
    CLEANUP(made_release) struct made m;
    heavy_tree(&m);
    damage(&m, "top/bad", 4);
    m.options.verify = true;
    made_run(&m, 1);
    ASSERT_TRUE(made_has_problem(&m, "bad", "packs/"));
    ASSERT_EQ(m.stats.file_count, 3);
    ASSERT_EQ(m.stats.failed_count, 1);
    ASSERT_EQ(m.stats.failed_bytes, MIB);
    ASSERT_EQ(made_count(&m, ""), 2);
    made_assert_random(&m, "good", MIB, 2);
    made_assert_random(&m, "good2", MIB, 3);
}

TEST(damage_leaves_the_old_file)
{
    CLEANUP(made_release) struct made m;
    heavy_tree(&m);
    damage(&m, "top/bad", 4);
    ASSERT_EQ(mkdir(m.target, 0755), 0);
    made_write(&m, "bad", "old", 3);
    made_run(&m, 1);
    ASSERT_TRUE(made_has_problem(&m, "bad", "unchanged"));
    made_assert_text(&m, "bad", "old");
    ASSERT_EQ(made_count(&m, ""), 3);
}

/* Of the first and the last chunk of a file the one that is read earlier or later: frames are
 * sealed by whoever has time. */
static void damage_in_order(struct made *m, const char *path, bool later)
{
    const struct extent_vector *extents = &find(m, path)->extents;
    const struct chunk_location *first = &extents->items[0].chunk.location;
    const struct chunk_location *last = &extents->items[extents->count - 1].chunk.location;

    ASSERT_EQ(first->pack_no, last->pack_no);
    ASSERT_TRUE(first->frame_offset != last->frame_offset);
    bool is_first = (first->frame_offset > last->frame_offset) == later;
    damage(m, path, is_first ? 0 : extents->count - 1);
}

/* Two chunks of a large file differ; one worker takes them in the order of their places. */
static void change_two_chunks(struct made *m)
{
    int fd = open(made_path(m, "bad"), O_WRONLY | O_CLOEXEC);
    ASSERT_EQ(pwrite(fd, "x", 1, 0), 1);
    ASSERT_EQ(pwrite(fd, "x", 1, MIB - 1), 1);
    ASSERT_EQ(close(fd), 0);
    m->options.threads = 1;
}

TEST(file_half_rewritten_loses_its_name)
{
    CLEANUP(made_release) struct made m;
    heavy_tree(&m);
    made_run(&m, 0);
    damage_in_order(&m, "top/bad", true);
    change_two_chunks(&m);
    made_run(&m, 1);
    ASSERT_TRUE(made_has_problem(&m, "bad", "bad.umbra-incomplete"));
    ASSERT_FALSE(made_exists(&m, "bad"));
    ASSERT_TRUE(made_exists(&m, "bad.umbra-incomplete"));
    made_assert_random(&m, "good", MIB, 2);
}

TEST(file_not_yet_rewritten_keeps_it)
{
    CLEANUP(made_release) struct made m;
    heavy_tree(&m);
    made_run(&m, 0);
    damage_in_order(&m, "top/bad", false);
    change_two_chunks(&m);
    made_run(&m, 1);
    ASSERT_TRUE(made_has_problem(&m, "bad", "unchanged"));
    ASSERT_EQ(made_count(&m, ""), 3);
}

/* What is not needed is not read. */
TEST(damage_of_what_is_there_does_not_matter)
{
    CLEANUP(made_release) struct made m;
    heavy_tree(&m);
    made_run(&m, 0);
    damage(&m, "top/bad", 4);
    made_run(&m, 0);
    ASSERT_EQ(m.stats.unchanged_count, 4);
}

TEST(damaged_first_name_of_a_hard_link)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    for (int i = 0; i < 2; i++) {
        struct entry *e = made_random(&m, i == 0 ? "top/1" : "top/2", MIB, 1);
        e->inode = 7;
        e->nlink = 2;
    }
    made_finish(&m, "top", NULL);
    damage(&m, "top/1", 0);
    made_run(&m, 2);
    ASSERT_TRUE(made_has_problem(&m, "1", "packs/"));
    ASSERT_TRUE(made_has_problem(&m, "2", "packs/"));
    ASSERT_EQ(m.stats.file_count, 2);
    ASSERT_EQ(m.stats.failed_count, 2);
    ASSERT_EQ(m.stats.size_bytes, m.stats.failed_bytes); /* of both names once */
    ASSERT_EQ(made_count(&m, ""), 0);
}

/* Hints that lead nowhere, to another chunk, or out of the pack: the index knows better. */
TEST(wrong_hints)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    static const char *const names[] = {"top/a", "top/b", "top/c", "top/d", "top/e"};
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        made_random(&m, names[i], 3 * MADE_CHUNK_LEN, i);
    struct pack_name unknown = {{1}};
    uint32_t unknown_no;
    ASSERT_OK(pack_table_intern(m.repo->names, &unknown, &unknown_no));
    ASSERT_OK(writer_push_out(m.writer, CHUNK_DATA));
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        struct extent_vector *extents = &find(&m, names[i])->extents;
        for (size_t j = 0; j < extents->count; j++)
            ASSERT_TRUE(writer_resolve(m.writer, &extents->items[j].chunk));
        struct chunk_location *first = &extents->items[0].chunk.location;
        switch (i) {
        case 0: first->pack_no = unknown_no; break;
        case 1: *first = extents->items[1].chunk.location; break;
        case 2: first->frame_offset += 1000000000; break;
        case 3: first->frame_len = UINT32_MAX; break;
        default: first->chunk_offset = UINT32_MAX - 5; break;
        }
    }
    made_finish(&m, "top", NULL);
    m.options.verify = true;
    made_run(&m, 0);
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        made_assert_random(&m, names[i] + 4, 3 * MADE_CHUNK_LEN, i);
}

/* ---- hostile catalogs ---- */

TEST(names_below_what_is_no_directory)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    made_symlink(&m, "top/link", "../outside");
    made_text(&m, "top/link/evil", "evil");
    made_directory(&m, "top/link/dir");
    made_text(&m, "top/link/dir/evil", "evil");
    made_text(&m, "top/file", "f");
    made_text(&m, "top/file/evil", "evil");
    made_text(&m, "top/missing/evil", "evil");
    made_text(&m, "top/z", "good");
    made_finish(&m, "top", NULL);
    ASSERT_EQ(mkdir(made_path(&m, "../outside"), 0755), 0);
    ASSERT_OK(made_try(&m));
    ASSERT_EQ(made_count(&m, "../outside"), 0);
    ASSERT_TRUE(made_has_problem(&m, "link/evil", "not in the backup"));
    ASSERT_TRUE(made_has_problem(&m, "link/dir/evil", ""));
    ASSERT_TRUE(made_has_problem(&m, "file/evil", "not in the backup"));
    ASSERT_TRUE(made_has_problem(&m, "missing/evil", "not in the backup"));
    made_assert_text(&m, "z", "good");
    ASSERT_EQ(made_count(&m, ""), 3);
}

/* ---- hostile targets ---- */

TEST(symlinks_in_the_target_are_replaced)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    made_directory(&m, "top/dir");
    made_text(&m, "top/dir/file", "inside");
    made_text(&m, "top/file", "inside");
    made_finish(&m, "top", NULL);
    ASSERT_EQ(mkdir(m.target, 0755), 0);
    ASSERT_EQ(mkdir(made_path(&m, "../outside"), 0700), 0);
    made_write(&m, "../outside/file", "outside", 7);
    ASSERT_EQ(symlink("../outside", made_path(&m, "dir")), 0);
    ASSERT_EQ(symlink("../outside/file", made_path(&m, "file")), 0);
    m.options.delete_extra = true;
    made_run(&m, 0);
    made_assert_text(&m, "../outside/file", "outside");
    ASSERT_EQ(made_count(&m, "../outside"), 1);
    made_assert_text(&m, "dir/file", "inside");
    made_assert_text(&m, "file", "inside");
    struct stat st;
    ASSERT_EQ(stat(made_path(&m, "../outside"), &st), 0);
    ASSERT_EQ(st.st_mode & 0777, 0700);
}

struct race {
    char *dir, *away, *outside, *file, *outside_file;
    _Atomic bool stop;
};

/* Keeps exchanging a directory and a file for symlinks that lead outside. */
static void *race_run(void *arg)
{
    struct race *race = arg;

    while (!atomic_load(&race->stop)) {
        if (renameat2(AT_FDCWD, race->dir, AT_FDCWD, race->away, RENAME_NOREPLACE) == 0) {
            (void)!symlink(race->outside, race->dir);
            (void)sched_yield();
            (void)unlink(race->dir);
            (void)renameat2(AT_FDCWD, race->away, AT_FDCWD, race->dir, RENAME_NOREPLACE);
        }
        (void)unlink(race->file);
        (void)!symlink(race->outside_file, race->file);
        (void)sched_yield();
        (void)unlink(race->file);
        (void)!link(race->outside_file, race->file);
        (void)sched_yield();
    }
    return NULL;
}

TEST(raced_symlinks_lead_nowhere)
{
    CLEANUP(made_release) struct made m;
    pthread_t thread;
    struct race race = {0};

    made_init(&m);
    made_directory(&m, "top");
    made_directory(&m, "top/dir")->mode = 0777;
    for (int i = 0; i < 20; i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "top/dir/f%d", i);
        made_text(&m, path, "inside");
        (void)snprintf(path, sizeof(path), "top/dir/s%d", i);
        made_directory(&m, path);
    }
    made_random(&m, "top/file", 2 * MIB, 1)->mode = 0600;
    made_finish(&m, "top", NULL);
    made_run(&m, 0);

    ASSERT_EQ(mkdir(made_path(&m, "../outside"), 0755), 0);
    made_write(&m, "../victim", "outside", 7);
    race.dir = strdup(made_path(&m, "dir"));
    race.file = strdup(made_path(&m, "file"));
    race.away = strdup(made_path(&m, "../away"));
    race.outside = strdup(made_path(&m, "../outside"));
    race.outside_file = strdup(made_path(&m, "../victim"));
    ASSERT_EQ(pthread_create(&thread, NULL, race_run, &race), 0);
    for (int i = 0; i < 60; i++) {
        m.options.delete_extra = i % 2;
        m.options.verify = i % 3 == 0;
        (void)made_try(&m); /* it may fail; what counts is what it does not do */
        ASSERT_EQ(made_count(&m, "../outside"), 0);
        made_assert_text(&m, "../victim", "outside");
        struct stat st;
        ASSERT_EQ(stat(race.outside_file, &st), 0);
        ASSERT_EQ(st.st_mode & 07777, 0644);
    }
    atomic_store(&race.stop, true);
    ASSERT_EQ(pthread_join(thread, NULL), 0);
    free(race.dir);
    free(race.file);
    free(race.away);
    free(race.outside);
    free(race.outside_file);
}

/* ---- no space, other file systems ---- */

/* Mounts on target/path, in a mount namespace of this process's own, so that nothing is left. */
static bool mount_tmpfs(const struct made *m, const char *path, const char *options)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return false;
    ASSERT_TRUE(mkdir(m->target, 0755) == 0 || errno == EEXIST);
    ASSERT_TRUE(mkdir(made_path(m, path), 0755) == 0 || errno == EEXIST);
    return mount("tmpfs", made_path(m, path), "tmpfs", 0, options) == 0;
}

static void no_space_tree(struct made *m)
{
    made_init(m);
    made_directory(m, "top");
    made_directory(m, "top/many");
    for (unsigned i = 0; i < 200; i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "top/many/%u", i);
        made_random(m, path, i % 10 == 0 ? 3 * MADE_CHUNK_LEN : 3000, i);
    }
    made_random(m, "top/zz", 8 * MIB, 1000);
    made_finish(m, "top", NULL);
}

TEST(no_space)
{
    CLEANUP(made_release) struct made m;
    no_space_tree(&m);
    if (!mount_tmpfs(&m, "", "size=2m"))
        return test_skip("only root can mount");
    ASSERT_ERR(made_try(&m), -ENOSPC);
    ASSERT_TRUE(strstr(error_text(-ENOSPC), "cannot restore '"));
    ASSERT_FALSE(made_exists(&m, "zz"));
    unsigned whole = 0;
    for (unsigned i = 0; i < 200; i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "many/%u", i);
        if (!made_exists(&m, path))
            continue;
        whole++;
        made_assert_random(&m, path, i % 10 == 0 ? 3 * MADE_CHUNK_LEN : 3000, i);
    }
    ASSERT_EQ(made_count(&m, "many"), whole);
    ASSERT_EQ(umount(m.target), 0);
}

TEST(no_inodes)
{
    CLEANUP(made_release) struct made m;
    no_space_tree(&m);
    if (!mount_tmpfs(&m, "", "nr_inodes=50"))
        return test_skip("only root can mount");
    ASSERT_ERR(made_try(&m), -ENOSPC);
    ASSERT_EQ(umount(m.target), 0);
}

TEST(links_across_file_systems_become_copies)
{
    CLEANUP(made_release) struct made m;
    static const char *const names[] = {"top/a/1", "top/b/2", "top/b/3"};
    made_init(&m);
    made_directory(&m, "top");
    made_directory(&m, "top/a");
    made_directory(&m, "top/b");
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        struct entry *e = made_random(&m, names[i], 2 * MADE_CHUNK_LEN, 1);
        e->inode = 7;
        e->nlink = 3;
        e->mtime.nsec = 5;
        e->mtime.sec = 5;
    }
    made_finish(&m, "top", NULL);
    if (!mount_tmpfs(&m, "b", "size=2m"))
        return test_skip("only root can mount");
    made_run(&m, 0);
    made_assert_random(&m, "a/1", 2 * MADE_CHUNK_LEN, 1);
    made_assert_random(&m, "b/2", 2 * MADE_CHUNK_LEN, 1);
    struct stat a, b, c;
    ASSERT_EQ(stat(made_path(&m, "a/1"), &a), 0);
    ASSERT_EQ(stat(made_path(&m, "b/2"), &b), 0);
    ASSERT_EQ(stat(made_path(&m, "b/3"), &c), 0);
    ASSERT_EQ(a.st_nlink, 1);
    ASSERT_EQ(b.st_nlink, 2);
    ASSERT_EQ(b.st_ino, c.st_ino);
    ASSERT_EQ(umount(made_path(&m, "b")), 0);
}

/* ---- who is not root ---- */

static void become(uid_t id)
{
    /* All threads do it; a process that cannot be looked into cannot use its own /proc either. */
    if (id == 0)
        ASSERT_EQ(seteuid(0), 0);
    ASSERT_EQ(setgroups(0, NULL), 0);
    ASSERT_EQ(setegid(id), 0);
    ASSERT_EQ(seteuid(id), 0);
    ASSERT_EQ(prctl(PR_SET_DUMPABLE, 1), 0);
}

static void restore_as_nobody(struct made *m)
{
    struct stat st;

    made_run(m, 3);
    ASSERT_TRUE(made_has_problem(m, "null", "cannot be made"));
    ASSERT_TRUE(made_has_problem(m, "theirs", "owner and group"));
    ASSERT_EQ(stat(made_path(m, "theirs"), &st), 0);
    ASSERT_EQ(st.st_mode & 06000, 0);

    /* What he locked himself out of, too. */
    made_run(m, 3);
    ASSERT_EQ(made_action(m, "locked/file"), '=');
    ASSERT_EQ(stat(made_path(m, "locked"), &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0100);
}

TEST(not_root)
{
    if (geteuid() != 0)
        return test_skip("needs root to become somebody else");
    CLEANUP(made_release) struct made m;
    made_init(&m);
    struct entry *e = made_directory(&m, "top");
    e->uid = e->gid = 65534;
    e = made_directory(&m, "top/locked");
    e->uid = e->gid = 65534;
    e->mode = 0100;
    e = made_text(&m, "top/locked/file", "mine");
    e->uid = e->gid = 65534;
    made_text(&m, "top/theirs", "setuid")->mode = 04755;
    e = made_add(&m, "top/null", ENTRY_CHAR);
    e->rdev_major = 1;
    e->rdev_minor = 3;
    made_finish(&m, "top", NULL);
    ASSERT_EQ(chmod(m.around, 0777), 0);
    ASSERT_EQ(chmod(test_tmpdir(), 0711), 0);
    become(65534);
    restore_as_nobody(&m);
    become(0);
    made_assert_text(&m, "locked/file", "mine");
}

/* ---- being interrupted, being lied to ---- */

static struct progress cancel_progress;

static void cancel_in_the_middle(struct made *m, char action, const char *path _unused_)
{
    if (action == 'c' && m->actions.count == 50)
        atomic_store(&cancel_progress.cancelled, 1);
}

TEST(cancellation)
{
    CLEANUP(made_release) struct made m;
    no_space_tree(&m);
    m.options.progress = &cancel_progress;
    m.on_action = cancel_in_the_middle;
    ASSERT_ERR(made_try(&m), -UMBRA_E_CANCELLED);
    for (unsigned i = 0; i < 200; i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "many/%u", i);
        if (made_exists(&m, path))
            made_assert_random(&m, path, i % 10 == 0 ? 3 * MADE_CHUNK_LEN : 3000, i);
    }
    m.on_action = NULL;
    atomic_store(&cancel_progress.cancelled, 0);
    made_run(&m, 0); /* the next one goes on */
    made_assert_random(&m, "zz", 8 * MIB, 1000);
}

static void tamper(struct made *m, char action _unused_, const char *path)
{
    if (strcmp(path, "b") != 0)
        return;
    int fd = open(made_path(m, "b"), O_WRONLY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(pwrite(fd, "X", 1, MADE_CHUNK_LEN + 1), 1);
    ASSERT_EQ(close(fd), 0);
    (void)chmod(made_path(m, "b"), 0640);
}

TEST(verification_notices)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    made_random(&m, "top/a", 3 * MADE_CHUNK_LEN, 1);
    made_random(&m, "top/b", 3 * MADE_CHUNK_LEN, 2);
    made_finish(&m, "top", NULL);
    m.options.verify = true;
    m.on_action = tamper;
    made_run(&m, 2);
    ASSERT_TRUE(made_has_problem(&m, "b", "contents differ at byte 65536"));
    ASSERT_TRUE(made_has_problem(&m, "b", "mode"));
}

TEST(target_that_is_no_directory)
{
    CLEANUP(made_release) struct made m;
    heavy_tree(&m);
    made_write(&m, "../target", "", 0);
    ASSERT_ERR(made_try(&m), -ENOTDIR);
    m.options.dry_run = true;
    ASSERT_ERR(made_try(&m), -ENOTDIR);
}

TEST_MAIN()
