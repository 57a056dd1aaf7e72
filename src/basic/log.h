/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a program has to say while it works.  Everything goes to standard error, one line a message.
 */
#pragma once

#include "basic/macro.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Messages above the level are dropped; LOG_LEVEL_INFO at start.  Any thread. */
void log_set_level(enum log_level level);
enum log_level log_level(void);

/*
 * Called with each finished line (without newline, control characters replaced) in place of
 * writing it, by one thread at a time; it must not log.  NULL: back to stderr.
 */
typedef void (*log_sink_fn)(enum log_level level, const char *line, void *userdata);
void log_set_sink(log_sink_fn sink, void *userdata);

void log_message(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...)   log_message(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_message(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_message(LOG_LEVEL_DEBUG, __VA_ARGS__)
