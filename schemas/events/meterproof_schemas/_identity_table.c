/*
 * What `python_identity_table.py` does, a whole batch to one call; its docstrings say what that is.
 *
 * A ring holds identities and entries in the order in which they came. A hash table of slots (linear probing, deletion by
 * shifting back: Knuth 6.4, algorithm R) says where in the ring an identity may stand: 32 bits of its hash and 32 of its
 * number. The hash is the 128-bit product of the identity's two halves, each combined with half of a secret seed, folded:
 * so nobody can look for identities that meet in one slot. Each slot of a batch is asked for before it is needed, so that
 * many reads from memory are under way at once.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SIZEOF_INT128__) && defined(__GNUC__)

#define IDENTITY_BYTES 16
#define ENTRY_BYTES 32
#define SEED_BYTES 16
#define CAPACITY_MIN 1024
#define CAPACITY_MAX ((uint64_t)1 << 31)
#define TOGETHER 64 /* identities of which the slots are fetched at once */

typedef struct {
    uint8_t identity[IDENTITY_BYTES];
    uint8_t entry[ENTRY_BYTES];
} Row;

typedef struct {
    uint32_t hash; /* its highest bits */
    uint32_t number; /* of the row, and 0 where there is none: see `numbered` */
} Slot;

typedef struct {
    PyObject_HEAD
    uint64_t seeds[2];
    uint64_t oldest; /* rows are numbered from 0 as they come; this one, and */
    uint64_t next;   /* those before this one, are held */
    uint64_t capacity; /* of the ring, a power of 2; there are twice as many slots */
    Row *rows;
    Slot *slots;
} IdentityTable;

/* --- the table ---------------------------------------------------------------------------------------------------- */

static inline uint32_t
hash_of(const IdentityTable *table, const uint8_t *identity)
{
    uint64_t words[2];
    memcpy(words, identity, IDENTITY_BYTES);
    const unsigned __int128 product = (unsigned __int128)(words[0] ^ table->seeds[0]) * (words[1] ^ table->seeds[1]);
    return (uint32_t)(((uint64_t)product ^ (uint64_t)(product >> 64)) >> 32);
}

/* Where an identity of this hash stands if nothing stands there before it. */
static inline uint64_t
home_of(const IdentityTable *table, uint32_t hash)
{
    return (uint64_t)hash * (2 * table->capacity) >> 32;
}

static inline uint64_t
behind(const IdentityTable *table, uint64_t slot)
{
    return (slot + 1) & (2 * table->capacity - 1);
}

static inline Row *
row_of(const IdentityTable *table, uint64_t number)
{
    return table->rows + (number & (table->capacity - 1));
}

/* A row's number in a slot: any 32 bits that tell where it stands in the ring, but not 0. The ring has at most 2^31 rows. */
static inline uint32_t
numbered(uint64_t number)
{
    return (uint32_t)number | (uint32_t)1 << 31;
}

/* The slot of an identity, or the empty one in which the search for it ends. */
static inline Slot *
slot_of(const IdentityTable *table, uint32_t hash, const uint8_t *identity)
{
    uint64_t at = home_of(table, hash);
    for (;; at = behind(table, at)) {
        Slot *const slot = table->slots + at;
        if (slot->number == 0 ||
            (slot->hash == hash && memcmp(row_of(table, slot->number)->identity, identity, IDENTITY_BYTES) == 0))
            return slot;
    }
}

static void
put(IdentityTable *table, uint32_t hash, uint64_t number)
{
    uint64_t at = home_of(table, hash);
    while (table->slots[at].number != 0)
        at = behind(table, at);
    table->slots[at] = (Slot){hash, numbered(number)};
}

