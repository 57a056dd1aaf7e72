/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Numbers, times and names as text, both ways. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "basic/macro.h"

/* Lower-case hex; text has room for 2 * len + 1. */
void hex_encode(const void *data, size_t len, char *text);
/* 0, or -EINVAL when text is not exactly 2 * len hex digits. */
_must_check_ int hex_decode(const char *text, void *data, size_t len);

/*
 * A name of any bytes made printable on one line: valid UTF-8 without control characters stays as
 * it is, every other byte and the backslash become \\xNN (hex).  malloc'ed; NULL without memory.
 */
char *text_escape(const void *data, size_t len);
/* Back again: the bytes, malloc'ed, with a NUL behind them.  -EINVAL when a backslash is followed
 * by anything but 'x' and two hex digits. */
_must_check_ int text_unescape(const char *text, size_t len, char **ret_data, size_t *ret_len);

/* "1.2 GiB", three significant digits; returns text, which has room for 16. */
char *text_format_bytes(uint64_t bytes, char text[16]);
/* "2026-11-21T04:37:58Z", with nanoseconds when ns is not whole; RFC 3339, UTC. */
char *text_format_time(int64_t ns_since_epoch, char text[40]);
/* "512K", "8M", "1G", "1T" or plain bytes; binary units.  -EINVAL. */
_must_check_ int text_parse_bytes(const char *text, uint64_t *ret_bytes);
