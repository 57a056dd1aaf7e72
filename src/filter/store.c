/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/store.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "filter/digits.h"
#include "filter/fds.h"

#define NAME_GROUP   "umbra-group"
#define NAME_TABLE   "umbra-table"
#define LISTEN_FIRST 3
#define LISTEN_MAX   64u

static unsigned number_of(const char *variable)
{
    const char *text = getenv(variable);
    unsigned value;

    return text && digits_take(&text, '\0', &value) == 0 ? value : 0;
}

void store_take(int *ret_group, int *ret_table)
{
    unsigned count = number_of("LISTEN_PID") == (unsigned)getpid() ? number_of("LISTEN_FDS") : 0;
    const char *names = getenv("LISTEN_FDNAMES");

    *ret_group = *ret_table = -EBADF;
    for (unsigned i = 0; names && *names && i < MIN(count, LISTEN_MAX); i++) {
        size_t len = strcspn(names, ":");
        if (len == strlen(NAME_GROUP) && strncmp(names, NAME_GROUP, len) == 0)
            *ret_group = LISTEN_FIRST + (int)i;
        if (len == strlen(NAME_TABLE) && strncmp(names, NAME_TABLE, len) == 0)
            *ret_table = LISTEN_FIRST + (int)i;
        names += len + (names[len] == ':');
    }
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
}

int store_open(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    size_t len = path ? strlen(path) : 0;

    if (len == 0)
        return 0;
    if (len >= sizeof(address.sun_path))
        return error_note(-EINVAL, "NOTIFY_SOCKET is too long");
    memcpy(address.sun_path, path, len);
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    (void)unsetenv("NOTIFY_SOCKET");
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_note_describe(-errno, "cannot make a socket");
    int r = fds_place(FD_NOTIFY, fd);
    if (r < 0)
        return r;
    if (connect(FD_NOTIFY, (struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
        return error_note_describe(-errno, "cannot reach NOTIFY_SOCKET");
    return 0;
}

/* fd: -1: none.  Where there is no store, FD_NOTIFY is no socket. */
static void say(const char *text, int fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
    }
    if (sendmsg(FD_NOTIFY, &message, MSG_NOSIGNAL) < 0 && errno != ENOTSOCK)
        log_warning("cannot talk to the descriptor store: %s", error_describe(-errno));
}

void store_put(void)
{
    say("FDSTORE=1\nFDPOLL=0\nFDNAME=" NAME_TABLE, FD_TABLE);
    say("FDSTORE=1\nFDPOLL=0\nFDNAME=" NAME_GROUP, FD_GROUP);
}

void store_say_ready(void)
{
    say("READY=1", -1);
}

void store_remove(void)
{
    say("FDSTOREREMOVE=1\nFDNAME=" NAME_GROUP, -1);
    say("FDSTOREREMOVE=1\nFDNAME=" NAME_TABLE, -1);
}
