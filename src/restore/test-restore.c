/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What restore makes of healthy backups: layouts, every type, used targets, selection. */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "restore/test-made.h"

/* /top/a, /top/dir/b, /top/dir/sub/c */
static void small_tree(struct made *m)
{
    made_init(m);
    made_directory(m, "");
    made_directory(m, "top");
    made_text(m, "top/a", "alpha");
    made_directory(m, "top/dir");
    made_text(m, "top/dir/b", "beta");
    made_directory(m, "top/dir/sub")->mode = 0500;
    made_text(m, "top/dir/sub/c", "gamma");
    made_finish(m, "top", NULL);
}

static struct stat stat_of(const struct made *m, const char *path)
{
    struct stat st;
    if (lstat(made_path(m, path), &st) < 0)
        test_fail(__FILE__, __LINE__, "'%s' is not there: %m", path);
    return st;
}

/* ---- layout ---- */

TEST(single_root_lands_in_target)
{
    CLEANUP(made_release) struct made m;
    small_tree(&m);
    m.options.verify = true;
    made_run(&m, 0);
    made_assert_text(&m, "a", "alpha");
    made_assert_text(&m, "dir/b", "beta");
    made_assert_text(&m, "dir/sub/c", "gamma");
    ASSERT_EQ(made_count(&m, ""), 2);
    ASSERT_EQ(stat_of(&m, "dir/sub").st_mode & 07777, 0500);
    ASSERT_EQ(stat_of(&m, "").st_mode & 07777, 0755);
    ASSERT_EQ(m.stats.file_count, 3);
    ASSERT_EQ(m.stats.directory_count, 2);
    ASSERT_EQ(m.stats.created_count, 6); /* with the target itself */
    ASSERT_EQ(m.stats.size_bytes, 14);
    ASSERT_EQ(m.stats.written_bytes, 14);
    ASSERT_EQ(m.stats.verified_bytes, 14);
}

TEST(several_roots_land_under_their_paths)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "");
    made_directory(&m, "srv")->mode = 0711;
    made_directory(&m, "srv/www");
    made_text(&m, "srv/www/index", "hello");
    made_directory(&m, "etc");
    made_text(&m, "etc/passwd", "root");
    made_finish(&m, "etc", "srv/www", NULL);
    m.options.verify = true;
    made_run(&m, 0);
    made_assert_text(&m, "srv/www/index", "hello");
    made_assert_text(&m, "etc/passwd", "root");
    ASSERT_EQ(stat_of(&m, "srv").st_mode & 07777, 0711);

    /* What only leads to a root is left as it is when it was there. */
    ASSERT_EQ(chmod(made_path(&m, "srv"), 0700), 0);
    ASSERT_EQ(chmod(made_path(&m, "etc"), 0700), 0);
    made_run(&m, 0);
    ASSERT_EQ(stat_of(&m, "srv").st_mode & 07777, 0700);
    ASSERT_EQ(stat_of(&m, "etc").st_mode & 07777, 0755);
    ASSERT_EQ(made_action(&m, "etc"), 'a');
    ASSERT_EQ(made_action(&m, "srv"), 0);
}

TEST(subpath_of_a_directory_or_file)
{
    CLEANUP(made_release) struct made m;
    small_tree(&m);
    m.options.subpath = "/top/dir/";
    made_run(&m, 0);
    made_assert_text(&m, "b", "beta");
    made_assert_text(&m, "sub/c", "gamma");
    ASSERT_EQ(made_count(&m, ""), 2);

    m.options.subpath = "/top/dir/sub/c";
    made_run(&m, 0);
    made_assert_text(&m, "c", "gamma");
    ASSERT_EQ(m.stats.file_count, 1);
    ASSERT_EQ(made_count(&m, ""), 3);

    m.options.subpath = "/top/nothing";
    ASSERT_ERR(made_try(&m), -ENOENT);
    m.options.subpath = "/top/../top";
    ASSERT_ERR(made_try(&m), -EINVAL);
}

TEST(root_that_is_a_file)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "");
    made_directory(&m, "etc");
    made_text(&m, "etc/fstab", "/dev/sda1");
    made_finish(&m, "etc/fstab", NULL);
    m.options.verify = true;
    made_run(&m, 0);
    made_assert_text(&m, "fstab", "/dev/sda1");
    ASSERT_EQ(made_count(&m, ""), 1);
}

TEST(target_and_its_parents_are_made)
{
    CLEANUP(made_release) struct made m;
    small_tree(&m);
    char *deeper;
    ASSERT_TRUE(asprintf(&deeper, "%s/x/y/z", m.target) > 0);
    free(m.target);
    m.target = deeper;
    made_run(&m, 0);
    made_assert_text(&m, "a", "alpha");
}

