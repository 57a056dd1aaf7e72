/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is refused, and what is found changed. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/log.h"
#include "basic/test.h"
#include "tree/test-mounts.h"
#include "treetx/note.h"
#include "treetx/test-tree.h"

static char root[512];
static char name[TREETX_STAGE_NAME_MAX];

static void setup(const char *test)
{
    char state[512];

    (void)snprintf(state, sizeof(state), "%s/state", test_tmpdir());
    ASSERT_EQ(setenv("UMBRA_STATE_DIR", state, 1), 0);
    (void)snprintf(root, sizeof(root), "%s/%s", test_tmpdir(), test);
    ASSERT_EQ(mkdir(root, 0755), 0);
    tree_make(root);
}

/* Two at a time. */
static char *below(const char *path)
{
    static char texts[2][1024];
    static unsigned turn;
    char *text = texts[++turn % ELEMENTSOF(texts)];

    (void)snprintf(text, sizeof(texts[0]), "%s/%s", root, path);
    return text;
}

static void write_file(const char *path, const char *text)
{
    CLEANUP_CLOSE int fd = open(below(path), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, text, strlen(text)), strlen(text));
}

static bool exists(const char *path)
{
    return access(below(path), F_OK) == 0;
}

static struct treetx *begin(void)
{
    struct treetx *tx = NULL;

    ASSERT_OK(treetx_begin(root, -EBADF, NULL, &tx));
    return tx;
}

/* A new file in the stage; its name in name. */
static const char *stage(struct treetx *tx)
{
    treetx_stage_name(tx, name);
    CLEANUP_CLOSE int fd =
        openat(treetx_stage_fd(tx), name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, "new", 3), 3);
    return name;
}

static void expect_state(enum treetx_state state)
{
    enum treetx_state now;

    ASSERT_OK(treetx_look(root, &now));
    ASSERT_EQ(now, state);
}

static size_t note_count(void)
{
    CLEANUP(note_vector_release_all) struct note_vector notes = {0};

    ASSERT_OK(note_list(&notes));
    return notes.count;
}

TEST(impossible_wishes_are_refused)
{
    setup("refused");
    CLEANUP_FREE char *before = tree_dump(root, false);
    struct treetx *tx = begin();
    struct entry file = {.type = ENTRY_REGULAR, .mode = 0600};

    ASSERT_ERR(treetx_put(tx, stage(tx), "keep/a"), -EEXIST);
    ASSERT_ERR(treetx_put(tx, name, "nowhere/a"), -ENOENT);
    ASSERT_ERR(treetx_put(tx, name, "keep/a/b"), -ENOTDIR);
    ASSERT_ERR(treetx_put(tx, name, "../a"), -EINVAL);
    ASSERT_ERR(treetx_put(tx, name, ""), -EINVAL);
    ASSERT_ERR(treetx_put(tx, name, TREETX_STAGE_NAME "/a"), -EINVAL);
    ASSERT_ERR(treetx_put(tx, "none", "keep/b"), -ENOENT);
    ASSERT_ERR(treetx_put(tx, "../old", "keep/b"), -EINVAL);
    ASSERT_ERR(treetx_replace(tx, name, "keep/b"), -ENOENT);
    ASSERT_ERR(treetx_delete(tx, "keep/b"), -ENOENT);
    ASSERT_ERR(treetx_delete(tx, TREETX_STAGE_NAME), -EINVAL);
    ASSERT_ERR(treetx_link(tx, "keep", "keep/b"), -EPERM);
    ASSERT_ERR(treetx_link(tx, "keep/b", "keep/c"), -ENOENT);
    ASSERT_ERR(treetx_link(tx, "keep/a", "dir/first"), -EEXIST);
    ASSERT_ERR(treetx_set_meta(tx, "keep", &file, NULL), -EINVAL);
    ASSERT_ERR(treetx_copy(tx, "grows", name, 0, 4), -EINVAL);
    ASSERT_ERR(treetx_copy(tx, "dir/fifo", name, 0, 3), -EINVAL);
    ASSERT_ERR(treetx_punch(tx, "grows", INT64_MAX, 1), -EINVAL);
    ASSERT_OK(treetx_abandon(tx));
    CLEANUP_FREE char *after = tree_dump(root, false);
    ASSERT_STREQ(after, before);
    ASSERT_EQ(note_count(), 0);
    tree_remove(root);
}

