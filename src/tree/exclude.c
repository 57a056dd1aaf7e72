/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exclude rules.
 *
 * A pattern is compiled once into tokens, and a match runs the tokens as a nondeterministic
 * automaton over the path: state i means "tokens before i have taken all bytes so far".  All live
 * states advance together with each byte, so no pattern can make the matcher go back, and the cost
 * is at most tokens times bytes.  Most real patterns never get that far: those without a wildcard
 * are compared as bytes, "*.o" as a suffix, and the fixed bytes at both ends of the others are
 * tried first.
 *
 * The language is that of gitignore(5), checked against git itself by test-exclude.c.  Where the
 * manual page and git differ, git is followed, for such files come from users of git: "**" that
 * directly follows a prefix without any wildcard crosses directories although no '/' precedes it
 * ("a**" + "/b").  What git takes for a pattern that can never match (an open bracket, an unknown
 * class name, a quote with nothing behind it) is refused here: someone meant to leave out
 * something.
 *
 * A set is not changed any more once it is matched against, so matching needs no lock.
 */
#include "tree/exclude.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "basic/error.h"
#include "basic/text.h"
#include "basic/vector.h"

enum token_kind {
    TOKEN_BYTE,      /* this very byte */
    TOKEN_ANY,       /* ?: any byte but '/' */
    TOKEN_CLASS,     /* [...]: any byte of the class, never '/' */
    TOKEN_STAR,      /* *: any number of bytes but '/' */
    TOKEN_STAR_STAR, /* ** at the end: any number of bytes */
    TOKEN_DIRS,      /* ** and its '/': nothing, or any bytes up to and with a '/' */
};

struct token {
    uint8_t kind;
    uint8_t byte;         /* of TOKEN_BYTE */
    uint32_t class_index; /* of TOKEN_CLASS, in the set's classes */
};
DEFINE_VECTOR(token_vector, struct token);

struct byte_class {
    uint64_t bits[4];
};
DEFINE_VECTOR(byte_class_vector, struct byte_class);

enum rule_kind {
    RULE_LITERAL, /* all tokens are bytes */
    RULE_SUFFIX,  /* one star, then bytes; matches within a name */
    RULE_GLOB,
};

struct rule {
    enum rule_kind kind;
    bool is_negated;      /* '!' */
    bool directory_only;  /* trailing '/' */
    bool is_path;         /* holds a '/': matches the whole path, else the last component */
    uint8_t *bytes;       /* literal and suffix: what is to be compared */
    struct token *tokens; /* glob */
    size_t count;         /* of bytes or tokens */
};
DEFINE_VECTOR(rule_vector, struct rule);

struct exclude_set {
    struct rule_vector rules;
    struct byte_class_vector classes;
};

/* A pattern while it is compiled: text without '!', leading and trailing '/'. */
struct compiler {
    const uint8_t *text;
    size_t len;
    size_t pos;
    bool is_path;
    bool only_literal; /* no wildcard and no quote before pos */
    struct token_vector tokens;
    const char *problem; /* why the pattern is refused */
};

int exclude_set_new(struct exclude_set **ret_set)
{
    struct exclude_set *set = calloc(1, sizeof(*set));
    if (!set)
        return -ENOMEM;
    *ret_set = set;
    return 0;
}

void exclude_set_free(struct exclude_set *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->rules.count; i++) {
        free(set->rules.items[i].bytes);
        free(set->rules.items[i].tokens);
    }
    rule_vector_release(&set->rules);
    byte_class_vector_release(&set->classes);
    free(set);
}

bool exclude_set_empty(const struct exclude_set *set)
{
    return set->rules.count == 0;
}

/* ---- compiling ---- */

static void class_add(struct byte_class *set, unsigned byte)
{
    set->bits[byte / 64] |= UINT64_C(1) << (byte % 64);
}

static bool class_has(const struct byte_class *set, uint8_t byte)
{
    return set->bits[byte / 64] >> (byte % 64) & 1;
}

static bool between(unsigned c, unsigned first, unsigned last)
{
    return c >= first && c <= last;
}

/* The POSIX classes of the C locale, whatever the locale of the process is. */
static bool is_alpha(unsigned c)
{
    return between(c | 0x20, 'a', 'z');
}

static bool is_digit(unsigned c)
{
    return between(c, '0', '9');
}

