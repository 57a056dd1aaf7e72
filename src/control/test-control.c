/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "control/control.h"

#define NAME       "feedface12345678"
#define SOCKET     NAME CONTROL_SUFFIX
#define TIMEOUT_MS 20000

static char dir[4200], socket_path[4300];

/* Each test has a directory of its own. */
static void make_place(const char *name)
{
    (void)snprintf(dir, sizeof(dir), "%s/%s", test_tmpdir(), name);
    (void)snprintf(socket_path, sizeof(socket_path), "%s/" SOCKET, dir);
}

/* Says the request back; counts into userdata, which only the server's thread touches. */
static int echo(const char *request, size_t len, char **ret_response, void *userdata)
{
    if (userdata)
        ++*(unsigned *)userdata;
    ASSERT_EQ(strlen(request), len);
    if (strcmp(request, "fail") == 0)
        return error_note(-ENOTDIR, "no such thing: \"%s\"", request);
    return asprintf(ret_response, "<%s>", request) < 0 ? -ENOMEM : 0;
}

static struct control_server *start_echo(void *userdata)
{
    struct control_server *server = NULL;
    ASSERT_OK(control_server_start(dir, NAME, echo, userdata, &server));
    return server;
}

static void assert_answer(const char *request, const char *expected)
{
    CLEANUP_FREE char *response = NULL;
    ASSERT_OK(control_ask(socket_path, request, TIMEOUT_MS, &response));
    ASSERT_STREQ(response, expected);
}

static size_t count_running(void)
{
    CLEANUP(string_vector_release_all) struct string_vector names = {0};
    ASSERT_OK(control_list(dir, &names));
    if (names.count == 1)
        ASSERT_STREQ(names.items[0], NAME);
    return names.count;
}

TEST(requests_are_answered)
{
    unsigned count = 0;
    make_place("answered");
    struct control_server *server = start_echo(&count);
    assert_answer("hello", "<hello>");
    assert_answer("", "<>");
    assert_answer("fail", "{\"ok\":false,\"error\":\"no such thing: \\\"fail\\\"\"}");
    control_server_stop(server);
    ASSERT_EQ(count, 3);
}

TEST(long_lines_pass)
{
    const size_t len = 3000000;
    make_place("long");
    CLEANUP_FREE char *request = malloc(len + 1);
    CLEANUP_FREE char *response = NULL;
    ASSERT_TRUE(request);
    memset(request, 'x', len);
    request[len] = '\0';
    struct control_server *server = start_echo(NULL);
    ASSERT_OK(control_ask(socket_path, request, TIMEOUT_MS, &response));
    ASSERT_EQ(strlen(response), len + 2);
    ASSERT_MEMEQ(response + 1, request, len);
    control_server_stop(server);
}

TEST(too_long_requests_are_refused)
{
    const size_t len = 40000000;
    make_place("too-long");
    CLEANUP_FREE char *request = malloc(len + 1);
    char *response = NULL;
    ASSERT_TRUE(request);
    memset(request, 'x', len);
    request[len] = '\0';
    struct control_server *server = start_echo(NULL);
    int r = control_ask(socket_path, request, TIMEOUT_MS, &response);
    if (r == 0) { /* it was told why before the connection went away */
        ASSERT_TRUE(strstr(response, "too long"));
        free(response);
    } else {
        ASSERT_ERR(r, -ECONNRESET);
    }
    assert_answer("next", "<next>");
    control_server_stop(server);
}

