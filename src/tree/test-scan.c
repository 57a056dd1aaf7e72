/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tree/scan.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/cleanup.h"
#include "basic/test.h"
#include "tree/beneath.h"
#include "tree/test-mounts.h"

/* ---- helpers ---- */

static void join(char path[PATH_MAX], const char *directory, const char *name)
{
    ASSERT_LT(snprintf(path, PATH_MAX, "%s/%s", directory, name), PATH_MAX);
}

/* A fresh directory for one test; its path without links. */
static void arena(const char *name, char path[PATH_MAX])
{
    char made[PATH_MAX];
    join(made, test_tmpdir(), name);
    ASSERT_EQ(mkdir(made, 0700), 0);
    ASSERT_TRUE(realpath(made, path));
}

static void make_dir(const char *directory, const char *name)
{
    char path[PATH_MAX];
    join(path, directory, name);
    ASSERT_EQ(mkdir(path, 0700), 0);
}

static void make_file(const char *directory, const char *name, const char *text)
{
    char path[PATH_MAX];
    join(path, directory, name);
    FILE *f = fopen(path, "wxe");
    ASSERT_TRUE(f);
    ASSERT_TRUE(fputs(text, f) >= 0);
    ASSERT_EQ(fclose(f), 0);
}

static int open_arena(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    return fd;
}

/* The same for very many files: without the wait for a disk where possible. */
static void big_arena(const char *name, char path[PATH_MAX])
{
    arena(name, path);
    (void)test_mount_tmpfs(path);
}

/* What a walk found, one line an entry in the order of delivery: "path/name"; directories that were
 * entered: "path:" before their entries; errors: "path !". */
struct record {
    struct buffer text;
    size_t dirs;
    size_t entries;
};

static void put(struct record *rec, const char *a, const char *b, const char *c)
{
    buffer_put(&rec->text, a, strlen(a));
    buffer_put(&rec->text, b, strlen(b));
    buffer_put(&rec->text, c, strlen(c));
}

/* Only what is below base, relative to it. */
static void record_dir(struct record *rec, const struct scan_dir *dir, const char *base)
{
    size_t len = strlen(base) - 1;
    if (strncmp(dir->path, base + 1, len) != 0 || (dir->path[len] != '/' && dir->path[len] != 0))
        return;
    const char *below = dir->path + len;
    rec->dirs++;
    put(rec, *below ? below + 1 : "", dir->error < 0 ? " !" : "", ":\n");
    for (size_t i = 0; i < dir->children.count; i++) {
        const struct scan_child *child = &dir->children.items[i];
        put(rec, child->name, child->error < 0 ? " !" : "", "\n");
        rec->entries++;
        if (i > 0)
            ASSERT_TRUE(strcmp(dir->children.items[i - 1].name, child->name) < 0);
    }
}

static struct scan *scan_of(const char *const *roots, size_t count,
                            const struct scan_options *options, struct pool *pool)
{
    struct scan *scan = NULL;
    ASSERT_OK(scan_new(roots, count, options, pool, &scan));
    return scan;
}

static char *walk(const char *const *roots, size_t count, const struct scan_options *options,
                  unsigned threads, const char *base)
{
    CLEANUP(pool_freep) struct pool *pool = NULL;
    ASSERT_OK(pool_new(threads, &pool));
    CLEANUP(scan_freep) struct scan *scan = scan_of(roots, count, options, pool);
    struct record rec = {0};
    for (;;) {
        CLEANUP(scan_dir_unrefp) struct scan_dir *dir = NULL;
        ASSERT_OK(scan_next(scan, &dir));
        if (!dir)
            break;
        record_dir(&rec, dir, base);
    }
    buffer_put_u8(&rec.text, '\0');
    ASSERT_OK(buffer_finish(&rec.text));
    return (char *)rec.text.data;
}

static char *walk_simply(const char *root, const struct scan_options *options)
{
    return walk(&root, 1, options, 2, root);
}

/* ---- order and completeness ---- */

