/*
 * The opening of a batch (header and signatures line) in the spelling of our own helper, read in one pass.
 *
 * It only ever accepts, and what it accepts keeps every rule of `batch.py`: both lines are of printable ASCII characters
 * without backslash, without white space between tokens, with the known names in their order. So there is nothing in them
 * that two parsers could read differently. For any other batch it returns None, which says nothing about it.
 *
 * Every function that reads returns 1, or 0 where the text is not of that kind; none reads at or behind `end`.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* As in limits.py. */
#define LINE_BYTES_MAX 4096
#define NAME_BYTES_MAX 256
#define LINES_MAX 1000
#define PARTITION_MAX ((int64_t)1 << 31)

#define INSTANCE_DIGITS 32
#define DIGEST_DIGITS 64
#define SIGNATURE_CHARS 88

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Text;

typedef struct {
    const uint8_t *start;
    Py_ssize_t size;
} Piece;

typedef struct {
    Piece audience, topic, producer, instance, previous, root, sent_at;
    int64_t partition, sequence, count;
} Header;

typedef struct {
    Piece key_id, signature;
} Signature;

enum { V, AUDIENCE, TOPIC, PARTITION, PRODUCER, INSTANCE, SEQUENCE, PREVIOUS, COUNT, ROOT, SENT_AT, HEADER_FIELDS };
enum { KEY_ID, ALGORITHM, SIGNATURE, SIGNATURE_FIELDS };

static const char *const HEADER_NAMES[] = {"v", "audience", "topic", "partition", "producer", "instance", "sequence",
                                           "previous", "count", "root", "sent_at"};
static const char *const SIGNATURE_NAMES[] = {"key_id", "algorithm", "signature"};

static PyObject *header_names[HEADER_FIELDS], *signature_names[SIGNATURE_FIELDS];
/* To be copied: a dictionary that has its names already takes their values at half the price. */
static PyObject *header_form, *signature_form;
/* The texts of the batch before, since most of them are those of the next one. */
static PyObject *header_before[HEADER_FIELDS], *key_id_before;

/* --- reading ------------------------------------------------------------------------------------------------------ */

static int
take(Text *text, const char *wanted, size_t size)
{
    if ((size_t)(text->end - text->at) < size || memcmp(text->at, wanted, size) != 0)
        return 0;
    text->at += size;
    return 1;
}

#define TAKE(text, literal) take(text, literal, sizeof(literal) - 1)

/* Up to a quotation mark, and that. */
static int
take_name(Text *text, Piece *name)
{
    name->start = text->at;
    while (text->at < text->end && *text->at != '"') {
        if (*text->at < 0x20 || *text->at > 0x7e || *text->at == '\\')
            return 0;
        text->at++;
    }
    name->size = text->at - name->start;
    return 0 < name->size && name->size <= NAME_BYTES_MAX && TAKE(text, "\"");
}