TEST(what_moves_is_left_alone_otherwise)
{
    setup("twice");
    struct treetx *tx = begin();
    struct entry file = {.type = ENTRY_REGULAR, .mode = 0600};

    ASSERT_OK(treetx_delete(tx, "dir/gone"));
    ASSERT_ERR(treetx_delete(tx, "dir/gone"), -EINVAL);
    ASSERT_ERR(treetx_delete(tx, "dir/gone/deep"), -EINVAL);
    ASSERT_ERR(treetx_delete(tx, "dir"), -EINVAL);
    ASSERT_ERR(treetx_set_meta(tx, "dir/gone/deep/file", &file, NULL), -ENOENT);
    ASSERT_OK(treetx_replace(tx, stage(tx), "dir/file-to-be"));
    ASSERT_ERR(treetx_put(tx, stage(tx), "dir/file-to-be/a"), -EINVAL);
    ASSERT_OK(treetx_set_meta(tx, "dir/file-to-be", &file, NULL));
    ASSERT_OK(treetx_link(tx, "dir/first", "dir/more"));
    ASSERT_ERR(treetx_delete(tx, "dir/first"), -EINVAL);
    ASSERT_ERR(treetx_set_meta(tx, "dir/more", &file, NULL), -EINVAL);
    ASSERT_OK(treetx_punch(tx, "grows", 0, 4096));
    ASSERT_ERR(treetx_replace(tx, stage(tx), "grows"), -EINVAL);
    ASSERT_OK(treetx_abandon(tx));
    tree_remove(root);
}

TEST(one_at_a_time)
{
    setup("busy");
    struct treetx *tx = begin(), *other = NULL;
    enum treetx_outcome outcome;

    expect_state(TREETX_RUNNING);
    ASSERT_ERR(treetx_begin(root, -EBADF, NULL, &other), -EBUSY);
    ASSERT_ERR(treetx_recover(root, 0, &outcome), -EBUSY);
    ASSERT_ERR(treetx_discard(root), -EBUSY);
    ASSERT_OK(treetx_delete(tx, "keep/a"));
    ASSERT_OK(treetx_commit(tx, NULL));
    treetx_free(tx);
    ASSERT_ERR(treetx_begin(root, -EBADF, NULL, &other), -EEXIST);
    ASSERT_OK(treetx_recover(root, 0, &outcome));
    ASSERT_EQ(outcome, TREETX_NOTHING);
    ASSERT_OK(treetx_discard(root));
    ASSERT_ERR(treetx_discard(root), -ENOENT);
    ASSERT_ERR(treetx_rollback(root, 0), -ENOENT);
    ASSERT_TRUE(!exists("keep/a"));
    tree_remove(root);
}

/* Between the plan and the commit. */
TEST(a_change_of_somebody_else_ends_the_commit)
{
    setup("foreign");
    struct treetx *tx = begin();

    ASSERT_OK(treetx_delete(tx, "dir/deleted"));
    ASSERT_OK(treetx_put(tx, stage(tx), "dir/new"));
    ASSERT_OK(treetx_replace(tx, stage(tx), "dir/replaced"));
    ASSERT_EQ(unlink(below("dir/replaced")), 0);
    write_file("dir/other", "somebody else's");
    ASSERT_EQ(rename(below("dir/other"), below("dir/replaced")), 0);
    CLEANUP_FREE char *before = tree_dump(root, true);
    ASSERT_ERR(treetx_commit(tx, NULL), -UMBRA_E_TREE_CHANGED);
    ASSERT_TRUE(strstr(error_text(-UMBRA_E_TREE_CHANGED), "'dir/replaced'") != NULL);
    ASSERT_OK(treetx_abandon(tx));
    CLEANUP_FREE char *after = tree_dump(root, true);
    ASSERT_TRUE(strstr(after, "dir/deleted") && !strstr(after, "dir/new "));
    ASSERT_TRUE(strstr(before, "dir/replaced") && strstr(after, "dir/replaced"));
    expect_state(TREETX_NONE);
    tree_remove(root);
}