static void make_random_tree(int fd, unsigned depth, uint64_t *seed, size_t *count)
{
    static const char *const parts[] = {"a", "b", ".", "-", "\x01", "\xff", "Z", " ", "ab"};
    for (uint64_t n = test_random(seed) % 12; n > 0; n--) {
        char name[16] = "";
        size_t len = 0;
        for (uint64_t p = 1 + test_random(seed) % 3; p > 0; p--) {
            const char *part = parts[test_random(seed) % ELEMENTSOF(parts)];
            memcpy(name + len, part, strlen(part) + 1);
            len += strlen(part);
        }
        if (test_random(seed) % 2 == 0 && depth < 6) {
            if (mkdirat(fd, name, 0700) < 0)
                continue;
            int sub = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            ASSERT_TRUE(sub >= 0);
            make_random_tree(sub, depth + 1, seed, count);
            ASSERT_EQ(close(sub), 0);
        } else if (mknodat(fd, name, S_IFREG | 0600, 0) < 0) {
            continue;
        }
        (*count)++;
    }
}

/* The same walk, written down as simply as possible. */
static void reference_walk(struct record *rec, const char *directory, const char *below)
{
    struct dirent **entries = NULL;
    int count = scandir(directory, &entries, NULL, NULL);
    ASSERT_TRUE(count >= 0);
    for (int i = 1; i < count; i++) /* insertion sort by bytes */
        for (int j = i; j > 0 && strcmp(entries[j - 1]->d_name, entries[j]->d_name) > 0; j--) {
            struct dirent *swap = entries[j];
            entries[j] = entries[j - 1];
            entries[j - 1] = swap;
        }
    put(rec, below, "", ":\n");
    for (int i = 0; i < count; i++)
        if (strcmp(entries[i]->d_name, ".") != 0 && strcmp(entries[i]->d_name, "..") != 0)
            put(rec, entries[i]->d_name, "", "\n");
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        if (entries[i]->d_type == DT_DIR && strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
            char path[PATH_MAX], sub[PATH_MAX];
            join(path, directory, name);
            ASSERT_LT(snprintf(sub, sizeof(sub), "%s%s%s", below, *below ? "/" : "", name),
                      PATH_MAX);
            reference_walk(rec, path, sub);
        }
        free(entries[i]);
    }
    free(entries);
}

TEST(catalog_order_whatever_the_threads_do)
{
    char root[PATH_MAX];
    big_arena("order", root);
    CLEANUP_CLOSE int fd = open_arena(root);
    uint64_t seed = 4711;
    size_t count = 0;
    while (count < 2000)
        make_random_tree(fd, 0, &seed, &count);
    struct record expected = {0};
    reference_walk(&expected, root, "");
    buffer_put_u8(&expected.text, '\0');

    static const unsigned threads[] = {1, 2, 4}, aheads[] = {1, 2, 7, 0};
    for (size_t t = 0; t < ELEMENTSOF(threads); t++)
        for (size_t a = 0; a < ELEMENTSOF(aheads); a++) {
            struct scan_options options = {.ahead_max = aheads[a]};
            const char *roots[] = {root};
            CLEANUP_FREE char *found = walk(roots, 1, &options, threads[t], root);
            ASSERT_STREQ(found, (const char *)expected.text.data);
        }
    buffer_release(&expected.text);
}