/* ---- every type ---- */

TEST(types_and_attributes)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top")->mode = 01750;
    struct entry *e = made_text(&m, "top/file", "data");
    e->mode = 04751;
    e->mtime = (struct entry_time){.sec = -1000, .nsec = 999999999};
    made_xattr(e, "user.one", "1");
    made_xattr(e, "user.two", "");
    made_symlink(&m, "top/link", "no/where");
    made_add(&m, "top/fifo", ENTRY_FIFO)->mode = 0620;
    made_add(&m, "top/socket", ENTRY_SOCKET);
    made_text(&m, "top/empty", "");
    made_add(&m, "top/odd \n\xff name", ENTRY_REGULAR);
    made_finish(&m, "top", NULL);
    m.options.verify = true;
    made_run(&m, 0);

    struct stat st = stat_of(&m, "file");
    ASSERT_EQ(st.st_mode, S_IFREG | 04751);
    ASSERT_EQ(st.st_mtim.tv_sec, -1000);
    ASSERT_EQ(st.st_mtim.tv_nsec, 999999999);
    char value[8], target[16] = "";
    ASSERT_EQ(getxattr(made_path(&m, "file"), "user.one", value, sizeof(value)), 1);
    ASSERT_EQ(getxattr(made_path(&m, "file"), "user.two", value, sizeof(value)), 0);
    ASSERT_EQ(readlink(made_path(&m, "link"), target, sizeof(target)), 8);
    ASSERT_STREQ(target, "no/where");
    ASSERT_EQ(stat_of(&m, "link").st_mtim.tv_nsec, 123456789);
    ASSERT_EQ(stat_of(&m, "fifo").st_mode, S_IFIFO | 0620);
    ASSERT_EQ(stat_of(&m, "socket").st_mode, S_IFSOCK | 0644);
    ASSERT_EQ(stat_of(&m, "empty").st_size, 0);
    ASSERT_TRUE(made_exists(&m, "odd \n\xff name"));
    st = stat_of(&m, "");
    ASSERT_EQ(st.st_mode & 07777, 01750);
    ASSERT_EQ(st.st_mtim.tv_nsec, 123456789);
    ASSERT_EQ(m.stats.other_count, 3);
}

TEST(devices)
{
    if (geteuid() != 0)
        return test_skip("only root makes devices");
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    struct entry *e = made_add(&m, "top/null", ENTRY_CHAR);
    e->rdev_major = 1;
    e->rdev_minor = 3;
    e = made_add(&m, "top/disk", ENTRY_BLOCK);
    e->rdev_major = 250;
    e->rdev_minor = 70000;
    made_finish(&m, "top", NULL);
    m.options.verify = true;
    made_run(&m, 0);
    ASSERT_EQ(stat_of(&m, "null").st_rdev, makedev(1, 3));
    ASSERT_EQ(stat_of(&m, "disk").st_rdev, makedev(250, 70000));

    /* Another number is another device. */
    ASSERT_EQ(unlink(made_path(&m, "null")), 0);
    ASSERT_EQ(mknod(made_path(&m, "null"), S_IFCHR | 0644, makedev(1, 5)), 0);
    made_run(&m, 0);
    ASSERT_EQ(made_action(&m, "null"), 'c');
    ASSERT_EQ(made_action(&m, "disk"), '=');
    ASSERT_EQ(stat_of(&m, "null").st_rdev, makedev(1, 3));
}

