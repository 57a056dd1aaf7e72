/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "gated-private.h"

#define BE_HYDRATOR "be-the-hydrator"
#define STATUS_SKIP 77

static char self[PATH_MAX], filterd[PATH_MAX];

int gated_main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], BE_HYDRATOR) == 0)
        return gated_be_hydrator();
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n < 0)
        return EXIT_FAILURE;
    const char *given = getenv("UMBRA_FILTERD");
    (void)snprintf(filterd, sizeof(filterd), "%s", given ? given : "");
    return test_main(argc, argv);
}

void gated_sleep_ms(unsigned ms)
{
    (void)poll(NULL, 0, (int)ms);
}

/* ---- the world ---- */

_printf_(1, 2) static int run(const char *format, ...)
{
    char command[1024];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    return system(command);
}

static void make_volume(struct gated *g, const char *file_system)
{
    char image[300];

    (void)snprintf(image, sizeof(image), "%s/image", g->dir);
    CLEANUP_CLOSE int fd = open(image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_TRUE(ftruncate(fd, 400 << 20) == 0);
    (void)snprintf(g->dir + strlen(g->dir), sizeof(g->dir) - strlen(g->dir), "/volume");
    ASSERT_TRUE(mkdir(g->dir, 0755) == 0 || errno == EEXIST);
    if (run("mkfs.%s -q %s >/dev/null 2>&1", file_system, image) != 0 ||
        run("mount -o loop %s %s", image, g->dir) != 0)
        gated_skip();
}

_noreturn_ static void be_world(const char *file_system, void (*fn)(struct gated *g))
{
    struct gated g = {.report_fd = -1};

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setsid();
    ASSERT_TRUE(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    ASSERT_TRUE(mount("proc", "/proc", "proc", 0, NULL) == 0);
    (void)snprintf(g.dir, sizeof(g.dir), "%s", test_tmpdir());
    make_volume(&g, file_system);
    g.control_fd = memfd_create("control", MFD_CLOEXEC);
    ASSERT_TRUE(g.control_fd >= 0 && ftruncate(g.control_fd, sizeof(*g.control)) == 0);
    g.control = mmap(NULL, sizeof(*g.control), PROT_READ | PROT_WRITE, MAP_SHARED, g.control_fd, 0);
    ASSERT_TRUE(g.control != MAP_FAILED);
    fn(&g);
    (void)fflush(NULL);
    _exit(EXIT_SUCCESS);
}

void gated_run(const char *file_system, unsigned limit_sec, void (*fn)(struct gated *g))
{
    struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_PIDFD,
                              .exit_signal = SIGCHLD};
    int pidfd = -1, status = 0;

    if (geteuid() != 0)
        test_skip("needs root");
    (void)test_tmpdir();
    args.pidfd = (uintptr_t)&pidfd;
    (void)fflush(NULL);
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    ASSERT_TRUE(pid >= 0);
    if (pid == 0)
        be_world(file_system, fn);
    struct pollfd end = {.fd = pidfd, .events = POLLIN};
    int in_time = poll(&end, 1, (int)limit_sec * 1000);
    (void)kill(pid, SIGKILL);
    ASSERT_TRUE(waitpid(pid, &status, 0) == pid);
    (void)close(pidfd);
    if (in_time != 1)
        test_fail(__FILE__, __LINE__, "the world did not end within %u s", limit_sec);
    if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_SKIP)
        test_skip("this kernel cannot");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        test_fail(__FILE__, __LINE__, "the world ended with %#x", (unsigned)status);
}

/* ---- processes of the world ---- */

static bool has_comm(const char *pid, const char *comm)
{
    char path[300], text[32] = "";

    (void)snprintf(path, sizeof(path), "/proc/%s/stat", pid);
    FILE *stat = fopen(path, "re");
    if (!stat)
        return false;
    int n = fscanf(stat, "%*d (%31[^)]) %*c", text);
    char state = 'Z';
    rewind(stat);
    if (n == 1)
        n = fscanf(stat, "%*d (%*[^)]) %c", &state);
    (void)fclose(stat);
    return n == 1 && state != 'Z' && state != 'X' && strcmp(text, comm) == 0;
}

pid_t gated_find(const char *comm)
{
    pid_t found = 0;
    DIR *proc = opendir("/proc");
    ASSERT_TRUE(proc != NULL);
    for (const struct dirent *entry; !found && (entry = readdir(proc));)
        if (strspn(entry->d_name, "0123456789") == strlen(entry->d_name) &&
            has_comm(entry->d_name, comm))
            found = (pid_t)strtol(entry->d_name, NULL, 10);
    (void)closedir(proc);
    return found;
}

pid_t gated_await(const char *comm, pid_t other_than)
{
    for (;;) {
        pid_t pid = gated_find(comm);
        if (pid > 0 && pid != other_than)
            return pid;
        gated_sleep_ms(1);
    }
}

bool gated_kill(const char *comm)
{
    pid_t pid = gated_find(comm);
    return pid > 0 && kill(pid, SIGKILL) == 0;
}