TEST(children_have_their_statx)
{
    char root[PATH_MAX], path[PATH_MAX];
    arena("statx", root);
    for (unsigned i = 0; i < 600; i++) { /* enough for the order of inodes */
        char name[16];
        (void)snprintf(name, sizeof(name), "%u", i * 7919 % 600);
        make_file(root, name, name);
    }
    const struct scan_options options = {0};
    CLEANUP(pool_freep) struct pool *pool = NULL;
    ASSERT_OK(pool_new(2, &pool));
    const char *roots[] = {root};
    CLEANUP(scan_freep) struct scan *scan = scan_of(roots, 1, &options, pool);
    size_t seen = 0;
    for (;;) {
        CLEANUP(scan_dir_unrefp) struct scan_dir *dir = NULL;
        ASSERT_OK(scan_next(scan, &dir));
        if (!dir)
            break;
        if (strcmp(dir->path, root + 1) != 0)
            continue;
        for (size_t i = 0; i < dir->children.count; i++, seen++) {
            const struct scan_child *child = &dir->children.items[i];
            struct stat st;
            join(path, root, child->name);
            ASSERT_EQ(lstat(path, &st), 0);
            ASSERT_EQ(child->error, 0);
            ASSERT_EQ(st.st_ino, child->stx.stx_ino);
            ASSERT_EQ(strlen(child->name), child->stx.stx_size);
            ASSERT_TRUE(child->stx.stx_mask & STATX_BTIME);
        }
    }
    ASSERT_EQ(seen, 600);
}

/* ---- roots ---- */

TEST(roots_are_resolved_sorted_and_collapsed)
{
    char root[PATH_MAX], paths[6][PATH_MAX];
    arena("roots", root);
    make_dir(root, "a");
    make_dir(root, "a/sub");
    make_dir(root, "a.b");
    make_file(root, "file", "");
    ASSERT_EQ(symlink("a", (join(paths[0], root, "link"), paths[0])), 0);

    join(paths[0], root, "link/sub");
    join(paths[1], root, "file");
    join(paths[2], root, "a.b");
    join(paths[3], root, "a");
    join(paths[4], root, "./a/../a.b/");
    join(paths[5], root, "link");
    const char *roots[] = {paths[0], paths[1], paths[2], paths[3], paths[4], paths[5]};
    CLEANUP(pool_freep) struct pool *pool = NULL;
    ASSERT_OK(pool_new(1, &pool));
    const struct scan_options options = {0};
    CLEANUP(scan_freep) struct scan *scan = scan_of(roots, 6, &options, pool);
    static const char *const expected[] = {"a", "a.b", "file", "link"};
    ASSERT_EQ(scan_root_count(scan), 4);
    for (size_t i = 0; i < 4; i++) {
        char path[PATH_MAX];
        join(path, root, expected[i]);
        ASSERT_STREQ(scan_root(scan, i), path);
    }
    ASSERT_TRUE(S_ISDIR(scan_top(scan)->stx_mode));

    CLEANUP_FREE char *found = walk(roots, 6, &options, 2, root);
    ASSERT_STREQ(found, ":\na\na.b\nfile\nlink\na:\nsub\na/sub:\na.b:\n");
}

TEST(parents_hold_only_what_leads_to_roots)
{
    char root[PATH_MAX], one[PATH_MAX], two[PATH_MAX];
    arena("parents", root);
    make_dir(root, "x");
    make_dir(root, "x/y");
    make_dir(root, "x/z");
    make_dir(root, "other");
    make_file(root, "x/y/file", "");
    make_file(root, "x/y/ignored", "");
    make_file(root, "x/z/all", "");
    join(one, root, "x/y/file");
    join(two, root, "x/z");
    const char *roots[] = {one, two};
    const struct scan_options options = {0};
    CLEANUP_FREE char *found = walk(roots, 2, &options, 2, root);
    ASSERT_STREQ(found, ":\nx\nx:\ny\nz\nx/y:\nfile\nx/z:\nall\n");
}

TEST(bad_roots_are_refused)
{
    CLEANUP(pool_freep) struct pool *pool = NULL;
    ASSERT_OK(pool_new(1, &pool));
    const struct scan_options options = {0};
    struct scan *scan = NULL;
    char path[PATH_MAX];
    join(path, test_tmpdir(), "none");
    const char *none[] = {path}, *relative[] = {"usr"};
    ASSERT_ERR(scan_new(none, 1, &options, pool, &scan), -ENOENT);
    ASSERT_TRUE(strstr(error_text(-ENOENT), path));
    ASSERT_ERR(scan_new(relative, 1, &options, pool, &scan), -EINVAL);
    join(path, test_tmpdir(), "none/below");
    ASSERT_ERR(scan_new(none, 1, &options, pool, &scan), -ENOENT);
    ASSERT_FALSE(scan);
}