TEST(contents_that_were_written_end_the_commit)
{
    setup("written");
    struct treetx *tx = begin();

    ASSERT_OK(treetx_punch(tx, "grows", 0, 4096));
    (void)usleep(20000); /* coarse clocks */
    write_file("grows", "x");
    ASSERT_ERR(treetx_commit(tx, NULL), -UMBRA_E_TREE_CHANGED);
    ASSERT_OK(treetx_abandon(tx));
    tree_remove(root);
}

/* ---- volumes ---- */

/* All that there is, by root. */
static void fill_up(const char *path)
{
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    static char block[4096];

    ASSERT_TRUE(fd >= 0);
    while (write(fd, block, sizeof(block)) > 0)
        ;
    ASSERT_EQ(errno, ENOSPC);
}

TEST(a_full_disk_changes_nothing)
{
    static const char *const mkfs[] = {"mkfs.ext4", "-q", "-F", NULL};
    char volume[512], filler[600];
    struct treetx *tx;

    (void)snprintf(volume, sizeof(volume), "%s/volume", test_tmpdir());
    ASSERT_EQ(mkdir(volume, 0755), 0);
    test_mount_image(volume, mkfs, 32 * MIB, NULL);
    setup("volume/full");
    CLEANUP_FREE char *before = tree_dump(root, false);
    tx = tree_plan_change(root);
    (void)snprintf(filler, sizeof(filler), "%s/filler", volume);
    fill_up(filler);
    ASSERT_ERR(treetx_commit(tx, NULL), -ENOSPC);
    ASSERT_OK(treetx_abandon(tx));
    CLEANUP_FREE char *after = tree_dump(root, false);
    ASSERT_STREQ(after, before);
    expect_state(TREETX_NONE);
    ASSERT_EQ(note_count(), 0);
}

TEST(volumes_inside_stay)
{
    setup("inside");
    struct treetx *tx = begin();

    if (!test_mount_tmpfs(below("dir/gone/deep"))) {
        ASSERT_OK(treetx_abandon(tx));
        tree_remove(root);
        test_skip("may not mount here");
        return;
    }
    ASSERT_ERR(treetx_delete(tx, "dir/gone/deep"), -EXDEV);
    ASSERT_ERR(treetx_put(tx, stage(tx), "dir/gone/deep/new"), -EXDEV);
    ASSERT_OK(treetx_delete(tx, "dir/gone"));
    ASSERT_ERR(treetx_commit(tx, NULL), -EBUSY);
    ASSERT_TRUE(strstr(error_text(-EBUSY), "dir/gone/deep") != NULL);
    ASSERT_OK(treetx_abandon(tx));
    test_unmount_all();
    ASSERT_TRUE(exists("dir/gone/deep/file"));
    tree_remove(root);
}

/* ---- between a crash and the recovery ---- */

static void change(const char *dir)
{
    struct treetx *tx = tree_plan_change(dir);

    ASSERT_OK(treetx_commit(tx, NULL));
    treetx_free(tx);
}

/* The tree is in the middle of the change: the file is there, and the commit is not. */
static void stop_in_the_middle(void)
{
    for (unsigned call = 400; !exists("dir/fourth"); call += 5) {
        ASSERT_TRUE(tree_kill_at(call, change, root));
        enum treetx_outcome outcome;
        if (!exists("dir/fourth"))
            ASSERT_OK(treetx_recover(root, 0, &outcome));
    }
    expect_state(TREETX_UNFINISHED);
    ASSERT_EQ(note_count(), 1);
}

static void drop_warning(enum log_level level, const char *line, void *userdata)
{
    (void)line;
    *(unsigned *)userdata += level == LOG_LEVEL_WARNING;
}

/* Somebody moves a file away and back. */
static void set_mtime(const char *path, time_t sec, long nsec)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = sec, .tv_nsec = nsec}};

    ASSERT_EQ(utimensat(AT_FDCWD, below(path), times, 0), 0);
}