static int
is_hexadecimal(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

static int
is_base64(uint8_t c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
}

/* So many characters of a kind, and a quotation mark. */
static int
take_chars(Text *text, Piece *piece, Py_ssize_t size, int (*is_one)(uint8_t))
{
    if (text->end - text->at < size)
        return 0;
    *piece = (Piece){text->at, size};
    for (Py_ssize_t i = 0; i < size; i++)
        if (!is_one(text->at[i]))
            return 0;
    text->at += size;
    return TAKE(text, "\"");
}

/* An integer without sign and without needless zeros. */
static int
take_number(Text *text, int64_t *number, int64_t max)
{
    const uint8_t *start = text->at;
    uint64_t read = 0;
    while (text->at < text->end && *text->at >= '0' && *text->at <= '9') {
        if (text->at - start == 19)
            return 0;
        read = read * 10 + (*text->at++ - '0');
    }
    *number = (int64_t)read;
    return text->at > start && (*start != '0' || text->at - start == 1) && read <= (uint64_t)max;
}

static int
two_digits(const uint8_t *at)
{
    return at[0] >= '0' && at[0] <= '9' && at[1] >= '0' && at[1] <= '9' ? (at[0] - '0') * 10 + at[1] - '0' : -1;
}

/* YYYY-MM-DDTHH:MM:SS.mmmZ, of a day that every month has; a finer fraction or a later day needs a closer look. */
static int
take_instant(Text *text, Piece *instant)
{
    const uint8_t *at = text->at;
    if (text->end - at < 25 || at[4] != '-' || at[7] != '-' || at[10] != 'T' || at[13] != ':' || at[16] != ':' ||
        at[19] != '.' || at[23] != 'Z' || at[24] != '"')
        return 0;
    const int century = two_digits(at), year = two_digits(at + 2), month = two_digits(at + 5), day = two_digits(at + 8);
    const int hour = two_digits(at + 11), minute = two_digits(at + 14), second = two_digits(at + 17);
    const int thousandths = two_digits(at + 21);
    if (century < 1 || year < 0 || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23 || minute < 0 ||
        minute > 59 || second < 0 || second > 59 || at[20] < '0' || at[20] > '9' || thousandths < 0)
        return 0;
    const int days = month == 2 ? 28 : month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
    *instant = (Piece){at, 24};
    text->at += 25;
    return day <= days;
}

static int
read_header(Text text, Header *header)
{
    if (!(TAKE(&text, "{\"v\":1,\"audience\":\"") && take_name(&text, &header->audience) &&
          TAKE(&text, ",\"topic\":\"") && take_name(&text, &header->topic) && TAKE(&text, ",\"partition\":") &&
          take_number(&text, &header->partition, PARTITION_MAX) && TAKE(&text, ",\"producer\":\"") &&
          take_name(&text, &header->producer) && TAKE(&text, ",\"instance\":\"") &&
          take_chars(&text, &header->instance, INSTANCE_DIGITS, is_hexadecimal) && TAKE(&text, ",\"sequence\":") &&
          take_number(&text, &header->sequence, INT64_MAX)))
        return 0;
    if (header->sequence == 0) {
        header->previous = (Piece){NULL, 0};
        if (!TAKE(&text, ",\"previous\":null"))
            return 0;
    } else if (!(TAKE(&text, ",\"previous\":\"") &&
                 take_chars(&text, &header->previous, DIGEST_DIGITS, is_hexadecimal)))
        return 0;
    return TAKE(&text, ",\"count\":") && take_number(&text, &header->count, LINES_MAX) && header->count > 0 &&
           TAKE(&text, ",\"root\":\"") && take_chars(&text, &header->root, DIGEST_DIGITS, is_hexadecimal) &&
           TAKE(&text, ",\"sent_at\":\"") && take_instant(&text, &header->sent_at) && TAKE(&text, "}") &&
           text.at == text.end;
}

static int
is_base64_of_64_bytes(const Piece *piece)
{
    for (int i = 0; i < SIGNATURE_CHARS - 2; i++)
        if (!is_base64(piece->start[i]))
            return 0;
    return memcmp(piece->start + SIGNATURE_CHARS - 2, "==", 2) == 0;
}

static int
read_signature(Text text, Signature *signature)
{
    if (!(TAKE(&text, "{\"signatures\":[{\"key_id\":\"") &&
          take_chars(&text, &signature->key_id, DIGEST_DIGITS, is_hexadecimal) &&
          TAKE(&text, ",\"algorithm\":\"ed25519\",\"signature\":\"") && text.end - text.at >= SIGNATURE_CHARS))
        return 0;
    signature->signature = (Piece){text.at, SIGNATURE_CHARS};
    text.at += SIGNATURE_CHARS;
    return is_base64_of_64_bytes(&signature->signature) && TAKE(&text, "\"}]}") && text.at == text.end;
}

/* --- what Python gets --------------------------------------------------------------------------------------------- */

/* Give a new reference away, into a dictionary. */
static int
put(PyObject *dict, PyObject *name, PyObject *value)
{
    if (value == NULL)
        return 0;
    const int failed = PyDict_SetItem(dict, name, value);
    Py_DECREF(value);
    return !failed;
}

static PyObject *
text_of(const Piece *piece)
{
    PyObject *text = PyUnicode_New(piece->size, 127);
    if (text != NULL)
        memcpy(PyUnicode_1BYTE_DATA(text), piece->start, piece->size);
    return text;
}

/* The text that stood there before, if it is the same. */
static PyObject *
known_text_of(const Piece *piece, PyObject **before)
{
    if (*before == NULL || PyUnicode_GET_LENGTH(*before) != piece->size ||
        memcmp(PyUnicode_1BYTE_DATA(*before), piece->start, piece->size) != 0)
        Py_XSETREF(*before, text_of(piece));
    return Py_XNewRef(*before);
}

static PyObject *
header_of(const Header *header)
{
    PyObject *fields = PyDict_Copy(header_form);
    if (fields == NULL)
        return NULL;
    if (put(fields, header_names[AUDIENCE], known_text_of(&header->audience, &header_before[AUDIENCE])) &&
        put(fields, header_names[TOPIC], known_text_of(&header->topic, &header_before[TOPIC])) &&
        put(fields, header_names[PARTITION], PyLong_FromLongLong(header->partition)) &&
        put(fields, header_names[PRODUCER], known_text_of(&header->producer, &header_before[PRODUCER])) &&
        put(fields, header_names[INSTANCE], known_text_of(&header->instance, &header_before[INSTANCE])) &&
        put(fields, header_names[SEQUENCE], PyLong_FromLongLong(header->sequence)) &&
        (header->previous.start == NULL || put(fields, header_names[PREVIOUS], text_of(&header->previous))) &&
        put(fields, header_names[COUNT], PyLong_FromLongLong(header->count)) &&
        put(fields, header_names[ROOT], text_of(&header->root)) &&
        put(fields, header_names[SENT_AT], text_of(&header->sent_at)))
        return fields;
    Py_DECREF(fields);
    return NULL;
}

static PyObject *
signature_of(const Signature *signature)
{
    PyObject *fields = PyDict_Copy(signature_form);
    if (fields == NULL)
        return NULL;
    if (put(fields, signature_names[KEY_ID], known_text_of(&signature->key_id, &key_id_before)) &&
        put(fields, signature_names[SIGNATURE], text_of(&signature->signature)))
        return fields;
    Py_DECREF(fields);
    return NULL;
}

/* read_usual_batch(value, /): header line, the header's fields, signatures line, its one signature's fields, and where
   the events begin. */
static PyObject *
read_usual_batch(PyObject *module, PyObject *value)
{
    Header header;
    Signature signature;
    (void)module;

    if (!PyBytes_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "a batch is bytes");
        return NULL;
    }
    const Py_ssize_t size = PyBytes_GET_SIZE(value);
    const uint8_t *start = (const uint8_t *)PyBytes_AS_STRING(value), *end = start + size;
    if (size == 0 || end[-1] != '\n')
        Py_RETURN_NONE;
    const uint8_t *header_end = memchr(start, '\n', (size_t)size);
    if (header_end - start > LINE_BYTES_MAX || !read_header((Text){start, header_end}, &header))
        Py_RETURN_NONE;
    const uint8_t *second = header_end + 1, *second_end = memchr(second, '\n', (size_t)(end - second));
    if (second_end == NULL || second_end - second > LINE_BYTES_MAX ||
        !read_signature((Text){second, second_end}, &signature))
        Py_RETURN_NONE;
    int64_t lines = 0;
    for (const uint8_t *at = second_end + 1; at < end; lines++)
        at = (const uint8_t *)memchr(at, '\n', (size_t)(end - at)) + 1;
    if (lines != header.count)
        Py_RETURN_NONE;

    PyObject *fields = header_of(&header), *signed_by = fields == NULL ? NULL : signature_of(&signature), *found = NULL;
    if (signed_by != NULL)
        found = Py_BuildValue(
            "y#Oy#On", start, (Py_ssize_t)(header_end - start), fields, second, (Py_ssize_t)(second_end - second),
            signed_by, (Py_ssize_t)(second_end + 1 - start));
    Py_XDECREF(fields);
    Py_XDECREF(signed_by);
    return found;
}

