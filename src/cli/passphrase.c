/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/passphrase.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/error.h"
#include "basic/log.h"
#include "repo/keys.h"

int passphrase_protect_process(void)
{
    const struct rlimit none = {0};
    if (sodium_init() < 0)
        return error_note(-EIO, "cannot initialise libsodium");
    if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return error_note_describe(-errno, "cannot turn core dumps off");
    return 0;
}

/* Room for one byte more than the longest passphrase, to notice a longer one. */
static int passphrase_allocate(struct passphrase *p)
{
    p->len = 0;
    p->data = sodium_malloc(PASSPHRASE_LEN_MAX + 1);
    if (!p->data)
        return error_note_describe(-ENOMEM, "cannot allocate locked memory");
    return 0;
}

void passphrase_release(struct passphrase *passphrase)
{
    sodium_free(passphrase->data);
    *passphrase = (struct passphrase){0};
}

static void passphrase_move(struct passphrase *from, struct passphrase *to)
{
    *to = *from;
    *from = (struct passphrase){0};
}

/* Reads until a newline, the end, a full buffer or a signal (-EINTR). */
static int read_line(int fd, struct passphrase *p)
{
    for (;;) {
        ssize_t n = read(fd, p->data + p->len, PASSPHRASE_LEN_MAX + 1 - p->len);
        if (n < 0)
            return -errno;
        char *newline = n > 0 ? memchr(p->data + p->len, '\n', (size_t)n) : NULL;
        p->len += (size_t)n;
        if (newline)
            p->len = (size_t)(newline - p->data);
        if (newline || n == 0 || p->len > PASSPHRASE_LEN_MAX)
            return 0;
    }
}

static int check_length(const struct passphrase *p, const char *source)
{
    if (p->len == 0)
        return error_note(-EINVAL, "cannot use the passphrase from %s: it is empty", source);
    if (p->len > PASSPHRASE_LEN_MAX)
        return error_note(-UMBRA_E_LIMIT,
                          "cannot use the passphrase from %s: it is longer than %u bytes", source,
                          PASSPHRASE_LEN_MAX);
    return 0;
}

int passphrase_read_file(const char *path, struct passphrase *ret_passphrase)
{
    CLEANUP(passphrase_release) struct passphrase p = {0};
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_note_describe(-errno, "cannot open password file '%s'", path);
    if (S_ISREG(st.st_mode) && (st.st_mode & (S_IRGRP | S_IROTH)) != 0)
        log_warning("password file '%s' can be read by others (mode %03o)", path,
                    (unsigned)(st.st_mode & 0777));

    int r = passphrase_allocate(&p);
    if (r < 0)
        return r;
    do
        r = read_line(fd, &p);
    while (r == -EINTR);
    if (r < 0)
        return error_note_describe(r, "cannot read password file '%s'", path);
    r = check_length(&p, path);
    if (r < 0)
        return r;
    passphrase_move(&p, ret_passphrase);
    return 0;
}

int passphrase_read_env(const char *name, struct passphrase *ret_passphrase)
{
    CLEANUP(passphrase_release) struct passphrase p = {0};
    char *value = getenv(name);
    if (!value)
        return error_note(-ENOENT, "%s is not set", name);
    int r = passphrase_allocate(&p);
    if (r < 0)
        return r;
    size_t len = strlen(value);
    p.len = len > PASSPHRASE_LEN_MAX ? PASSPHRASE_LEN_MAX + 1 : len;
    memcpy(p.data, value, p.len);
    /* The environment stays readable in /proc for as long as we run. */
    sodium_memzero(value, len);
    (void)unsetenv(name);
    r = check_length(&p, name);
    if (r < 0)
        return r;
    passphrase_move(&p, ret_passphrase);
    return 0;
}

/* ---- the terminal ----
 *
 * While the echo is off, signals that would end or stop the program are only noted: read(2) then
 * returns with EINTR, the terminal gets its settings back, and the signal is sent again. */

static const int terminal_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP};
static volatile sig_atomic_t signal_seen;

static void note_signal(int signal_number)
{
    signal_seen = signal_number;
}

struct quiet_terminal {
    int fd;
    struct termios saved;
    struct sigaction actions[ELEMENTSOF(terminal_signals)];
};