/* The ranges that are data, by SEEK_DATA; pairs of numbers, ended by -1. */
static void assert_data_map(const struct made *m, const char *path, const off_t *expected)
{
    CLEANUP_CLOSE int fd = open(made_path(m, path), O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    off_t at = 0, start;
    while ((start = lseek(fd, at, SEEK_DATA)) >= 0) {
        at = lseek(fd, start, SEEK_HOLE);
        ASSERT_EQ(start, expected[0]);
        ASSERT_EQ(at, expected[1]);
        expected += 2;
    }
    ASSERT_EQ(expected[0], -1);
}

TEST(holes_stay_holes)
{
    CLEANUP(made_release) struct made m;
    CLEANUP_FREE uint8_t *ones = malloc(4 * MIB);
    memset(ones, 1, 4 * MIB);
    made_init(&m);
    made_directory(&m, "top");
    struct entry *e = made_add(&m, "top/sparse", ENTRY_REGULAR);
    made_append_space(e, EXTENT_HOLE, MIB);
    made_append_data(&m, e, ones, MADE_CHUNK_LEN);
    made_append_space(e, EXTENT_HOLE, UINT64_C(1) << 40);
    made_append_data(&m, e, ones, 12345);
    made_append_space(e, EXTENT_HOLE, MIB);
    e = made_add(&m, "top/hole", ENTRY_REGULAR);
    made_append_space(e, EXTENT_HOLE, UINT64_C(1) << 41);
    e = made_add(&m, "top/zeros", ENTRY_REGULAR);
    made_append_space(e, EXTENT_ZERO, MIB);
    made_finish(&m, "top", NULL);
    m.options.verify = true;
    made_run(&m, 0);

    const off_t gib = 1 << 30, data2 = (off_t)(MIB + MADE_CHUNK_LEN) + 1024 * gib;
    const off_t map[] = {MIB, MIB + MADE_CHUNK_LEN, data2, data2 + 16384, -1}, nothing[] = {-1};
    assert_data_map(&m, "sparse", map);
    assert_data_map(&m, "hole", nothing);
    ASSERT_EQ(stat_of(&m, "hole").st_size, 2048 * gib);
    ASSERT_EQ(stat_of(&m, "hole").st_blocks, 0);
    ASSERT_GE(stat_of(&m, "zeros").st_blocks, MIB / 512);

    /* A hole that was filled is one again, whatever it was filled with. */
    for (int fill = 0; fill < 2; fill++) {
        int fd = open(made_path(&m, "sparse"), O_WRONLY | O_CLOEXEC);
        memset(ones, fill, 4 * MIB);
        ASSERT_EQ(pwrite(fd, ones, MIB, 0), MIB);
        ASSERT_EQ(close(fd), 0);
        made_run(&m, 0);
        ASSERT_EQ(made_action(&m, "sparse"), 'w');
        ASSERT_EQ(m.stats.written_bytes, 0);
        assert_data_map(&m, "sparse", map);
    }
    made_run(&m, 0);
    ASSERT_EQ(made_action(&m, "sparse"), '=');
}

/* ---- hard links ---- */

static void linked_tree(struct made *m)
{
    static const char *const names[] = {"top/a/1", "top/b/2", "top/b/3", "top/c/4"};
    made_init(m);
    made_directory(m, "top");
    made_directory(m, "top/a");
    made_directory(m, "top/b");
    made_directory(m, "top/c");
    for (size_t i = 0; i < ELEMENTSOF(names); i++) {
        struct entry *e = made_text(m, names[i], "shared");
        e->inode = 77;
        e->nlink = 4;
        e->mtime = e->ctime = (struct entry_time){.sec = 1500000000};
    }
    for (int i = 0; i < 2; i++) {
        struct entry *e = made_symlink(m, i == 0 ? "top/a/s" : "top/b/s", "x");
        e->inode = 78;
        e->nlink = 2;
        e->mtime = e->ctime = (struct entry_time){.sec = 1500000000};
    }
    made_finish(m, "top", NULL);
    m->options.verify = true;
}

TEST(hard_links)
{
    CLEANUP(made_release) struct made m;
    linked_tree(&m);
    made_run(&m, 0);
    ino_t ino = stat_of(&m, "a/1").st_ino;
    ASSERT_EQ(stat_of(&m, "a/1").st_nlink, 4);
    ASSERT_EQ(stat_of(&m, "b/2").st_ino, ino);
    ASSERT_EQ(stat_of(&m, "b/3").st_ino, ino);
    ASSERT_EQ(stat_of(&m, "c/4").st_ino, ino);
    ASSERT_EQ(stat_of(&m, "a/s").st_ino, stat_of(&m, "b/s").st_ino);
    ASSERT_EQ(stat_of(&m, "b").st_mtim.tv_nsec, 123456789); /* links were made in it */
    ASSERT_EQ(m.stats.written_bytes, 6);

    made_run(&m, 0);
    ASSERT_EQ(m.stats.unchanged_count, m.actions.count);

    /* A name that has become a file of its own is a link again. */
    ASSERT_EQ(unlink(made_path(&m, "b/3")), 0);
    made_write(&m, "b/3", "other", 5);
    made_run(&m, 0);
    ASSERT_EQ(stat_of(&m, "b/3").st_ino, ino);
}

TEST(first_selected_name_is_the_file)
{
    CLEANUP(made_release) struct made m;
    CLEANUP(exclude_set_freep) struct exclude_set *excludes = NULL;
    linked_tree(&m);
    ASSERT_OK(exclude_set_new(&excludes));
    ASSERT_OK(exclude_set_add(excludes, "/top/a", 6, "test"));
    m.options.excludes = excludes;
    made_run(&m, 0);
    ASSERT_EQ(stat_of(&m, "b/2").st_ino, stat_of(&m, "c/4").st_ino);
    ASSERT_EQ(stat_of(&m, "b/2").st_nlink, 3);
    ASSERT_FALSE(made_exists(&m, "a"));
}

TEST(links_never_lead_outside)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    made_text(&m, "top/file", "new contents");
    made_text(&m, "top/mode", "same")->mode = 0600;
    made_finish(&m, "top", NULL);
    ASSERT_EQ(mkdir(m.target, 0755), 0);
    made_write(&m, "../outside", "old contents", 12);
    ASSERT_EQ(link(made_path(&m, "../outside"), made_path(&m, "file")), 0);
    made_write(&m, "../outside2", "same", 4);
    ASSERT_EQ(link(made_path(&m, "../outside2"), made_path(&m, "mode")), 0);
    made_run(&m, 0);
    made_assert_text(&m, "file", "new contents");
    made_assert_text(&m, "../outside", "old contents");
    ASSERT_EQ(stat_of(&m, "../outside").st_nlink, 1);
    ASSERT_EQ(stat_of(&m, "mode").st_mode & 0777, 0600);
    ASSERT_EQ(stat_of(&m, "../outside2").st_mode & 0777, 0644);
}