static bool is_alnum(unsigned c)
{
    return is_alpha(c) || is_digit(c);
}

static bool is_blank(unsigned c)
{
    return c == ' ' || c == '\t';
}

static bool is_cntrl(unsigned c)
{
    return c < 0x20 || c == 0x7f;
}

static bool is_graph(unsigned c)
{
    return between(c, 0x21, 0x7e);
}

static bool is_lower(unsigned c)
{
    return between(c, 'a', 'z');
}

static bool is_print(unsigned c)
{
    return between(c, 0x20, 0x7e);
}

static bool is_punct(unsigned c)
{
    return is_graph(c) && !is_alnum(c);
}

static bool is_space(unsigned c)
{
    return c == ' ' || between(c, '\t', '\r');
}

static bool is_upper(unsigned c)
{
    return between(c, 'A', 'Z');
}

static bool is_xdigit(unsigned c)
{
    return is_digit(c) || between(c | 0x20, 'a', 'f');
}

static const struct {
    const char *name;
    bool (*has)(unsigned c);
} named_classes[] = {
    {"alnum", is_alnum}, {"alpha", is_alpha}, {"blank", is_blank}, {"cntrl", is_cntrl},
    {"digit", is_digit}, {"graph", is_graph}, {"lower", is_lower}, {"print", is_print},
    {"punct", is_punct}, {"space", is_space}, {"upper", is_upper}, {"xdigit", is_xdigit},
};

static int class_add_named(struct compiler *c, struct byte_class *set, const uint8_t *name,
                           size_t len)
{
    for (size_t i = 0; i < ELEMENTSOF(named_classes); i++) {
        if (strlen(named_classes[i].name) != len || memcmp(named_classes[i].name, name, len) != 0)
            continue;
        for (unsigned byte = 0; byte < 256; byte++)
            if (named_classes[i].has(byte))
                class_add(set, byte);
        return 0;
    }
    c->problem = "no such character class";
    return -EINVAL;
}

/* "[:name:]" at pos, already known to begin with "[:".  1: taken; 0: it is no such thing. */
static int compile_named_class(struct compiler *c, struct byte_class *set)
{
    const uint8_t *name = c->text + c->pos + 2;
    const uint8_t *close = memchr(name, ']', c->len - c->pos - 2);
    if (!close || close == name || close[-1] != ':')
        return 0;
    int r = class_add_named(c, set, name, (size_t)(close - name) - 1);
    if (r < 0)
        return r;
    c->pos = (size_t)(close - c->text) + 1;
    return 1;
}

/* One byte of a bracket expression, perhaps quoted, at pos. */
static int compile_class_byte(struct compiler *c, uint8_t *ret_byte)
{
    if (c->pos < c->len && c->text[c->pos] == '\\')
        c->pos++;
    if (c->pos >= c->len) {
        c->problem = "'[' without ']'";
        return -EINVAL;
    }
    *ret_byte = c->text[c->pos++];
    return 0;
}

/* One member of a bracket expression at pos: a named class, a byte or a range. */
static int compile_class_member(struct compiler *c, struct byte_class *set)
{
    if (c->pos + 1 < c->len && c->text[c->pos] == '[' && c->text[c->pos + 1] == ':') {
        int r = compile_named_class(c, set);
        if (r != 0)
            return r < 0 ? r : 0;
    }
    uint8_t first, last;
    int r = compile_class_byte(c, &first);
    if (r < 0)
        return r;
    last = first;
    if (c->pos + 1 < c->len && c->text[c->pos] == '-' && c->text[c->pos + 1] != ']') {
        c->pos++;
        r = compile_class_byte(c, &last);
        if (r < 0)
            return r;
        /* Even of a range that is upside down, the first byte is a member. */
        class_add(set, first);
    }
    for (unsigned byte = first; byte <= last; byte++)
        class_add(set, byte);
    return 0;
}

