/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/front.h"

#include <stdio.h>
#include <string.h>

#include "basic/error.h"

const struct cow_front_ops *const cow_fronts[] = {&cow_front_ublk, &cow_front_fuse, NULL};

static int choose_named(const char *name, const struct cow_front_ops **ret_ops)
{
    for (size_t i = 0; cow_fronts[i]; i++) {
        if (strcmp(cow_fronts[i]->name, name) != 0)
            continue;
        int r = cow_fronts[i]->probe();
        if (r == 0)
            *ret_ops = cow_fronts[i];
        return r < 0 ? error_prefix(r, "the front end '%s' does not work here", name) : 0;
    }
    return error_note(-EINVAL, "there is no front end '%s'", name);
}

int cow_front_choose(const char *name, const struct cow_front_ops **ret_ops)
{
    char why[512] = "";
    size_t len = 0;
    if (name)
        return choose_named(name, ret_ops);
    for (size_t i = 0; cow_fronts[i]; i++) {
        int r = cow_fronts[i]->probe();
        if (r == 0) {
            *ret_ops = cow_fronts[i];
            return 0;
        }
        int n = snprintf(why + len, sizeof(why) - len, "%s%s: %s", len > 0 ? "; " : "",
                         cow_fronts[i]->name, error_text(r));
        len += n > 0 ? MIN((size_t)n, sizeof(why) - len - 1) : 0;
    }
    return error_note(-EOPNOTSUPP, "no front end works here: %s", why);
}
