/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static _Atomic int max_level = LOG_LEVEL_INFO;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* one line at a time; guards the sink */
static log_sink_fn sink_fn;
static void *sink_userdata;

void log_set_level(enum log_level level)
{
    atomic_store(&max_level, (int)level);
}

enum log_level log_level(void)
{
    return (enum log_level)atomic_load(&max_level);
}

void log_set_sink(log_sink_fn sink, void *userdata)
{
    pthread_mutex_lock(&lock);
    sink_fn = sink;
    sink_userdata = userdata;
    pthread_mutex_unlock(&lock);
}

/* One line a message, whatever bytes a file name in it has. */
static void flatten(char *line)
{
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

void log_message(enum log_level level, const char *fmt, ...)
{
    if ((int)level > atomic_load(&max_level))
        return;
    int saved = errno;
    char line[2048];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    flatten(line);

    pthread_mutex_lock(&lock);
    if (sink_fn)
        sink_fn(level, line, sink_userdata);
    else
        (void)fprintf(stderr, "umbra: %s%s\n", level == LOG_LEVEL_WARNING ? "warning: " : "", line);
    pthread_mutex_unlock(&lock);
    errno = saved;
}