/* ---- used targets ---- */

TEST(second_run_changes_nothing)
{
    CLEANUP(made_release) struct made m;
    small_tree(&m);
    made_run(&m, 0);
    struct stat before = stat_of(&m, "dir/b");
    made_run(&m, 0);
    ASSERT_EQ(m.stats.unchanged_count, 6);
    ASSERT_EQ(m.stats.created_count + m.stats.rewritten_count + m.stats.attributes_count, 0);
    ASSERT_EQ(m.stats.written_bytes, 0);
    struct stat after = stat_of(&m, "dir/b");
    ASSERT_EQ(after.st_ino, before.st_ino);
    ASSERT_EQ(after.st_ctim.tv_nsec, before.st_ctim.tv_nsec);
}

TEST(only_what_differs_is_rewritten)
{
    CLEANUP(made_release) struct made m;
    const size_t len = 4 * MIB + 777;
    made_init(&m);
    made_directory(&m, "top");
    made_random(&m, "top/large", len, 5);
    made_text(&m, "top/small", "the new one");
    made_text(&m, "top/attributes", "same");
    made_text(&m, "top/type", "was a directory");
    made_symlink(&m, "top/link", "new");
    made_add(&m, "top/fifo", ENTRY_FIFO);
    made_directory(&m, "top/dir");
    made_finish(&m, "top", NULL);
    made_run(&m, 0);

    struct stat large = stat_of(&m, "large"), small = stat_of(&m, "small");
    int fd = open(made_path(&m, "large"), O_WRONLY | O_CLOEXEC);
    ASSERT_EQ(pwrite(fd, "x", 1, 1000000), 1);
    ASSERT_EQ(pwrite(fd, "longer", 6, (off_t)len + 100), 6);
    ASSERT_EQ(close(fd), 0);
    made_write(&m, "small", "the old one", 11);
    ASSERT_EQ(chmod(made_path(&m, "attributes"), 0600), 0);
    ASSERT_EQ(setxattr(made_path(&m, "attributes"), "user.extra", "x", 1, 0), 0);
    ASSERT_EQ(unlink(made_path(&m, "type")), 0);
    ASSERT_EQ(mkdir(made_path(&m, "type"), 0755), 0);
    ASSERT_EQ(unlink(made_path(&m, "link")), 0);
    ASSERT_EQ(symlink("old", made_path(&m, "link")), 0);
    ASSERT_EQ(unlink(made_path(&m, "fifo")), 0);
    made_write(&m, "fifo", "", 0);
    ASSERT_EQ(rmdir(made_path(&m, "dir")), 0);
    made_write(&m, "dir", "no directory", 12);

    m.options.verify = true;
    made_run(&m, 0);
    ASSERT_EQ(made_action(&m, "large"), 'w');
    ASSERT_EQ(made_action(&m, "small"), 'w');
    ASSERT_EQ(made_action(&m, "attributes"), 'a');
    ASSERT_EQ(made_action(&m, "type"), 'c');
    ASSERT_EQ(made_action(&m, "link"), 'c');
    ASSERT_EQ(made_action(&m, "fifo"), 'c');
    ASSERT_EQ(made_action(&m, "dir"), 'c');
    made_assert_random(&m, "large", len, 5);
    made_assert_text(&m, "small", "the new one");
    ASSERT_EQ(stat_of(&m, "large").st_ino, large.st_ino);
    ASSERT_NE(stat_of(&m, "small").st_ino, small.st_ino);
    ASSERT_EQ(m.stats.written_bytes, MADE_CHUNK_LEN + 11 + 15);
    ASSERT_EQ(getxattr(made_path(&m, "attributes"), "user.extra", NULL, 0), -1);
    ASSERT_EQ(made_count(&m, ""), 7);
}

