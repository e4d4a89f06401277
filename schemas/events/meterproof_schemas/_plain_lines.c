/*
 * What `python_plain_lines.py` does for event lines in the commonest spelling, at a quarter of its price.
 *
 * It only ever accepts. A line that it takes is one JSON object (RFC 8259) and LF, of printable ASCII characters without
 * backslash, without white space between tokens, without null, whose names are all known and occur once, and whose values
 * keep the rules of `event.py`. So there is nothing in it that two parsers could read differently. For any other line it
 * returns None for all lines, which says nothing about them.
 *
 * Every function that reads a line returns 1, or 0 where the line is not of that kind; none reads at or behind `end`.
 * Nesting is that of the rules, at most three deep, whatever a line holds.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define NAME_BYTES_MAX 256
#define TEXT_BYTES_MAX 4096
#define METERS_MAX 64
#define TAGS_MAX 64
#define METER_NAME_BYTES_MAX 64
#define INTEGER_MAX INT64_MAX

typedef struct {
    const uint8_t *start;
    size_t size;
} Text;

/* The names of meters of all lines so far, in the order in which they were found. */
typedef struct {
    Text names[METERS_MAX];
    unsigned int count;
} Meters;

/* What a line used of a meter: its place among the names, and how much, or -1 where that is spelled as text. */
typedef struct {
    unsigned int meter;
    int64_t whole;
} Used;

/* What is left of the text, and what was found in the line at hand. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
    Text id, source, subject, customer, provider, model, operation;
    int64_t time_us;
    Meters *meters;
    Used used[METERS_MAX];
    unsigned int used_count;
} Line;

/* `token` is the name as it stands before a value: in quotes, with its colon. */
typedef struct {
    const char *token;
    size_t size;
    int required;
    int (*read)(Line *line);
} Field;

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define TOKEN(name) "\"" name "\":"
#define REQUIRED(name, read) {TOKEN(name), sizeof(TOKEN(name)) - 1, 1, read}
#define OPTIONAL(name, read) {TOKEN(name), sizeof(TOKEN(name)) - 1, 0, read}

/* --- tokens ------------------------------------------------------------------------------------------------------- */

static inline int
take(Line *line, uint8_t wanted)
{
    if (line->at == line->end || *line->at != wanted)
        return 0;
    line->at++;
    return 1;
}

static inline int
is_plain(uint8_t character)
{ /* what stands for itself inside a string, and is neither a control character nor beyond ASCII */
    return ((uint8_t)(character - 0x20) < 0x7f - 0x20) & (character != '"') & (character != '\\');
}

/* Whether all of eight characters are plain, or 0 if that is not known (Mycroft 1987: a test of all bytes of a word). */
static inline int
are_plain(const uint8_t *at)
{
    const uint64_t each = 0x0101010101010101, top = 0x80 * each;
    uint64_t word;
    memcpy(&word, at, sizeof word);
    const uint64_t quote = word ^ '"' * each, backslash = word ^ '\\' * each, delete = word ^ 0x7f * each;
    return !((word | (word - 0x20 * each) | (quote - each) | (backslash - each) | (delete - each)) & top);
}

static inline int
is_digit(uint8_t character)
{
    return (uint8_t)(character - '0') <= 9;
}

static inline int
read_string(Line *line, Text *text)
{
    if (!take(line, '"'))
        return 0;
    const uint8_t *at = line->at;
    while (line->end - at >= 8 && are_plain(at))
        at += 8;
    while (at < line->end && is_plain(*at))
        at++;
    text->start = line->at;
    text->size = (size_t)(at - line->at);
    line->at = at;
    return take(line, '"');
}

/* Whether so many characters are the same: at least four. Short ones in two words that may overlap. */
static inline int
are_same_characters(const uint8_t *one, const char *other, size_t size)
{
    if (size > 16)
        return memcmp(one, other, size) == 0;
    if (size >= 8) {
        uint64_t words[4];
        memcpy(&words[0], one, 8);
        memcpy(&words[1], other, 8);
        memcpy(&words[2], one + size - 8, 8);
        memcpy(&words[3], other + size - 8, 8);
        return ((words[0] ^ words[1]) | (words[2] ^ words[3])) == 0;
    }
    uint32_t words[4];
    memcpy(&words[0], one, 4);
    memcpy(&words[1], other, 4);
    memcpy(&words[2], one + size - 4, 4);
    memcpy(&words[3], other + size - 4, 4);
    return ((words[0] ^ words[1]) | (words[2] ^ words[3])) == 0;
}

static inline int
is_same(Text text, const char *wanted, size_t size)
{
    return text.size == size && memcmp(text.start, wanted, size) == 0;
}

