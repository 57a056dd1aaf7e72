/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a running daemon is talked to: control.h.
 *
 * A connection is one request and one response.  The server does them one after the other in one
 * thread; whoever connects has a few seconds to say its line and to take the answer.
 *
 * Invariants
 * 1. A name *.sock always leads to a listener, or to one that has died: a server binds and listens
 *    under another name and renames that.
 * 2. Names *.sock are made and removed only under a lock (flock) of the directory.  Whoever removes
 *    one because nobody listens has seen that under the lock, so it is not the name of a server
 * that has just begun.
 * 3. The callback is only called by the server's thread, which ends before control_server_stop()
 *    returns.
 */
#include "control/control.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "basic/buffer.h"
#include "basic/error.h"
#include "basic/log.h"
#include "basic/text.h"
#include "control/json-text.h"

#define CLIENT_TIME_MS   5000
#define RETRY_MS         10
#define BACKLOG          64
#define REQUEST_LEN_MAX  ((size_t)16 << 20)
#define RESPONSE_LEN_MAX ((size_t)16 << 20)
#define READ_STEP        ((size_t)64 << 10)

struct control_server {
    int listen_fd, stop_fd;
    int dir_fd;
    char name[CONTROL_NAME_MAX + sizeof(CONTROL_SUFFIX)];
    control_fn fn;
    void *userdata;
    pthread_t thread;
};

static int64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- lines, over descriptors that do not block ---- */

/* Where the waiting ends: at a time, and when stop_fd (unless -1) becomes readable. */
struct patience {
    int64_t deadline_ms;
    int stop_fd;
};

/* 0, -ETIMEDOUT or -ECANCELED. */
static int wait_for(int fd, short events, const struct patience *patience)
{
    for (;;) {
        struct pollfd fds[] = {
            {.fd = fd, .events = events},
            {.fd = patience->stop_fd, .events = POLLIN},
        };
        int64_t left_ms = patience->deadline_ms - now_ms();
        if (left_ms <= 0)
            return -ETIMEDOUT;
        int n = poll(fds, ELEMENTSOF(fds), (int)MIN(left_ms, (int64_t)INT32_MAX));
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0 && fds[1].revents != 0)
            return -ECANCELED;
        if (n > 0)
            return 0;
    }
}

static int send_all(int fd, const char *data, size_t len, const struct patience *patience)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n > 0) {
            data += n;
            len -= (size_t)n;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            return -errno;
        int r = wait_for(fd, POLLOUT, patience);
        if (r < 0)
            return r;
    }
    return 0;
}

static int send_line(int fd, const char *text, const struct patience *patience)
{
    int r = send_all(fd, text, strlen(text), patience);
    return r < 0 ? r : send_all(fd, "\n", 1, patience);
}

/* One line without its newline, with a NUL behind it.  -ECONNRESET when the end comes first. */
static int receive_line(int fd, size_t len_max, const struct patience *patience,
                        struct buffer *line)
{
    for (;;) {
        buffer_reserve(line, READ_STEP);
        if (buffer_finish(line) < 0)
            return -ENOMEM;
        ssize_t n = recv(fd, line->data + line->len, READ_STEP, 0);
        if (n == 0)
            return -ECONNRESET;
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n < 0) {
            int r = wait_for(fd, POLLIN, patience);
            if (r < 0)
                return r;
            continue;
        }
        char *newline = memchr(line->data + line->len, '\n', (size_t)n);
        line->len += (size_t)n;
        if (newline) {
            *newline = '\0';
            line->len = (size_t)((uint8_t *)newline - line->data);
            return 0;
        }
        if (line->len > len_max)
            return -UMBRA_E_LIMIT;
    }
}

/* ---- sockets and their names ---- */

static int make_address(const char *path, struct sockaddr_un *ret_address)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return error_note(-ENAMETOOLONG, "cannot use the socket '%s': its path is too long", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    *ret_address = address;
    return 0;
}

