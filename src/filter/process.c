/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "filter/fds.h"

pid_t process_clone(bool share_fds, int pidfd_role)
{
    int pidfd = -EBADF;
    struct clone_args args = {
        .flags = CLONE_PIDFD | (share_fds ? CLONE_FILES : 0),
        .pidfd = (uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
    };

    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid < 0)
        return -errno;
    if (pid == 0)
        return 0;
    int r = fds_place(pidfd_role, pidfd);
    return r < 0 ? r : pid;
}

int process_begin(const char *name, int pidfd_role)
{
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (pidfd < 0)
        return error_note_describe(-errno, "cannot make a pidfd");
    int r = fds_place(pidfd_role, pidfd);
    if (r < 0)
        return r;
    if (prctl(PR_SET_NAME, name) < 0)
        return -errno;
    if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
        return error_note_describe(-errno, "cannot lock the memory");
    return 0;
}

bool process_is_dead(int pidfd_role, int *ret_status)
{
    struct pollfd poll_fd = {.fd = pidfd_role, .events = POLLIN};
    siginfo_t info = {0};

    if (poll(&poll_fd, 1, 0) != 1)
        return false;
    int r = waitid(P_PIDFD, (id_t)pidfd_role, &info, WEXITED | WNOHANG);
    if (ret_status)
        *ret_status = r == 0 && info.si_code == CLD_EXITED ? info.si_status : -1;
    return true;
}

void process_set_oom_score(const char *score, char *ret_before, size_t size)
{
    CLEANUP_CLOSE int fd = openat(FD_PROC, "self/oom_score_adj", O_RDWR | O_CLOEXEC);
    if (ret_before) {
        ssize_t n = fd < 0 ? 0 : read(fd, ret_before, size - 1);
        ret_before[n > 0 ? n : 0] = '\0';
    }
    if (fd >= 0)
        IGNORE_RESULT(pwrite(fd, score, strlen(score), 0));
}

uint64_t clock_monotonic_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
}