/* Make room for so many more: 0, or -1 with an error set. */
static int
reserve(IdentityTable *table, uint64_t more)
{
    const uint64_t before = table->capacity;
    uint64_t capacity = before ? before : CAPACITY_MIN;
    while (capacity < table->next - table->oldest + more)
        capacity *= 2;
    if (capacity == before)
        return 0;
    if (capacity > CAPACITY_MAX) {
        PyErr_SetString(PyExc_OverflowError, "no table holds more than 2^31 identities");
        return -1;
    }
    Slot *const slots = calloc(2 * capacity, sizeof(Slot));
    Row *const rows = slots == NULL ? NULL : realloc(table->rows, capacity * sizeof(Row));
    if (rows == NULL) {
        free(slots);
        PyErr_NoMemory();
        return -1;
    }
    free(table->slots);
    table->rows = rows;
    table->slots = slots;
    table->capacity = capacity;
    for (uint64_t number = table->oldest; number < table->next; number++) {
        Row *const row = row_of(table, number);
        if (before && (number & (before - 1)) != (number & (capacity - 1)))
            *row = rows[number & (before - 1)];
        put(table, hash_of(table, row->identity), number);
    }
    return 0;
}

/* Empty the slot of the oldest row: what was put behind it and could stand at it or before moves up. */
static void
forget_oldest(IdentityTable *table)
{
    const uint32_t oldest = numbered(table->oldest);
    uint64_t hole = home_of(table, hash_of(table, row_of(table, table->oldest)->identity));
    while (table->slots[hole].number != oldest)
        hole = behind(table, hole);
    for (uint64_t at = behind(table, hole); table->slots[at].number != 0; at = behind(table, at)) {
        const uint64_t mask = 2 * table->capacity - 1, home = home_of(table, table->slots[at].hash);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            table->slots[hole] = table->slots[at];
            hole = at;
        }
    }
    table->slots[hole] = (Slot){0, 0};
    table->oldest++;
}

/* --- what was found in one batch ---------------------------------------------------------------------------------- */

/* Which identities of a batch came before in it: their numbers + 1 by hash, 0 where there is none. */
typedef struct {
    uint16_t *firsts;
    uint32_t mask;
} Batch;

/* The first identity of a batch that is the same as this one: itself if there is none before it. */
static Py_ssize_t
first_of(const Batch *batch, const uint8_t *identities, uint32_t hash, Py_ssize_t number)
{
    for (uint32_t at = hash & batch->mask;; at = (at + 1) & batch->mask) {
        if (batch->firsts[at] == 0) {
            batch->firsts[at] = (uint16_t)(number + 1);
            return number;
        }
        const Py_ssize_t first = batch->firsts[at] - 1;
        if (memcmp(identities + first * IDENTITY_BYTES, identities + number * IDENTITY_BYTES, IDENTITY_BYTES) == 0)
            return first;
    }
}

/* Append the numbers of what is a repeat: 1, 0 where an identity has another entry than before, -1 with an error set. */
static int
find_repeats(const IdentityTable *table, const Batch *batch, const uint8_t *identities, const uint8_t *entries,
             Py_ssize_t count, PyObject *repeats)
{
    uint32_t hashes[TOGETHER];
    for (Py_ssize_t number = 0; number < count; number++) {
        const Py_ssize_t place = number % TOGETHER;
        for (Py_ssize_t i = 0; place == 0 && i < TOGETHER && number + i < count; i++) {
            hashes[i] = hash_of(table, identities + (number + i) * IDENTITY_BYTES);
            if (table->capacity)
                __builtin_prefetch(table->slots + home_of(table, hashes[i]));
        }
        const uint8_t *const identity = identities + number * IDENTITY_BYTES, *before = NULL;
        if (table->capacity) {
            const Slot *slot = slot_of(table, hashes[place], identity);
            if (slot->number != 0)
                before = row_of(table, slot->number)->entry;
        }
        if (before == NULL) {
            const Py_ssize_t first = first_of(batch, identities, hashes[place], number);
            if (first == number)
                continue;
            before = entries + first * ENTRY_BYTES;
        }
        if (memcmp(before, entries + number * ENTRY_BYTES, ENTRY_BYTES) != 0)
            return 0;
        PyObject *item = PyLong_FromSsize_t(number);
        const int appended = item == NULL ? -1 : PyList_Append(repeats, item);
        Py_XDECREF(item);
        if (appended < 0)
            return -1;
    }
    return 1;
}

