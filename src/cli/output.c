/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One mutex (output_mutex) guards standard error and the state of the progress line.  It is taken
 * last of all and nothing is called while it is held but stdio, so any thread may talk at any time,
 * also from callbacks of the libraries.
 *
 * Standard error is written with single write(2) calls of whole lines: lines of several threads do
 * not mix, and when nobody reads them (a closed pipe) they are lost without harm, for SIGPIPE is
 * ignored.
 */
#include "cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"

#define JSON_LINE_FLAGS (JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
#define CLEAR_LINE      "\r\033[K"

static pthread_mutex_t output_mutex = PTHREAD_MUTEX_INITIALIZER;
static bool progress_shown;
static bool stdout_is_terminal;

static void sink(enum log_level level, const char *line, void *userdata)
{
    (void)userdata;
    talk("%s%s", level == LOG_LEVEL_WARNING ? "warning: " : "", line);
}

/* A descriptor of ours must never get number 0, 1 or 2, where stray output would land in it.  The
 * filler is opened the wrong way round, so that use of a closed stream still is an error. */
static void fill_standard_fd(int fd, int flags)
{
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", flags) != fd)
        _exit(1);
}

void output_init(void)
{
    fill_standard_fd(STDIN_FILENO, O_WRONLY); /* NOLINT: without O_CLOEXEC, as such are */
    fill_standard_fd(STDOUT_FILENO, O_RDONLY);
    fill_standard_fd(STDERR_FILENO, O_RDONLY);
    stdout_is_terminal = isatty(STDOUT_FILENO) == 1;
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* the write that is too far fails instead, with words */
    log_set_sink(sink, NULL);
}

bool output_broken(void)
{
    return ferror(stdout) != 0;
}

int output_finish(void)
{
    errno = 0;
    bool failed = fflush(stdout) != 0 || ferror(stdout) != 0;
    if (!failed)
        return 0;
    int r = errno > 0 ? -errno : -EIO;
    return error_note_describe(r, "cannot write to standard output");
}

/* With output_mutex held. */
static void write_stderr(const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, text, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        text += n;
        len -= (size_t)n;
    }
}

/* With output_mutex held. */
static void clear_progress_locked(void)
{
    if (progress_shown)
        write_stderr(CLEAR_LINE, strlen(CLEAR_LINE));
    progress_shown = false;
}

void output_raw_line(const char *text)
{
    CLEANUP_FREE char *line = NULL;
    int len = asprintf(&line, "%s\n", text);
    if (len < 0) {
        line = NULL;
        return;
    }
    output_lock();
    write_stderr(line, (size_t)len);
    output_unlock();
}

/* Messages may quote names of any bytes.  What could move the cursor or break the line is taken
 * out, C1 controls (U+0080 to U+009F) included. */
static void make_harmless(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c != '\0'; c++) {
        if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)
            c[0] = c[1] = '?';
        else if (*c < 0x20 || *c == 0x7f)
            *c = '?';
    }
}

void talk(const char *fmt, ...)
{
    CLEANUP_FREE char *text = NULL;
    CLEANUP_FREE char *line = NULL;
    va_list ap;
    va_start(ap, fmt);
    int len = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (len < 0) {
        text = NULL;
        return;
    }
    make_harmless(text);
    if (asprintf(&line, "umbra: %s", text) < 0) {
        line = NULL;
        return;
    }
    output_raw_line(line);
}

void talk_path(const char *what, const char *path, const char *why)
{
    CLEANUP_FREE char *escaped = text_escape(path, strlen(path));
    talk("%s '%s': %s", what, escaped ? escaped : "?", why);
}

void output_lock(void)
{
    (void)pthread_mutex_lock(&output_mutex);
    clear_progress_locked();
}

void output_unlock(void)
{
    if (stdout_is_terminal)
        (void)fflush(stdout); /* before a progress line comes in between */
    (void)pthread_mutex_unlock(&output_mutex);
}

void output_clear_progress(void)
{
    output_lock();
    output_unlock();
}

void output_draw_progress(const char *text)
{
    CLEANUP_FREE char *line = NULL;
    int len = asprintf(&line, "\r%s\033[K", text);
    if (len < 0) {
        line = NULL;
        return;
    }
    (void)pthread_mutex_lock(&output_mutex);
    write_stderr(line, (size_t)len);
    progress_shown = true;
    (void)pthread_mutex_unlock(&output_mutex);
}

bool output_stderr_usable(void)
{
    int flags = fcntl(STDERR_FILENO, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY; /* see fill_standard_fd() */
}

unsigned output_terminal_columns(void)
{
    struct winsize size;
    const char *term = getenv("TERM");
    if (!isatty(STDERR_FILENO) || !term || strcmp(term, "dumb") == 0)
        return 0;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 20)
        return 80;
    return size.ws_col;
}