/* A bracket expression; pos is behind the '['.  A ']' that comes first is a member. */
static int compile_class(struct exclude_set *set, struct compiler *c, struct token *ret_token)
{
    struct byte_class members = {0};
    bool negated = c->pos < c->len && (c->text[c->pos] == '!' || c->text[c->pos] == '^');
    if (negated)
        c->pos++;
    do {
        int r = compile_class_member(c, &members);
        if (r < 0)
            return r;
        if (c->pos >= c->len) {
            c->problem = "'[' without ']'";
            return -EINVAL;
        }
    } while (c->text[c->pos] != ']');
    c->pos++;
    if (negated)
        for (size_t i = 0; i < ELEMENTSOF(members.bits); i++)
            members.bits[i] = ~members.bits[i];
    members.bits['/' / 64] &= ~(UINT64_C(1) << ('/' % 64));

    if (set->classes.count >= UINT32_MAX)
        return -UMBRA_E_LIMIT;
    *ret_token = (struct token){.kind = TOKEN_CLASS, .class_index = (uint32_t)set->classes.count};
    return byte_class_vector_push(&set->classes, &members);
}

/* One or more stars; pos is behind the first. */
static struct token compile_star(struct compiler *c)
{
    size_t first = c->pos - 1;
    while (c->pos < c->len && c->text[c->pos] == '*')
        c->pos++;
    const uint8_t *next = c->text + c->pos;
    size_t left = c->len - c->pos;
    bool begins = first == 0 || c->text[first - 1] == '/' || c->only_literal;
    bool ends = left == 0 || next[0] == '/' || (left > 1 && next[0] == '\\' && next[1] == '/');

    if (!c->is_path || c->pos - first < 2 || !begins || !ends)
        return (struct token){.kind = TOKEN_STAR};
    if (left == 0 || next[0] != '/')
        return (struct token){.kind = TOKEN_STAR_STAR};
    c->pos++;
    return (struct token){.kind = TOKEN_DIRS};
}

static int compile_token(struct exclude_set *set, struct compiler *c)
{
    struct token token = {.kind = TOKEN_BYTE};
    uint8_t byte = c->text[c->pos++];
    if (byte == '?') {
        token.kind = TOKEN_ANY;
    } else if (byte == '*') {
        token = compile_star(c);
    } else if (byte == '[') {
        int r = compile_class(set, c, &token);
        if (r < 0)
            return r;
    } else if (byte == '\\') {
        if (c->pos >= c->len) {
            c->problem = "'\\' with nothing behind it";
            return -EINVAL;
        }
        token.byte = c->text[c->pos++];
    } else {
        token.byte = byte;
    }
    if (byte == '?' || byte == '*' || byte == '[' || byte == '\\')
        c->only_literal = false;
    return token_vector_push(&c->tokens, &token);
}

/* Whether all tokens from the given one on are bytes. */
static bool bytes_only(const struct token_vector *tokens, size_t from)
{
    for (size_t i = from; i < tokens->count; i++)
        if (tokens->items[i].kind != TOKEN_BYTE)
            return false;
    return true;
}

/* Turns the tokens into the cheapest kind of rule. */
static int rule_finish(struct rule *rule, struct token_vector *tokens)
{
    bool suffix = !rule->is_path && tokens->count > 0 && tokens->items[0].kind == TOKEN_STAR;
    size_t from = suffix ? 1 : 0;
    if (!bytes_only(tokens, from)) {
        rule->kind = RULE_GLOB;
        rule->count = tokens->count;
        rule->tokens = TAKE_PTR(tokens->items);
        return 0;
    }
    rule->kind = suffix ? RULE_SUFFIX : RULE_LITERAL;
    rule->count = tokens->count - from;
    rule->bytes = malloc(rule->count + 1);
    if (!rule->bytes)
        return -ENOMEM;
    for (size_t i = 0; i < rule->count; i++)
        rule->bytes[i] = tokens->items[from + i].byte;
    return 0;
}

/* Takes '!' and the slashes at both ends off the pattern. */
static void compile_frame(struct compiler *c, struct rule *rule)
{
    if (c->text[0] == '!') {
        rule->is_negated = true;
        c->text++;
        c->len--;
    }
    if (c->len > 0 && c->text[c->len - 1] == '/') {
        rule->directory_only = true;
        c->len--;
    }
    rule->is_path = c->is_path = c->len > 0 && memchr(c->text, '/', c->len);
    if (c->len > 0 && c->text[0] == '/') {
        c->text++;
        c->len--;
    }
}

static int compile(struct exclude_set *set, struct compiler *c, struct rule *ret_rule)
{
    struct rule rule = {0};
    compile_frame(c, &rule);
    c->only_literal = true;
    while (c->pos < c->len) {
        int r = compile_token(set, c);
        if (r < 0)
            return r;
    }
    int r = rule_finish(&rule, &c->tokens);
    if (r < 0)
        return r;
    *ret_rule = rule;
    return 0;
}