/* A path of any directory that fits into an address. */
static void name_address(int dir_fd, const char *name, struct sockaddr_un *ret_address)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    (void)snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "/proc/self/fd/%d/%s",
                   dir_fd, name);
}

static int open_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? error_note_describe(-errno, "cannot make a socket") : fd;
}

/* Quiet: the caller knows what it means.  A full backlog is waited for. */
static int connect_to(int fd, const struct sockaddr_un *address, const struct patience *patience)
{
    while (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
        const struct timespec moment = {.tv_nsec = RETRY_MS * 1000000L};
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        if (now_ms() >= patience->deadline_ms)
            return -ETIMEDOUT;
        (void)nanosleep(&moment, NULL);
    }
    return 0;
}

/* Whether somebody listens; -ECONNREFUSED and -ENOENT: nobody does. */
static int probe(int dir_fd, const char *name)
{
    CLEANUP_CLOSE int fd = open_socket();
    if (fd < 0)
        return fd;
    struct sockaddr_un address;
    name_address(dir_fd, name, &address);
    int r = connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
    return r == -EAGAIN ? 0 : r; /* its backlog is full */
}

/* Under the lock of the directory. */
static void remove_stale_locked(int dir_fd, const char *name)
{
    if (probe(dir_fd, name) == -ECONNREFUSED)
        (void)unlinkat(dir_fd, name, 0);
}

/* The lock is that of the open directory, so each user opens it anew; closing it lets go. */
static int lock_dir(int dir_fd)
{
    while (flock(dir_fd, LOCK_EX) < 0)
        if (errno != EINTR)
            return error_note_describe(-errno, "cannot lock the directory of sockets");
    return 0;
}

static int reopen_dir(int dir_fd)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? error_note_describe(-errno, "cannot open the directory of sockets") : fd;
}

/* ---- the client ---- */

static int ask_failed(int r, const char *socket_path)
{
    return error_note_describe(r, "cannot ask '%s'", socket_path);
}

int control_ask(const char *socket_path, const char *request, int timeout_ms, char **ret_response)
{
    const struct patience patience = {.deadline_ms = now_ms() + timeout_ms, .stop_fd = -1};
    CLEANUP(buffer_release) struct buffer line = {0};
    struct sockaddr_un address;
    int r = make_address(socket_path, &address);
    if (r < 0)
        return r;
    CLEANUP_CLOSE int fd = open_socket();
    if (fd < 0)
        return fd;
    r = connect_to(fd, &address, &patience);
    if (r == 0)
        r = send_line(fd, request, &patience);
    /* Who is dropped while it is still sending may have been told why. */
    if (r == 0 || r == -EPIPE || r == -ECONNRESET) {
        int sent = r;
        r = receive_line(fd, RESPONSE_LEN_MAX, &patience, &line);
        if (r < 0 && sent < 0)
            r = -ECONNRESET;
    }
    if (r < 0)
        return ask_failed(r, socket_path);
    *ret_response = (char *)TAKE_PTR(line.data);
    return 0;
}

/* The name of a socket "NAME.sock"; false: it is none. */
static bool parse_socket_name(int dir_fd, const char *file, char name[CONTROL_NAME_MAX + 1])
{
    struct stat st;
    size_t len = strlen(file), suffix_len = strlen(CONTROL_SUFFIX);
    if (len <= suffix_len || len - suffix_len > CONTROL_NAME_MAX ||
        strcmp(file + len - suffix_len, CONTROL_SUFFIX) != 0)
        return false;
    memcpy(name, file, len - suffix_len);
    name[len - suffix_len] = '\0';
    return fstatat(dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names of the dead are removed. */
static int list_locked(const char *dir, DIR *stream, struct string_vector *names)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry)
            return errno == 0 ? 0 : error_note_describe(-errno, "cannot read '%s'", dir);
        char name[CONTROL_NAME_MAX + 1];
        if (!parse_socket_name(dirfd(stream), entry->d_name, name))
            continue;
        int r = probe(dirfd(stream), entry->d_name);
        if (r == 0)
            r = string_vector_add(names, name);
        else if (r == -ECONNREFUSED)
            (void)unlinkat(dirfd(stream), entry->d_name, 0);
        if (r == -ENOMEM)
            return r;
    }
}