static void note_missing(const char *path, int error, void *userdata)
{
    struct buffer *text = userdata;
    ASSERT_TRUE(error == -ENOENT || error == -ENOTDIR);
    buffer_put(text, path, strlen(path));
    buffer_put_u8(text, '\n');
}

/* Recorded like the others, in their order and collapsed with them, so that the next backup has the
 * same roots. */
TEST(missing_roots)
{
    char root[PATH_MAX], here[PATH_MAX], gone[PATH_MAX], below[PATH_MAX], deep[PATH_MAX];
    char expected[4 * PATH_MAX];
    CLEANUP(buffer_release) struct buffer told = {0};
    CLEANUP(pool_freep) struct pool *pool = NULL;
    ASSERT_OK(pool_new(1, &pool));
    arena("missing-roots", root);
    make_file(root, "here", "");
    join(here, root, "here");
    join(gone, root, "a//gone/./x/");
    join(below, root, "here/below");
    join(deep, root, "zz/deep");
    const struct scan_options options = {.missing = note_missing, .userdata = &told};
    const char *roots[] = {gone, here, below, deep};
    CLEANUP(scan_freep) struct scan *scan = NULL;
    ASSERT_OK(scan_new(roots, 4, &options, pool, &scan));
    buffer_put_u8(&told, '\0');
    (void)snprintf(expected, sizeof(expected), "%s/a/gone/x\n%s/here/below\n%s/zz/deep\n", root,
                   root, root);
    ASSERT_STREQ((const char *)told.data, expected);
    ASSERT_EQ(scan_root_count(scan), 3u);
    ASSERT_STREQ(scan_root(scan, 1), here);
    ASSERT_STREQ(scan_root(scan, 2), deep);
    scan_free(TAKE_PTR(scan));

    ASSERT_ERR(scan_new(roots, 1, &options, pool, &scan), -ENOENT); /* none is left */
    const char *only_here[] = {here, gone};
    CLEANUP_FREE char *found = walk(only_here, 2, &options, 1, root);
    ASSERT_STREQ(found, ":\nhere\n");
}

TEST(a_root_that_vanishes_is_told)
{
    char root[PATH_MAX], gone[PATH_MAX], here[PATH_MAX];
    arena("vanishing-root", root);
    make_file(root, "gone", "");
    make_file(root, "here", "");
    join(gone, root, "gone");
    join(here, root, "here");
    CLEANUP(pool_freep) struct pool *pool = NULL;
    ASSERT_OK(pool_new(1, &pool));
    const struct scan_options options = {0};
    const char *roots[] = {gone, here};
    CLEANUP(scan_freep) struct scan *scan = scan_of(roots, 2, &options, pool);
    ASSERT_EQ(unlink(gone), 0);
    struct record rec = {0};
    for (;;) {
        CLEANUP(scan_dir_unrefp) struct scan_dir *dir = NULL;
        ASSERT_OK(scan_next(scan, &dir));
        if (!dir)
            break;
        record_dir(&rec, dir, root);
    }
    buffer_put_u8(&rec.text, '\0');
    ASSERT_STREQ((const char *)rec.text.data, ":\ngone !\nhere\n");
    buffer_release(&rec.text);
}

/* ---- what is left out ---- */

