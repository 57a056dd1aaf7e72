/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages of umbra-cowd, which must never wait: whoever reads them may himself be waiting for a
 * file system of the volume.  syslog(3) waits when the queue of /dev/log is full, and all threads
 * with it.  So the socket is our own, and what finds no room is counted, and told of later.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "basic/log.h"
#include "cow/cowd-private.h"

#define LOG_SOCKET   "/dev/log"
#define LINE_MAX_LEN 2560

static const int priorities[] = {
    [LOG_LEVEL_ERROR] = LOG_ERR,
    [LOG_LEVEL_WARNING] = LOG_WARNING,
    [LOG_LEVEL_INFO] = LOG_INFO,
    [LOG_LEVEL_DEBUG] = LOG_DEBUG,
};

/* Of the sink, which one thread uses at a time. */
static int log_fd = -1;
static unsigned long dropped;

static bool send_now(const char *line, size_t len)
{
    return send(log_fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

static void connect_socket(void)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = LOG_SOCKET};
    if (log_fd < 0)
        log_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (log_fd >= 0)
        (void)connect(log_fd, (const struct sockaddr *)&address, sizeof(address));
}

/* RFC 3164, as syslog(3) writes it. */
static size_t format(char to[LINE_MAX_LEN], enum log_level level, const char *line)
{
    char when[32] = "";
    struct tm tm;
    time_t now = time(NULL);
    if (localtime_r(&now, &tm))
        (void)strftime(when, sizeof(when), "%b %e %T", &tm);
    int len = snprintf(to, LINE_MAX_LEN, "<%d>%s umbra-cowd[%d]: %s",
                       LOG_DAEMON | priorities[level], when, (int)getpid(), line);
    return MIN((size_t)MAX(len, 0), (size_t)LINE_MAX_LEN - 1);
}

static bool send_syslog(enum log_level level, const char *line)
{
    char message[LINE_MAX_LEN];
    size_t len = format(message, level, line);
    if (send_now(message, len))
        return true;
    connect_socket(); /* the daemon behind it may have been started anew */
    return send_now(message, len);
}

static void to_syslog(enum log_level level, const char *line, void *userdata _unused_)
{
    char words[64];
    if (dropped > 0) {
        (void)snprintf(words, sizeof(words), "%lu messages found no room", dropped);
        if (send_syslog(LOG_LEVEL_WARNING, words))
            dropped = 0;
    }
    if (!send_syslog(level, line))
        dropped++;
}

/* The journal of systemd. */
static void to_stream(enum log_level level, const char *line, void *userdata _unused_)
{
    char message[LINE_MAX_LEN];
    int len = snprintf(message, sizeof(message), "<%d>%s\n", priorities[level], line);
    if (len > 0)
        (void)send(STDERR_FILENO, message, MIN((size_t)len, sizeof(message) - 1),
                   MSG_DONTWAIT | MSG_NOSIGNAL);
}

void cowd_log_start(bool foreground)
{
    struct stat st;
    tzset(); /* which reads a file */
    if (!foreground)
        log_set_sink(to_syslog, NULL);
    else if (fstat(STDERR_FILENO, &st) == 0 && S_ISSOCK(st.st_mode))
        log_set_sink(to_stream, NULL);
}
