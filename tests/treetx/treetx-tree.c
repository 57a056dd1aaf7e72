/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * treetx-tree make DIR                    a small tree with one of everything
 * treetx-tree dump|dump-loose DIR         all that is to be seen of it
 * treetx-tree change|rollback DIR         an atomic change with every kind of step; takes it back
 * treetx-tree stop CALL WHAT DIR COMMAND  does WHAT (change, rollback, recover) up to the system
 * call CALL, where it stands still while sh runs COMMAND, and is killed then.  Exit status 9: it
 * ended before.
 */
#include <stdlib.h>

#include "basic/test.h"
#include "treetx/test-tree.h"

static void change(const char *dir)
{
    struct treetx *tx = tree_plan_change(dir);

    ASSERT_OK(treetx_commit(tx, NULL));
    treetx_free(tx);
}

static void roll_back(const char *dir)
{
    ASSERT_OK(treetx_rollback(dir, 0));
}

static void recover(const char *dir)
{
    enum treetx_outcome outcome;

    ASSERT_OK(treetx_recover(dir, 0, &outcome));
}

static void dump(const char *dir)
{
    char *text = tree_dump(dir, false);

    fputs(text, stdout);
    free(text);
}

static void dump_loose(const char *dir)
{
    char *text = tree_dump(dir, true);

    fputs(text, stdout);
    free(text);
}

static const struct {
    const char *name;
    void (*fn)(const char *dir);
} actions[] = {
    {"make", tree_make}, {"dump", dump},          {"dump-loose", dump_loose},
    {"change", change},  {"rollback", roll_back}, {"recover", recover},
};

static void (*find_action(const char *name))(const char *dir)
{
    for (size_t i = 0; i < ELEMENTSOF(actions); i++)
        if (strcmp(actions[i].name, name) == 0)
            return actions[i].fn;
    test_fail(__FILE__, __LINE__, "no action '%s'", name);
}

static void run_command(void *userdata)
{
    ASSERT_EQ(system(userdata), 0);
}

int main(int argc, char **argv)
{
    if (argc == 6 && strcmp(argv[1], "stop") == 0) {
        unsigned call = (unsigned)strtoul(argv[2], NULL, 10);
        return tree_stop_at(call, find_action(argv[3]), argv[4], run_command, argv[5]) ? 0 : 9;
    }
    ASSERT_EQ(argc, 3);
    find_action(argv[1])(argv[2]);
    return 0;
}