static int note_refused(int r, const char *pattern, size_t len, const char *source,
                        const char *problem)
{
    CLEANUP_FREE char *shown = text_escape(pattern, MIN(len, (size_t)200));
    return error_note(r, "%s: pattern '%s': %s", source, shown ? shown : "", problem);
}

int exclude_set_add(struct exclude_set *set, const char *pattern, size_t len, const char *source)
{
    if (len == 0)
        return error_note(-EINVAL, "%s: the pattern is empty", source);
    if (len > EXCLUDE_PATTERN_MAX)
        return note_refused(-UMBRA_E_LIMIT, pattern, len, source, "longer than 4096 bytes");
    if (set->rules.count >= EXCLUDE_RULES_MAX)
        return error_note(-UMBRA_E_LIMIT, "%s: more than %d patterns", source, EXCLUDE_RULES_MAX);
    if (memchr(pattern, '\0', len))
        return note_refused(-EINVAL, pattern, len, source, "holds a NUL byte");

    int r = rule_vector_reserve(&set->rules, 1);
    if (r < 0)
        return r;
    struct compiler c = {.text = (const uint8_t *)pattern, .len = len};
    size_t class_count = set->classes.count;
    r = compile(set, &c, &set->rules.items[set->rules.count]);
    token_vector_release(&c.tokens);
    if (r < 0) {
        set->classes.count = class_count;
        return c.problem ? note_refused(r, pattern, len, source, c.problem) : r;
    }
    set->rules.count++;
    return 0;
}

/* Length of the line without the spaces at its end; a quoted one stays. */
static size_t line_trim(const char *line, size_t len)
{
    size_t end = 0;
    for (size_t i = 0; i < len; i++) {
        if (line[i] == ' ')
            continue;
        if (line[i] == '\\' && i + 1 < len)
            i++;
        end = i + 1;
    }
    return end;
}

