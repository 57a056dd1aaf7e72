/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "basic/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NOTE_LEN_MAX sizeof(((struct error_report *)0)->text)

static const struct {
    int parent;
    const char *text;
} private_codes[] = {
#define X(name, parent_errno, words) \
    [UMBRA_E_##name - ERROR_PRIVATE_FIRST] = {.parent = (parent_errno), .text = (words)},
    ERROR_LIST(X)
#undef X
};

static _Thread_local struct {
    int code;
    char text[NOTE_LEN_MAX];
} note;

static bool is_private(int r)
{
    return r < -ERROR_PRIVATE_FIRST && r > -ERROR_PRIVATE_END;
}

int error_class(int r)
{
    return is_private(r) ? private_codes[-r - ERROR_PRIVATE_FIRST].parent : -r;
}

const char *error_describe(int r)
{
    static _Thread_local char text[128];
    if (r >= 0)
        return "no error";
    if (is_private(r))
        return private_codes[-r - ERROR_PRIVATE_FIRST].text;
    return strerror_r(-r, text, sizeof(text));
}

int error_note(int r, const char *fmt, ...)
{
    char text[NOTE_LEN_MAX]; /* the arguments may lie in the old note */
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    memcpy(note.text, text, sizeof(text));
    note.code = r;
    return r;
}

int error_note_describe(int r, const char *fmt, ...)
{
    char text[NOTE_LEN_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return error_note(r, "%s: %s", text, error_describe(r));
}

int error_prefix(int r, const char *fmt, ...)
{
    char text[NOTE_LEN_MAX];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return error_note(r, "%s: %s", text, error_text(r));
}

const char *error_text(int r)
{
    return note.code == r && r != 0 ? note.text : error_describe(r);
}

void error_save(struct error_report *report, int r)
{
    if (report->code != 0)
        return;
    report->code = r;
    (void)snprintf(report->text, sizeof(report->text), "%s", error_text(r));
}

int error_raise(const struct error_report *report)
{
    if (report->code == 0)
        return 0;
    return error_note(report->code, "%s", report->text);
}