/* The number of the field that is named here, whose name and colon are taken; `count` if there is none. */
static inline size_t
read_field_name(Line *line, const Field *fields, size_t count, size_t expected)
{
    const Field *const field = fields + expected;
    if ((size_t)(line->end - line->at) >= field->size && are_same_characters(line->at, field->token, field->size)) {
        line->at += field->size;
        return expected;
    }
    Text name;
    if (!read_string(line, &name) || !take(line, ':'))
        return count;
    for (size_t tried = 0, number = expected; tried < count; tried++, number = number + 1 == count ? 0 : number + 1)
        if (is_same(name, fields[number].token + 1, fields[number].size - 3))
            return number;
    return count;
}

/* An integer as JSON spells it, but for -0; `value` is without its sign. */
static int
read_integer(Line *line, int may_be_negative, uint64_t max, uint64_t *value)
{
    const int negative = may_be_negative && take(line, '-');
    const uint8_t *start = line->at;
    *value = 0;
    while (line->at < line->end && is_digit(*line->at)) {
        if (line->at - start == 19) /* 19 digits fit into 64 bits, 20 may not */
            return 0;
        *value = 10 * *value + (uint64_t)(*line->at++ - '0');
    }
    const size_t digits = (size_t)(line->at - start);
    if (digits == 0 || (*start == '0' && (digits > 1 || negative)))
        return 0;
    return *value <= max;
}

/* An object of these fields, in any order; at most 32 of them, required ones first. */
static int
read_object(Line *line, const Field *fields, size_t count)
{
    uint32_t seen = 0;
    size_t expected = 0;
    if (!take(line, '{'))
        return 0;
    if (!take(line, '}')) {
        do {
            const size_t number = read_field_name(line, fields, count, expected);
            if (number == count || (seen >> number & 1))
                return 0;
            seen |= (uint32_t)1 << number;
            if (!fields[number].read(line))
                return 0;
            expected = number + 1 == count ? 0 : number + 1;
        } while (take(line, ','));
        if (!take(line, '}'))
            return 0;
    }
    for (size_t number = 0; number < count && fields[number].required; number++)
        if (!(seen >> number & 1))
            return 0;
    return 1;
}

/* --- values ------------------------------------------------------------------------------------------------------- */

static inline int
read_name(Line *line, Text *name)
{
    return read_string(line, name) && name->size >= 1 && name->size <= NAME_BYTES_MAX;
}

static int
read_any_name(Line *line)
{
    Text name;
    return read_name(line, &name);
}

static int
read_text(Line *line)
{
    Text text;
    return read_string(line, &text) && text.size <= TEXT_BYTES_MAX;
}

static int
read_one_of(Line *line, const char *const *choices, size_t count)
{
    Text text;
    if (!read_string(line, &text))
        return 0;
    for (size_t i = 0; i < count; i++)
        if (is_same(text, choices[i], strlen(choices[i])))
            return 1;
    return 0;
}

static int
read_count(Line *line)
{
    uint64_t value;
    return read_integer(line, 0, INTEGER_MAX, &value);
}

static int
read_status_code(Line *line)
{
    uint64_t value;
    return read_integer(line, 0, 999, &value);
}

/* `[0-9]{1,18}(\.[0-9]{1,12})?` in a string, or an integer; a minus sign where it may be negative.
 * `whole` is the integer without its sign, or -1 for a string. */
static int
read_quantity(Line *line, int may_be_negative, int64_t *whole)
{
    *whole = -1;
    if (line->at == line->end || *line->at != '"') {
        uint64_t value;
        if (!read_integer(line, may_be_negative, INTEGER_MAX, &value))
            return 0;
        *whole = (int64_t)value;
        return 1;
    }
    Text text;
    if (!read_string(line, &text))
        return 0;
    const uint8_t *at = text.start, *end = text.start + text.size;
    if (may_be_negative && at < end && *at == '-')
        at++;
    const uint8_t *digits = at;
    while (at < end && is_digit(*at))
        at++;
    if (at - digits < 1 || at - digits > 18)
        return 0;
    if (at == end)
        return 1;
    if (*at++ != '.')
        return 0;
    const uint8_t *places = at;
    while (at < end && is_digit(*at))
        at++;
    return at == end && at - places >= 1 && at - places <= 12;
}

static int
read_money(Line *line)
{
    int64_t whole;
    return read_quantity(line, 1, &whole);
}

static int
read_currency(Line *line)
{
    Text text;
    if (!read_string(line, &text) || text.size != 3)
        return 0;
    for (size_t i = 0; i < 3; i++)
        if (text.start[i] < 'A' || text.start[i] > 'Z')
            return 0;
    return 1;
}

static int
are_hexadecimal(const uint8_t *at, size_t count)
{
    int wrong = 0; /* without branches: which half of the digits comes next cannot be predicted */
    for (size_t i = 0; i < count; i++)
        wrong |= !is_digit(at[i]) & ((uint8_t)(at[i] - 'a') > 'f' - 'a');
    return !wrong;
}

static int
read_salt(Line *line)
{
    Text text;
    return read_string(line, &text) && text.size == 32 && are_hexadecimal(text.start, 32);
}