TEST(excluded_files_are_not_there)
{
    char root[PATH_MAX], pattern[PATH_MAX], nested[PATH_MAX];
    arena("exclude", root);
    make_dir(root, "keep");
    make_dir(root, "drop");
    make_dir(root, "drop/inner");
    make_file(root, "drop/inner/x", "");
    make_file(root, "drop/y", "");
    make_file(root, "keep/a.o", "");
    make_file(root, "keep/a.c", "");
    make_file(root, "keep/drop", "");
    CLEANUP(exclude_set_freep) struct exclude_set *set = NULL;
    ASSERT_OK(exclude_set_new(&set));
    ASSERT_OK(exclude_set_add(set, "*.o", 3, "test"));
    join(pattern, root, "drop/");
    ASSERT_OK(exclude_set_add(set, pattern, strlen(pattern), "test"));
    ASSERT_OK(exclude_set_add(set, root, strlen(root), "test")); /* a root itself is exempt */
    struct scan_options options = {.excludes = set};
    CLEANUP_FREE char *found = walk_simply(root, &options);
    ASSERT_STREQ(found, ":\nkeep\nkeep:\na.c\ndrop\n");

    join(nested, root, "drop/inner");
    const char *roots[] = {root, nested};
    CLEANUP_FREE char *both = walk(roots, 2, &options, 2, root);
    ASSERT_STREQ(both, ":\ndrop\nkeep\ndrop:\ninner\ndrop/inner:\nx\nkeep:\na.c\ndrop\n");
}

TEST(stages_of_atomic_changes)
{
    char root[PATH_MAX];
    arena("stages", root);
    make_dir(root, TREE_STAGE_NAME);
    make_file(root, TREE_STAGE_NAME "/log", "");
    make_dir(root, "file");
    make_file(root, "file/" TREE_STAGE_NAME, "no directory, so it is somebody's file");
    struct scan_options options = {0};
    CLEANUP_FREE char *found = walk_simply(root, &options);
    ASSERT_STREQ(found, ":\nfile\nfile:\n" TREE_STAGE_NAME "\n");
}

TEST(cache_directories)
{
    char root[PATH_MAX];
    arena("caches", root);
    make_dir(root, "cache");
    make_dir(root, "fake");
    make_file(root, "cache/CACHEDIR.TAG",
              "Signature: 8a477f597d28d172789f06886806bc55\n# by a test\n");
    make_file(root, "cache/big", "");
    make_dir(root, "cache/sub");
    make_file(root, "fake/CACHEDIR.TAG", "Signature: 8a477f59");
    make_file(root, "fake/file", "");
    struct scan_options options = {.exclude_caches = true};
    CLEANUP_FREE char *found = walk_simply(root, &options);
    ASSERT_STREQ(found, ":\ncache\nfake\ncache:\nCACHEDIR.TAG\nfake:\nCACHEDIR.TAG\nfile\n");
    options.exclude_caches = false;
    CLEANUP_FREE char *all = walk_simply(root, &options);
    ASSERT_TRUE(strstr(all, "cache/sub:\n"));
}

TEST(one_file_system)
{
    char root[PATH_MAX], mounted[PATH_MAX], nested[PATH_MAX];
    arena("one-fs", root);
    make_dir(root, "mnt");
    make_dir(root, "dir");
    join(mounted, root, "mnt");
    if (!test_mount_tmpfs(mounted))
        test_skip("may not mount here");
    make_dir(mounted, "in");
    make_file(mounted, "file", "");
    struct scan_options options = {.one_file_system = true};
    CLEANUP_FREE char *found = walk_simply(root, &options);
    ASSERT_STREQ(found, ":\ndir\nmnt\ndir:\n");

    join(nested, mounted, "in");
    const char *inside[] = {root, nested};
    CLEANUP_FREE char *part = walk(inside, 2, &options, 2, root);
    ASSERT_STREQ(part, ":\ndir\nmnt\ndir:\nmnt:\nin\nmnt/in:\n");

    const char *both[] = {root, mounted};
    CLEANUP_FREE char *whole = walk(both, 2, &options, 2, root);
    ASSERT_STREQ(whole, ":\ndir\nmnt\ndir:\nmnt:\nfile\nin\nmnt/in:\n");

    options.one_file_system = false;
    CLEANUP_FREE char *all = walk_simply(root, &options);
    ASSERT_STREQ(all, whole);
}

/* ---- hard cases ---- */

static void make_comb(const char *root, unsigned depth, const char *name)
{
    int fd = open_arena(root);
    for (unsigned i = 0; i < depth; i++) {
        ASSERT_EQ(mkdirat(fd, name, 0700), 0);
        ASSERT_EQ(mkdirat(fd, "zz", 0700), 0);
        int next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ASSERT_TRUE(next >= 0);
        ASSERT_EQ(close(fd), 0);
        fd = next;
    }
    ASSERT_EQ(close(fd), 0);
}