static int echo_off(struct quiet_terminal *t)
{
    if (tcgetattr(t->fd, &t->saved) < 0)
        return -errno;
    struct sigaction action = {.sa_handler = note_signal};
    signal_seen = 0;
    for (size_t i = 0; i < ELEMENTSOF(terminal_signals); i++)
        (void)sigaction(terminal_signals[i], &action, &t->actions[i]);
    struct termios quiet = t->saved;
    quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHOE | ECHOK | ECHONL);
    quiet.c_lflag |= ICANON;
    (void)tcsetattr(t->fd, TCSAFLUSH, &quiet);
    return 0;
}

static void echo_on(struct quiet_terminal *t)
{
    (void)tcsetattr(t->fd, TCSAFLUSH, &t->saved);
    for (size_t i = 0; i < ELEMENTSOF(terminal_signals); i++)
        (void)sigaction(terminal_signals[i], &t->actions[i], NULL);
}

static void write_terminal(int fd, const char *text)
{
    /* A terminal that takes no prompt gives no answer either: the read will tell. */
    ssize_t n = write(fd, text, strlen(text));
    (void)n;
}

/* One try; *ret_signal is the signal that ended it, or 0. */
static int ask_once(int fd, const char *prompt, struct passphrase *p, int *ret_signal)
{
    struct quiet_terminal terminal = {.fd = fd};
    p->len = 0;
    int r = echo_off(&terminal);
    if (r < 0)
        return r;
    write_terminal(fd, prompt);
    do
        r = signal_seen ? -EINTR : read_line(fd, p);
    while (r == -EINTR && !signal_seen);
    write_terminal(fd, "\n");
    echo_on(&terminal);
    *ret_signal = signal_seen;
    return signal_seen ? 0 : r;
}

static int ask(int fd, const char *prompt, struct passphrase *ret_passphrase)
{
    CLEANUP(passphrase_release) struct passphrase p = {0};
    int r = passphrase_allocate(&p);
    if (r < 0)
        return r;
    for (;;) {
        int signal_number = 0;
        r = ask_once(fd, prompt, &p, &signal_number);
        if (r < 0)
            return error_note_describe(r, "cannot read the passphrase from the terminal");
        if (signal_number == 0)
            break;
        (void)raise(signal_number);
        if (signal_number != SIGTSTP)
            return error_note(-UMBRA_E_CANCELLED, "interrupted");
    }
    r = check_length(&p, "the terminal");
    if (r < 0)
        return r;
    passphrase_move(&p, ret_passphrase);
    return 0;
}

int passphrase_ask(const char *prompt, bool confirm, struct passphrase *ret_passphrase)
{
    CLEANUP(passphrase_release) struct passphrase first = {0};
    CLEANUP(passphrase_release) struct passphrase second = {0};
    CLEANUP_CLOSE int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return error_note(-ENOTTY, "cannot ask for the passphrase: no terminal (use "
                                   "--password-file, UMBRA_PASSWORD_FILE or UMBRA_PASSWORD)");
    int r = ask(fd, prompt, &first);
    if (r < 0)
        return r;
    if (confirm) {
        r = ask(fd, "The same again: ", &second);
        if (r < 0)
            return r;
        if (first.len != second.len || sodium_memcmp(first.data, second.data, first.len) != 0)
            return error_note(-EINVAL, "cannot set the passphrase: the two entries differ");
    }
    passphrase_move(&first, ret_passphrase);
    return 0;
}

int passphrase_get(const char *file, bool confirm, struct passphrase *ret_passphrase)
{
    if (!file)
        file = getenv("UMBRA_PASSWORD_FILE");
    if (file && *file != '\0') {
        (void)unsetenv("UMBRA_PASSWORD"); /* not needed, and nobody else's business */
        return passphrase_read_file(file, ret_passphrase);
    }
    if (getenv("UMBRA_PASSWORD"))
        return passphrase_read_env("UMBRA_PASSWORD", ret_passphrase);
    return passphrase_ask(
        confirm ? "New passphrase of the repository: " : "Passphrase of the repository: ", confirm,
        ret_passphrase);
}
