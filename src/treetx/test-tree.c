/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/test-tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/cleanup.h"
#include "basic/crc32c.h"
#include "basic/test.h"
#include "tree/beneath.h"

#define BLOCK 4096u

/* ---- making things ---- */

static void fill(int dir_fd, const char *path, uint64_t seed, size_t len)
{
    CLEANUP_FREE uint8_t *data = malloc(len + 1);
    CLEANUP_CLOSE int fd = openat(dir_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);

    ASSERT_TRUE(data && fd >= 0);
    test_random_fill(&seed, data, len);
    ASSERT_EQ(write(fd, data, len), len);
}

static void make_dir(int dir_fd, const char *path)
{
    ASSERT_EQ(mkdirat(dir_fd, path, 0755), 0);
}

/* Data, a hole, data, a hole. */
static void fill_sparse(int dir_fd, const char *path, uint64_t seed)
{
    fill(dir_fd, path, seed, (size_t)20 * BLOCK + 100);
    CLEANUP_CLOSE int fd = openat(dir_fd, path, O_RDWR | O_CLOEXEC);
    ASSERT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * BLOCK, 3 * BLOCK), 0);
    ASSERT_EQ(ftruncate(fd, 30 * BLOCK), 0);
}

static void set_times(int dir_fd, const char *path, time_t sec)
{
    const struct timespec times[2] = {{.tv_sec = sec, .tv_nsec = 123},
                                      {.tv_sec = sec + 1, .tv_nsec = 456789}};

    ASSERT_EQ(utimensat(dir_fd, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

static void set_flags(int dir_fd, const char *path, unsigned flags)
{
    CLEANUP_CLOSE int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
    unsigned now = 0;

    ASSERT_TRUE(fd >= 0);
    if (geteuid() != 0 || ioctl(fd, FS_IOC_GETFLAGS, &now) < 0)
        return;
    now |= flags;
    ASSERT_EQ(ioctl(fd, FS_IOC_SETFLAGS, &now), 0);
}

static void set_xattr(int dir_fd, const char *path, const char *name, const char *value)
{
    CLEANUP_CLOSE int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);

    if (fsetxattr(fd, name, value, strlen(value), 0) < 0)
        ASSERT_EQ(errno, EOPNOTSUPP);
}

/* What is made in it from now on would get an ACL and a group. */
static void make_root_hereditary(int dir_fd)
{
    static const uint8_t acl[] = {2,   0,   0,   0,   1,   0,   7,   0,   255, 255, 255, 255,
                                  4,   0,   5,   0,   255, 255, 255, 255, 16,  0,   7,   0,
                                  255, 255, 255, 255, 32,  0,   5,   0,   255, 255, 255, 255};

    if (fsetxattr(dir_fd, "system.posix_acl_default", acl, sizeof(acl), 0) < 0)
        ASSERT_EQ(errno, EOPNOTSUPP);
    ASSERT_EQ(fchmod(dir_fd, 02755), 0);
}

static void make_names(int fd)
{
    make_dir(fd, "keep");
    fill(fd, "keep/a", 1, 1000);
    make_dir(fd, "dir");
    fill(fd, "dir/deleted", 2, 100);
    fill(fd, "dir/replaced", 3, 5000);
    fill(fd, "dir/touched", 4, 10);
    fill(fd, "dir/first", 5, 300);
    ASSERT_EQ(linkat(fd, "dir/first", fd, "dir/second", 0), 0);
    ASSERT_EQ(linkat(fd, "dir/first", fd, "keep/third", 0), 0);
    ASSERT_EQ(symlinkat("nowhere", fd, "dir/symlink"), 0);
    ASSERT_EQ(mkfifoat(fd, "dir/fifo", 0600), 0);
    make_dir(fd, "dir/file-to-be");
    fill(fd, "dir/file-to-be/inner", 6, 77);
    fill(fd, "dir/directory-to-be", 7, 78);
    make_dir(fd, "dir/gone");
    make_dir(fd, "dir/gone/deep");
    fill(fd, "dir/gone/deep/file", 8, 79);
    ASSERT_EQ(fchmodat(fd, "dir/gone/deep", 0500, 0), 0);
    fill(fd, "dir/twice", 9, 80);
    fill(fd, "dir/linked-over", 10, 81);
    make_dir(fd, "natural");
    fill(fd, "natural/deleted", 11, 82);
    make_dir(fd, "locked");
    fill(fd, "locked/file", 12, 83);
    fill(fd, "locked/append", 13, 84);
    fill(fd, "locked/linked", 14, 85);
    fill_sparse(fd, "shrinks", 15);
    fill_sparse(fd, "grows", 16);
    fill_sparse(fd, "natural/changed", 17);
}

void tree_make(const char *dir)
{
    static const char *const dated[] = {"keep/a",         "keep",
                                        "dir/symlink",    "dir/fifo",
                                        "dir/first",      "dir",
                                        "dir/gone/deep",  "dir/gone",
                                        "natural",        "natural/changed",
                                        "locked/file",    "locked",
                                        "shrinks",        "grows",
                                        "dir/file-to-be", "."};
    CLEANUP_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    ASSERT_TRUE(fd >= 0);
    make_names(fd);
    set_xattr(fd, "dir/touched", "user.old", "value");
    set_xattr(fd, "dir", "user.directory", "x");
    ASSERT_EQ(fchmodat(fd, "shrinks", 04711, 0), 0);
    make_root_hereditary(fd);
    for (size_t i = 0; i < ELEMENTSOF(dated); i++)
        set_times(fd, dated[i], 1000000 + (time_t)i);
    set_flags(fd, "locked/file", FS_IMMUTABLE_FL);
    set_flags(fd, "locked/append", FS_APPEND_FL);
    set_flags(fd, "locked/linked", FS_IMMUTABLE_FL);
    set_flags(fd, "locked", FS_IMMUTABLE_FL | FS_NODUMP_FL);
    set_flags(fd, "shrinks", FS_IMMUTABLE_FL);
}

static int remove_child(int fd, const struct dirent *d)
{
    if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
        return 0;
    return beneath_remove(fd, d->d_name);
}

/* Whoever is not root may not change what is in it otherwise. */
static void open_up(const char *dir)
{
    char command[1024];

    (void)snprintf(command, sizeof(command), "chmod -R u+rwx '%s'", dir);
    ASSERT_EQ(geteuid() == 0 ? 0 : system(command), 0);
}

void tree_remove(const char *dir)
{
    DIR *stream = opendir(dir);

    ASSERT_TRUE(stream != NULL);
    open_up(dir);
    for (const struct dirent *d = readdir(stream); d; d = readdir(stream))
        ASSERT_OK(remove_child(dirfd(stream), d));
    (void)closedir(stream);
}

/* ---- the change ---- */

static struct entry attributes(enum entry_type type, unsigned mode, int64_t sec)
{
    return (struct entry){.type = type,
                          .mode = mode,
                          .uid = geteuid(),
                          .gid = getegid(),
                          .mtime = {.sec = sec, .nsec = 99},
                          .atime = {.sec = sec + 5, .nsec = 98}};
}

static void set(struct treetx *tx, const char *path, struct entry e)
{
    ASSERT_OK(treetx_set_meta(tx, path, &e, NULL));
}

/* A file, with a name in the stage. */
static void stage_file(struct treetx *tx, char name[TREETX_STAGE_NAME_MAX], uint64_t seed,
                       size_t len)
{
    treetx_stage_name(tx, name);
    fill(treetx_stage_fd(tx), name, seed, len);
    set_times(treetx_stage_fd(tx), name, 2000000 + (time_t)seed);
}

static void stage_dir(struct treetx *tx, char name[TREETX_STAGE_NAME_MAX], uint64_t seed)
{
    char inner[64];

    treetx_stage_name(tx, name);
    make_dir(treetx_stage_fd(tx), name);
    (void)snprintf(inner, sizeof(inner), "%s/inner", name);
    fill(treetx_stage_fd(tx), inner, seed, 321);
    set_times(treetx_stage_fd(tx), inner, 2100000 + (time_t)seed);
    set_times(treetx_stage_fd(tx), name, 2100001 + (time_t)seed);
}

static void plan_names(struct treetx *tx)
{
    char name[TREETX_STAGE_NAME_MAX];

    stage_file(tx, name, 101, 4000);
    ASSERT_OK(treetx_put(tx, name, "dir/new"));
    stage_dir(tx, name, 102);
    ASSERT_OK(treetx_put(tx, name, "new"));
    treetx_stage_name(tx, name);
    ASSERT_EQ(symlinkat("somewhere", treetx_stage_fd(tx), name), 0);
    set_times(treetx_stage_fd(tx), name, 2200000);
    ASSERT_OK(treetx_replace(tx, name, "dir/symlink"));
    stage_file(tx, name, 103, 10);
    ASSERT_OK(treetx_replace(tx, name, "dir/replaced"));
    stage_file(tx, name, 104, 11);
    ASSERT_OK(treetx_replace(tx, name, "dir/file-to-be"));
    stage_dir(tx, name, 105);
    ASSERT_OK(treetx_replace(tx, name, "dir/directory-to-be"));
    ASSERT_OK(treetx_delete(tx, "dir/deleted"));
    ASSERT_OK(treetx_delete(tx, "dir/fifo"));
    ASSERT_OK(treetx_delete(tx, "dir/gone"));
    ASSERT_OK(treetx_delete(tx, "dir/second"));
    ASSERT_OK(treetx_delete(tx, "natural/deleted"));
    ASSERT_OK(treetx_delete(tx, "locked/file"));
    ASSERT_OK(treetx_delete(tx, "dir/twice"));
    stage_file(tx, name, 106, 12);
    ASSERT_OK(treetx_put(tx, name, "dir/twice"));
    stage_file(tx, name, 107, 13);
    set_flags(treetx_stage_fd(tx), name, FS_IMMUTABLE_FL);
    ASSERT_OK(treetx_replace(tx, name, "locked/append"));
}

static void plan_links(struct treetx *tx)
{
    ASSERT_OK(treetx_link(tx, "dir/first", "dir/fourth"));
    ASSERT_OK(treetx_link(tx, "dir/new", "new/hard"));
    ASSERT_OK(treetx_delete(tx, "dir/linked-over"));
    ASSERT_OK(treetx_link(tx, "dir/new", "dir/linked-over"));
    ASSERT_OK(treetx_link(tx, "locked/linked", "natural/linked"));
}

static void plan_contents(struct treetx *tx)
{
    char name[TREETX_STAGE_NAME_MAX];

    treetx_stage_name(tx, name);
    fill_sparse(treetx_stage_fd(tx), name, 108);
    ASSERT_OK(treetx_copy(tx, "shrinks", name, 2 * BLOCK, 8 * BLOCK));
    ASSERT_OK(treetx_punch(tx, "shrinks", 12 * BLOCK, 2 * BLOCK));
    ASSERT_OK(treetx_resize(tx, "shrinks", 17 * BLOCK + 17));
    ASSERT_OK(treetx_copy(tx, "grows", name, 10, 3 * BLOCK));
    ASSERT_OK(treetx_copy(tx, "grows", name, 25 * BLOCK, 5 * BLOCK));
    ASSERT_OK(treetx_resize(tx, "grows", 40 * BLOCK));
    ASSERT_OK(treetx_copy(tx, "natural/changed", name, 0, 20 * BLOCK));
}

static void plan_attributes(struct treetx *tx)
{
    struct xattr x = {.name = (char[]){"user.new"}, .value = (uint8_t[]){1, 0, 2}, .value_len = 3};
    struct entry touched = attributes(ENTRY_REGULAR, 0601, 3000001);

    touched.xattrs = (struct xattr_vector){.items = &x, .count = 1};
    set(tx, "dir/touched", touched);
    set(tx, "", attributes(ENTRY_DIRECTORY, 0711, 3000002));
    set(tx, "dir", attributes(ENTRY_DIRECTORY, 0750, 3000003));
    set(tx, "new", attributes(ENTRY_DIRECTORY, 0700, 3000004));
    set(tx, "keep/a", attributes(ENTRY_REGULAR, 0444, 3000005));
    struct entry locked = attributes(ENTRY_DIRECTORY, 0555, 3000006);
    locked.flags = geteuid() == 0 ? FS_APPEND_FL : 0;
    set(tx, "locked", locked);
    set(tx, "shrinks", attributes(ENTRY_REGULAR, 02755, 3000007));
    set(tx, "grows", attributes(ENTRY_REGULAR, 0600, 3000008));
}

static int no_problem(const char *path, const char *what, int r, void *userdata)
{
    (void)userdata;
    test_fail(__FILE__, __LINE__, "'%s': %s: %s", path, what, error_describe(r));
}

struct treetx *tree_plan_change(const char *dir)
{
    const struct treetx_options options = {.problem = no_problem};
    struct treetx *tx = NULL;

    ASSERT_OK(treetx_begin(dir, -EBADF, &options, &tx));
    plan_names(tx);
    plan_links(tx);
    plan_contents(tx);
    plan_attributes(tx);
    return tx;
}

/* ---- looking ---- */

struct dump {
    struct buffer text;
    bool loose;
};

_printf_(2, 3) static void say(struct dump *d, const char *fmt, ...)
{
    char line[8192];
    va_list args;

    va_start(args, fmt);
    int len = vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    ASSERT_TRUE(len >= 0 && (size_t)len < sizeof(line));
    buffer_put(&d->text, line, (size_t)len);
}

static void dump_contents(struct dump *d, int fd, uint64_t size)
{
    CLEANUP_FREE uint8_t *data = malloc(size + 1);

    ASSERT_EQ(pread(fd, data, size, 0), size);
    say(d, " crc=%08x", crc32c(0, data, size));
    for (off_t at = 0; (uint64_t)at < size;) {
        off_t begin = lseek(fd, at, SEEK_DATA);
        if (begin < 0)
            break;
        at = lseek(fd, begin, SEEK_HOLE);
        say(d, " %jd-%jd", (intmax_t)begin, (intmax_t)at);
    }
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void dump_xattrs(struct dump *d, const char *link)
{
    char list[4096], value[4096];
    const char *names[16];
    size_t count = 0;
    ssize_t len = listxattr(link, list, sizeof(list));

    for (const char *name = list; len > 0 && name < list + len; name += strlen(name) + 1) {
        ASSERT_LT(count, ELEMENTSOF(names));
        names[count++] = name;
    }
    qsort(names, count, sizeof(*names), compare_names);
    for (size_t i = 0; i < count; i++) {
        ssize_t value_len = getxattr(link, names[i], value, sizeof(value));
        say(d, " %s=%08x", names[i], value_len < 0 ? 0 : crc32c(0, value, (size_t)value_len));
    }
}

static bool is_natural(const char *path)
{
    return strcmp(path, "natural") == 0 || strcmp(path, "natural/changed") == 0;
}

static void dump_attributes(struct dump *d, int dir_fd, const char *name, const char *path)
{
    char link[40], target[256] = "";
    CLEANUP_CLOSE int path_fd = openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    ASSERT_TRUE(path_fd >= 0 && fstat(path_fd, &st) == 0);
    say(d, "%s %o %u:%u", path, st.st_mode, st.st_uid, st.st_gid);
    if (!d->loose || *path)
        say(d, " n=%ju", (uintmax_t)st.st_nlink);
    if (!d->loose)
        say(d, " i=%ju", (uintmax_t)st.st_ino);
    if (!d->loose || !is_natural(path))
        say(d, " m=%jd.%09ld", (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", path_fd);
    dump_xattrs(d, link);
    if (S_ISLNK(st.st_mode)) {
        ASSERT_TRUE(readlinkat(path_fd, "", target, sizeof(target) - 1) > 0);
        say(d, " -> %s", target);
    }
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
        unsigned flags = 0;
        CLEANUP_CLOSE int fd = open(link, O_RDONLY | O_NOATIME | O_CLOEXEC);
        ASSERT_TRUE(fd >= 0);
        if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0)
            say(d, " f=%x", flags & META_FLAGS_RECORDED);
        if (S_ISREG(st.st_mode))
            dump_contents(d, fd, (uint64_t)st.st_size);
    }
    say(d, "\n");
}

static void dump_dir(struct dump *d, int dir_fd, const char *path);

static void dump_child(struct dump *d, int dir_fd, const char *path, const char *name)
{
    char child[512];
    struct stat st;

    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, TREETX_STAGE_NAME) == 0)
        return;
    (void)snprintf(child, sizeof(child), "%s%s%s", path, *path ? "/" : "", name);
    dump_attributes(d, dir_fd, name, child);
    ASSERT_EQ(fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
    if (!S_ISDIR(st.st_mode))
        return;
    CLEANUP_CLOSE int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    dump_dir(d, fd, child);
}

static void dump_dir(struct dump *d, int dir_fd, const char *path)
{
    struct dirent **names;
    int count = scandirat(dir_fd, ".", &names, NULL, alphasort);

    ASSERT_TRUE(count >= 0);
    for (int i = 0; i < count; i++) {
        dump_child(d, dir_fd, path, names[i]->d_name);
        free(names[i]);
    }
    free(names);
}

char *tree_dump(const char *dir, bool loose)
{
    struct dump d = {.loose = loose};
    CLEANUP_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    ASSERT_TRUE(fd >= 0);
    dump_attributes(&d, fd, ".", "");
    dump_dir(&d, fd, "");
    buffer_put_u8(&d.text, 0);
    ASSERT_OK(buffer_finish(&d.text));
    return (char *)TAKE_PTR(d.text.data);
}

/* ---- killing ---- */

static _noreturn_ void run_traced(void (*fn)(const char *dir), const char *dir)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(2);
    (void)raise(SIGSTOP);
    fn(dir);
    _exit(0);
}

static int wait_for(pid_t pid)
{
    int status;

    while (waitpid(pid, &status, 0) < 0)
        ASSERT_EQ(errno, EINTR);
    return status;
}

/* Goes on until it has made that many calls; its last status. */
static int run_until(pid_t pid, uint64_t call, uint64_t *ret_calls)
{
    /* Each call stops twice, before and after. */
    uint64_t stops = 0;
    int status = wait_for(pid);

    while (WIFSTOPPED(status) && stops < 2 * call + 1) {
        ASSERT_EQ(ptrace(PTRACE_SYSCALL, pid, NULL, NULL), 0);
        status = wait_for(pid);
        stops++;
    }
    *ret_calls = stops / 2;
    return status;
}

static pid_t start(void (*fn)(const char *dir), const char *dir)
{
    pid_t pid = fork();

    ASSERT_TRUE(pid >= 0);
    if (pid == 0)
        run_traced(fn, dir);
    return pid;
}

static void check_ended(int status)
{
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_EQ(WEXITSTATUS(status), 0);
}

bool tree_stop_at(unsigned call, void (*fn)(const char *dir), const char *dir,
                  void (*moment)(void *userdata), void *userdata)
{
    uint64_t calls;
    pid_t pid = start(fn, dir);
    int status = run_until(pid, call, &calls);

    if (!WIFSTOPPED(status)) {
        check_ended(status);
        return false;
    }
    if (moment)
        moment(userdata);
    ASSERT_EQ(kill(pid, SIGKILL), 0);
    status = wait_for(pid);
    ASSERT_TRUE(WIFSIGNALED(status));
    return true;
}

bool tree_kill_at(unsigned call, void (*fn)(const char *dir), const char *dir)
{
    return tree_stop_at(call, fn, dir, NULL, NULL);
}

unsigned tree_count_calls(void (*fn)(const char *dir), const char *dir)
{
    uint64_t calls;

    check_ended(run_until(start(fn, dir), UINT32_MAX, &calls));
    return (unsigned)calls;
}