void print_escaped(const char *name, size_t len)
{
    CLEANUP_FREE char *text = text_escape(name, len);
    fputs(text ? text : "?", stdout);
}

char *format_local_time(int64_t sec, char text[32])
{
    time_t when = (time_t)sec;
    struct tm tm;
    if (!localtime_r(&when, &tm) || strftime(text, 32, "%Y-%m-%d %H:%M:%S", &tm) == 0)
        (void)snprintf(text, 32, "@%" PRId64, sec);
    return text;
}

char *format_count(uint64_t count, char text[32])
{
    char digits[24];
    int len = snprintf(digits, sizeof(digits), "%" PRIu64, count);
    char *out = text;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            *out++ = ',';
        *out++ = digits[i];
    }
    *out = '\0';
    return text;
}

char *format_latency(uint64_t us, char text[32])
{
    if (us < 1000)
        (void)snprintf(text, 32, "%" PRIu64 " us", us);
    else if (us < 1000000)
        (void)snprintf(text, 32, "%.*f ms", us < 100000 ? 1 : 0, (double)us / 1e3);
    else
        (void)snprintf(text, 32, "%.2f s", (double)us / 1e6);
    return text;
}

const char *plural(uint64_t count, const char *one, const char *many)
{
    return count == 1 ? one : many;
}

uint64_t monotonic_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- JSON ---- */

static struct json_object *checked(struct json_object *object)
{
    if (!object) {
        talk("cannot write JSON: out of memory");
        _exit(1);
    }
    return object;
}

struct json_object *json_new_object(void)
{
    return checked(json_object_new_object());
}

struct json_object *json_new_array(void)
{
    return checked(json_object_new_array());
}

void json_add(struct json_object *object, const char *key, struct json_object *value)
{
    checked(json_object_object_add(object, key, value) == 0 ? object : NULL);
}

void json_append(struct json_object *array, struct json_object *value)
{
    checked(json_object_array_add(array, value) == 0 ? array : NULL);
}

void json_add_string(struct json_object *object, const char *key, const char *value)
{
    json_add(object, key, value ? checked(json_object_new_string(value)) : NULL);
}

void json_add_uint(struct json_object *object, const char *key, uint64_t value)
{
    json_add(object, key, checked(json_object_new_uint64(value)));
}

void json_add_bool(struct json_object *object, const char *key, bool value)
{
    json_add(object, key, checked(json_object_new_boolean(value)));
}

void json_add_double(struct json_object *object, const char *key, double value)
{
    char text[32];
    (void)snprintf(text, sizeof(text), "%.3f", value);
    json_add(object, key, checked(json_object_new_double_s(value, text)));
}

void json_add_time(struct json_object *object, const char *key, int64_t ns_since_epoch)
{
    char text[40];
    json_add_string(object, key, text_format_time(ns_since_epoch, text));
}

static char *escape_checked(const void *name, size_t len)
{
    char *text = text_escape(name, len);
    if (!text)
        checked(NULL);
    return text;
}

struct json_object *json_name_value(const void *name, size_t len)
{
    CLEANUP_FREE char *text = escape_checked(name, len);
    return checked(json_object_new_string(text));
}

void json_add_name(struct json_object *object, const char *key, const void *name, size_t len)
{
    CLEANUP_FREE char *text = escape_checked(name, len);
    json_add_string(object, key, text);
    if (strlen(text) == len && memcmp(text, name, len) == 0)
        return;
    CLEANUP_FREE char *hex = malloc(2 * len + 1);
    char hex_key[64];
    checked(hex ? object : NULL);
    hex_encode(name, len, hex);
    (void)snprintf(hex_key, sizeof(hex_key), "%s_hex", key);
    json_add_string(object, hex_key, hex);
}

void json_print(struct json_object *object)
{
    fputs(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                     JSON_C_TO_STRING_NOSLASHESCAPE),
          stdout);
    fputc('\n', stdout);
}

void json_print_open(struct json_object *object, const char *key)
{
    const char *text = json_object_to_json_string_ext(object, JSON_LINE_FLAGS);
    printf("%.*s,\"%s\":[", (int)strlen(text) - 1, text, key);
}

void json_print_element(struct json_object *element, bool first)
{
    fputs(first ? "\n" : ",\n", stdout);
    fputs(json_object_to_json_string_ext(element, JSON_LINE_FLAGS), stdout);
}

void json_print_close(const char *key, struct json_object *value)
{
    if (key)
        printf("\n],\"%s\":%s}\n", key, json_object_to_json_string_ext(value, JSON_LINE_FLAGS));
    else
        fputs("\n]}\n", stdout);
}