/* --- Python ------------------------------------------------------------------------------------------------------- */

/* Identities and their entries: how many, or -1 with an error set. */
static Py_ssize_t
count_of(PyObject *const *arguments, Py_ssize_t argument_count)
{
    if (argument_count != 2 || !PyBytes_Check(arguments[0]) || !PyBytes_Check(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "identities and entries: each as bytes, one behind the other");
        return -1;
    }
    const Py_ssize_t count = PyBytes_GET_SIZE(arguments[0]) / IDENTITY_BYTES;
    if (PyBytes_GET_SIZE(arguments[0]) % IDENTITY_BYTES || PyBytes_GET_SIZE(arguments[1]) != count * ENTRY_BYTES) {
        PyErr_SetString(PyExc_ValueError, "whole identities (16 bytes), and an entry (32 bytes) for each");
        return -1;
    }
    return count;
}

static int
table_init(IdentityTable *self, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"seed", NULL};
    Py_buffer seed;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "y*", names, &seed))
        return -1;
    const int right = seed.len == SEED_BYTES && self->capacity == 0;
    if (right)
        memcpy(self->seeds, seed.buf, SEED_BYTES);
    PyBuffer_Release(&seed);
    if (!right)
        PyErr_SetString(PyExc_ValueError, "a seed of 16 bytes, once");
    return right ? 0 : -1;
}