/* What a descriptor store gives back. */
static void take_from_store(int group, int table)
{
    char pid[16];

    if (group < 0)
        return;
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    (void)setenv("LISTEN_PID", pid, 1);
    (void)setenv("LISTEN_FDS", "2", 1);
    (void)setenv("LISTEN_FDNAMES", "umbra-group:umbra-table", 1);
    group = fcntl(group, F_DUPFD_CLOEXEC, 20);
    table = fcntl(table, F_DUPFD_CLOEXEC, 20);
    if (dup2(group, 3) < 0 || dup2(table, 4) < 0)
        _exit(125);
}

static pid_t spawn_filterd(struct gated *g, const char *target, const char *deadline, int group,
                           int table)
{
    char config[16], report[16], id[20];
    int pipe_fds[2];

    ASSERT_TRUE(pipe2(pipe_fds, O_CLOEXEC) == 0);
    int report_fd = fcntl(pipe_fds[1], F_DUPFD_CLOEXEC, 10);
    int control_fd = fcntl(g->control_fd, F_DUPFD_CLOEXEC, 10);
    ASSERT_TRUE(report_fd >= 0 && control_fd >= 0);
    (void)snprintf(config, sizeof(config), "%d", control_fd);
    (void)snprintf(report, sizeof(report), "%d", report_fd);
    (void)snprintf(id, sizeof(id), "%016llx", (unsigned long long)GATED_RESTORE_ID);
    pid_t pid = fork();
    ASSERT_TRUE(pid >= 0);
    if (pid == 0) {
        (void)fcntl(control_fd, F_SETFD, 0);
        (void)fcntl(report_fd, F_SETFD, 0);
        take_from_store(group, table);
        (void)execl(filterd, "umbra-filterd", "--target", target, "--restore-id", id, "--config-fd",
                    config, "--report-fd", report, "--deadline", deadline, "--", self, BE_HYDRATOR,
                    NULL);
        _exit(126);
    }
    (void)close(pipe_fds[1]);
    (void)close(report_fd);
    (void)close(control_fd);
    g->report_fd = pipe_fds[0];
    return pid;
}

void gated_start(struct gated *g, unsigned deadline_sec)
{
    char deadline[16];
    int status;

    (void)snprintf(deadline, sizeof(deadline), "%u", deadline_sec);
    pid_t pid = spawn_filterd(g, g->dir, deadline, -1, -1);
    ASSERT_TRUE(waitpid(pid, &status, 0) == pid);
    ASSERT_EQ(status, 0);
}

void gated_start_again(struct gated *g, int group, int table)
{
    int status;

    pid_t pid = spawn_filterd(g, g->dir, "100", group, table);
    ASSERT_TRUE(waitpid(pid, &status, 0) == pid);
    ASSERT_EQ(status, 0);
}

int gated_start_failing(struct gated *g, const char *target, char *text, size_t size)
{
    int status;

    pid_t pid = spawn_filterd(g, target, "10", -1, -1);
    ASSERT_TRUE(waitpid(pid, &status, 0) == pid);
    ssize_t n = read(g->report_fd, text, size - 1);
    text[n > 0 ? n : 0] = '\0';
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void gated_finish(struct gated *g)
{
    static const char *const all[] = {"umbra-filterd", "umbra-keeper", "test-hydrator"};

    atomic_store(&g->control->finish, 1);
    for (size_t i = 0; i < ELEMENTSOF(all); i++)
        while (gated_find(all[i]) > 0) {
            (void)waitpid(-1, NULL, WNOHANG);
            gated_sleep_ms(5);
        }
    ASSERT_EQ(atomic_load(&g->control->finished), 1);
}

void gated_wait_for(_Atomic uint32_t *value, uint32_t at_least)
{
    while (atomic_load(value) < at_least)
        gated_sleep_ms(1);
}

void gated_skip(void)
{
    _exit(STATUS_SKIP);
}

/* ---- files ---- */

char *gated_path(const struct gated *g, const char *name, char path[512])
{
    (void)snprintf(path, 512, "%s/%s", g->dir, name);
    return path;
}

void gated_make(struct gated *g, const char *name, uint64_t ordinal, uint64_t len)
{
    char path[512];

    ASSERT_OK(gated_make_at(AT_FDCWD, gated_path(g, name, path), ordinal, len, 0));
}

int gated_read(struct gated *g, const char *name, uint64_t ordinal, uint64_t len)
{
    uint8_t data[8192];
    char path[512];

    CLEANUP_CLOSE int fd = open(gated_path(g, name, path), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    for (uint64_t at = 0; at < len;) {
        ssize_t n = pread(fd, data, sizeof(data), (off_t)at);
        if (n < 0)
            return errno;
        ASSERT_TRUE(n > 0);
        for (ssize_t i = 0; i < n; i++)
            if (data[i] != gated_byte(ordinal, at + (uint64_t)i))
                test_fail(__FILE__, __LINE__, "%s: wrong byte %#x at %llu", name, data[i],
                          (unsigned long long)at + (unsigned long long)i);
        at += (uint64_t)n;
    }
    return 0;
}