/* --- the module --------------------------------------------------------------------------------------------------- */

static PyObject *
form_of(const char *const names[], PyObject *interned[], int count)
{
    PyObject *form = PyDict_New();
    for (int i = 0; form != NULL && i < count; i++) {
        interned[i] = PyUnicode_InternFromString(names[i]);
        if (interned[i] == NULL || PyDict_SetItem(form, interned[i], Py_None) < 0)
            Py_CLEAR(form);
    }
    return form;
}

static PyMethodDef FUNCTIONS[] = {
    {"read_usual_batch", read_usual_batch, METH_O,
     "read_usual_batch(value, /)\n--\n\nHeader line, header fields, signatures line, signature fields, where events "
     "begin; or None."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "meterproof_schemas._usual_batch",
    .m_doc = "What batch.py does for batches in the spelling of our own helper.",
    .m_size = -1,
    .m_methods = FUNCTIONS,
};

PyMODINIT_FUNC
PyInit__usual_batch(void)
{
    header_form = form_of(HEADER_NAMES, header_names, HEADER_FIELDS);
    signature_form = form_of(SIGNATURE_NAMES, signature_names, SIGNATURE_FIELDS);
    if (header_form == NULL || signature_form == NULL ||
        !put(header_form, header_names[V], PyLong_FromLong(1)) ||
        !put(signature_form, signature_names[ALGORITHM], PyUnicode_InternFromString("ed25519")))
        return NULL;
    return PyModule_Create(&MODULE);
}