TEST(directories_in_the_way)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    made_text(&m, "top/file", "x");
    made_finish(&m, "top", NULL);
    ASSERT_EQ(mkdir(m.target, 0755), 0);
    ASSERT_EQ(mkdir(made_path(&m, "file"), 0755), 0);
    made_write(&m, "file/precious", "keep", 4);
    made_run(&m, 1);
    ASSERT_TRUE(made_has_problem(&m, "file", "not empty"));
    made_assert_text(&m, "file/precious", "keep");
    ASSERT_EQ(made_count(&m, ""), 1); /* no temporary file is left */

    m.options.delete_extra = true;
    made_run(&m, 0);
    made_assert_text(&m, "file", "x");
}

static void set_flags(const char *path, int flags)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(ioctl(fd, FS_IOC_SETFLAGS, &flags), 0);
}

static int get_flags(const char *path)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    int flags = 0;
    if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
        return -1;
    return flags;
}

TEST(immutable_files_and_directories)
{
    if (geteuid() != 0 || get_flags(test_tmpdir()) < 0)
        return test_skip("needs root and chattr flags");
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    made_directory(&m, "top/locked")->flags = FS_IMMUTABLE_FL;
    struct entry *e = made_text(&m, "top/locked/file", "new");
    e->flags = FS_IMMUTABLE_FL;
    e = made_text(&m, "top/locked/link1", "linked");
    e->flags = FS_APPEND_FL;
    e->nlink = 2;
    e->mtime = e->ctime = (struct entry_time){.sec = 1500000000};
    e->inode = 5;
    e = made_text(&m, "top/locked/link2", "linked");
    e->flags = FS_APPEND_FL;
    e->nlink = 2;
    e->mtime = e->ctime = (struct entry_time){.sec = 1500000000};
    e->inode = 5;
    e->mtime = (struct entry_time){.sec = 1};
    m.entries.items[3]->mtime = e->mtime;
    made_finish(&m, "top", NULL);
    m.options.verify = true;
    made_run(&m, 0);
    ASSERT_TRUE(get_flags(made_path(&m, "locked")) & FS_IMMUTABLE_FL);
    ASSERT_TRUE(get_flags(made_path(&m, "locked/file")) & FS_IMMUTABLE_FL);
    ASSERT_TRUE(get_flags(made_path(&m, "locked/link2")) & FS_APPEND_FL);
    ASSERT_EQ(stat_of(&m, "locked/link1").st_nlink, 2);
    made_run(&m, 0);
    ASSERT_EQ(m.stats.unchanged_count, m.actions.count - 1); /* the directory was unlocked */

    set_flags(made_path(&m, "locked"), 0);
    set_flags(made_path(&m, "locked/link2"), 0);
    ASSERT_EQ(unlink(made_path(&m, "locked/link2")), 0);
    set_flags(made_path(&m, "locked/link1"), FS_APPEND_FL);
    made_run(&m, 0);
    ASSERT_EQ(stat_of(&m, "locked/link1").st_nlink, 2);
    ASSERT_TRUE(get_flags(made_path(&m, "locked/link1")) & FS_APPEND_FL);

    set_flags(made_path(&m, "locked"), 0);
    set_flags(made_path(&m, "locked/file"), 0);
    made_write(&m, "locked/file", "old", 3);
    set_flags(made_path(&m, "locked/file"), FS_IMMUTABLE_FL);
    set_flags(made_path(&m, "locked"), FS_IMMUTABLE_FL);
    made_run(&m, 0);
    made_assert_text(&m, "locked/file", "new");
    ASSERT_TRUE(get_flags(made_path(&m, "locked")) & FS_IMMUTABLE_FL);

    static const char *const names[] = {"locked", "locked/file", "locked/link1"};
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        set_flags(made_path(&m, names[i]), 0);
}

