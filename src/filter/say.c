/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter/say.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "filter/fds.h"

static int priority_of(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR: return LOG_ERR;
    case LOG_LEVEL_WARNING: return LOG_WARNING;
    case LOG_LEVEL_INFO: return LOG_INFO;
    case LOG_LEVEL_DEBUG: break;
    }
    return LOG_DEBUG;
}

/* Also after the system log has been restarted.  Names are looked up, but nothing is opened. */
static int reach(void)
{
    static const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
    return connect(FD_LOG, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
}

static void send_line(enum log_level level, const char *line, void *userdata _unused_)
{
    char text[2200];
    int len = snprintf(text, sizeof(text), "<%d>umbra-filterd[%d]: %s",
                       LOG_DAEMON | priority_of(level), (int)getpid(), line);
    size_t n = (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1;

    if (send(FD_LOG, text, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN && reach() == 0)
        (void)send(FD_LOG, text, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void say_to_system_log(void)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    log_set_sink(send_line, NULL);
    if (fd >= 0 && fds_place(FD_LOG, fd) >= 0)
        IGNORE_RESULT(reach());
}
