/* api/template_lex.c - a template's text to tokens, with the white space control of Jinja2 as
 * transformers sets it: trim_blocks and lstrip_blocks on, one newline at the end of the text
 * dropped. The caller has turned every line end into \n. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/template_ast.h"
#include "api/template_text.h"

struct lexer {
    const char *begin, *at, *end;
    int line;
    struct token *tokens;
    size_t n, cap;
    int r;
    struct err *e;
};

static void fail(struct lexer *l, int code, const char *what)
{
    if (l->r == 0)
        l->r =
            err_set_param(l->e, code, "chat_template", "chat template, line %d: %s", l->line, what);
}

static void push(struct lexer *l, enum token_kind kind, const char *s, size_t n)
{
    if (l->r)
        return;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 256;
        struct token *grown = realloc(l->tokens, cap * sizeof(*grown));
        if (!grown) {
            fail(l, ERR_NOMEM, "out of memory");
            return;
        }
        l->tokens = grown;
        l->cap = cap;
    }
    l->tokens[l->n++] = (struct token){kind, l->line, s, n};
}

static void move(struct lexer *l, const char *to)
{
    for (; l->at < to; l->at++)
        l->line += *l->at == '\n';
}

static bool starts(const char *s, const char *end, const char *with)
{
    size_t n = strlen(with);
    return (size_t)(end - s) >= n && !memcmp(s, with, n);
}

static const char *skip_space(const char *s, const char *end)
{
    size_t n;
    while (s < end && (n = text_space(s, (size_t)(end - s))) > 0)
        s += n;
    return s;
}

/* The text before the tag at `tag`: without its last white space when the tag asks for that, or
 * (blocks and comments) without the blanks of its own line. */
static size_t data_length(const struct lexer *l, const char *tag)
{
    size_t n = (size_t)(tag - l->at);
    char sign = tag + 2 < l->end ? tag[2] : 0;
    if (sign == '-')
        return text_rstrip(l->at, n);
    if (sign == '+' || tag[1] == '{')
        return n;
    const char *s = tag;
    while (s > l->at && s[-1] != '\n')
        s--;
    /* the line must begin within this text, or right before it */
    if (s == l->at && s != l->begin && s[-1] != '\n')
        return n;
    return skip_space(s, tag) == tag ? (size_t)(s - l->at) : n;
}

/* Takes the end of a block, comment or raw tag, whose '%}' or '#}' may follow a sign. */
static bool take_end(struct lexer *l, const char *close, bool trim)
{
    const char *s = l->at;
    char sign = s < l->end && (*s == '-' || *s == '+') ? *s : 0;
    s += sign != 0;
    if (!starts(s, l->end, close) || (sign == '+' && close[0] == '}'))
        return false;
    s += 2;
    if (sign == '-')
        s = skip_space(s, l->end);
    else if (sign != '+' && trim && s < l->end && *s == '\n')
        s++;
    move(l, s);
    return true;
}

static void lex_comment(struct lexer *l)
{
    move(l, l->at + 2);
    for (const char *s = l->at; (s = memmem(s, (size_t)(l->end - s), "#}", 2)); s += 2) {
        bool sign = s > l->at && (s[-1] == '-' || s[-1] == '+');
        move(l, s - sign);
        if (take_end(l, "#}", true))
            return;
    }
    fail(l, ERR_FORMAT, "a comment has no end");
}

/* At "{%", after its sign, comes this word alone; *ret_after is behind the word. */
static bool tag_is(const struct lexer *l, const char *tag, const char *word, const char **ret_after)
{
    const char *s = tag + 2;
    s += s < l->end && (*s == '-' || *s == '+');
    s = skip_space(s, l->end);
    if (!starts(s, l->end, word))
        return false;
    s = skip_space(s + strlen(word), l->end);
    *ret_after = s;
    return starts(s, l->end, "%}") || starts(s, l->end, "-%}") || starts(s, l->end, "+%}");
}