int control_list(const char *dir, struct string_vector *ret_names)
{
    CLEANUP(string_vector_release_all) struct string_vector names = {0};
    CLEANUP_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        return error_note_describe(-errno, "cannot look for sockets in '%s'", dir);
    if (fd >= 0) {
        DIR *stream = fdopendir(fd);
        if (!stream)
            return -errno;
        int locked_fd = TAKE_FD(fd);
        int r = lock_dir(locked_fd);
        if (r == 0)
            r = list_locked(dir, stream, &names);
        (void)closedir(stream);
        if (r < 0)
            return r;
    }
    if (names.count > 1)
        qsort(names.items, names.count, sizeof(*names.items), compare_names);
    *ret_names = names;
    names = (struct string_vector){0};
    return 0;
}

/* ---- the server ---- */

static bool client_allowed(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 &&
           (cred.uid == 0 || cred.uid == geteuid());
}

/* malloc'ed; NULL without memory. */
static char *error_response(int r)
{
    CLEANUP(json_writer_release) struct json_writer w;
    char *text = NULL;
    json_writer_init(&w);
    json_write_bool(&w, "ok", false);
    json_write_string(&w, "error", error_text(r));
    return json_writer_finish(&w, &text) < 0 ? NULL : text;
}

static void serve_client(struct control_server *s, int fd)
{
    const struct patience patience = {.deadline_ms = now_ms() + CLIENT_TIME_MS,
                                      .stop_fd = s->stop_fd};
    CLEANUP(buffer_release) struct buffer line = {0};
    CLEANUP_FREE char *response = NULL;
    int r = receive_line(fd, REQUEST_LEN_MAX, &patience, &line);
    if (r == -UMBRA_E_LIMIT)
        r = error_note(r, "the request is too long");
    else if (r < 0)
        return;
    if (r == 0)
        r = s->fn((const char *)line.data, line.len, &response, s->userdata);
    if (r < 0)
        response = error_response(r);
    /* The work itself may have taken longer than a client may. */
    const struct patience for_answer = {.deadline_ms = now_ms() + CLIENT_TIME_MS,
                                        .stop_fd = s->stop_fd};
    if (response)
        IGNORE_RESULT(send_line(fd, response, &for_answer));
}

static void *server_main(void *arg)
{
    struct control_server *s = arg;
    const struct patience forever = {.deadline_ms = INT64_MAX, .stop_fd = s->stop_fd};
    const struct timespec moment = {.tv_nsec = RETRY_MS * 1000000L};
    while (wait_for(s->listen_fd, POLLIN, &forever) != -ECANCELED) {
        CLEANUP_CLOSE int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0 && client_allowed(fd))
            serve_client(s, fd);
        else if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            (void)nanosleep(&moment, NULL); /* no descriptors, no memory: these come back */
    }
    return NULL;
}

static void control_server_free(struct control_server *s)
{
    cleanup_closep(&s->listen_fd);
    cleanup_closep(&s->stop_fd);
    cleanup_closep(&s->dir_fd);
    free(s);
}
DEFINE_CLEANUP_PTR(struct control_server *, control_server_free);

/* 0700 whatever the umask is; one that is there keeps its mode. */
static int make_dir(const char *dir)
{
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return error_note_describe(-errno, "cannot make the directory '%s'", dir);
    return 0;
}

static int make_dirs(const char *dir)
{
    const char *slash = strrchr(dir, '/');
    if (slash && slash > dir) {
        CLEANUP_FREE char *parent = strndup(dir, (size_t)(slash - dir));
        int r = parent ? make_dir(parent) : -ENOMEM;
        if (r < 0)
            return r;
    }
    return make_dir(dir);
}