int exclude_set_parse(struct exclude_set *set, const char *text, size_t len, const char *source)
{
    static const char byte_order_mark[3] = "\xef\xbb\xbf";
    if (len >= sizeof(byte_order_mark) &&
        memcmp(text, byte_order_mark, sizeof(byte_order_mark)) == 0) {
        text += sizeof(byte_order_mark);
        len -= sizeof(byte_order_mark);
    }
    for (uint64_t number = 1; len > 0; number++) {
        const char *newline = memchr(text, '\n', len);
        size_t line_len = newline ? (size_t)(newline - text) : len;
        size_t used = newline ? line_len + 1 : line_len;
        const char *line = text;
        text += used;
        len -= used;
        if (line_len > 0 && line[line_len - 1] == '\r')
            line_len--;
        if (line_len == 0 || line[0] == '#')
            continue;
        line_len = line_trim(line, line_len);
        if (line_len == 0)
            continue;
        char where[512];
        (void)snprintf(where, sizeof(where), "%s:%" PRIu64, source, number);
        int r = exclude_set_add(set, line, line_len, where);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- matching ---- */

enum glob_state {
    STATE_OFF = 0,
    STATE_ON,      /* live, in the middle of a TOKEN_DIRS */
    STATE_ENTERED, /* live, and so is what follows if the token may match nothing */
};

/* The states before and after one byte; only those in [first, end) can be live. */
struct glob_states {
    uint8_t *states;
    size_t first;
    size_t end;
};

static void glob_enter(const struct rule *rule, struct glob_states *s, size_t i)
{
    s->first = MIN(s->first, i);
    while (s->states[i] != STATE_ENTERED) {
        s->states[i] = STATE_ENTERED;
        if (i == rule->count || rule->tokens[i].kind < TOKEN_STAR)
            break;
        i++;
    }
    s->end = MAX(s->end, i + 1);
}

static void glob_stay(struct glob_states *s, size_t i)
{
    if (s->states[i] == STATE_OFF)
        s->states[i] = STATE_ON;
    s->first = MIN(s->first, i);
    s->end = MAX(s->end, i + 1);
}

static void glob_step(const struct exclude_set *set, const struct rule *rule, size_t i,
                      uint8_t byte, struct glob_states *next)
{
    const struct token *token = &rule->tokens[i];
    switch ((enum token_kind)token->kind) {
    case TOKEN_BYTE:
        if (byte == token->byte)
            glob_enter(rule, next, i + 1);
        break;
    case TOKEN_ANY:
        if (byte != '/')
            glob_enter(rule, next, i + 1);
        break;
    case TOKEN_CLASS:
        if (class_has(&set->classes.items[token->class_index], byte))
            glob_enter(rule, next, i + 1);
        break;
    case TOKEN_STAR:
        if (byte != '/')
            glob_enter(rule, next, i);
        break;
    case TOKEN_STAR_STAR: glob_enter(rule, next, i); break;
    case TOKEN_DIRS:
        glob_stay(next, i);
        if (byte == '/')
            glob_enter(rule, next, i + 1);
        break;
    }
}

/* now and next: room for rule->count + 1 states each, all off. */
static bool glob_run(const struct exclude_set *set, const struct rule *rule, const uint8_t *text,
                     size_t len, uint8_t *now_states, uint8_t *next_states)
{
    struct glob_states now = {.states = now_states, .first = SIZE_MAX};
    struct glob_states next = {.states = next_states, .first = SIZE_MAX};
    glob_enter(rule, &now, 0);
    for (size_t t = 0; t < len; t++) {
        for (size_t i = now.first; i < now.end && i < rule->count; i++)
            if (now.states[i] != STATE_OFF)
                glob_step(set, rule, i, text[t], &next);
        if (next.end == 0)
            return false;
        memset(now.states + now.first, STATE_OFF, now.end - now.first);
        struct glob_states spare = {.states = now.states, .first = SIZE_MAX};
        now = next;
        next = spare;
    }
    return now.end == rule->count + 1 && now.states[rule->count] != STATE_OFF;
}

#define GLOB_SMALL_STATES 64u

static __attribute__((noinline)) bool glob_match_large(const struct exclude_set *set,
                                                       const struct rule *rule, const uint8_t *text,
                                                       size_t len)
{
    uint8_t now[EXCLUDE_PATTERN_MAX + 1] = {0}, next[EXCLUDE_PATTERN_MAX + 1] = {0};
    return glob_run(set, rule, text, len, now, next);
}

static bool glob_match(const struct exclude_set *set, const struct rule *rule, const uint8_t *text,
                       size_t len)
{
    const struct token *last = &rule->tokens[rule->count - 1];
    if (last->kind == TOKEN_BYTE && (len == 0 || text[len - 1] != last->byte))
        return false;
    /* A glob has at least one token that is no byte, so this ends. */
    size_t fixed = 0;
    while (rule->tokens[fixed].kind == TOKEN_BYTE) {
        if (fixed == len || text[fixed] != rule->tokens[fixed].byte)
            return false;
        fixed++;
    }
    if (rule->count >= GLOB_SMALL_STATES)
        return glob_match_large(set, rule, text, len);
    uint8_t now[GLOB_SMALL_STATES] = {0}, next[GLOB_SMALL_STATES] = {0};
    return glob_run(set, rule, text, len, now, next);
}

static bool rule_matches(const struct exclude_set *set, const struct rule *rule,
                         const uint8_t *text, size_t len)
{
    switch (rule->kind) {
    case RULE_LITERAL: return rule->count == len && memcmp(rule->bytes, text, len) == 0;
    case RULE_SUFFIX:
        return rule->count <= len &&
               memcmp(rule->bytes, text + (len - rule->count), rule->count) == 0;
    case RULE_GLOB: return glob_match(set, rule, text, len);
    }
    return false;
}

bool exclude_set_match(const struct exclude_set *set, const char *path, size_t len,
                       bool is_directory)
{
    if (len == 0) /* the root is never left out */
        return false;
    const char *slash = memrchr(path, '/', len);
    const char *name = slash ? slash + 1 : path;
    size_t name_len = len - (size_t)(name - path);
    for (size_t i = set->rules.count; i-- > 0;) {
        const struct rule *rule = &set->rules.items[i];
        if (rule->directory_only && !is_directory)
            continue;
        if (rule->is_path ? rule_matches(set, rule, (const uint8_t *)path, len)
                          : rule_matches(set, rule, (const uint8_t *)name, name_len))
            return !rule->is_negated;
    }
    return false;
}