static void lex_raw(struct lexer *l, const char *after)
{
    const char *end;
    move(l, after);
    if (!take_end(l, "%}", false)) {
        fail(l, ERR_FORMAT, "the raw tag has no end");
        return;
    }
    for (const char *s = l->at; (s = memmem(s, (size_t)(l->end - s), "{%", 2)); s += 2) {
        if (!tag_is(l, s, "endraw", &end))
            continue;
        size_t n = data_length(l, s);
        if (n)
            push(l, TOK_DATA, l->at, n);
        move(l, end);
        take_end(l, "%}", true);
        return;
    }
    fail(l, ERR_FORMAT, "raw has no endraw");
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static bool digit(const char *s, const char *end)
{
    return s < end && *s >= '0' && *s <= '9';
}

static const char *digits(const char *s, const char *end)
{
    while (digit(s, end) || (s < end && *s == '_' && digit(s + 1, end)))
        s++;
    return s;
}

static void lex_number(struct lexer *l)
{
    const char *s = digits(l->at, l->end);
    enum token_kind kind = TOK_INT;
    if (s == l->at + 1 && *l->at == '0' && s < l->end && strchr("xXoObB", *s)) {
        while (s < l->end && name_char(*s))
            s++;
    } else {
        bool after_dot = l->n > 0 && l->tokens[l->n - 1].kind == TOK_OP &&
                         l->tokens[l->n - 1].s[0] == '.' &&
                         l->tokens[l->n - 1].s + 1 == l->at; /* a.0.1 */
        if (!after_dot && s < l->end && *s == '.' && digit(s + 1, l->end)) {
            kind = TOK_FLOAT;
            s = digits(s + 1, l->end);
        }
        if (s < l->end && (*s == 'e' || *s == 'E')) {
            const char *x = s + 1;
            x += x < l->end && (*x == '+' || *x == '-');
            if (digit(x, l->end)) {
                kind = TOK_FLOAT;
                s = digits(x, l->end);
            }
        }
    }
    push(l, kind, l->at, (size_t)(s - l->at));
    l->at = s;
}

static void lex_string(struct lexer *l)
{
    const char *s = l->at + 1;
    while (s < l->end && *s != *l->at)
        s += *s == '\\' ? 2 : 1;
    if (s >= l->end) {
        fail(l, ERR_FORMAT, "a string has no end");
        return;
    }
    push(l, TOK_STRING, l->at + 1, (size_t)(s - l->at - 1));
    move(l, s + 1);
}

/* The inside of {{ }} or {% %}, up to and with its end. */
static void lex_tag(struct lexer *l, const char *close, enum token_kind end_kind)
{
    static const char *const ops[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    char open[TPL_MAX_PARSE_DEPTH];
    int depth = 0;
    while (l->r == 0) {
        move(l, skip_space(l->at, l->end));
        if (l->at >= l->end) {
            fail(l, ERR_FORMAT,
                 end_kind == TOK_BLOCK_END ? "\"%}\" is missing" : "\"}}\" is missing");
            return;
        }
        const char *s = l->at;
        int line = l->line;
        if (depth == 0 && take_end(l, close, end_kind == TOK_BLOCK_END)) {
            push(l, end_kind, s, 2);
            if (l->r == 0)
                l->tokens[l->n - 1].line = line;
            return;
        }
        if (digit(s, l->end)) {
            lex_number(l);
        } else if (name_char(*s)) {
            while (s < l->end && name_char(*s))
                s++;
            push(l, TOK_NAME, l->at, (size_t)(s - l->at));
            l->at = s;
        } else if (*s == '"' || *s == '\'') {
            lex_string(l);
        } else {
            size_t i = 0;
            while (i < sizeof(ops) / sizeof(*ops) && !starts(s, l->end, ops[i]))
                i++;
            if (i == sizeof(ops) / sizeof(*ops)) {
                fail(l, ERR_FORMAT, "there is a character that the language does not have");
                return;
            }
            if (strchr("([{", *s)) {
                if (depth == TPL_MAX_PARSE_DEPTH) {
                    fail(l, ERR_LIMIT, "brackets are nested too deep");
                    return;
                }
                open[depth++] = *s == '(' ? ')' : *s == '[' ? ']' : '}';
            } else if (strchr(")]}", *s) && (depth == 0 || open[--depth] != *s)) {
                fail(l, ERR_FORMAT, "a bracket is closed that was not opened");
                return;
            }
            push(l, TOK_OP, s, strlen(ops[i]));
            l->at += strlen(ops[i]);
        }
    }
}

int tpl__lex(const char *text, size_t n_bytes, struct token **ret_tokens, size_t *ret_n,
             struct err *e)
{
    struct lexer l = {.begin = text, .at = text, .end = text + n_bytes, .line = 1, .e = e};
    while (l.r == 0 && l.at < l.end) {
        const char *tag = l.at, *after;
        while ((tag = memchr(tag, '{', (size_t)(l.end - tag))) && tag + 1 < l.end &&
               !strchr("{%#", tag[1]))
            tag++;
        if (!tag || tag + 1 >= l.end) {
            push(&l, TOK_DATA, l.at, (size_t)(l.end - l.at));
            break;
        }
        size_t n = data_length(&l, tag);
        if (n)
            push(&l, TOK_DATA, l.at, n);
        move(&l, tag);
        if (tag[1] == '#') {
            lex_comment(&l);
        } else if (tag[1] == '%' && tag_is(&l, tag, "raw", &after)) {
            lex_raw(&l, after);
        } else {
            bool block = tag[1] == '%';
            push(&l, block ? TOK_BLOCK : TOK_PRINT, tag, 2);
            l.at += 2;
            l.at += l.at < l.end && (*l.at == '-' || (*l.at == '+' && block));
            lex_tag(&l, block ? "%}" : "}}", block ? TOK_BLOCK_END : TOK_PRINT_END);
        }
    }
    push(&l, TOK_EOF, l.end, 0);
    if (l.r < 0) {
        free(l.tokens);
        return l.r;
    }
    *ret_tokens = l.tokens;
    *ret_n = l.n;
    return 0;
}