/* Nobody else may be able to put names into it. */
static int open_dir(const char *dir, int *ret_fd)
{
    struct stat st;
    CLEANUP_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_note_describe(-errno, "cannot open the directory '%s'", dir);
    if (st.st_uid != geteuid() || (st.st_mode & 077) != 0)
        return error_note(-EPERM, "cannot use the directory '%s': others may use it, too", dir);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* The name is taken away again on failure. */
static int listen_as(int fd, int dir_fd, const char *name)
{
    struct sockaddr_un address;
    name_address(dir_fd, name, &address);
    (void)unlinkat(dir_fd, name, 0);
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return error_note_describe(-errno, "cannot bind a socket");
    if (fchmodat(dir_fd, name, 0600, 0) == 0 && listen(fd, BACKLOG) == 0)
        return 0;
    int r = error_note_describe(-errno, "cannot listen to a socket");
    (void)unlinkat(dir_fd, name, 0);
    return r;
}

/* Under the lock, so that the temporary name is nobody else's. */
static int publish_locked(struct control_server *s)
{
    static const char temporary[] = "new";
    if (probe(s->dir_fd, s->name) == 0)
        return error_note(-EADDRINUSE, "'%s' has a process that listens", s->name);
    int r = listen_as(s->listen_fd, s->dir_fd, temporary);
    if (r < 0)
        return r;
    if (renameat(s->dir_fd, temporary, s->dir_fd, s->name) == 0)
        return 0;
    r = error_note_describe(-errno, "cannot name a socket");
    (void)unlinkat(s->dir_fd, temporary, 0);
    return r;
}

static int publish(struct control_server *s)
{
    CLEANUP_CLOSE int lock_fd = reopen_dir(s->dir_fd);
    if (lock_fd < 0)
        return lock_fd;
    int r = lock_dir(lock_fd);
    return r < 0 ? r : publish_locked(s);
}

/* Only if it is ours: a successor may have taken the name, once we listened no more. */
static void unpublish(struct control_server *s)
{
    CLEANUP_CLOSE int lock_fd = reopen_dir(s->dir_fd);
    if (lock_fd >= 0 && lock_dir(lock_fd) == 0)
        remove_stale_locked(s->dir_fd, s->name);
}

int control_server_start(const char *dir, const char *name, control_fn fn, void *userdata,
                         struct control_server **ret_server)
{
    CLEANUP(control_server_freep) struct control_server *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    if (strlen(name) > CONTROL_NAME_MAX)
        return error_note(-ENAMETOOLONG, "the name of the socket '%s' is too long", name);
    (void)snprintf(s->name, sizeof(s->name), "%s" CONTROL_SUFFIX, name);
    s->fn = fn;
    s->userdata = userdata;
    s->listen_fd = s->stop_fd = s->dir_fd = -EBADF;
    int r = make_dirs(dir);
    if (r == 0)
        r = open_dir(dir, &s->dir_fd);
    if (r < 0)
        return r;
    s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->stop_fd < 0)
        return error_note_describe(-errno, "cannot make an event descriptor");
    s->listen_fd = open_socket();
    if (s->listen_fd < 0)
        return s->listen_fd;
    r = publish(s);
    if (r < 0)
        return r;
    r = -pthread_create(&s->thread, NULL, server_main, s);
    if (r < 0) {
        cleanup_closep(&s->listen_fd);
        s->listen_fd = -EBADF;
        unpublish(s);
        return error_note_describe(r, "cannot start a thread");
    }
    *ret_server = TAKE_PTR(s);
    return 0;
}

void control_server_stop(struct control_server *server)
{
    if (!server)
        return;
    const uint64_t one = 1;
    IGNORE_RESULT(write(server->stop_fd, &one, sizeof(one)));
    (void)pthread_join(server->thread, NULL);
    cleanup_closep(&server->listen_fd);
    server->listen_fd = -EBADF;
    unpublish(server);
    control_server_free(server);
}