static int
read_traceparent(Line *line)
{
    Text text;
    if (!read_string(line, &text) || text.size != 55)
        return 0;
    const uint8_t *at = text.start;
    return are_hexadecimal(at, 2) && at[2] == '-' && are_hexadecimal(at + 3, 32) && at[35] == '-' &&
           are_hexadecimal(at + 36, 16) && at[52] == '-' && are_hexadecimal(at + 53, 2);
}

/* A number of so many digits, or -1. */
static int
number_of(const uint8_t *at, size_t digits)
{
    int number = 0;
    for (size_t i = 0; i < digits; i++) {
        if (!is_digit(at[i]))
            return -1;
        number = 10 * number + (at[i] - '0');
    }
    return number;
}

/* `YYYY-MM-DDThh:mm:ss.fffZ`, three to nine fraction digits, those below microseconds cut. */
static int
read_time(Line *line)
{
    static const uint8_t days_of[12] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    static const int days_before[12] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    Text text;
    if (!read_string(line, &text) || text.size < 24 || text.size > 30)
        return 0;
    const uint8_t *at = text.start;
    if (at[4] != '-' || at[7] != '-' || at[10] != 'T' || at[13] != ':' || at[16] != ':' || at[19] != '.' ||
        at[text.size - 1] != 'Z')
        return 0;
    const int year = number_of(at, 4), month = number_of(at + 5, 2), day = number_of(at + 8, 2);
    const int hour = number_of(at + 11, 2), minute = number_of(at + 14, 2), second = number_of(at + 17, 2);
    if (year < 1 || month < 1 || month > 12 || day < 1 || day > days_of[month - 1])
        return 0;
    const int leaps = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    if (month == 2 && day == 29 && !leaps)
        return 0;
    if (hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59)
        return 0;
    int64_t fraction_us = 0;
    for (size_t i = 20; i < text.size - 1; i++) {
        if (!is_digit(at[i]))
            return 0;
        if (i < 26)
            fraction_us = 10 * fraction_us + (at[i] - '0');
    }
    for (size_t i = text.size - 1; i < 26; i++)
        fraction_us *= 10;
    const int before = year - 1; /* whole years since 0001-01-01, the day 719,162 before 1970-01-01 */
    const int64_t days = 365 * (int64_t)before + before / 4 - before / 100 + before / 400 + days_before[month - 1] +
                         (month > 2 && leaps) + day - 1 - 719162;
    line->time_us = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000000 + fraction_us;
    return 1;
}

static int
is_meter_name(Text name)
{
    if (name.size < 1 || name.size > METER_NAME_BYTES_MAX || name.start[0] < 'a' || name.start[0] > 'z')
        return 0;
    for (size_t i = 1; i < name.size; i++) {
        const uint8_t character = name.start[i];
        if (!(character >= 'a' && character <= 'z') && !is_digit(character) && character != '_' && character != '.')
            return 0;
    }
    return 1;
}

/* The place of a meter among those found, where it may be put now; `METERS_MAX` if it cannot be. */
static unsigned int
place_of(Meters *meters, Text name, unsigned int expected)
{
    const unsigned int count = meters->count;
    for (unsigned int tried = 0, number = expected; tried < count; tried++, number++) {
        if (number >= count)
            number = 0;
        if (is_same(name, (const char *)meters->names[number].start, meters->names[number].size))
            return number;
    }
    if (count == METERS_MAX || !is_meter_name(name))
        return METERS_MAX;
    meters->names[meters->count++] = name;
    return count;
}

static int
read_usage(Line *line)
{
    uint64_t seen = 0;
    unsigned int expected = 0;
    line->used_count = 0;
    if (!take(line, '{'))
        return 0;
    do {
        Text name;
        if (!read_string(line, &name) || !take(line, ':'))
            return 0;
        const unsigned int number = place_of(line->meters, name, expected);
        if (number == METERS_MAX || (seen >> number & 1))
            return 0;
        seen |= (uint64_t)1 << number;
        Used *used = &line->used[line->used_count++];
        used->meter = number;
        if (!read_quantity(line, 0, &used->whole)) /* only a correction may be negative, and none is plain */
            return 0;
        expected = number + 1;
    } while (take(line, ','));
    return take(line, '}');
}

static int
read_tags(Line *line)
{
    Text names[TAGS_MAX];
    size_t count = 0;
    if (!take(line, '{'))
        return 0;
    if (take(line, '}'))
        return 1;
    do {
        Text name;
        if (count == TAGS_MAX || !read_name(line, &name) || !take(line, ':') || !read_any_name(line))
            return 0;
        for (size_t i = 0; i < count; i++)
            if (is_same(name, (const char *)names[i].start, names[i].size))
                return 0;
        names[count++] = name;
    } while (take(line, ','));
    return take(line, '}');
}

/* --- the event ---------------------------------------------------------------------------------------------------- */