/* Too deep for what removes the temporary directory. */
static void remove_comb(const char *root, const char *name)
{
    CLEANUP_CLOSE int fd = open_arena(root);
    ASSERT_OK(beneath_remove(fd, name));
}

/* Walks root, which has one comb of the given depth.  Returns the longest path. */
static size_t walk_comb(const char *root, unsigned depth)
{
    CLEANUP(pool_freep) struct pool *pool = NULL;
    ASSERT_OK(pool_new(2, &pool));
    const struct scan_options options = {.ahead_max = 16};
    const char *roots[] = {root};
    CLEANUP(scan_freep) struct scan *scan = scan_of(roots, 1, &options, pool);
    size_t dirs = 0, longest = 0;
    for (;;) {
        CLEANUP(scan_dir_unrefp) struct scan_dir *dir = NULL;
        ASSERT_OK(scan_next(scan, &dir));
        if (!dir)
            break;
        ASSERT_EQ(dir->error, 0);
        dirs += strncmp(dir->path, root + 1, strlen(root + 1)) == 0;
        longest = MAX(longest, strlen(dir->path));
    }
    ASSERT_EQ(dirs, 1 + 2 * depth);
    return longest;
}

TEST(deep_trees_with_few_fds)
{
    char root[PATH_MAX];
    big_arena("comb", root);
    const char *name = "a-rather-long-name-so-that-the-paths-get-long";
    make_comb(root, 1000, name);
    pid_t pid = fork();
    ASSERT_TRUE(pid >= 0);
    if (pid == 0) { /* a process of its own, for limits do not come back */
        struct rlimit limit = {.rlim_cur = 120, .rlim_max = 180};
        ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
        ASSERT_GT(walk_comb(root, 1000), 40000);
        _exit(0);
    }
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_EQ(status, 0);
    ASSERT_GT(walk_comb(root, 1000), 40000);
    remove_comb(root, name);
}

/* A task that keeps the only thread of a pool until it is let go. */
struct plug {
    struct pool_task task;
    atomic_bool let_go;
};

static void plug_run(struct pool_task *task)
{
    struct plug *plug = CONTAINER_OF(task, struct plug, task);
    while (!atomic_load(&plug->let_go))
        (void)usleep(1000);
}

TEST(a_busy_pool_stops_nobody)
{
    char root[PATH_MAX], path[PATH_MAX];
    arena("busy", root);
    make_dir(root, "a");
    make_dir(root, "a/b");
    make_dir(root, "gone");
    CLEANUP(pool_freep) struct pool *pool = NULL;
    ASSERT_OK(pool_new(1, &pool));
    struct plug plug = {.task.run = plug_run};
    pool_submit(pool, &plug.task, POOL_HIGH);
    const struct scan_options options = {0};
    const char *roots[] = {root};
    CLEANUP(scan_freep) struct scan *scan = scan_of(roots, 1, &options, pool);
    struct record rec = {0};
    for (;;) {
        CLEANUP(scan_dir_unrefp) struct scan_dir *dir = NULL;
        ASSERT_OK(scan_next(scan, &dir));
        if (!dir)
            break;
        record_dir(&rec, dir, root);
        if (strcmp(dir->path, root + 1) == 0) {
            /* Nobody reads ahead, so this is before it is opened. */
            join(path, root, "gone");
            ASSERT_EQ(rmdir(path), 0);
        }
    }
    buffer_put_u8(&rec.text, '\0');
    ASSERT_STREQ((const char *)rec.text.data, ":\na\ngone\na:\nb\na/b:\ngone !:\n");
    buffer_release(&rec.text);
    atomic_store(&plug.let_go, true);
}