TEST(the_socket_and_its_directory_are_private)
{
    struct stat st;
    make_place("private");
    struct control_server *server = start_echo(NULL);
    ASSERT_EQ(stat(dir, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0700);
    ASSERT_EQ(stat(socket_path, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0600);
    control_server_stop(server);
    ASSERT_ERR(stat(socket_path, &st) < 0 ? -errno : 0, -ENOENT);
}

TEST(a_directory_of_others_is_refused)
{
    struct control_server *server;
    make_place("open");
    ASSERT_EQ(mkdir(dir, 0700), 0);
    ASSERT_EQ(chmod(dir, 0770), 0);
    ASSERT_ERR(control_server_start(dir, NAME, echo, NULL, &server), -EPERM);
}

TEST(who_listens_is_listed)
{
    struct control_server *second = NULL;
    make_place("listed");
    ASSERT_EQ(count_running(), 0);
    struct control_server *server = start_echo(NULL);
    ASSERT_EQ(count_running(), 1);
    ASSERT_OK(control_server_start(dir, "a", echo, NULL, &second));
    ASSERT_EQ(count_running(), 2);
    control_server_stop(second);
    ASSERT_EQ(count_running(), 1);
    control_server_stop(server);
    ASSERT_EQ(count_running(), 0);
}

TEST(a_name_has_one_server)
{
    struct control_server *other;
    make_place("once");
    struct control_server *server = start_echo(NULL);
    ASSERT_ERR(control_server_start(dir, NAME, echo, NULL, &other), -EADDRINUSE);
    assert_answer("still", "<still>");
    control_server_stop(server);
}

/* A socket that is bound, and whose owner is gone. */
static void leave_socket(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    ASSERT_TRUE(strlen(socket_path) < sizeof(address.sun_path));
    memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
}

TEST(sockets_of_the_dead_are_removed)
{
    char *response;
    make_place("dead");
    ASSERT_EQ(mkdir(dir, 0700), 0);
    ASSERT_ERR(control_ask(socket_path, "x", TIMEOUT_MS, &response), -ENOENT);
    leave_socket();
    ASSERT_ERR(control_ask(socket_path, "x", TIMEOUT_MS, &response), -ECONNREFUSED);
    ASSERT_EQ(count_running(), 0);
    ASSERT_EQ(access(socket_path, F_OK), -1);
}

TEST(a_successor_takes_the_place_of_the_dead)
{
    make_place("successor");
    ASSERT_EQ(mkdir(dir, 0700), 0);
    leave_socket();
    struct control_server *server = start_echo(NULL);
    assert_answer("x", "<x>");
    control_server_stop(server);
}

TEST(other_names_are_left_alone)
{
    char other[4300];
    make_place("other");
    ASSERT_EQ(mkdir(dir, 0700), 0);
    (void)snprintf(other, sizeof(other), "%s/other.sock", dir);
    CLEANUP_CLOSE int fd = open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(count_running(), 0);
    ASSERT_EQ(access(other, F_OK), 0);
}

static int connect_raw(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

TEST(a_client_that_says_nothing_is_dropped)
{
    char byte;
    make_place("silent");
    struct control_server *server = start_echo(NULL);
    CLEANUP_CLOSE int silent = connect_raw();
    ASSERT_EQ(write(silent, "hal", 3), 3);
    assert_answer("patient", "<patient>");
    ASSERT_EQ(read(silent, &byte, 1), 0);
    control_server_stop(server);
}

TEST(stopping_does_not_wait_for_a_client)
{
    struct timespec before, after;
    char byte;
    make_place("stopping");
    struct control_server *server = start_echo(NULL);
    CLEANUP_CLOSE int silent = connect_raw();
    const struct timespec moment = {.tv_nsec = 50000000};
    (void)nanosleep(&moment, NULL);
    (void)clock_gettime(CLOCK_MONOTONIC, &before);
    control_server_stop(server);
    (void)clock_gettime(CLOCK_MONOTONIC, &after);
    ASSERT_LT(after.tv_sec - before.tv_sec, 3);
    ASSERT_TRUE(read(silent, &byte, 1) <= 0); /* its end, or a reset */
}

static void *ask_many(void *arg)
{
    for (unsigned i = 0; i < 200; i++) {
        char request[32], expected[40];
        (void)snprintf(request, sizeof(request), "%s%u", (const char *)arg, i);
        (void)snprintf(expected, sizeof(expected), "<%s>", request);
        assert_answer(request, expected);
        ASSERT_EQ(count_running(), 1);
    }
    return NULL;
}

TEST(many_clients_at_once)
{
    static char names[4][2] = {"a", "b", "c", "d"};
    pthread_t threads[ELEMENTSOF(names)];
    unsigned count = 0;
    make_place("many");
    struct control_server *server = start_echo(&count);
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, ask_many, names[i]), 0);
    for (size_t i = 0; i < ELEMENTSOF(names); i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    control_server_stop(server);
    ASSERT_EQ(count, 800);
}

TEST_MAIN()