static int
read_latency(Line *line)
{
    static const Field fields[] = {
        OPTIONAL("total_us", read_count),
        OPTIONAL("queue_us", read_count),
        OPTIONAL("upstream_us", read_count),
        OPTIONAL("first_token_us", read_count),
    };
    return read_object(line, fields, COUNT_OF(fields));
}

static int
read_cost(Line *line)
{
    static const Field fields[] = {REQUIRED("amount", read_money), REQUIRED("currency", read_currency)};
    return read_object(line, fields, COUNT_OF(fields));
}

static int
read_governance(Line *line)
{
    static const Field fields[] = {
        OPTIONAL("residency", read_any_name),
        OPTIONAL("purpose", read_any_name),
        OPTIONAL("consent", read_any_name),
    };
    return read_object(line, fields, COUNT_OF(fields));
}

static int
read_surface(Line *line)
{
    static const char *const surfaces[] = {"llm", "tool", "agent", "rest", "mcp"};
    return read_one_of(line, surfaces, COUNT_OF(surfaces));
}

static int
read_status(Line *line)
{
    static const char *const statuses[] = {"ok", "error", "denied", "rate_limited", "payment_required"};
    return read_one_of(line, statuses, COUNT_OF(statuses));
}

static int
read_customer(Line *line)
{
    return read_name(line, &line->customer);
}

static int
read_operation(Line *line)
{
    return read_name(line, &line->operation);
}

static int
read_provider(Line *line)
{
    return read_name(line, &line->provider);
}

static int
read_model(Line *line)
{
    return read_name(line, &line->model);
}

static int
read_data(Line *line)
{
    static const Field fields[] = {
        REQUIRED("customer", read_customer),
        REQUIRED("usage", read_usage),
        OPTIONAL("operation", read_operation),
        OPTIONAL("surface", read_surface),
        OPTIONAL("status", read_status),
        OPTIONAL("status_code", read_status_code),
        OPTIONAL("provider", read_provider),
        OPTIONAL("model", read_model),
        OPTIONAL("latency", read_latency),
        OPTIONAL("request_bytes", read_count),
        OPTIONAL("response_bytes", read_count),
        OPTIONAL("session", read_any_name),
        OPTIONAL("user", read_any_name),
        OPTIONAL("run", read_any_name),
        OPTIONAL("parent", read_any_name),
        OPTIONAL("traceparent", read_traceparent),
        OPTIONAL("cost", read_cost),
        OPTIONAL("tags", read_tags),
        OPTIONAL("governance", read_governance),
        OPTIONAL("request_signature", read_text),
        OPTIONAL("receipt", read_text),
        OPTIONAL("salt", read_salt),
    };
    return read_object(line, fields, COUNT_OF(fields));
}

static int
read_specversion(Line *line)
{
    static const char *const versions[] = {"1.0"};
    return read_one_of(line, versions, COUNT_OF(versions));
}

static int
read_type(Line *line)
{
    static const char *const types[] = {"meterproof.usage.v1"};
    return read_one_of(line, types, COUNT_OF(types));
}

static int
read_id(Line *line)
{
    return read_name(line, &line->id);
}

static int
read_source(Line *line)
{
    return read_name(line, &line->source);
}

static int
read_subject(Line *line)
{
    return read_name(line, &line->subject);
}

static int
read_event(Line *line)
{
    static const Field fields[] = {
        REQUIRED("specversion", read_specversion),
        REQUIRED("id", read_id),
        REQUIRED("source", read_source),
        REQUIRED("type", read_type),
        REQUIRED("time", read_time),
        REQUIRED("subject", read_subject),
        REQUIRED("data", read_data),
    };
    line->provider.size = line->model.size = line->operation.size = 0;
    return read_object(line, fields, COUNT_OF(fields));
}

/* --- identity: BLAKE2b of 16 bytes, RFC 7693 ---------------------------------------------------------------------- */

#define BLOCK_BYTES 128
#define IDENTITY_BYTES 16
#define IDENTITY_BLOCKS_MAX ((2 * NAME_BYTES_MAX + 1 + BLOCK_BYTES - 1) / BLOCK_BYTES)