TEST(a_walk_may_be_left_early)
{
    const struct scan_options options = {0};
    const char *roots[] = {"/usr"};
    for (unsigned i = 0; i < 30; i++) {
        CLEANUP(pool_freep) struct pool *pool = NULL;
        ASSERT_OK(pool_new(1 + i % 3, &pool));
        struct scan *scan = scan_of(roots, 1, &options, pool);
        struct scan_dir *kept = NULL;
        for (unsigned n = 0; n < i; n++) {
            scan_dir_unref(kept);
            ASSERT_OK(scan_next(scan, &kept));
            if (!kept)
                break;
        }
        scan_free(scan);
        if (kept) {
            /* outlives the walk */
            ASSERT_TRUE(fcntl(kept->fd, F_GETFD) >= 0);
            scan_dir_unref(scan_dir_ref(kept));
        }
        scan_dir_unref(kept);
    }
}

struct churn {
    int fd;
    atomic_bool stop;
};

static void *churn(void *userdata)
{
    struct churn *c = userdata;
    uint64_t seed = 99;
    while (!atomic_load(&c->stop)) {
        char name[32];
        uint64_t number = test_random(&seed);
        (void)snprintf(name, sizeof(name), "d%u/f%u", (unsigned)(number % 40),
                       (unsigned)(number >> 8 & 15));
        if (number >> 20 & 1) /* whichever of them works */
            (void)unlinkat(c->fd, name, number >> 21 & 1 ? AT_REMOVEDIR : 0);
        else
            (void)mknodat(c->fd, name, S_IFREG | 0600, 0);
        if (number >> 22 & 1)
            (void)mkdirat(c->fd, name, 0700);
    }
    return NULL;
}

TEST(a_tree_that_changes_is_walked)
{
    char root[PATH_MAX];
    arena("churn", root);
    for (unsigned i = 0; i < 40; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "d%u", i);
        make_dir(root, name);
    }
    CLEANUP_CLOSE int fd = open_arena(root);
    struct churn c = {.fd = fd};
    pthread_t thread;
    ASSERT_EQ(pthread_create(&thread, NULL, churn, &c), 0);
    const struct scan_options options = {0};
    for (unsigned i = 0; i < 60; i++) {
        CLEANUP_FREE char *found = walk_simply(root, &options);
        ASSERT_TRUE(strstr(found, "\nd39:\n"));
    }
    atomic_store(&c.stop, true);
    ASSERT_EQ(pthread_join(thread, NULL), 0);
}

TEST(files_are_opened_safely)
{
    char root[PATH_MAX], path[PATH_MAX];
    arena("open", root);
    make_file(root, "file", "hello");
    make_dir(root, "dir");
    join(path, root, "link");
    ASSERT_EQ(symlink("file", path), 0);
    join(path, root, "fifo");
    ASSERT_EQ(mkfifo(path, 0600), 0);
    CLEANUP(pool_freep) struct pool *pool = NULL;
    ASSERT_OK(pool_new(1, &pool));
    const struct scan_options options = {0};
    const char *roots[] = {root};
    CLEANUP(scan_freep) struct scan *scan = scan_of(roots, 1, &options, pool);
    CLEANUP(scan_dir_unrefp) struct scan_dir *dir = NULL;
    do {
        scan_dir_unref(TAKE_PTR(dir));
        ASSERT_OK(scan_next(scan, &dir));
        ASSERT_TRUE(dir);
    } while (strcmp(dir->path, root + 1) != 0);

    CLEANUP_CLOSE int fd = -EBADF;
    ASSERT_OK(scan_child_open(dir, "file", &fd));
    char text[8];
    ASSERT_EQ(read(fd, text, sizeof(text)), 5);
    int none = -1;
    ASSERT_ERR(scan_child_open(dir, "link", &none), -UMBRA_E_CHANGED);
    ASSERT_ERR(scan_child_open(dir, "fifo", &none), -UMBRA_E_CHANGED);
    ASSERT_ERR(scan_child_open(dir, "dir", &none), -UMBRA_E_CHANGED);
    ASSERT_ERR(scan_child_open(dir, "none", &none), -ENOENT);
    ASSERT_EQ(none, -1);
}

TEST_MAIN()