TEST(recovery_leaves_a_changed_tree_alone)
{
    setup("recovery");
    CLEANUP_FREE char *old = tree_dump(root, false);
    enum treetx_outcome outcome = TREETX_NOTHING;

    stop_in_the_middle();
    ASSERT_EQ(rename(below("dir/replaced"), below("keep/aside")), 0);
    write_file("dir/replaced", "somebody else's");
    for (int tries = 0; tries < 3; tries++) {
        ASSERT_ERR(treetx_recover(root, 0, &outcome), -UMBRA_E_TREE_CHANGED);
        const char *words = error_text(-UMBRA_E_TREE_CHANGED);
        ASSERT_TRUE(strstr(words, "'dir/replaced'") && strstr(words, "--force"));
        expect_state(TREETX_UNFINISHED);
    }
    /* Put back as it was. */
    ASSERT_EQ(rename(below("keep/aside"), below("dir/replaced")), 0);
    ASSERT_OK(treetx_recover(root, 0, &outcome));
    ASSERT_EQ(outcome, TREETX_ROLLED_BACK);
    set_mtime("keep", 1000002, 456789);
    CLEANUP_FREE char *now = tree_dump(root, false);
    ASSERT_STREQ(now, old);
    tree_remove(root);
}

TEST(recovery_can_be_forced)
{
    setup("forced");
    enum treetx_outcome outcome = TREETX_NOTHING;
    unsigned warnings = 0;
    int left = 0;

    stop_in_the_middle();
    ASSERT_EQ(unlink(below("dir/replaced")), 0);
    write_file("dir/replaced", "somebody else's");
    log_set_sink(drop_warning, &warnings);
    ASSERT_OK(treetx_recover(root, TREETX_FORCE, &outcome));
    log_set_sink(NULL, NULL);
    ASSERT_GE(warnings, 2);
    expect_state(TREETX_NONE);
    /* All else is back, and the old file is not lost. */
    CLEANUP_FREE char *now = tree_dump(root, false);
    ASSERT_TRUE(strstr(now, "\ndir/deleted ") && !strstr(now, "\ndir/new "));
    ASSERT_TRUE(!exists(TREETX_STAGE_NAME));
    for (const char *at = now; (at = strstr(at, "\n.umbra-left-")); at++)
        left += strstr(at, "/new/") != NULL;
    ASSERT_GT(left, 0);
    ASSERT_EQ(note_count(), 0);
    tree_remove(root);
}

TEST(a_rollback_leaves_a_changed_tree_alone)
{
    setup("rollback");
    change(root);
    CLEANUP_FREE char *new = tree_dump(root, true);
    ASSERT_EQ(rename(below("dir/replaced"), below("keep/aside")), 0);
    ASSERT_ERR(treetx_rollback(root, 0), -UMBRA_E_TREE_CHANGED);
    expect_state(TREETX_KEPT);
    ASSERT_EQ(note_count(), 0);
    ASSERT_EQ(rename(below("keep/aside"), below("dir/replaced")), 0);
    set_mtime("keep", 1000002, 456789);
    set_mtime("dir", 3000003, 99);
    CLEANUP_FREE char *now = tree_dump(root, true);
    ASSERT_STREQ(now, new);
    ASSERT_OK(treetx_rollback(root, 0));
    expect_state(TREETX_NONE);
    tree_remove(root);
}

/* ---- what is not ours ---- */

TEST(a_stage_that_others_can_write_to_is_not_trusted)
{
    setup("trust");
    enum treetx_outcome outcome;

    change(root);
    ASSERT_EQ(chmod(below(TREETX_STAGE_NAME), 0770), 0);
    ASSERT_ERR(treetx_recover(root, 0, &outcome), -EPERM);
    ASSERT_EQ(chmod(below(TREETX_STAGE_NAME), 0700), 0);
    if (geteuid() == 0) {
        ASSERT_EQ(chown(below(TREETX_STAGE_NAME), 12345, 12345), 0);
        ASSERT_ERR(treetx_rollback(root, 0), -EPERM);
        ASSERT_EQ(chown(below(TREETX_STAGE_NAME), 0, 0), 0);
    }
    ASSERT_OK(treetx_rollback(root, 0));
    tree_remove(root);
}

