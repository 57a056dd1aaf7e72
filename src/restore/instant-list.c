/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which restores are running: by the names of their sockets. */
#include <stdio.h>
#include <stdlib.h>

#include "basic/error.h"
#include "control/control.h"
#include "restore/instant-private.h"

void instant_running_vector_release_all(struct instant_running_vector *v)
{
    for (size_t i = 0; i < v->count; i++)
        free(v->items[i].socket_path);
    instant_running_vector_release(v);
}

static int add_running(const char *dir, uint64_t id, struct instant_running_vector *list)
{
    char name[INSTANT_ID_LEN + 1];
    struct instant_running running = {.restore_id = id};
    instant_id_format(id, name);
    if (asprintf(&running.socket_path, "%s/%s" CONTROL_SUFFIX, dir, name) < 0)
        return -ENOMEM;
    int r = instant_running_vector_push(list, &running);
    if (r < 0)
        free(running.socket_path);
    return r;
}

int instant_list_in(const char *dir, struct instant_running_vector *ret_running)
{
    CLEANUP(instant_running_vector_release_all) struct instant_running_vector list = {0};
    CLEANUP(string_vector_release_all) struct string_vector names = {0};
    int r = control_list(dir, &names);
    for (size_t i = 0; i < names.count && r == 0; i++) {
        uint64_t id;
        if (instant_id_parse(names.items[i], &id) == 0)
            r = add_running(dir, id, &list);
    }
    if (r < 0)
        return r;
    *ret_running = list;
    list = (struct instant_running_vector){0};
    return 0;
}

int instant_list(struct instant_running_vector *ret_running)
{
    return instant_list_in(INSTANT_SOCKET_DIR, ret_running);
}