static void
table_dealloc(IdentityTable *self)
{
    free(self->rows);
    free(self->slots);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static Py_ssize_t
table_length(IdentityTable *self)
{
    return (Py_ssize_t)(self->next - self->oldest);
}

static PyObject *
table_get(IdentityTable *self, PyObject *identity)
{
    if (!PyBytes_Check(identity)) {
        PyErr_SetString(PyExc_TypeError, "an identity is bytes");
        return NULL;
    }
    if (self->capacity == 0 || PyBytes_GET_SIZE(identity) != IDENTITY_BYTES)
        Py_RETURN_NONE;
    const uint8_t *const wanted = (const uint8_t *)PyBytes_AS_STRING(identity);
    const Slot *const slot = slot_of(self, hash_of(self, wanted), wanted);
    if (slot->number == 0)
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize((const char *)row_of(self, slot->number)->entry, ENTRY_BYTES);
}

static PyObject *
table_repeats(IdentityTable *self, PyObject *const *arguments, Py_ssize_t argument_count)
{
    const Py_ssize_t count = count_of(arguments, argument_count);
    if (count < 0)
        return NULL;
    if (count >= UINT16_MAX) {
        PyErr_SetString(PyExc_ValueError, "no batch has so many lines");
        return NULL;
    }
    uint32_t places = 64;
    while (places < 2 * count)
        places *= 2;
    Batch batch = {PyMem_Calloc(places, sizeof(uint16_t)), places - 1};
    PyObject *repeats = PyList_New(0);
    int found = -1;
    if (batch.firsts == NULL)
        PyErr_NoMemory();
    else if (repeats != NULL)
        found = find_repeats(self, &batch, (const uint8_t *)PyBytes_AS_STRING(arguments[0]),
                             (const uint8_t *)PyBytes_AS_STRING(arguments[1]), count, repeats);
    PyMem_Free(batch.firsts);
    if (found < 1)
        Py_CLEAR(repeats);
    return found == 0 ? Py_NewRef(Py_None) : repeats;
}

static PyObject *
table_add(IdentityTable *self, PyObject *const *arguments, Py_ssize_t argument_count)
{
    const Py_ssize_t count = count_of(arguments, argument_count);
    if (count < 0 || reserve(self, (uint64_t)count) < 0)
        return NULL;
    const uint8_t *identity = (const uint8_t *)PyBytes_AS_STRING(arguments[0]);
    const uint8_t *entry = (const uint8_t *)PyBytes_AS_STRING(arguments[1]);
    for (Py_ssize_t i = 0; i < count; i++, identity += IDENTITY_BYTES, entry += ENTRY_BYTES) {
        Row *const row = row_of(self, self->next);
        memcpy(row->identity, identity, IDENTITY_BYTES);
        memcpy(row->entry, entry, ENTRY_BYTES);
        put(self, hash_of(self, identity), self->next++);
    }
    Py_RETURN_NONE;
}

static PyObject *
table_forget(IdentityTable *self, PyObject *argument)
{
    const Py_ssize_t count = PyLong_AsSsize_t(argument);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    if (count < 0 || (uint64_t)count > self->next - self->oldest) {
        PyErr_Format(PyExc_ValueError, "%zd identities cannot be forgotten of %zd", count, table_length(self));
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        forget_oldest(self);
    Py_RETURN_NONE;
}

static PyObject *
table_held(IdentityTable *self, PyObject *Py_UNUSED(nothing))
{
    const Py_ssize_t count = table_length(self);
    PyObject *identities = PyBytes_FromStringAndSize(NULL, count * IDENTITY_BYTES);
    PyObject *entries = PyBytes_FromStringAndSize(NULL, count * ENTRY_BYTES);
    for (Py_ssize_t i = 0; identities != NULL && entries != NULL && i < count; i++) {
        const Row *const row = row_of(self, self->oldest + (uint64_t)i);
        memcpy(PyBytes_AS_STRING(identities) + i * IDENTITY_BYTES, row->identity, IDENTITY_BYTES);
        memcpy(PyBytes_AS_STRING(entries) + i * ENTRY_BYTES, row->entry, ENTRY_BYTES);
    }
    PyObject *held = identities == NULL || entries == NULL ? NULL : PyTuple_Pack(2, identities, entries);
    Py_XDECREF(identities);
    Py_XDECREF(entries);
    return held;
}

static PyMethodDef table_methods[] = {
    {"get", (PyCFunction)table_get, METH_O, PyDoc_STR("See python_identity_table.")},
    {"repeats", (PyCFunction)(void (*)(void))table_repeats, METH_FASTCALL, PyDoc_STR("See python_identity_table.")},
    {"add", (PyCFunction)(void (*)(void))table_add, METH_FASTCALL, PyDoc_STR("See python_identity_table.")},
    {"held", (PyCFunction)table_held, METH_NOARGS, PyDoc_STR("See python_identity_table.")},
    {"forget", (PyCFunction)table_forget, METH_O, PyDoc_STR("See python_identity_table.")},
    {NULL, NULL, 0, NULL},
};

static PySequenceMethods table_as_sequence = {
    .sq_length = (lenfunc)table_length,
};

static PyTypeObject table_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "meterproof_schemas._identity_table.IdentityTable",
    .tp_doc = PyDoc_STR("See python_identity_table."),
    .tp_basicsize = sizeof(IdentityTable),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)table_init,
    .tp_dealloc = (destructor)table_dealloc,
    .tp_methods = table_methods,
    .tp_as_sequence = &table_as_sequence,
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "meterproof_schemas._identity_table",
    .m_size = -1,
};

PyMODINIT_FUNC
PyInit__identity_table(void)
{
    if (PyType_Ready(&table_type) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || PyModule_AddObjectRef(module, "IdentityTable", (PyObject *)&table_type) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}

#else

PyMODINIT_FUNC
PyInit__identity_table(void)
{
    PyErr_SetString(PyExc_ImportError, "written for processors of 64 bits, and GCC or Clang");
    return NULL;
}

#endif