TEST(a_log_of_another_tree_is_refused)
{
    char other[512];
    enum treetx_outcome outcome;

    setup("mine");
    change(root);
    (void)snprintf(other, sizeof(other), "%s/theirs", test_tmpdir());
    ASSERT_EQ(mkdir(other, 0755), 0);
    char command[2048];
    (void)snprintf(command, sizeof(command), "cp -a '%s/" TREETX_STAGE_NAME "' '%s/'", root, other);
    ASSERT_EQ(system(command), 0);
    int r = treetx_recover(other, 0, &outcome);
    ASSERT_EQ(error_class(r), EXDEV);
    tree_remove(other);
    ASSERT_OK(treetx_discard(root));
    tree_remove(root);
}

static void overwrite(const char *path, off_t offset, size_t len)
{
    CLEANUP_CLOSE int fd = open(below(path), O_WRONLY | O_CLOEXEC);
    CLEANUP_FREE char *junk = malloc(len);

    memset(junk, 0x5a, len);
    ASSERT_EQ(pwrite(fd, junk, len, offset), len);
}

TEST(a_damaged_log_changes_nothing)
{
    setup("damaged");
    enum treetx_outcome outcome;

    stop_in_the_middle();
    CLEANUP_FREE char *before = tree_dump(root, false);
    overwrite(TREETX_STAGE_NAME "/log", 0, 4096); /* one restart area is enough */
    overwrite(TREETX_STAGE_NAME "/log", 3 * 4096, 64);
    int r = treetx_recover(root, 0, &outcome);
    ASSERT_EQ(error_class(r), EBADMSG);
    CLEANUP_FREE char *after = tree_dump(root, false);
    ASSERT_STREQ(after, before);
    /* Whoever gives up on it removes it himself; the note goes then, too. */
    tree_remove(root);
    ASSERT_OK(treetx_recover(root, 0, &outcome));
    ASSERT_EQ(outcome, TREETX_NOTHING);
    ASSERT_EQ(note_count(), 0);
}

/* In the flush behind which nothing says that it had been durable. */
TEST(a_log_that_has_lost_its_end_changes_nothing)
{
    setup("lost");
    enum treetx_outcome outcome;

    stop_in_the_middle();
    CLEANUP_FREE char *before = tree_dump(root, false);
    overwrite(TREETX_STAGE_NAME "/log", 4 * 4096, 64);
    int r = treetx_recover(root, 0, &outcome);
    ASSERT_EQ(error_class(r), EBADMSG);
    CLEANUP_FREE char *after = tree_dump(root, false);
    ASSERT_STREQ(after, before);
    tree_remove(root);
    ASSERT_OK(treetx_recover(root, 0, &outcome));
}

TEST(notes_of_trees_that_are_not_there)
{
    setup("away");
    char moved[600];
    enum treetx_outcome outcome;

    stop_in_the_middle();
    (void)snprintf(moved, sizeof(moved), "%s.moved", root);
    ASSERT_EQ(rename(root, moved), 0);
    ASSERT_OK(treetx_recover_all(NULL, NULL)); /* calls nobody */
    ASSERT_EQ(note_count(), 1);
    ASSERT_OK(treetx_recover(moved, 0, &outcome));
    ASSERT_EQ(outcome, TREETX_ROLLED_BACK);
    ASSERT_EQ(note_count(), 0);
    tree_remove(moved);
}

TEST(notes_are_checked)
{
    CLEANUP(buffer_release) struct buffer b = {0};
    CLEANUP(note_release) struct note decoded = {0};
    struct note note = {.target = (char[]){"/a/b"},
                        .root = {.type = 1, .len = 3, .bytes = {1, 2, 3}}};

    note.has_times = true;
    note.times[1] = (struct timespec){.tv_sec = -5, .tv_nsec = 999999999};
    ASSERT_OK(note_encode(&note, &b));
    ASSERT_OK(note_decode(b.data, b.len, &decoded));
    ASSERT_STREQ(decoded.target, "/a/b");
    ASSERT_EQ(decoded.times[1].tv_sec, -5);
    for (size_t i = 0; i < b.len; i++) {
        struct note bad;
        b.data[i] ^= 0x40;
        ASSERT_TRUE(note_decode(b.data, b.len, &bad) < 0);
        b.data[i] ^= 0x40;
        ASSERT_TRUE(note_decode(b.data, i, &bad) < 0);
    }
}

TEST_MAIN()