TEST(running_programs_are_replaced)
{
    CLEANUP(made_release) struct made m;
    const size_t len = 2 * MIB;
    made_init(&m);
    made_directory(&m, "top");
    struct entry *e = made_random(&m, "top/program", len, 9);
    e->mode = 0755;
    made_finish(&m, "top", NULL);
    ASSERT_EQ(mkdir(m.target, 0755), 0);

    /* Its second half is what the backup has, so it would be rewritten in place. */
    CLEANUP_FREE uint8_t *data = malloc(len);
    uint64_t seed = 9;
    test_random_fill(&seed, data, len);
    int in = open("/bin/sleep", O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(in >= 0);
    ssize_t n = read(in, data, MIB);
    ASSERT_TRUE(n > 0 && n < (ssize_t)MIB);
    ASSERT_EQ(close(in), 0);
    made_write(&m, "program", data, len);
    ASSERT_EQ(chmod(made_path(&m, "program"), 0755), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl(made_path(&m, "program"), "sleep", "100", (char *)NULL);
        _exit(1);
    }
    ino_t ino = stat_of(&m, "program").st_ino;
    CLEANUP_FREE char *link_name = NULL;
    ASSERT_TRUE(asprintf(&link_name, "/proc/%d/exe", pid) > 0);
    struct stat st = {0};
    for (int i = 0; i < 500 && st.st_ino != ino; i++) { /* until it has begun to run */
        (void)usleep(10000);
        ASSERT_EQ(stat(link_name, &st), 0);
    }
    made_run(&m, 0);
    made_assert_random(&m, "program", len, 9);
    ASSERT_NE(stat_of(&m, "program").st_ino, ino);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    ASSERT_EQ(waitpid(pid, NULL, 0), pid);
}

/* A default ACL: user::rwx user:1234:rwx group::r-x mask::rwx other::r-x */
static const uint8_t default_acl[] = {
    2, 0,    0,    0,    1,    0,    7,    0, 0xff, 0xff, 0xff, 0xff, 2,    0,    7,
    0, 0xd2, 4,    0,    0,    4,    0,    5, 0,    0xff, 0xff, 0xff, 0xff, 0x10, 0,
    7, 0,    0xff, 0xff, 0xff, 0xff, 0x20, 0, 5,    0,    0xff, 0xff, 0xff, 0xff,
};

TEST(nothing_is_inherited_from_the_target)
{
    CLEANUP(made_release) struct made m;
    small_tree(&m);
    ASSERT_EQ(mkdir(m.target, 0755), 0);
    if (setxattr(m.target, "system.posix_acl_default", default_acl, sizeof(default_acl), 0) < 0)
        return test_skip("the file system has no ACLs");
    if (geteuid() == 0) {
        ASSERT_EQ(chown(m.target, (uid_t)-1, 4321), 0);
        ASSERT_EQ(chmod(m.target, 02777), 0);
    }
    m.options.verify = true;
    made_run(&m, 0);
    ASSERT_EQ(stat_of(&m, "dir/sub/c").st_gid, getegid());
    ASSERT_EQ(getxattr(made_path(&m, "dir/b"), "system.posix_acl_access", NULL, 0), -1);
    ASSERT_EQ(getxattr(made_path(&m, "dir"), "system.posix_acl_default", NULL, 0), -1);
    ASSERT_EQ(getxattr(m.target, "system.posix_acl_default", NULL, 0), -1);
    ASSERT_EQ(stat_of(&m, "dir").st_mode & 07777, 0755);
}

/* ---- selection ---- */

static struct exclude_set *patterns(const char *first, const char *second)
{
    struct exclude_set *set = NULL;
    ASSERT_OK(exclude_set_new(&set));
    ASSERT_OK(exclude_set_add(set, first, strlen(first), "test"));
    if (second)
        ASSERT_OK(exclude_set_add(set, second, strlen(second), "test"));
    return set;
}

static void wide_tree(struct made *m)
{
    made_init(m);
    made_directory(m, "top");
    made_directory(m, "top/a");
    made_text(m, "top/a/x.c", "1");
    made_text(m, "top/a/x.h", "2");
    made_directory(m, "top/b")->mode = 0711;
    made_directory(m, "top/b/deep");
    made_directory(m, "top/b/deep/c");
    made_text(m, "top/b/deep/c/y.c", "3");
    made_directory(m, "top/c");
    made_text(m, "top/c/z", "4");
    made_directory(m, "top/c/sub");
    made_text(m, "top/c/sub/w", "5");
    made_directory(m, "top/d");
    made_text(m, "top/d/v.c", "6");
    made_finish(m, "top", NULL);
}

TEST(includes)
{
    CLEANUP(made_release) struct made m;
    wide_tree(&m);
    CLEANUP(exclude_set_freep) struct exclude_set *includes = patterns("*.c", "/top/c");
    m.options.includes = includes;
    m.options.verify = true;
    made_run(&m, 0);
    ASSERT_TRUE(made_exists(&m, "a/x.c"));
    ASSERT_FALSE(made_exists(&m, "a/x.h"));
    ASSERT_TRUE(made_exists(&m, "b/deep/c/y.c"));
    ASSERT_TRUE(made_exists(&m, "c/z"));
    ASSERT_TRUE(made_exists(&m, "c/sub/w"));
    ASSERT_TRUE(made_exists(&m, "d/v.c"));
    ASSERT_EQ(stat_of(&m, "b").st_mode & 07777, 0711);
    ASSERT_EQ(stat_of(&m, "b/deep").st_mtim.tv_nsec, 123456789);
    ASSERT_EQ(m.stats.file_count, 5);
}

TEST(excludes)
{
    CLEANUP(made_release) struct made m;
    wide_tree(&m);
    CLEANUP(exclude_set_freep) struct exclude_set *excludes = patterns("*.c", "/top/c/sub");
    m.options.excludes = excludes;
    made_run(&m, 0);
    ASSERT_FALSE(made_exists(&m, "a/x.c"));
    ASSERT_TRUE(made_exists(&m, "a/x.h"));
    ASSERT_TRUE(made_exists(&m, "c/z"));
    ASSERT_FALSE(made_exists(&m, "c/sub"));
    ASSERT_EQ(m.stats.file_count, 2);
}

TEST(delete_extra)
{
    CLEANUP(made_release) struct made m;
    wide_tree(&m);
    made_run(&m, 0);
    made_write(&m, "extra", "", 0);
    made_write(&m, "keep.o", "", 0);
    ASSERT_EQ(mkdir(made_path(&m, "a/extra"), 0755), 0);
    made_write(&m, "a/extra/file", "", 0);
    made_write(&m, "../outside", "x", 1);
    ASSERT_EQ(symlink("../../outside", made_path(&m, "b/deep/c/link")), 0);
    made_run(&m, 0);
    ASSERT_TRUE(made_exists(&m, "extra"));

    CLEANUP(exclude_set_freep) struct exclude_set *excludes = patterns("*.o", NULL);
    m.options.excludes = excludes;
    m.options.delete_extra = true;
    made_run(&m, 0);
    ASSERT_EQ(m.stats.deleted_count, 3);
    ASSERT_EQ(made_action(&m, "a/extra"), 'd');
    ASSERT_FALSE(made_exists(&m, "extra"));
    ASSERT_FALSE(made_exists(&m, "a/extra"));
    ASSERT_FALSE(made_exists(&m, "b/deep/c/link"));
    ASSERT_TRUE(made_exists(&m, "keep.o"));
    made_assert_text(&m, "../outside", "x");
    ASSERT_EQ(stat_of(&m, "a").st_mtim.tv_nsec, 123456789);
}

TEST(delete_extra_only_where_all_is_restored)
{
    CLEANUP(made_release) struct made m;
    wide_tree(&m);
    made_run(&m, 0);
    made_write(&m, "extra", "", 0);
    made_write(&m, "c/extra", "", 0);
    CLEANUP(exclude_set_freep) struct exclude_set *includes = patterns("/top/c", NULL);
    m.options.includes = includes;
    m.options.delete_extra = true;
    made_run(&m, 0);
    ASSERT_EQ(m.stats.deleted_count, 1);
    ASSERT_TRUE(made_exists(&m, "extra"));
    ASSERT_TRUE(made_exists(&m, "a/x.h"));
    ASSERT_FALSE(made_exists(&m, "c/extra"));
}

TEST(unreadable_directories_are_not_emptied)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    made_directory(&m, "top/unread")->remarks = ENTRY_CONTENT_UNREADABLE;
    made_finish(&m, "top", NULL);
    made_run(&m, 0);
    made_write(&m, "unread/file", "", 0);
    m.options.delete_extra = true;
    made_run(&m, 0);
    ASSERT_TRUE(made_exists(&m, "unread/file"));
}