static const uint64_t INITIAL[8] = { /* section 2.6 */
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

static const uint8_t SCHEDULE[10][16] = { /* section 2.7; rounds 10 and 11 are 0 and 1 again */
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

/* Below, a word is one of 64 bits, or eight of them side by side. */
#define ROTATED(word, right) ((word) >> (right) | (word) << (64 - (right)))

#define MIX(a, b, c, d, x, y) \
    do { \
        a += b + (x); \
        d = ROTATED(d ^ a, 32); \
        c += d; \
        b = ROTATED(b ^ c, 24); \
        a += b + (y); \
        d = ROTATED(d ^ a, 16); \
        c += d; \
        b = ROTATED(b ^ c, 63); \
    } while (0)

#define ROUND(v, m, s) \
    do { \
        MIX(v[0], v[4], v[8], v[12], m[s[0]], m[s[1]]); \
        MIX(v[1], v[5], v[9], v[13], m[s[2]], m[s[3]]); \
        MIX(v[2], v[6], v[10], v[14], m[s[4]], m[s[5]]); \
        MIX(v[3], v[7], v[11], v[15], m[s[6]], m[s[7]]); \
        MIX(v[0], v[5], v[10], v[15], m[s[8]], m[s[9]]); \
        MIX(v[1], v[6], v[11], v[12], m[s[10]], m[s[11]]); \
        MIX(v[2], v[7], v[8], v[13], m[s[12]], m[s[13]]); \
        MIX(v[3], v[4], v[9], v[14], m[s[14]], m[s[15]]); \
    } while (0)

/* Section 3.2: `block` is the one that ends `taken` bytes behind the beginning. */
static void
compress(uint64_t state[8], const uint8_t *block, uint64_t taken, int last)
{
    uint64_t m[16], v[16];
    for (int i = 0; i < 16; i++) {
        m[i] = 0;
        for (int byte = 7; byte >= 0; byte--)
            m[i] = m[i] << 8 | block[8 * i + byte];
    }
    memcpy(v, state, 8 * sizeof v[0]);
    memcpy(v + 8, INITIAL, sizeof INITIAL);
    v[12] ^= taken;
    if (last)
        v[14] = ~v[14];
#if defined(__GNUC__)
#pragma GCC unroll 12
#endif
    for (int round = 0; round < 12; round++)
        ROUND(v, m, SCHEDULE[round % 10]);
    for (int i = 0; i < 8; i++)
        state[i] ^= v[i] ^ v[i + 8];
}

/* BLAKE2b-128 over the source, a NUL byte and the id. */
static void
put_identity(uint8_t *identity, Text source, Text id)
{
    uint8_t content[IDENTITY_BLOCKS_MAX * BLOCK_BYTES];
    const size_t size = source.size + 1 + id.size;
    const size_t blocks = (size + BLOCK_BYTES - 1) / BLOCK_BYTES;
    memcpy(content, source.start, source.size);
    content[source.size] = 0;
    memcpy(content + source.size + 1, id.start, id.size);
    memset(content + size, 0, blocks * BLOCK_BYTES - size);
    uint64_t state[8];
    memcpy(state, INITIAL, sizeof state);
    state[0] ^= 0x01010000 | IDENTITY_BYTES; /* section 2.5: no key, fan-out and depth 1 */
    for (size_t i = 0; i + 1 < blocks; i++)
        compress(state, content + i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES, 0);
    compress(state, content + (blocks - 1) * BLOCK_BYTES, size, 1);
    for (size_t i = 0; i < IDENTITY_BYTES; i++)
        identity[i] = (uint8_t)(state[i / 8] >> (8 * (i % 8)));
}

/* The same for lines whose source and id fit one block together, as nearly all do: eight of them side by side. */
#if defined(__x86_64__) && defined(__GNUC__)

#define LANES 8

typedef uint64_t Words __attribute__((vector_size(8 * LANES)));

/* `content` has one word of each lane behind the other, `sizes` how long each content is. */
#define COMPRESS_WIDE(name, features) \
    __attribute__((target(features))) static void name(uint8_t *identities, const Words content[16], const Words *sizes) \
    { \
        const Words none = {0}; \
        const uint64_t first = INITIAL[0] ^ (0x01010000 | IDENTITY_BYTES); \
        Words v[16]; \
        for (int i = 0; i < 16; i++) \
            v[i] = none + INITIAL[i % 8]; \
        v[0] = none + first; \
        v[12] ^= *sizes; \
        v[14] = ~v[14]; \
        _Pragma("GCC unroll 12") for (int round = 0; round < 12; round++) \
            ROUND(v, content, SCHEDULE[round % 10]); \
        v[0] ^= v[8] ^ first; \
        v[1] ^= v[9] ^ INITIAL[1]; \
        for (int lane = 0; lane < LANES; lane++) { \
            const uint64_t identity[2] = {v[0][lane], v[1][lane]}; \
            memcpy(identities + lane * IDENTITY_BYTES, identity, IDENTITY_BYTES); \
        } \
    }

COMPRESS_WIDE(compress_wide_avx512, "avx512f")
COMPRESS_WIDE(compress_wide_avx2, "avx2")

/* The identities of as many lines as there are lanes; 0 where one of them takes more than a block, or it is not known how. */
static int
put_wide(uint8_t *identities, const Text *sources, const Text *ids)
{
    union {
        uint64_t words[16][LANES];
        Words wide[16];
    } content;
    union {
        uint64_t each[LANES];
        Words wide;
    } sizes;
    const int avx512 = __builtin_cpu_supports("avx512f");
    if (!avx512 && !__builtin_cpu_supports("avx2"))
        return 0;
    for (int lane = 0; lane < LANES; lane++) {
        sizes.each[lane] = sources[lane].size + 1 + ids[lane].size;
        if (sizes.each[lane] > BLOCK_BYTES)
            return 0;
    }
    for (int lane = 0; lane < LANES; lane++) {
        uint64_t block[BLOCK_BYTES / 8] = {0};
        memcpy(block, sources[lane].start, sources[lane].size);
        memcpy((uint8_t *)block + sources[lane].size + 1, ids[lane].start, ids[lane].size);
        for (int i = 0; i < 16; i++)
            content.words[i][lane] = block[i];
    }
    (avx512 ? compress_wide_avx512 : compress_wide_avx2)(identities, content.wide, &sizes.wide);
    return 1;
}

#else

#define LANES 8

static int
put_wide(uint8_t *identities, const Text *sources, const Text *ids)
{
    (void)identities, (void)sources, (void)ids;
    return 0;
}

#endif

static void
put_identities(uint8_t *identities, const Text *sources, const Text *ids, size_t count)
{
    size_t done = 0;
    while (done < count) {
        if (count - done >= LANES && put_wide(identities + done * IDENTITY_BYTES, sources + done, ids + done)) {
            done += LANES;
            continue;
        }
        put_identity(identities + done * IDENTITY_BYTES, sources[done], ids[done]);
        done++;
    }
}

/* --- Python ------------------------------------------------------------------------------------------------------- */

#define SPEAKERS_MAX 2048 /* a power of 2 */

/* Speakers found of late, each at a place that follows from its characters: the same ones come again and again. */
static PyObject *speakers_known[SPEAKERS_MAX];

/* Takes characters in, eight at a time. Whoever finds many for one place has nothing of it: the newest stands there. */
static inline uint64_t
mixed(uint64_t hash, Text text)
{
    uint64_t word = text.size;
    for (size_t at = 0; at < text.size; at += sizeof word) {
        hash = (hash ^ word) * 0x9e3779b97f4a7c15;
        hash ^= hash >> 32;
        word = 0;
        memcpy(&word, text.start + at, text.size - at < sizeof word ? text.size - at : sizeof word);
    }
    hash = (hash ^ word) * 0x9e3779b97f4a7c15;
    return hash ^ hash >> 32;
}

/* Source, agent and customer, with a NUL between two. */
static PyObject *
speaker_of(const Line *line)
{
    const Text parts[] = {line->source, line->subject, line->customer};
    const Py_ssize_t size = (Py_ssize_t)(parts[0].size + 1 + parts[1].size + 1 + parts[2].size);
    uint64_t hash = 0;
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        hash = mixed(hash, parts[i]);
    PyObject **const known = &speakers_known[hash % SPEAKERS_MAX];
    if (*known != NULL && PyUnicode_GET_LENGTH(*known) == size) {
        const uint8_t *at = PyUnicode_1BYTE_DATA(*known);
        int alike = 1;
        for (size_t i = 0; i < COUNT_OF(parts) && alike; i++) {
            alike = memcmp(at, parts[i].start, parts[i].size) == 0 && at[parts[i].size] == 0; /* the last NUL ends it */
            at += parts[i].size + 1;
        }
        if (alike)
            return Py_NewRef(*known);
    }
    PyObject *speaker = PyUnicode_New(size, 127);
    if (speaker == NULL)
        return NULL;
    uint8_t *at = PyUnicode_1BYTE_DATA(speaker);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        memcpy(at, parts[i].start, parts[i].size);
        at += parts[i].size;
        if (i + 1 < COUNT_OF(parts))
            *at++ = 0;
    }
    Py_XSETREF(*known, Py_NewRef(speaker));
    return speaker;
}

static PyObject *
set_of(const Meters *meters)
{
    PyObject *names = PySet_New(NULL);
    for (unsigned int i = 0; names != NULL && i < meters->count; i++) {
        const Text text = meters->names[i];
        PyObject *name = PyUnicode_FromStringAndSize((const char *)text.start, (Py_ssize_t)text.size);
        if (name == NULL || PySet_Add(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

/* What is found in all lines of a text; the arrays have a place for each line. */
typedef struct {
    PyObject *ends, *speakers, *identities;
    Text *sources, *ids;
    int64_t earliest_us, latest_us;
    Meters meters;
} Columns;

/* Fill the columns: 1, 0 where a line is not of that kind, -1 with an error set if that failed. */
static int
read_columns(Columns *columns, const uint8_t *text, size_t start, size_t size, size_t count)
{
    Line line = {.at = text + start, .end = text + size, .meters = &columns->meters};
    uint8_t *const ends = (uint8_t *)PyBytes_AS_STRING(columns->ends);
    columns->earliest_us = INT64_MAX;
    columns->latest_us = INT64_MIN;
    for (size_t i = 0; i < count; i++) {
        if (!read_event(&line) || !take(&line, '\n'))
            return 0;
        const int64_t end = line.at - text;
        memcpy(ends + i * sizeof end, &end, sizeof end);
        columns->sources[i] = line.source;
        columns->ids[i] = line.id;
        if (line.time_us < columns->earliest_us)
            columns->earliest_us = line.time_us;
        if (line.time_us > columns->latest_us)
            columns->latest_us = line.time_us;
        PyObject *speaker = speaker_of(&line);
        if (speaker == NULL)
            return -1;
        PyList_SET_ITEM(columns->speakers, (Py_ssize_t)i, speaker);
    }
    if (line.at != line.end)
        return 0;
    put_identities((uint8_t *)PyBytes_AS_STRING(columns->identities), columns->sources, columns->ids, count);
    return 1;
}

static size_t
count_of_lines(const uint8_t *at, const uint8_t *end)
{
    size_t count = 0;
    while (at < end) { /* in parts, whose counts fit a byte, so that many are counted at once */
        const uint8_t *const part_end = end - at > 255 ? at + 255 : end;
        uint8_t part = 0;
        for (; at < part_end; at++)
            part += *at == '\n';
        count += part;
    }
    return count;
}

static PyObject *
read_plain_lines(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t argument_count)
{
    if (argument_count != 2 || !PyBytes_Check(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "read_plain_lines takes bytes and where the lines begin in them");
        return NULL;
    }
    const Py_ssize_t start = PyLong_AsSsize_t(arguments[1]), size = PyBytes_GET_SIZE(arguments[0]);
    if (start == -1 && PyErr_Occurred())
        return NULL;
    if (start < 0 || start >= size)
        Py_RETURN_NONE;
    const uint8_t *const text = (const uint8_t *)PyBytes_AS_STRING(arguments[0]);
    const size_t count = count_of_lines(text + start, text + size);
    if (count == 0)
        Py_RETURN_NONE;
    Columns columns;
    columns.meters.count = 0;
    columns.ends = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * sizeof(int64_t)));
    columns.speakers = PyList_New((Py_ssize_t)count);
    columns.identities = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(count * IDENTITY_BYTES));
    columns.sources = PyMem_Malloc(2 * count * sizeof(Text));
    columns.ids = columns.sources + count;
    PyObject *result = NULL, *names = NULL;
    if (columns.sources == NULL) {
        PyErr_NoMemory();
        goto done;
    }
    if (columns.ends == NULL || columns.speakers == NULL || columns.identities == NULL)
        goto done;
    const int read = read_columns(&columns, text, (size_t)start, (size_t)size, count);
    if (read == 0)
        result = Py_NewRef(Py_None);
    else if (read > 0 && (names = set_of(&columns.meters)) != NULL)
        result = Py_BuildValue("(OOOLLN)", columns.ends, columns.speakers, columns.identities,
                               (long long)columns.earliest_us, (long long)columns.latest_us, names);
done:
    PyMem_Free(columns.sources);
    Py_XDECREF(columns.ends);
    Py_XDECREF(columns.speakers);
    Py_XDECREF(columns.identities);
    return result;
}

/* --- prices ------------------------------------------------------------------------------------------------------- */

#if defined(__SIZEOF_INT128__)

typedef __int128 Cost;

#define KNOWN_MAX 32
#define TIME_BYTES 8
#define COST_BYTES 16

/* What one unit of each meter costs in 10^-12, for events of one provider, model and operation. */
typedef struct {
    Text provider, model, operation;
    PyObject *prices; /* by name of the meter */
    uint64_t looked_up; /* one bit by place of the meter */
    int64_t price[METERS_MAX];
} Known;

static int
are_same(Text one, Text other)
{
    return one.size == other.size && (one.size == 0 || memcmp(one.start, other.start, one.size) == 0);
}

static PyObject *
string_of(Text text)
{
    return PyUnicode_FromStringAndSize(text.size ? (const char *)text.start : "", (Py_ssize_t)text.size);
}

/* The prices that apply to a line, asked for if they are not known; NULL with an error set if that failed. */
static Known *
known_of(Known *known, size_t *count, const Line *line, PyObject *prices_of)
{
    const size_t held = *count < KNOWN_MAX ? *count : KNOWN_MAX;
    for (size_t i = 0; i < held; i++)
        if (are_same(known[i].model, line->model) && are_same(known[i].provider, line->provider) &&
            are_same(known[i].operation, line->operation))
            return known + i;
    PyObject *names[3] = {string_of(line->provider), string_of(line->model), string_of(line->operation)};
    PyObject *prices = NULL;
    if (names[0] != NULL && names[1] != NULL && names[2] != NULL)
        prices = PyObject_Vectorcall(prices_of, names, 3, NULL);
    for (size_t i = 0; i < 3; i++)
        Py_XDECREF(names[i]);
    if (prices != NULL && !PyDict_Check(prices)) {
        PyErr_SetString(PyExc_TypeError, "prices are a dict");
        Py_CLEAR(prices);
    }
    if (prices == NULL)
        return NULL;
    Known *place = known + (*count)++ % KNOWN_MAX;
    if (*count > KNOWN_MAX)
        Py_DECREF(place->prices);
    place->provider = line->provider;
    place->model = line->model;
    place->operation = line->operation;
    place->prices = prices;
    place->looked_up = 0;
    return place;
}

/* Look up what a unit of a meter costs: 1, 0 if it has no such price, -1 with an error set if that failed. */
static int
look_up(Known *known, const Meters *meters, unsigned int meter)
{
    PyObject *name = string_of(meters->names[meter]);
    if (name == NULL)
        return -1;
    PyObject *price = PyDict_GetItemWithError(known->prices, name); /* borrowed */
    Py_DECREF(name);
    if (price == NULL)
        return PyErr_Occurred() ? -1 : 0;
    int overflow;
    const long long value = PyLong_AsLongLongAndOverflow(price, &overflow);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (overflow)
        return 0;
    known->price[meter] = value;
    known->looked_up |= (uint64_t)1 << meter;
    return 1;
}

/* What a line costs: 1, 0 if that takes more than adding up products, -1 with an error set if it failed. */
static int
cost_of(const Line *line, Known *known, Cost *cost)
{
    const Cost max = (Cost)10000000000000000000u * 10000000000000000000u; /* 10^38 */
    *cost = 0;
    for (unsigned int i = 0; i < line->used_count; i++) {
        const Used used = line->used[i];
        if (used.whole < 0)
            return 0;
        if (!(known->looked_up >> used.meter & 1)) {
            const int found = look_up(known, line->meters, used.meter);
            if (found < 1)
                return found;
        }
        const Cost product = (Cost)used.whole * known->price[used.meter]; /* at most 2^126 */
        if (__builtin_add_overflow(*cost, product, cost) || *cost >= max || *cost <= -max)
            return 0;
    }
    return 1;
}

static void
put_number(uint8_t *at, Cost number, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)((unsigned __int128)number >> (8 * i));
}

static PyObject *
price_plain_lines(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t argument_count)
{
    if (argument_count != 4 || !PyBytes_Check(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "price_plain_lines takes bytes, where the lines begin, how many, and prices");
        return NULL;
    }
    const Py_ssize_t start = PyLong_AsSsize_t(arguments[1]), size = PyBytes_GET_SIZE(arguments[0]);
    if (start == -1 && PyErr_Occurred())
        return NULL;
    const Py_ssize_t lines = PyLong_AsSsize_t(arguments[2]);
    if (lines == -1 && PyErr_Occurred())
        return NULL;
    if (start < 0 || start > size || lines < 0 || lines > size)
        Py_RETURN_NONE;
    const uint8_t *const text = (const uint8_t *)PyBytes_AS_STRING(arguments[0]);
    PyObject *times = PyBytes_FromStringAndSize(NULL, lines * TIME_BYTES);
    PyObject *costs = PyBytes_FromStringAndSize(NULL, lines * COST_BYTES);
    PyObject *result = NULL;
    Meters meters;
    meters.count = 0;
    Known known[KNOWN_MAX];
    size_t known_count = 0;
    if (times == NULL || costs == NULL)
        goto done;
    Line line = {.at = text + start, .end = text + size, .meters = &meters};
    Py_ssize_t number = 0;
    for (; number < lines && line.at < line.end; number++) {
        if (!read_event(&line) || !(line.at == line.end || take(&line, '\n')))
            break;
        Known *prices = known_of(known, &known_count, &line, arguments[3]);
        Cost cost;
        const int found = prices == NULL ? -1 : cost_of(&line, prices, &cost);
        if (found < 0)
            goto done;
        if (found == 0)
            break;
        put_number((uint8_t *)PyBytes_AS_STRING(times) + number * TIME_BYTES, line.time_us, TIME_BYTES);
        put_number((uint8_t *)PyBytes_AS_STRING(costs) + number * COST_BYTES, cost, COST_BYTES);
    }
    result = number == lines && line.at == line.end ? PyTuple_Pack(2, times, costs) : Py_NewRef(Py_None);
done:
    for (size_t i = 0; i < known_count && i < KNOWN_MAX; i++)
        Py_DECREF(known[i].prices);
    Py_XDECREF(times);
    Py_XDECREF(costs);
    return result;
}

#endif

static PyMethodDef FUNCTIONS[] = {
    {"read_plain_lines", (PyCFunction)(void (*)(void))read_plain_lines, METH_FASTCALL,
     "read_plain_lines(text, start, /)\n--\n\nThe fields of `PlainLines`, or None; see python_plain_lines."},
#if defined(__SIZEOF_INT128__)
    {"price_plain_lines", (PyCFunction)(void (*)(void))price_plain_lines, METH_FASTCALL,
     "price_plain_lines(text, start, count, prices_of, /)\n--\n\nTimes and costs, or None; see plain_lines."},
#endif
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "meterproof_schemas._plain_lines",
    .m_doc = "The functions of meterproof_schemas.plain_lines for lines in the commonest spelling.",
    .m_size = -1, /* it remembers speakers */
    .m_methods = FUNCTIONS,
};

PyMODINIT_FUNC
PyInit__plain_lines(void)
{
    return PyModule_Create(&MODULE);
}