/* ---- dry run ---- */

TEST(dry_run_of_a_missing_target)
{
    CLEANUP(made_release) struct made m;
    small_tree(&m);
    m.options.dry_run = true;
    m.options.verify = true;
    made_run(&m, 0);
    ASSERT_EQ(m.stats.created_count, 6);
    ASSERT_EQ(made_action(&m, "dir/sub/c"), 'c');
    ASSERT_FALSE(made_exists(&m, ""));
}

TEST(dry_run_changes_nothing)
{
    CLEANUP(made_release) struct made m;
    linked_tree(&m);
    made_run(&m, 0);
    made_write(&m, "extra", "x", 1);
    ASSERT_EQ(unlink(made_path(&m, "b/3")), 0);
    ASSERT_EQ(unlink(made_path(&m, "a/1")), 0);
    made_write(&m, "a/1", "sharks", 6);
    ASSERT_EQ(chmod(made_path(&m, "c"), 0700), 0);
    struct stat before = stat_of(&m, "a/1"), before_dir = stat_of(&m, "a");
    m.options.dry_run = true;
    m.options.delete_extra = true;
    made_run(&m, 0);
    ASSERT_EQ(made_action(&m, "a/1"), 'w');
    ASSERT_EQ(made_action(&m, "b/2"), 'c');
    ASSERT_EQ(made_action(&m, "b/3"), 'c');
    ASSERT_EQ(made_action(&m, "c"), 'a');
    ASSERT_EQ(made_action(&m, "extra"), 'd');
    ASSERT_EQ(m.stats.written_bytes, 0);
    ASSERT_FALSE(made_exists(&m, "b/3"));
    made_assert_text(&m, "extra", "x");
    made_assert_text(&m, "a/1", "sharks");
    ASSERT_EQ(stat_of(&m, "a/1").st_ctim.tv_nsec, before.st_ctim.tv_nsec);
    ASSERT_EQ(stat_of(&m, "a").st_ctim.tv_nsec, before_dir.st_ctim.tv_nsec);
    ASSERT_EQ(stat_of(&m, "c").st_mode & 07777, 0700);
}

/* ---- odds and ends ---- */

TEST(paths_longer_than_path_max)
{
    CLEANUP(made_release) struct made m;
    char name[201];
    CLEANUP_FREE char *path = calloc(1, 8192);
    memset(name, 'n', 200);
    name[200] = '\0';
    made_init(&m);
    (void)stpcpy(path, "top");
    made_directory(&m, path);
    for (int i = 0; i < 30; i++) {
        char *end = path + strlen(path);
        *end = '/';
        memcpy(end + 1, name, sizeof(name));
        made_directory(&m, path);
    }
    (void)stpcpy(path + strlen(path), "/file");
    made_text(&m, path, "deep");
    made_finish(&m, "top", NULL);
    m.options.verify = true;
    made_run(&m, 0);
    ASSERT_EQ(m.stats.created_count, 32);
    made_run(&m, 0);
    ASSERT_EQ(m.stats.unchanged_count, 32);
    CLEANUP_CLOSE int fd = open(m.target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 30; i++) {
        int next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ASSERT_TRUE(next >= 0);
        ASSERT_EQ(close(fd), 0);
        fd = next;
    }
    struct stat st;
    ASSERT_EQ(fstatat(fd, "file", &st, 0), 0);
    ASSERT_EQ(st.st_size, 4);
}

/* More than one window, files that share chunks, and workers that meet at the same file. */
TEST(many_files)
{
    CLEANUP(made_release) struct made m;
    made_init(&m);
    made_directory(&m, "top");
    made_random(&m, "top/zz large", 5 * MIB, 1);
    for (unsigned dir = 0; dir < 40; dir++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "top/d%u", dir);
        made_directory(&m, path);
        for (unsigned i = 0; i < 60; i++) {
            (void)snprintf(path, sizeof(path), "top/d%u/f%u", dir, i);
            size_t len = i % 20 == 0 ? MADE_CHUNK_LEN * 2 + 5 : 10 + i;
            made_random(&m, path, len, dir < 20 ? 100 * dir + i : i);
        }
    }
    made_finish(&m, "top", NULL);
    m.options.threads = 4;
    m.options.verify = true;
    made_run(&m, 0);
    ASSERT_EQ(m.stats.file_count, 2401);
    made_assert_random(&m, "zz large", 5 * MIB, 1);
    made_assert_random(&m, "d3/f20", MADE_CHUNK_LEN * 2 + 5, 320);
    made_assert_random(&m, "d39/f59", 69, 59);
    made_run(&m, 0);
    ASSERT_EQ(m.stats.unchanged_count, 2442);
}

TEST(progress_comes_to_its_totals)
{
    CLEANUP(made_release) struct made m;
    struct progress progress = {0};
    linked_tree(&m);
    m.options.verify = false;
    m.options.subpath = "/top";
    m.options.progress = &progress;
    made_run(&m, 0);
    ASSERT_EQ(progress.files_done, 4);
    ASSERT_EQ(progress.files_total, 4);
    ASSERT_EQ(progress.bytes_done, 6);
    ASSERT_EQ(progress.bytes_total, 6);
    ASSERT_EQ(progress.problems, 0);
}

TEST_MAIN()
